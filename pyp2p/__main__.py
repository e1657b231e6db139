"""`python -m pyp2p` is `pyp2p`. An interrupt while it starts ends it as quietly as one of a command that runs."""

import sys

try:
    from pyp2p.cli.interrupts import leave_at_once

    leave_at_once()
    from pyp2p.cli.main import main
except KeyboardInterrupt:
    sys.exit(130)


def run() -> int:
    """Run the command line of this process and return the exit code."""
    try:
        return main()
    except KeyboardInterrupt:  # before the command could take care of it
        return 130


if __name__ == "__main__":
    sys.exit(run())
