"""Processes in namespaces of their own, and the id maps of user namespaces (user_namespaces(7)).

`call` runs a Python function in a forked child that has first entered namespaces and gives back its result; all
work on foreign or mapped files is done so. An ordinary user's child becomes root of a user namespace in which
the user's own id is 0 and the subordinate ids of /etc/subuid and /etc/subgid are 1 and up.
"""

from __future__ import annotations

import errno
import os
import pwd
import sys

from crossroot import fastjson, linux
from crossroot.errors import CrossrootError, is_out_of_memory, shortage_cure
from crossroot.linux import signal
from crossroot.record import Record
from crossroot.ui import Progress, no_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

Row = tuple[int, int, int]  # first id inside, first id outside, count: a line of /proc/PID/uid_map


class IdMap(Record):
    """How ids inside a user namespace stand for ids outside of it."""

    uids: tuple[Row, ...]
    gids: tuple[Row, ...]

    @property
    def single(self) -> bool:
        """Whether only one id is mapped, so that files can have no other owner."""
        return sum(count for _, _, count in self.uids) == 1

    def to_json(self) -> dict[str, list[list[int]]]:
        return {"uids": [list(row) for row in self.uids], "gids": [list(row) for row in self.gids]}

    @staticmethod
    def from_json(data: dict[str, list[list[int]]]) -> IdMap:
        def rows(name: str) -> tuple[Row, ...]:
            return tuple((inside, outside, count) for inside, outside, count in data[name])

        return IdMap(rows("uids"), rows("gids"))


def own_id_map() -> IdMap | None:
    """The id map roots of the calling user get: None for root, who needs no user namespace for his own files."""
    if os.geteuid() == 0:
        return None
    uids = _usable("uid")
    gids = _usable("gid")
    if not uids or not gids or not _map_helpers():
        uids, gids = [], []
    return IdMap(_rows(os.geteuid(), uids), _rows(os.getegid(), gids))


def own_single_map() -> IdMap | None:
    """A map of the caller's own id alone, which needs no helper programs; None for root."""
    if os.geteuid() == 0:
        return None
    return IdMap(_rows(os.geteuid(), []), _rows(os.getegid(), []))


def single_id_reason() -> str:
    """Why an ordinary user gets a single id, with the cure; "" when there are ranges."""
    name = _login_name()
    if not _map_helpers():
        return "newuidmap and newgidmap are not installed: install the package uidmap (shadow-utils, shadow-uidmap)"
    for kind in ("uid", "gid"):
        if not _subordinate_ids(f"/etc/sub{kind}"):
            return f"/etc/sub{kind} has no range for {name}: usermod --add-sub{kind}s 100000-165535 {name}"
        if not _usable(kind):
            last = max(first + count - 1 for first, _, count in _identity_rows(f"/proc/self/{kind}_map"))
            why = f"this container has no ids beyond {last}, and so none of those of {name} in /etc/sub{kind}"
            return f"{why}: usermod --add-sub{kind}s {last // 2}-{last} {name}"
    return ""


def identity_map() -> IdMap:
    """A map under which every id stays what it is, for root's private user namespaces, also inside a container."""
    return IdMap(_identity_rows("/proc/self/uid_map"), _identity_rows("/proc/self/gid_map"))


def _identity_rows(file: str) -> tuple[Row, ...]:
    with open(file) as lines:
        fields = [line.split() for line in lines]
    return tuple((int(inside), int(inside), int(count)) for inside, _, count in fields)


def _rows(own: int, ranges: list[tuple[int, int]]) -> tuple[Row, ...]:
    rows = [(0, own, 1)]
    free = 1
    for start, count in ranges:
        rows.append((free, start, count))
        free += count
    return tuple(rows)


def _login_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _subordinate_ids(file: str) -> list[tuple[int, int]]:
    """The (start, count) ranges of the calling user in /etc/subuid or /etc/subgid (subuid(5))."""
    owners = {_login_name(), str(os.geteuid())}
    ranges = []
    try:
        with open(file) as lines:
            for line in lines:
                fields = line.strip().split(":")
                if len(fields) == 3 and fields[0] in owners and fields[1].isdigit() and fields[2].isdigit():
                    ranges.append((int(fields[1]), int(fields[2])))
    except FileNotFoundError:
        return []
    return [(start, count) for start, count in ranges if count > 0]


def _usable(kind: str) -> list[tuple[int, int]]:
    """Those of the caller's ranges that are ids of this system at all: a container may have few. kind: uid or gid."""
    ranges = _subordinate_ids(f"/etc/sub{kind}")
    there = _identity_rows(f"/proc/self/{kind}_map")
    return [
        (start, count)
        for start, count in ranges
        if any(first <= start and start + count <= first + ids for first, _, ids in there)
    ]


def _map_helpers() -> tuple[str, str] | None:
    """The paths of newuidmap and newgidmap, which may write maps of several ids for an ordinary user."""
    uid, gid = _on_path("newuidmap"), _on_path("newgidmap")
    return (uid, gid) if uid and gid else None


def _on_path(program: str) -> str:
    """The executable of that name on PATH, "" if there is none."""
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        file = os.path.join(folder, program)
        if os.access(file, os.X_OK) and os.path.isfile(file):
            return file
    return ""


class Child(Record):
    """A process that `spawn` made. channel: descriptor on which its messages arrive, a JSON object a line."""

    pid: int
    channel: int


class NamespaceRefused(CrossrootError):
    """This system does not let us have a namespace, or a mount in one."""


class Reporter:
    """The child's end of its channel to the parent."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, **message: Any) -> None:
        """Send one message; a parent that is gone is none of the child's business, it will be killed."""
        os.write(self.descriptor, fastjson.dumps(message) + b"\n")

    def error(self, error: BaseException) -> None:
        """Tell the parent why the child fails; the parent raises it as its own."""
        cure = shortage_cure(error)
        if isinstance(error, CrossrootError):
            refused = isinstance(error, NamespaceRefused)
            self.send(error=error.message, hint=cure or error.hint, exit_code=error.exit_code, refused=refused)
        elif isinstance(error, OSError):
            self.send(error=describe_os_error(error), hint=cure, exit_code=1)
        elif is_out_of_memory(error):
            self.send(error="there is not enough memory", hint=cure, exit_code=1)
        else:
            import traceback

            traceback.print_exception(error)
            self.send(error=f"internal error: {error!r}", hint="", exit_code=1)

    def close(self) -> None:
        os.close(self.descriptor)


def describe_os_error(error: OSError) -> str:
    """An OSError in words: the path and what the kernel said."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    if error.errno == errno.EAGAIN:
        name = name or "cannot start another process"
    return f"{name}: {error.strerror}" if name else str(error.strerror or error)


def spawn(function: Callable[[Reporter], int], *, id_map: IdMap | None, flags: int = 0) -> Child:
    """Fork a child that enters namespaces and then exits with what `function` returns.

    id_map: of a new user namespace in which the child is root; None stays in the caller's. flags: further
    CLONE_NEW* namespaces. The child leads a session of its own, is killed when the caller dies, and has SIGINT
    and the like at their defaults. Raises CrossrootError if the user namespace is refused.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    receive, send = os.pipe()  # the child's messages
    asked, ask = os.pipe()  # "write my id map", then closed
    granted, grant = os.pipe()  # "it is written", or closed
    parent = os.getpid()
    # Held back, or one that arrives now would let the child run the clean-up of its parent.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTING)
    try:
        pid = os.fork()
    except OSError:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        raise
    if pid == 0:
        for descriptor in (receive, asked, grant):
            os.close(descriptor)
        _be_child(function, Reporter(send), id_map, flags, _Handshake(parent, mask, ask, granted))
    child = Child(pid, receive)
    try:
        for descriptor in (send, ask, granted):
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if id_map is not None and os.read(asked, 1):  # nothing to read: it failed, and its message says why
            _write_map(pid, id_map)
            os.write(grant, b"y")
    except BaseException:
        kill(child)
        raise
    finally:
        os.close(asked)
        os.close(grant)
    return child


class _Handshake(Record):
    """The child's side of its start. parent: the pid it must not outlive. mask: its signals to hold back, see
    pthread_sigmask(3). ask, granted: pipe ends, see spawn."""

    parent: int
    mask: set[signal.Signals | int]
    ask: int
    granted: int


def _be_child(
    function: Callable[[Reporter], int],
    reporter: Reporter,
    id_map: IdMap | None,
    flags: int,
    handshake: _Handshake,
) -> NoReturn:
    """The child's life; leaves by os._exit only, so that nothing of the parent's clean-up runs here."""
    status = 1
    try:
        for number in _INTERRUPTING:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, handshake.mask)
        os.setsid()
        if id_map is not None:
            _enter_user_namespace(id_map, handshake)
        linux.die_with_parent(signal.SIGKILL)
        if os.getppid() != handshake.parent:
            os._exit(status)
        if flags:
            _unshare(flags)
        status = function(reporter)
    except BaseException as error:
        reporter.error(error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _enter_user_namespace(id_map: IdMap, handshake: _Handshake) -> None:
    _unshare(linux.CLONE_NEWUSER)
    os.write(handshake.ask, b"?")
    if not os.read(handshake.granted, 1):
        os._exit(1)  # the parent is gone, or could not write the map and says so itself
    os.setresgid(0, 0, 0)
    if not id_map.single:
        os.setgroups([])
    os.setresuid(0, 0, 0)


def _unshare(flags: int) -> None:
    try:
        linux.unshare(flags)
    except OSError as error:
        raise refused_namespace(error, user=bool(flags & linux.CLONE_NEWUSER)) from error


def refused_namespace(error: OSError, *, user: bool = True) -> NamespaceRefused:
    """The error for a namespace, or a mount in one, that this system refuses, with the cure for this system."""
    what = "a user namespace" if user or os.geteuid() != 0 else "a mount or pid namespace"
    return NamespaceRefused(f"this system refuses {what}: {error.strerror}", hint=namespace_cure())


def namespace_cure() -> str:
    """What keeps ordinary users from having namespaces here, as a command to type (each sysctl is tried)."""
    if _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "AppArmor restricts user namespaces: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if _sysctl("kernel/unprivileged_userns_clone") == "0":
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if _sysctl("user/max_user_namespaces") == "0":
        return "sudo sysctl -w user.max_user_namespaces=15000"
    other = "run crossroot as an ordinary user" if os.geteuid() == 0 else "elsewhere run crossroot as root"
    return f"in a container, allow them (docker run --privileged); {other}"


def _sysctl(name: str) -> str:
    try:
        with open(f"/proc/sys/{name}") as file:
            return file.read().strip()
    except OSError:
        return ""  # no such setting on this kernel


def _write_map(pid: int, id_map: IdMap) -> None:
    """Map the ids of the user namespace of `pid`; the writer stands in its parent namespace."""
    if os.geteuid() == 0 or id_map.single:
        if id_map.single:
            _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/uid_map", _map_text(id_map.uids))
        _write(f"/proc/{pid}/gid_map", _map_text(id_map.gids))
        return
    helpers = _map_helpers()
    if helpers is None:
        raise CrossrootError("newuidmap and newgidmap are not installed", hint="install the package uidmap")
    for helper, rows, file, capability in (
        (helpers[0], id_map.uids, "/etc/subuid", "cap_setuid"),
        (helpers[1], id_map.gids, "/etc/subgid", "cap_setgid"),
    ):
        numbers = [str(number) for row in rows for number in row]
        helper_pid = os.posix_spawn(helper, [helper, str(pid), *numbers], os.environ)
        status = os.waitstatus_to_exitcode(os.waitpid(helper_pid, 0)[1])
        if status != 0:
            raise CrossrootError(
                f"{os.path.basename(helper)} refused the id map {_map_text(rows).strip()!r}",
                hint=f"check that {file} holds these ranges and that {helper} is setuid root; in a container: "
                f"chmod u-s {helper}; setcap {capability}+ep {helper}",
            )


def _map_text(rows: tuple[Row, ...]) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in rows)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def kill(child: Child) -> None:
    """End the child at once, with everything in its pid namespace if it leads one, and wait for it."""
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    os.close(child.channel)


def messages(child: Child, progress: Progress = no_progress) -> list[dict[str, Any]]:
    """All messages of the child until it, and whoever shares its channel, has closed it; progress is passed on."""
    received = []
    with open(child.channel, "rb", closefd=False) as lines:
        for line in lines:
            message = fastjson.loads(line)
            if "done" in message:
                progress(message["done"], message["total"])
            else:
                received.append(message)
    return received


def raise_error(received: list[dict[str, Any]]) -> None:
    """Raise the error among a child's messages, if there is one."""
    for message in received:
        if "error" in message:
            kind = NamespaceRefused if message.get("refused") else CrossrootError
            raise kind(message["error"], hint=message["hint"], exit_code=message["exit_code"])


def call(
    function: Callable[[Progress], Any],
    *,
    id_map: IdMap | None,
    flags: int = linux.CLONE_NEWNS,
    progress: Progress = no_progress,
) -> Any:
    """Run `function` in a child in namespaces of its own and give back its result, which must fit into JSON.

    The function may report progress. What it raises is raised here as CrossrootError.
    """

    def run(reporter: Reporter) -> int:
        if flags & linux.CLONE_NEWNS:
            try:
                linux.make_mounts_private()
            except OSError as error:
                raise refused_namespace(error) from error
        reporter.send(result=function(lambda done, total: reporter.send(done=done, total=total)))
        return 0

    child = spawn(run, id_map=id_map, flags=flags)
    try:
        received = messages(child, progress)
    except BaseException:
        kill(child)
        raise
    os.close(child.channel)
    status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
    raise_error(received)
    for message in received:
        if "result" in message:
            return message["result"]
    raise CrossrootError(
        f"a worker process ended with status {status} before it was done",
        hint="see `dmesg` for an out-of-memory kill",
    )
