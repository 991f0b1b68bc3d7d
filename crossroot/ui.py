"""What the user sees on stderr: messages and progress. The only user of rich.

Messages are plain lines. Progress is a live display on a terminal and plain lines elsewhere, in CI for instance.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_PLAIN_INTERVAL = 10.0  # seconds between two plain progress lines of one task


class Progress(Protocol):
    """What a long job reports: `total` may be None when it is not known; both in bytes."""

    def __call__(self, done: int, total: int | None) -> None: ...


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


@contextmanager
def task(title: str) -> Iterator[Progress]:
    """Show that `title` is under way while the block runs; the block reports bytes done to what it is given."""
    if sys.stderr.isatty():
        with _live_task(title) as progress:
            yield progress
    else:
        note(title)
        yield _plain_progress(title)


def _plain_progress(title: str) -> Progress:
    last = time.monotonic()

    def report(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _PLAIN_INTERVAL:
            return
        last = now
        share = f"{100 * done // total} %" if total else f"{done / 1e6:.1f} MB"
        note(f"{title}: {share}")

    return report


@contextmanager
def _live_task(title: str) -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    # auto_refresh starts a thread; a process with a second thread cannot unshare its user namespace.
    bar = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        auto_refresh=False,
        transient=True,
    )
    with bar:
        row = bar.add_task(title, total=None)
        last = 0.0

        def report(done: int, total: int | None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last > 0.1 or done == total:
                last = now
                bar.update(row, completed=done, total=total, refresh=True)

        bar.refresh()
        yield report
    note(f"{title}: done")


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print rows in columns on stdout, as plain text that other tools can cut apart."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    for row in [head, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
