"""``python -m backup``: the same as the command ``journal-backup``."""

import sys

from backup import cli

if __name__ == "__main__":
    sys.exit(cli.main())
