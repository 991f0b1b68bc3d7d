"""Stops a command at a chosen system call, in whichever of its processes, and strikes: a kill, an interruption.

    with inject.commands(crossroot, folder) as commands:
        outcome = commands.run("list", at=17, blow=inject.kill_main)
        assert outcome.struck and outcome.status == -signal.SIGKILL

The boundaries are the system calls that change something: files, mounts, namespaces, processes, locks, what others
read. A kill between two of them finds the same world as one at the second. Only those of crossroot's own processes
count, not those of the programs it starts.

A seccomp filter hands each of these calls to this process before the kernel looks at it (seccomp_unotify(2)). All
descendants inherit it, setuid programs and pid namespaces included, and its listener says when the last one is gone.
"""

import fcntl
import json
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tests.support.identity import Crossroot
from tests.support.mirror import REPOSITORY

# Numbers of x86_64 (arch/x86/entry/syscalls/syscall_64.tbl); those from 424 on are the same everywhere.
_CHANGES = {
    1: "write",
    18: "pwrite64",
    20: "writev",
    40: "sendfile",
    326: "copy_file_range",
    44: "sendto",
    56: "clone",
    57: "fork",
    58: "vfork",
    59: "execve",
    322: "execveat",
    60: "exit",
    231: "exit_group",
    435: "clone3",
    61: "wait4",
    247: "waitid",
    62: "kill",
    424: "pidfd_send_signal",
    101: "ptrace",
    157: "prctl",
    73: "flock",
    76: "truncate",
    77: "ftruncate",
    285: "fallocate",
    74: "fsync",
    235: "utimes",
    280: "utimensat",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    85: "creat",
    86: "link",
    87: "unlink",
    88: "symlink",
    133: "mknod",
    258: "mkdirat",
    259: "mknodat",
    263: "unlinkat",
    264: "renameat",
    265: "linkat",
    266: "symlinkat",
    90: "chmod",
    91: "fchmod",
    92: "chown",
    93: "fchown",
    94: "lchown",
    260: "fchownat",
    268: "fchmodat",
    316: "renameat2",
    452: "fchmodat2",
    188: "setxattr",
    189: "lsetxattr",
    190: "fsetxattr",
    155: "pivot_root",
    161: "chroot",
    165: "mount",
    166: "umount2",
    272: "unshare",
    308: "setns",
    112: "setsid",
    116: "setgroups",
    117: "setresuid",
    119: "setresgid",
    170: "sethostname",
    428: "open_tree",
    429: "move_mount",
    430: "fsopen",
    431: "fsconfig",
    432: "fsmount",
    442: "mount_setattr",
    437: "openat2",
}
_OPENAT = 257  # counts if it may create or change the file
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_X86_64 = 0xC000003E  # AUDIT_ARCH_X86_64

# linux/filter.h, linux/seccomp.h
_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _THIRD_ARGUMENT_AT = 0, 4, 32
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND, _CONTINUE = 0xC0502100, 0xC0182101, 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_RESPONSE = struct.Struct("=QqiI")

PATIENCE = 20.0  # seconds that a command and all its processes may need to be gone
SUPPORTED = os.geteuid() == 0 and platform.machine() == "x86_64"

Blow = Callable[[int, int], None]


def kill_main(main: int, _: int) -> None:
    """SIGKILL to crossroot itself, as by `kill -9`."""
    os.kill(main, signal.SIGKILL)


def kill_caller(_: int, caller: int) -> None:
    """SIGKILL to the process that makes the call, as by the kernel when memory runs out."""
    os.kill(caller, signal.SIGKILL)


def terminate(main: int, _: int) -> None:
    """SIGTERM to crossroot itself."""
    os.kill(main, signal.SIGTERM)


def interrupt(main: int, _: int) -> None:
    """SIGINT to the process group, as by Ctrl-C."""
    os.killpg(main, signal.SIGINT)


@dataclass(frozen=True)
class Outcome:
    """How a command went. status: of its main process, -SIGNAL if a signal ended it. boundaries: how many calls were
    seen. struck: the call at which the blow fell, "" if it did not."""

    status: int
    stdout: str
    stderr: str
    boundaries: int
    struck: str


@dataclass(frozen=True)
class Commands:
    """Runs crossroot as `Crossroot.run` does, but for the cost of starting Python. files: stdout and stderr."""

    crossroot: Crossroot
    link: socket.socket
    answers: BinaryIO
    files: tuple[BinaryIO, BinaryIO]

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        at: int = 0,
        blow: Blow | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Outcome:
        """Run a command to its end. blow: what to do at the call `at`, counted from 1; without one nothing is counted.

        terminal: master and slave of one, for stdin and stdout, on which `exit` is typed as soon as something is
        printed. Fails if a process is still there after PATIENCE.
        """
        for file in self.files:
            file.truncate(0)
        identity = self.crossroot.identity
        request = {
            "arguments": [str(argument) for argument in arguments],
            "env": identity.environment(self.crossroot.environment(env)),
            "cwd": str(self.crossroot.tmp),
            "uid": identity.uid,
            "gid": identity.gid,
            "filter": _filter().hex() if blow else "",
        }
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, its, open(os.devnull, "rb") as nothing:
            master, slave = terminal or (-1, -1)
            stdin = slave if terminal else nothing.fileno()
            stdout = slave if terminal else self.files[0].fileno()
            descriptors = [its.fileno(), stdin, stdout, self.files[1].fileno()]
            socket.send_fds(self.link, [json.dumps(request).encode()], descriptors)
            its.close()
            main = int(self.answers.readline())
            count, struck = _supervise(ours, main, at, blow, master) if blow else (0, "")
            status = int(self.answers.readline())
        return Outcome(status, _text(self.files[0]), _text(self.files[1]), count, struck)


@contextmanager
def commands(crossroot: Crossroot, folder: Path) -> Iterator[Commands]:
    """Commands of an identity, while the block runs. folder: an existing one, for what they print."""
    ours, its = socket.socketpair()
    with ours, its, (folder / "stdout").open("w+b", 0) as stdout, (folder / "stderr").open("w+b", 0) as stderr:
        for file in (stdout, stderr):  # appended to, so that it can be cut off for the next command
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
        command = [str(crossroot.identity.python), "-P", str(REPOSITORY / "tests/support/zygote.py"), str(its.fileno())]
        environment = crossroot.identity.environment({"PYTHONDONTWRITEBYTECODE": "1"})
        process = subprocess.Popen(command, pass_fds=[its.fileno()], cwd=crossroot.tmp, env=environment)
        its.close()
        with ours.makefile("rb") as answers:
            assert answers.readline() == b"ready\n"
            yield Commands(crossroot, ours, answers, (stdout, stderr))
            ours.shutdown(socket.SHUT_WR)
        assert process.wait(PATIENCE) == 0


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


def _supervise(link: socket.socket, main: int, at: int, blow: Blow, master: int) -> tuple[int, str]:
    """Let calls pass until all processes are gone, but strike at one of them; how many there were, and which was it."""
    listener = socket.recv_fds(link, 16, 1)[1][0]
    python = os.stat(f"/proc/{main}/exe")
    count, struck = 0, ""
    link.setblocking(False)
    begun = False
    deadline = time.monotonic() + PATIENCE
    try:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        if master >= 0:
            poll.register(master, select.POLLIN)
        while True:
            events = poll.poll(max(0, deadline - time.monotonic()) * 1000)
            assert events, f"after {PATIENCE} s there still are processes of the command ({struck=})"
            if (master, select.POLLIN) in events:
                os.read(master, 4096)
                os.write(master, b"exit\n")
            if listener not in dict(events):
                continue
            if not dict(events)[listener] & select.POLLIN:
                return count, struck  # POLLHUP: nobody has the filter any more
            begun = begun or _has_begun(link)
            call = receive(listener)
            if call is None:
                continue
            if begun and _same(python, call.caller):
                count += 1
                if count == at:
                    struck = _CHANGES.get(call.number, "openat")
                    blow(main, call.caller)
            answer(listener, call)
    finally:
        os.close(listener)


def _has_begun(link: socket.socket) -> bool:
    try:
        return link.recv(16) == b"begin"
    except BlockingIOError:
        return False


@dataclass(frozen=True)
class Call:
    """A system call that waits for an answer. id: of its notification. caller: a pid. number: of the call."""

    id: int
    caller: int
    number: int
    arguments: tuple[int, ...]


def receive(listener: int) -> Call | None:
    """The next call; None if its caller has died."""
    notification = bytearray(_NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, notification)
    except FileNotFoundError:
        return None
    number, caller, _, call, _, _, *arguments = _NOTIFICATION.unpack(notification)
    return Call(number, caller, call, tuple(arguments))


def answer(listener: int, call: Call, error: int = 0) -> None:
    """Let the kernel make the call, or let it fail with the errno `error`."""
    response = _RESPONSE.pack(call.id, 0, -error, 0 if error else _CONTINUE)
    try:
        fcntl.ioctl(listener, _SEND, bytearray(response))
    except FileNotFoundError:
        pass  # the caller was interrupted by the blow, and asks again if it lives


def _same(python: os.stat_result, pid: int) -> bool:
    """Whether a process runs the Python of crossroot, so is one of ours."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/exe"), python)
    except OSError:
        return False


def _filter() -> bytes:
    """The filter's instructions (struct sock_filter)."""
    lines = [(_LOAD, 0, 0, _ARCH_AT), (_EQUAL, 1, 0, _X86_64), (_RETURN, 0, 0, _ALLOW), (_LOAD, 0, 0, _NUMBER_AT)]
    for number in _CHANGES:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTIFY)]
    lines += [(_EQUAL, 0, 3, _OPENAT), (_LOAD, 0, 0, _THIRD_ARGUMENT_AT), (_ANY_BIT, 0, 1, _WRITING)]
    lines += [(_RETURN, 0, 0, _NOTIFY), (_RETURN, 0, 0, _ALLOW)]
    return _assembled(lines)


def filter_of(number: int) -> bytes:
    """A filter that hands over the system call `number` and no other."""
    lines = [(_LOAD, 0, 0, _NUMBER_AT), (_EQUAL, 0, 1, number), (_RETURN, 0, 0, _NOTIFY), (_RETURN, 0, 0, _ALLOW)]
    return _assembled(lines)


def _assembled(lines: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
