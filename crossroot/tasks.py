"""Progress of long work on stderr: a live display on a terminal, plain lines elsewhere. The only user of rich."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from crossroot import ui
from crossroot.ui import Progress

_PLAIN_INTERVAL = 10.0  # seconds between two plain progress lines of one task


@contextmanager
def task(title: str) -> Iterator[Progress]:
    """Show that `title` is under way while the block runs; the block reports bytes done to what it is given."""
    if sys.stderr.isatty():
        with _live_task(title) as progress:
            yield progress
    else:
        ui.note(title)
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
        ui.note(f"{title}: {share}")

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
    ui.note(f"{title}: done")
