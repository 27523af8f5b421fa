"""``python -m asft``."""

from asft.cli import main

if __name__ == "__main__":
    main()
