"""The command line of the program."""

import sys

from verify.fuzz.command import main

if __name__ == "__main__":
    sys.exit(main())
