"""What both sides need."""

import os

# Before anyone imports gRPC: its core writes lines of its own to stderr, one for each handshake that fails.
# What they say is said by the endpoint that failed, in words for its user.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
