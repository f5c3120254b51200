"""`python -m bathyscope` is `bathyscope`."""

import sys

from bathyscope.cli import main

if __name__ == "__main__":
    sys.exit(main())
