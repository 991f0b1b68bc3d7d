"""The entry point of the `crossroot` command and of `python -m crossroot`."""

import os
import sys


def main() -> None:
    """Run the command line in sys.argv and exit with its status."""
    try:
        from crossroot import cli

        status = cli.main(sys.argv[1:])
    except KeyboardInterrupt:  # while crossroot itself is being loaded
        status = 130
    # Without Python's own clean-up, which has nothing to do and takes longer than the mounts of a session. What is
    # printed is flushed: stdout by cli.main, stderr line by line.
    os._exit(status)


if __name__ == "__main__":
    main()
