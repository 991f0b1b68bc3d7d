"""What a test must leave as it found it: the host's mounts, binfmt_misc handlers and processes."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

GRACE = 2.0  # seconds that what a test has ended may need to be gone


@dataclass(frozen=True)
class Host:
    """The state of the host at one moment.

    mounts: lines of mountinfo. handlers: content of each entry of binfmt_misc, by name.
    processes: process ids with their start times, as one number is given to one process after another.
    """

    mounts: frozenset[str]
    handlers: dict[str, str]
    processes: frozenset[tuple[int, str]]


def look() -> Host:
    """The state of the host now."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return Host(frozenset(mounts), _handlers(), frozenset(_processes()))


def changes_since(before: Host, marks: Sequence[str]) -> str:
    """What is not as it was, one line each; "" if nothing. It may take GRACE seconds to be sure.

    marks: names of folders by which processes of the tests are known, see `_belongs`.
    """
    deadline = time.monotonic() + GRACE
    while (found := _changes(before, marks)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return "\n".join(found)


def _changes(before: Host, marks: Sequence[str]) -> list[str]:
    now = look()
    found = [f"mount left behind: {line}" for line in sorted(now.mounts - before.mounts)]
    found += [f"mount gone: {line}" for line in sorted(before.mounts - now.mounts)]
    for name in sorted(before.handlers.keys() | now.handlers.keys()):
        old, new = before.handlers.get(name), now.handlers.get(name)
        if old != new:
            found.append(f"binfmt_misc entry {name!r} was {old!r} and is {new!r}")
    found += [f"process left behind: {pid} {_describe(pid)}" for pid in _new_processes(before, now, marks)]
    return found


def end_processes_since(before: Host, marks: Sequence[str]) -> None:
    """Kill the processes of the tests that were not there before."""
    for pid in _new_processes(before, look(), marks):
        kill(pid)


def kill(pid: int) -> None:
    """Kill a process, which may have gone already, and wait until it runs no more."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_until(lambda: read_of(pid, "cmdline") == "")


@contextmanager
def ready(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """The process as soon as it has printed "ready"; killed at the end."""
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def _new_processes(before: Host, now: Host, marks: Sequence[str]) -> list[int]:
    return sorted(pid for pid, _ in now.processes - before.processes if _belongs(pid, marks))


def _handlers() -> dict[str, str]:
    """The entries of the host's binfmt_misc, by name.

    Root mounts it for the moment in a mount namespace of his own: whether the host has it mounted at the usual
    place is a condition the code under test may depend on, so that the tests don't change it.
    """
    if os.geteuid() != 0:
        return _read_table(Path("/proc/sys/fs/binfmt_misc"))
    with tempfile.TemporaryDirectory(prefix="crossroot-test-binfmt-") as folder:
        # One line of output per line of an entry: "./qemu-arm:enabled".
        script = 'mount -t binfmt_misc binfmt_misc "$1" && cd "$1" && exec grep -r "" .'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", folder]
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
    entries: dict[str, str] = {}
    for line in listed.stdout.splitlines():
        name, _, text = line.removeprefix("./").partition(":")
        entries[name] = entries.get(name, "") + text + "\n"
    return entries


def _read_table(table: Path) -> dict[str, str]:
    if not table.is_dir():
        return {}
    return {entry.name: entry.read_text() for entry in table.iterdir() if entry.name != "register"}


def _processes() -> list[tuple[int, str]]:
    """Every process with its start time (proc_pid_stat(5), field 22)."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            stat = read_of(int(name), "stat")
            if stat:
                found.append((int(name), stat.rpartition(")")[2].split()[19]))
    return found


def read_of(pid: int, file: str) -> str:
    """A file of a process below /proc; "" if the process has gone, is going, or is none of our business."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _belongs(pid: int, marks: Sequence[str]) -> bool:
    """Whether a process comes from the tests: its arguments or environment name one of their folders, or it runs
    in a root below one of them, which the fourth field of its mountinfo says even after pivot_root."""
    return any(mark in read_of(pid, file) for file in ("cmdline", "environ", "mountinfo") for mark in marks)


def _describe(pid: int) -> str:
    command = read_of(pid, "cmdline").replace("\0", " ").strip()
    state = read_of(pid, "stat").rpartition(")")[2].split()[:2]
    return f"[{command or 'no command line'}], state and parent {' '.join(state)}"


def wait_until(predicate: Callable[[], object], timeout: float = 10.0) -> None:
    """Return as soon as `predicate` gives something true; an AssertionError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"waited {timeout} s in vain"
        time.sleep(0.01)
