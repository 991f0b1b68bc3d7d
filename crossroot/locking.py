"""Locks of roots, and records of the sessions that run in them.

    STORE/locks/NAME                   flock(2): shared by sessions, exclusive for creation and removal; never unlinked
    STORE/roots/NAME/sessions/PID      a running session, locked by its processes; PID is that of its pid 1

A lock belongs to its open file, which children inherit and programs they execute do not. So it holds as long as any
process of a session or a creation lives, whoever was killed first, and needs no cleaning up.
"""

from __future__ import annotations

import fcntl
import os
import time

from crossroot import fastjson, layout, metadata
from crossroot.errors import CrossrootError
from crossroot.linux import signal
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from crossroot.layout import StrPath
    from crossroot.metadata import Root

_PATIENCE = 10.0  # seconds that a killed session may take to end


class Lock:
    """A lock held until `close`, and by children forked before that until they end or execute a program.

    record: a file to unlink at the end.
    """

    def __init__(self, descriptor: int, record: str = "") -> None:
        self.descriptor = descriptor
        self.record = record

    def close(self) -> None:
        # No LOCK_UN: it would unlock for the children too.
        if self.record:
            _unlink(self.record)  # unless somebody has taken it for stale, as its session has ended
        os.close(self.descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_root(name: str, store: StrPath, *, exclusive: bool, wait: bool) -> Lock:
    """Lock a root: shared to use it, exclusive to create, replace or remove it.

    Read its metadata after that, not before. Without `wait`, raises CrossrootError when others hold the lock, and
    says who.
    """
    if not exclusive and not os.path.exists(layout.root_folder(name, store)):
        raise metadata.no_root(name, store)
    layout.make_store(store)
    file = os.path.join(store, "locks", layout.check_name(name))
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise layout.explained(error, file) from error
    try:
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(descriptor, mode if wait else mode | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _busy(name, store) from None  # its EAGAIN is no lack of processes, see errors.shortage_cure
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor)


class BusyError(CrossrootError):
    """Others hold the lock."""


def _busy(name: str, store: StrPath) -> BusyError:
    folder = layout.root_folder(name, store)
    sessions = running(folder)
    if sessions:
        listed = ", ".join(str(session) for session in sessions)
        return BusyError(f"{name} is in use by {listed}", hint=f"wait for its end, or: crossroot remove --force {name}")
    verbs = {found.verb for found in layout.unfinished(store) if found.name == name}
    verb = next((verb for verb in layout.VERBS if verb in verbs), "" if os.path.exists(folder) else "create")
    doing = layout.VERBS[verb][0] if verb else "using"
    return BusyError(f"another crossroot is {doing} {name}", hint="try again when it has finished")


# Sessions


class SessionRecord(Record):
    """A running session. pid: of its pid 1, as the caller sees it. started: see `timestamp`."""

    path: str
    pid: int
    command: tuple[str, ...]
    started: str
    start_ticks: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({' '.join(self.command)!r}, since {self.started})"


def start_session_record(root: Root, pid: int, command: Sequence[str]) -> Lock:
    """Let others know that a session with this pid 1 runs in the root, until the Lock is closed or its holders end.

    pid: as seen from outside of the session, where `remove --force` will look for it.
    """
    folder = os.path.join(root.folder, "sessions")
    hidden, record = os.path.join(folder, f".{os.getpid()}"), os.path.join(folder, str(pid))
    descriptor = -1
    try:
        data = {"pid": pid, "command": command, "started": metadata.timestamp(), "start_ticks": _start_ticks(pid)}
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        # Visible only when locked and complete: whoever finds it unlocked takes it for stale.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, fastjson.dumps(data))
        os.rename(hidden, record)
    except BaseException as error:
        if descriptor >= 0:
            os.close(descriptor)
            _unlink(hidden)
        if isinstance(error, OSError):
            raise layout.explained(error, hidden) from error
        raise
    return Lock(descriptor, record)


def _unlink(file: str) -> None:
    """Delete a file that others may delete as well."""
    try:
        os.unlink(file)
    except FileNotFoundError:
        pass


def running_sessions(root: Root) -> list[SessionRecord]:
    """The sessions that run in the root. Records of dead ones are dropped."""
    return running(root.folder)


def running(folder: StrPath) -> list[SessionRecord]:
    """The sessions that run in the root of this folder, damaged or not."""
    records = []
    sessions = os.path.join(folder, "sessions")
    names = os.listdir(sessions) if os.path.isdir(sessions) else []
    for name in names:
        # Left by a crossroot of this pid that was killed before the record was complete.
        if name.startswith(".") and not os.path.exists(f"/proc/{name[1:]}"):
            _unlink(os.path.join(sessions, name))
    for name in sorted(filter(str.isdecimal, names), key=int):
        file = os.path.join(sessions, name)
        try:
            if _locked(file):
                with open(file, "rb") as content:
                    data = fastjson.loads(content.read())
                records.append(SessionRecord(file, **{**data, "command": tuple(data["command"])}))
            else:
                os.unlink(file)
        except FileNotFoundError:
            continue  # it has ended meanwhile
    return records


def _locked(record: str) -> bool:
    descriptor = os.open(record, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        # Shared, so that two who look at a stale record do not take each other for the session.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _start_ticks(pid: int) -> str:
    """When the process started (proc_pid_stat(5), field 22), which tells it from a later one of the same pid."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[19].decode()


def end_session(record: SessionRecord) -> None:
    """Kill the session and wait until it is gone. Raises CrossrootError if it does not go."""
    try:
        descriptor = os.pidfd_open(record.pid)
        try:
            # Now that the descriptor holds on to one process: is it the session's, and not a later one of that pid?
            if _start_ticks(record.pid) == record.start_ticks and _locked(record.path):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):
        pass  # it has ended by itself
    deadline = time.monotonic() + _PATIENCE
    try:
        while _locked(record.path):
            if time.monotonic() > deadline:
                raise CrossrootError(
                    f"the session {record} does not end", hint=f"see what it waits for: cat /proc/{record.pid}/stack"
                )
            time.sleep(0.01)
    except FileNotFoundError:
        pass  # its crossroot has cleaned up
