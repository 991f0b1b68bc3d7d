"""Jobs side by side, each in a process of its own: what they say, how they end, and nothing left when we go.

A job's process leads a session of its own (no Ctrl-C of the terminal reaches it but through us) and dies with us. Its
stdout and stderr come through one pipe, so that their order is kept; its phase, progress and error through the channel
of `namespaces.spawn`. One thread, as a process with a second one cannot unshare its user namespace.
"""

import contextlib
import dataclasses
import os
import re
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import BinaryIO, Protocol

from crossroot import attend, fastjson, namespaces, tasks
from crossroot.errors import EXIT_SIGNAL_BASE, CrossrootError
from crossroot.namespaces import Child, Reporter

GRACE = 5.0  # seconds that a job has to end after SIGTERM, before SIGKILL

# The phases of a job.
WAITING, CREATING, RUNNING = "waiting", "creating", "running"
DONE, FAILED, ERROR, CANCELLED = "done", "failed", "error", "cancelled"
ENDS = (DONE, FAILED, ERROR, CANCELLED)

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PAUSING = (signal.SIGTSTP, signal.SIGCONT)
_LONGEST_LINE = 64 << 10  # bytes; a longer one is passed on in pieces
_CHUNK = 64 << 10
# Control sequences of a terminal (ECMA-48, 5.4) and those that set a title, then all other escapes.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?")


@dataclass(frozen=True)
class Job:
    """name: its own among all. work: called in the job's process; gives the exit status, or raises CrossrootError.

    phase: the first one of it; it names others by send(phase=...). log: an unbuffered file for all that the job says.
    """

    name: str
    work: Callable[[Reporter], int]
    log: BinaryIO
    phase: str = RUNNING


@dataclass(frozen=True)
class State:
    """How a job stands, or ended. seconds: since its start. line: the last it said, fit for a terminal.

    status: its exit status, None before and for a cancelled one. message, hint: of crossroot's own error, with ERROR.
    """

    name: str
    phase: str = WAITING
    seconds: float = 0.0
    line: str = ""
    status: int | None = None
    message: str = ""
    hint: str = ""


class Display(Protocol):
    """Who shows jobs. interval: seconds after which `show` is to be called again even if nothing has happened."""

    @property
    def interval(self) -> float | None: ...

    def line(self, name: str, line: bytes) -> None:
        """A job has said this line, without its end."""

    def show(self, states: Sequence[State]) -> None:
        """Something may have changed."""


def run(
    jobs: Sequence[Job], at_once: int, display: Display, *, fail_fast: bool = False
) -> tuple[list[State], signal.Signals | None]:
    """Run all jobs to their ends, at most `at_once` at a time; how each ended, and the signal that ended all early.

    fail_fast: cancel the others when one does not pass. SIGINT, SIGTERM, SIGHUP and SIGQUIT cancel all; a second one
    kills them at once. SIGTSTP stops all sessions, and us, until SIGCONT.
    """
    with closing(attend.Signals((*_ENDING, *_PAUSING))) as signals, selectors.DefaultSelector() as selector:
        crew = _Crew(display, selector, {job.name: State(job.name) for job in jobs})
        selector.register(signals.arrived, selectors.EVENT_READ, lambda: crew.on_signals(signals))
        try:
            crew.run(jobs, at_once, fail_fast)
        finally:
            crew.kill()  # whom an error of ours has left
        return list(crew.states.values()), crew.ended_by


def startable(states: Sequence[State], at_once: int) -> list[str]:
    """The names of the jobs to start now, in their order."""
    waiting = [state.name for state in states if state.phase == WAITING]
    busy = sum(state.phase not in (WAITING, *ENDS) for state in states)
    return waiting[: max(0, at_once - busy)]


def worst(states: Sequence[State]) -> int:
    """The highest exit status of all, 0 if there is none."""
    return max((state.status for state in states if state.status is not None), default=0)


def fit(data: bytes) -> str:
    """The last that a terminal would show of some output, in one line without control characters."""
    text = _ESCAPES.sub("", data.decode(errors="replace"))
    lines = [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]
    return "".join(char for char in lines[-1].expandtabs() if char.isprintable()) if lines else ""


@dataclass(eq=False)
class _Process:
    """A job that runs. said: the begin of a line, told: that of a message, whose rest has not come yet."""

    job: Job
    child: Child
    output: int
    watch: int  # a pidfd, readable when the process has ended (pidfd_open(2))
    started: float
    said: bytes = b""
    told: bytes = b""
    error: CrossrootError | None = None


@dataclass(eq=False)
class _Crew:
    """All jobs, and the processes of those that run."""

    display: Display
    selector: selectors.BaseSelector
    states: dict[str, State]
    processes: dict[str, _Process] = field(default_factory=dict)
    ended_by: signal.Signals | None = None
    kill_at: float | None = None  # set when all are to end

    def run(self, jobs: Sequence[Job], at_once: int, fail_fast: bool) -> None:
        by_name = {job.name: job for job in jobs}
        while True:
            for name in startable(list(self.states.values()), at_once):
                self._start(by_name[name])
            self.display.show(list(self.states.values()))
            if not self.processes:
                return
            for key, _ in self.selector.select(self._timeout()):
                key.data()
            if fail_fast and any(state.phase in (FAILED, ERROR) for state in self.states.values()):
                self.cancel()
            if self.kill_at is not None and time.monotonic() >= self.kill_at:
                self._signal_all(signal.SIGKILL)
            for name, process in self.processes.items():
                self._change(name, seconds=time.monotonic() - process.started)

    def cancel(self) -> None:
        """Ask all jobs to end, and start no other."""
        if self.kill_at is None:
            self.kill_at = time.monotonic() + GRACE
            self._signal_all(signal.SIGTERM)
            for state in list(self.states.values()):
                if state.phase == WAITING:
                    self._change(state.name, phase=CANCELLED)

    def on_signals(self, signals: attend.Signals) -> None:
        while numbers := signals.read():  # again, as the SIGCONT after a stop has been read already
            for number in numbers:
                self._on_signal(signal.Signals(number), signals)

    def _on_signal(self, number: signal.Signals, signals: attend.Signals) -> None:
        if number in _PAUSING:
            self._signal_all(number)  # who makes a root is in an orphaned process group, and goes on
            if number == signal.SIGTSTP:
                signals.stop()
            return
        if self.ended_by is not None:
            self.kill_at = time.monotonic()
        self.ended_by = self.ended_by or number
        self.cancel()

    def kill(self) -> None:
        """End at once those that still run."""
        for process in self.processes.values():
            namespaces.kill(process.child)
            os.close(process.output)
            os.close(process.watch)
        self.processes.clear()

    def _start(self, job: Job) -> None:
        output, said = os.pipe()
        try:
            child = namespaces.spawn(partial(_be_job, job, said, self.display.interval is not None), id_map=None)
        except BaseException:
            os.close(output)
            raise
        finally:
            os.close(said)
        process = _Process(job, child, output, os.pidfd_open(child.pid), time.monotonic())
        self.processes[job.name] = process
        self._change(job.name, phase=job.phase)
        for descriptor, handle in (
            (output, self._on_output),
            (child.channel, self._on_messages),
            (process.watch, self._on_end),
        ):
            os.set_blocking(descriptor, False)
            self.selector.register(descriptor, selectors.EVENT_READ, partial(handle, process))

    def _timeout(self) -> float | None:
        waits = [self.display.interval] if self.display.interval is not None else []
        if self.kill_at is not None:
            waits.append(max(0.0, self.kill_at - time.monotonic()) or 0.1)
        return min(waits, default=None)

    def _on_output(self, process: _Process) -> bool:
        """Take in some of what a job says; whether there was something."""
        data = _read(process.output)
        if not data:
            self._forget(process.output, ended=data == b"")
            return False
        try:
            process.job.log.write(data)
        except OSError as error:
            raise CrossrootError(
                f"cannot write the log of {process.job.name}: {error.strerror}", hint="free some space (df)"
            ) from error
        *lines, process.said = (process.said + data).split(b"\n")
        if len(process.said) > _LONGEST_LINE:
            lines, process.said = [*lines, process.said], b""
        for line in lines:
            self.display.line(process.job.name, line)
        if shown := fit(b"\n".join([*lines[-3:], process.said])):
            self._change(process.job.name, line=shown)
        return True

    def _on_messages(self, process: _Process) -> bool:
        """Take in some of what a job's process tells; whether there was something."""
        data = _read(process.child.channel)
        if not data:
            self._forget(process.child.channel, ended=data == b"")
            return False
        *lines, process.told = (process.told + data).split(b"\n")
        for message in map(fastjson.loads, lines):
            if "error" in message:
                process.error = CrossrootError(message["error"], hint=message["hint"], exit_code=message["exit_code"])
            else:
                self._change(process.job.name, **message)
        return True

    def _on_end(self, process: _Process) -> None:
        for drain in (self._on_output, self._on_messages):
            while drain(process):
                pass
        if process.said:
            self.display.line(process.job.name, process.said)
        status = os.waitstatus_to_exitcode(os.waitpid(process.child.pid, 0)[1])
        del self.processes[process.job.name]
        for descriptor in (process.output, process.child.channel, process.watch):
            self._forget(descriptor, ended=True)
            os.close(descriptor)
        self._change(
            process.job.name,
            **_end(status, process.error, cancelled=self.kill_at is not None),
            seconds=time.monotonic() - process.started,
        )

    def _forget(self, descriptor: int, *, ended: bool) -> None:
        """Watch a descriptor no more once its other end is closed; it would be readable for ever."""
        if ended:
            with contextlib.suppress(KeyError):
                self.selector.unregister(descriptor)

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self.processes.values():
            os.kill(process.child.pid, number)  # not yet waited for, so the pid is still its own

    def _change(self, name: str, **changes: object) -> None:
        self.states[name] = dataclasses.replace(self.states[name], **changes)  # type: ignore[arg-type]


def _read(descriptor: int) -> bytes | None:
    """What is there to read, b"" at the end, None if nothing is there yet."""
    try:
        return os.read(descriptor, _CHUNK)
    except BlockingIOError:
        return None


def _end(status: int, error: CrossrootError | None, *, cancelled: bool) -> dict[str, object]:
    """How a job has ended, as changes of its State. status: as os.waitstatus_to_exitcode gives it."""
    if cancelled and status != 0:
        return {"phase": CANCELLED}
    if error:
        return {"phase": ERROR, "status": error.exit_code, "message": error.message, "hint": error.hint}
    if status < 0:
        name = signal.Signals(-status).name
        hint = "see `dmesg` for an out-of-memory kill"
        return {"phase": ERROR, "status": EXIT_SIGNAL_BASE - status, "message": f"killed by {name}", "hint": hint}
    return {"phase": FAILED if status else DONE, "status": status}


def _be_job(job: Job, said: int, live: bool, reporter: Reporter) -> int:
    """The life of a job's process. said: where its output goes. live: report progress, as somebody is watching."""
    signal.set_wakeup_fd(-1)  # it is the caller's
    for number in _ENDING:
        signal.signal(number, _leave)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for descriptor, stream in ((nothing, 0), (said, 1), (said, 2)):
        os.dup2(descriptor, stream)
    os.close(nothing)
    os.close(said)
    if live:
        tasks.forward(lambda line: reporter.send(line=line))
    try:
        return job.work(reporter)
    except SystemExit as leaving:
        return int(str(leaving.code))


def _leave(number: int, _: FrameType | None) -> None:
    """Unwind, so that a creation under way cleans up after itself."""
    raise SystemExit(EXIT_SIGNAL_BASE + number)
