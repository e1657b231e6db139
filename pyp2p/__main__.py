"""`python -m pyp2p` is `pyp2p`."""

import sys

if __name__ == "__main__":
    try:
        from pyp2p.cli.main import main

        code = main()
    except KeyboardInterrupt:  # before the command could take care of it
        code = 130
    sys.exit(code)
