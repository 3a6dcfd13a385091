"""What both sides need."""

import os

# Before anyone imports gRPC: its core writes lines of its own to stderr, such as for a port that is taken, or
# for each handshake that fails. What they say is said by whoever failed, in words for its user.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
