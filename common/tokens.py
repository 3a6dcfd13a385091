"""What a token looks like. Both sides keep theirs in files: a command line can be read by all users."""

import re

# The characters that HTTP allows for one, and enough of them that nobody guesses it.
TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]{16,512}")
WANTED = "16 to 512 letters, digits or any of ._~+/=-; `openssl rand -hex 32` makes a good one"
HEADER = "authorization"
PREFIX = "Bearer "
