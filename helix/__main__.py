"""`python -m helix` is `helix`."""

import sys

from helix.cli import console

sys.exit(console())
