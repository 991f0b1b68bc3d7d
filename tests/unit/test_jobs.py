"""Jobs side by side: which starts when, what they say, how they end, and what signals do to them."""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import pytest

from crossroot import jobs, tasks
from crossroot.errors import CrossrootError
from crossroot.jobs import CANCELLED, CREATING, DONE, ERROR, FAILED, RUNNING, WAITING, Job, State
from crossroot.namespaces import Reporter

Work = Callable[[Reporter], int]


class Watcher:
    """A display that remembers what it was told. act: called with the states each time."""

    def __init__(self, act: Callable[[Sequence[State]], None] = lambda _: None, interval: float | None = None) -> None:
        self.interval = interval
        self.act = act
        self.lines: list[tuple[str, bytes]] = []
        self.seen: list[Sequence[State]] = []

    def line(self, name: str, line: bytes) -> None:
        self.lines.append((name, line))

    def show(self, states: Sequence[State]) -> None:
        self.seen.append(states)
        self.act(states)

    def phases(self, name: str) -> list[str]:
        """The phases that a job was seen in, each once."""
        return list(dict.fromkeys(state.phase for states in self.seen for state in states if state.name == name))

    def most_at_once(self) -> int:
        return max(sum(state.phase not in (WAITING, *jobs.ENDS) for state in states) for states in self.seen)


@pytest.fixture
def logs() -> Iterator[Callable[[], BinaryIO]]:
    with ExitStack() as files:
        yield lambda: files.enter_context(tempfile.TemporaryFile(buffering=0))


def run(
    works: dict[str, Work],
    logs: Callable[[], BinaryIO],
    watcher: Watcher | None = None,
    *,
    at_once: int = 4,
    fail_fast: bool = False,
) -> tuple[dict[str, State], signal.Signals | None]:
    todo = [Job(name, work, logs()) for name, work in works.items()]
    states, ended_by = jobs.run(todo, at_once, watcher or Watcher(), fail_fast=fail_fast)
    assert [state.name for state in states] == list(works)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # none is left
    return {state.name: state for state in states}, ended_by


def say(text: str) -> None:
    """Write a line to the real stdout, as pytest has put something else in the place of sys.stdout."""
    os.write(1, text.encode() + b"\n")


def says(text: str, status: int = 0) -> Work:
    def work(_: Reporter) -> int:
        say(text)
        return status

    return work


def sleeps(_: Reporter) -> int:
    time.sleep(60)
    return 0


def stubborn(reporter: Reporter) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    say("ready")
    return sleeps(reporter)


def strikes(number: signal.Signals, times: int = 1) -> Callable[[Sequence[State]], None]:
    """For a Watcher: send ourselves a signal so many times, once the first job has said that it is ready."""
    left = [number] * times

    def act(states: Sequence[State]) -> None:
        if states[0].line == "ready" and left:
            os.kill(os.getpid(), left.pop())

    return act


# What starts, and what comes out


@pytest.mark.parametrize(
    ("phases", "at_once", "expected"),
    [
        ([WAITING, WAITING, WAITING], 2, ["0", "1"]),
        ([RUNNING, WAITING, WAITING], 2, ["1"]),
        ([RUNNING, CREATING, WAITING], 2, []),
        ([DONE, FAILED, ERROR, CANCELLED, WAITING], 1, ["4"]),
        ([RUNNING, RUNNING, RUNNING, WAITING], 2, []),
        ([], 2, []),
        ([DONE], 2, []),
    ],
)
def test_startable(phases: list[str], at_once: int, expected: list[str]) -> None:
    states = [State(str(number), phase) for number, phase in enumerate(phases)]
    assert jobs.startable(states, at_once) == expected


def test_the_worst_status_is_the_highest() -> None:
    assert jobs.worst([]) == 0
    assert jobs.worst([State("a", DONE, status=0), State("b", CANCELLED)]) == 0
    assert jobs.worst([State("a", FAILED, status=3), State("b", ERROR, status=125), State("c", DONE, status=0)]) == 125


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (b"", ""),
        (b"one\ntwo\n", "two"),
        (b"one\n\n  \n", "one"),
        (b"one\ntwo", "two"),
        (b" 45 %\r 46 %", "46 %"),
        (b"\x1b[1;31mred\x1b[0m\x1b[K", "red"),
        (b"\x1b]0;title\x07text", "text"),
        (b"\x1b]0;title\x1b\\text", "text"),
        (b"\x1b]0;never ends", ""),
        (b"\x1bcreset", "reset"),
        (b"a\tb\x07\x00", "a       b"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("a\u202eb\u2028c\x9b31m".encode(), "abc31m"),
    ],
)
def test_the_last_line_is_fit_for_a_terminal(said: bytes, shown: str) -> None:
    assert jobs.fit(said) == shown


# Real processes


def test_each_ends_with_its_own_status_and_output(logs: Callable[[], BinaryIO]) -> None:
    watcher = Watcher()
    works = {"a": says("from a"), "b": says("from b", 3), "c": says("no end", 0)}
    states, ended_by = run(works, logs, watcher)
    assert ended_by is None
    assert {name: (state.phase, state.status, state.line) for name, state in states.items()} == {
        "a": (DONE, 0, "from a"),
        "b": (FAILED, 3, "from b"),
        "c": (DONE, 0, "no end"),
    }
    assert sorted(watcher.lines) == [("a", b"from a"), ("b", b"from b"), ("c", b"no end")]


def test_no_more_than_so_many_at_once_and_all_of_them(logs: Callable[[], BinaryIO]) -> None:
    watcher = Watcher()
    states, _ = run({str(number): says("x") for number in range(7)}, logs, watcher, at_once=2)
    assert {state.phase for state in states.values()} == {DONE}
    assert watcher.most_at_once() == 2


def test_stdout_and_stderr_come_in_their_order_and_in_the_log(logs: Callable[[], BinaryIO]) -> None:
    def work(_: Reporter) -> int:
        for number in range(50):
            os.write(1 + number % 2, b"%d\n" % number)
        os.write(1, b"rest")
        assert sys.stdin.read() == ""
        return 0

    watcher, log = Watcher(), logs()
    jobs.run([Job("a", work, log)], 1, watcher)
    expected = [b"%d" % number for number in range(50)] + [b"rest"]
    assert watcher.lines == [("a", line) for line in expected]
    log.seek(0)
    assert log.read() == b"\n".join(expected)


def test_a_line_without_end_is_not_kept_in_memory(logs: Callable[[], BinaryIO]) -> None:
    def work(_: Reporter) -> int:
        for _number in range(40):
            os.write(1, b"x" * 10_000)
        return 0

    watcher = Watcher()
    run({"a": work}, logs, watcher)
    assert len(watcher.lines) > 2
    assert b"".join(line for _, line in watcher.lines) == b"x" * 400_000


def test_an_error_brings_its_cause_and_hint(logs: Callable[[], BinaryIO]) -> None:
    def work(_: Reporter) -> int:
        raise CrossrootError("it broke", hint="mend it", exit_code=127)

    states, _ = run({"a": work, "b": says("fine")}, logs)
    assert states["a"].phase == ERROR
    assert (states["a"].status, states["a"].message, states["a"].hint) == (127, "it broke", "mend it")
    assert states["b"].phase == DONE


def test_a_process_that_is_killed_is_an_error(logs: Callable[[], BinaryIO]) -> None:
    def work(_: Reporter) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    states, _ = run({"a": work}, logs)
    assert (states["a"].phase, states["a"].status, states["a"].message) == (ERROR, 137, "killed by SIGKILL")


def test_a_job_names_its_phases(logs: Callable[[], BinaryIO]) -> None:
    def work(reporter: Reporter) -> int:
        say("made")
        time.sleep(0.1)
        reporter.send(phase=RUNNING)
        time.sleep(0.1)
        return 0

    watcher = Watcher(interval=0.01)
    jobs.run([Job("a", work, logs(), CREATING)], 1, watcher)
    assert watcher.phases("a") == [CREATING, RUNNING, DONE]


def test_progress_is_a_line_for_who_watches(logs: Callable[[], BinaryIO]) -> None:
    def work(_: Reporter) -> int:
        sys.stderr = os.fdopen(2, "w")
        with tasks.task("downloading") as progress:
            time.sleep(0.15)
            progress(30, 100)
            time.sleep(0.15)
        return 0

    watcher = Watcher(interval=0.01)
    run({"a": work}, logs, watcher)
    assert any(state.line == "downloading: 30 %" for states in watcher.seen for state in states)
    assert watcher.lines == [("a", b"crossroot: downloading")]


# Early ends


def test_fail_fast_cancels_the_others(logs: Callable[[], BinaryIO]) -> None:
    works = {"a": sleeps, "b": says("x", 7), "c": sleeps}
    start = time.monotonic()
    states, ended_by = run(works, logs, at_once=2, fail_fast=True)
    assert time.monotonic() - start < jobs.GRACE
    assert ended_by is None
    assert [state.phase for state in states.values()] == [CANCELLED, FAILED, CANCELLED]
    assert [state.status for state in states.values()] == [None, 7, None]
    assert jobs.worst(list(states.values())) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cancels_all(number: signal.Signals, logs: Callable[[], BinaryIO]) -> None:
    def work(reporter: Reporter) -> int:
        say("ready")
        return sleeps(reporter)

    states, ended_by = run({"a": work, "b": sleeps, "c": sleeps}, logs, Watcher(strikes(number)), at_once=2)
    assert ended_by == number
    assert {state.phase for state in states.values()} == {CANCELLED}


def test_a_job_cleans_up_when_it_is_cancelled(tmp_path: Path, logs: Callable[[], BinaryIO]) -> None:
    def work(reporter: Reporter) -> int:
        try:
            say("ready")
            return sleeps(reporter)
        finally:
            (tmp_path / "clean").touch()

    run({"a": work}, logs, Watcher(strikes(signal.SIGTERM)))
    assert (tmp_path / "clean").exists()


def test_who_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, logs: Callable[[], BinaryIO]) -> None:
    monkeypatch.setattr(jobs, "GRACE", 0.2)

    states, _ = run({"a": stubborn}, logs, Watcher(strikes(signal.SIGTERM)))
    assert states["a"].phase == CANCELLED


def test_a_second_signal_kills_at_once(logs: Callable[[], BinaryIO]) -> None:
    start = time.monotonic()
    states, ended_by = run({"a": stubborn}, logs, Watcher(strikes(signal.SIGINT, 2), interval=0.05))
    assert time.monotonic() - start < jobs.GRACE
    assert (states["a"].phase, ended_by) == (CANCELLED, signal.SIGINT)


def test_an_error_of_the_display_leaves_no_process(logs: Callable[[], BinaryIO]) -> None:
    def fail(states: Sequence[State]) -> None:
        if states[0].phase == RUNNING:
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run({"a": sleeps, "b": sleeps}, logs, Watcher(fail))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_full_disk_is_told_and_leaves_no_process() -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(CrossrootError, match="cannot write the log of a"):
        jobs.run([Job("a", says("x"), full)], 1, Watcher())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_jobs_die_with_their_parent(tmp_path: Path) -> None:
    def work(reporter: Reporter) -> int:
        (tmp_path / "pid").write_text(str(os.getpid()))
        return sleeps(reporter)

    def strike(_: Sequence[State]) -> None:
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            os.kill(os.getpid(), signal.SIGKILL)

    parent = os.fork()
    if parent == 0:
        with tempfile.TemporaryFile(buffering=0) as log:
            jobs.run([Job("a", work, log)], 1, Watcher(strike, interval=0.01))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == -signal.SIGKILL
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    """Whether a process is there, and no zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
