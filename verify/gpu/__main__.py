"""Entry point of ``python -m verify.gpu``."""

import sys

from verify.gpu.command import main

if __name__ == "__main__":
    sys.exit(main())
