"""`python -m avatar_bench`: the command line."""

from __future__ import annotations

import sys

from avatar_bench.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
