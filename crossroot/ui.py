"""What the user sees: messages on stderr as plain lines, tables on stdout. `crossroot.tasks` shows progress."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Progress(Protocol):
        """What a long job reports: `total` may be None when it is not known; both in bytes."""

        def __call__(self, done: int, total: int | None) -> None: ...

else:
    Progress = object


def no_progress(done: int, total: int | None) -> None:
    """For callers that do not care."""


def note(message: str) -> None:
    """Say something the user should know; not an error."""
    print(f"crossroot: {message}", file=sys.stderr, flush=True)


def error(message: str, hint: str = "") -> None:
    """Say what went wrong, and what to do about it."""
    print(f"crossroot: error: {message}", file=sys.stderr, flush=True)
    if hint:
        print(f"  hint: {hint}", file=sys.stderr, flush=True)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print rows in columns on stdout, as plain text that other tools can cut apart."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
