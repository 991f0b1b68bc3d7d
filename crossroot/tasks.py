"""Progress of long work on stderr: a live display on a terminal, plain lines elsewhere. The only user of rich."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager

from crossroot import ui
from crossroot.ui import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_PLAIN_INTERVAL = 10.0  # seconds between two plain progress lines of one task
_LIVE_INTERVAL = 0.1  # seconds between two changes of a live display

_listener: Callable[[str], None] | None = None  # see forward


@contextmanager
def task(title: str) -> Iterator[Progress]:
    """Show that `title` is under way while the block runs; the block reports bytes done to what it is given."""
    if sys.stderr.isatty():
        with _live_task(title) as progress:
            yield progress
    else:
        ui.note(title)
        yield _plain_progress(title)


def forward(listener: Callable[[str], None]) -> None:
    """From now on tell `listener` how far tasks are: what this process says on stderr is shown by another one."""
    global _listener
    _listener = listener


def _plain_progress(title: str) -> Progress:
    last = time.monotonic()
    say, interval = (_listener, _LIVE_INTERVAL) if _listener else (ui.note, _PLAIN_INTERVAL)

    def report(done: int, total: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < interval:
            return
        last = now
        share = f"{100 * done // total} %" if total else f"{done / 1e6:.1f} MB"
        say(f"{title}: {share}")

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
            if now - last > _LIVE_INTERVAL or done == total:
                last = now
                bar.update(row, completed=done, total=total, refresh=True)

        bar.refresh()
        yield report
    ui.note(f"{title}: done")


@contextmanager
def live_table(columns: Sequence[str]) -> Iterator[Callable[[Sequence[tuple[Sequence[str], str]]], None]]:
    """A table on stderr, a terminal, that the block shows anew with other rows: cells, and a style of rich's for them.

    The last column takes what is left of the width. The table stays when the block ends.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    def show(rows: Sequence[tuple[Sequence[str], str]]) -> None:
        table = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            last = column == columns[-1]
            table.add_column(column, no_wrap=True, overflow="ellipsis", ratio=1 if last else None)
        for cells, style in rows:
            table.add_row(*map(Text, cells), style=style)
        live.update(table, refresh=True)

    # Without the thread and the changed sys.stdout and sys.stderr that it would have by itself.
    with Live(
        console=Console(stderr=True),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    ) as live:
        yield show
