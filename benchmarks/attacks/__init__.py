"""What no edge would say, and how to say it to a real server. See `benchmarks.hostile`."""
