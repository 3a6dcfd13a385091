"""A low bit rate link, emulated on the edge: what it costs to send, and when things arrive."""
