"""`python -m pyp2p` is `pyp2p`."""

import sys

from pyp2p.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
