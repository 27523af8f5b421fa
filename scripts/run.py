"""The same entry as ``asft run``, for schedulers that start a script."""

import sys

from asft.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
