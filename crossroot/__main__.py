"""The entry point of the `crossroot` command and of `python -m crossroot`."""

import sys


def main() -> int:
    """Run the command line in sys.argv and return the exit status."""
    try:
        from crossroot import cli

        return cli.main(sys.argv[1:])
    except KeyboardInterrupt:  # while crossroot itself is being loaded
        return 130


if __name__ == "__main__":
    sys.exit(main())
