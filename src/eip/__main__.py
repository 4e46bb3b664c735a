"""``python -m eip`` is ``eip``."""

from eip.cli import main

if __name__ == "__main__":
    main()
