"""The wire: plain messages, their protobuf form, and records cut into chunks."""
