"""What the user sees of jobs side by side: one live table on a terminal, plain lines with their names elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO

from crossroot import jobs, tasks, ui
from crossroot.jobs import Display, State

_COLUMNS = ("NAME", "STATE", "TIME", "LAST LINE")
_STYLES = {jobs.WAITING: "dim", jobs.DONE: "green", jobs.FAILED: "red", jobs.ERROR: "red", jobs.CANCELLED: "yellow"}
_REFRESH = 0.1  # seconds between two pictures
_TAIL = 20  # lines of the output of a job that failed
_TAIL_BYTES = 8 << 10


@contextmanager
def display(names: Sequence[str], stream: BinaryIO, *, live: bool) -> Iterator[Display]:
    """Show the jobs of these names while the block runs. stream: where the plain lines go."""
    if not live:
        yield _Plain(stream, max(map(len, names)))
        return
    with tasks.live_table(_COLUMNS) as show:
        table = _Live(show)
        yield table
        table.finish()


def report(states: Sequence[State], logs: Mapping[str, BinaryIO], *, shown: bool) -> None:
    """Say how jobs failed. logs: all their output, by name, whose end is repeated unless it was shown."""
    for state in states:
        if state.phase not in (jobs.FAILED, jobs.ERROR):
            continue
        if not shown:
            for line in _tail(logs[state.name]):
                print(f"{state.name} | {line}", file=sys.stderr, flush=True)
        if state.phase == jobs.ERROR:
            ui.error(f"{state.name}: {state.message}", state.hint)
        else:
            ui.error(f"{state.name}: the command ended with status {state.status}")


def summarise(states: Sequence[State]) -> None:
    """Say how all ended, where there was no table: "2 done (riscv64, armv7), 1 failed (aarch64)"."""
    ends = {end: [state.name for state in states if state.phase == end] for end in jobs.ENDS}
    ui.note(", ".join(f"{len(names)} {end} ({', '.join(names)})" for end, names in ends.items() if names))


def minutes(seconds: float) -> str:
    """A time as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _tail(log: BinaryIO) -> list[str]:
    """The last lines of a log, fit for a terminal."""
    end = log.seek(0, 2)
    log.seek(max(0, end - _TAIL_BYTES))
    lines = log.read().splitlines()[-_TAIL:]
    return [text for line in lines if (text := jobs.fit(line))]


class _Plain:
    """Each line of each job behind its name, and a note for each change."""

    interval = None

    def __init__(self, stream: BinaryIO, width: int) -> None:
        self.stream = stream
        self.width = width
        self.phases: dict[str, str] = {}

    def line(self, name: str, line: bytes) -> None:
        self.stream.write(f"{name:{self.width}} | ".encode() + line + b"\n")
        self.stream.flush()

    def show(self, states: Sequence[State]) -> None:
        for state in states:
            if state.phase not in (self.phases.get(state.name, jobs.WAITING), jobs.WAITING):
                taken = f" after {minutes(state.seconds)}" if state.phase in jobs.ENDS else ""
                ui.note(f"{state.name}: {state.phase}{taken}")
            self.phases[state.name] = state.phase


class _Live:
    """A table with a row for each job."""

    interval = 0.5

    def __init__(self, show: Callable[[Sequence[tuple[Sequence[str], str]]], None]) -> None:
        self.show_rows = show
        self.states: Sequence[State] = ()
        self.last = 0.0

    def line(self, name: str, line: bytes) -> None:
        """It is in the log, and the last one in the table."""

    def show(self, states: Sequence[State]) -> None:
        self.states = states
        if (now := time.monotonic()) - self.last >= _REFRESH:
            self.last = now
            self._draw()

    def finish(self) -> None:
        """Draw the last state, which was perhaps too soon after another one."""
        self._draw()

    def _draw(self) -> None:
        self.show_rows([(_cells(state), _STYLES.get(state.phase, "")) for state in self.states])


def _cells(state: State) -> tuple[str, str, str, str]:
    phase = f"{state.phase} {state.status}" if state.phase == jobs.FAILED else state.phase
    line = state.message if state.phase == jobs.ERROR else state.line
    return state.name, phase, minutes(state.seconds) if state.phase != jobs.WAITING else "", line
