"""`metalcast`, also as `python -m netboot`."""

import sys

from netboot.cli.words import main

if __name__ == "__main__":
    sys.exit(main())
