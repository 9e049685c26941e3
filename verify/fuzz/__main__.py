"""Entry point of ``python -m verify.fuzz``."""

import sys

from verify.fuzz.command import main

if __name__ == "__main__":
    sys.exit(main())
