"""Does this machine run programs of an arch? Found out by running one, in an empty chroot as a session would.

An empty chroot shows what counts for a root: that a handler was opened when it was registered (flag F) and needs
nothing from the file system (kernel: Documentation/admin-guide/binfmt-misc.rst). What really runs the program is
read from /proc/PID/exe while the process is stopped right after execve: the program itself where the CPU runs it,
else the very file that the kernel took for the emulator, whatever lies at its path by now.
"""

import errno
import os
import signal
from typing import Any, Literal

from crossroot import elf, linux, namespaces
from crossroot.arch import Arch
from crossroot.record import Record

Kind = Literal["native", "emulated", "broken", "none"]

_TIMEOUT = 20  # seconds a probe may take; an emulator starts in some 10 ms
_ARGV0 = "*"  # its code, 42, is the probe's exit status when argv[0] arrives
_LOST_ARGV0 = ord("/")  # the probe's path starts so, and replaces argv[0] when the handler lacks flag P
_OUTPUT_LIMIT = 4096


class Verdict(Record):
    """What came of running a program of an arch.

    kind: "native", "emulated"; "none": the kernel knows no way to run it (ENOEXEC); "broken": it knows one that
    fails. keeps_argv0: its argv[0] arrived as given. problem: why it did not run, "" if it did. error: errno of
    execve, 0 if that succeeded. emulator: path of the file that ran it, as the kernel says; inode: its device and
    number; "" and None where there is no emulator, or this system does not let us look.
    """

    kind: Kind
    keeps_argv0: bool = False
    problem: str = ""
    error: int = 0
    emulator: str = ""
    inode: tuple[int, int] | None = None

    @property
    def runs(self) -> bool:
        """Whether the program ran to its end."""
        return self.kind in ("native", "emulated")


def run(arch: Arch, *, chroot: bool = True) -> Verdict:
    """Run the probe program of `arch` in an empty chroot, or without one: where the interpreter's path leads
    somewhere. Raises CrossrootError if namespaces are refused."""
    outcome = namespaces.call(lambda _: _outcome(arch, {}, chroot), id_map=namespaces.own_single_map())
    return _verdict(arch, outcome)


def emulator_version(arch: Arch) -> str:
    """What the emulator in use says of its version when a program of `arch` is run; "" if there is none.

    With QEMU_VERSION in its environment qemu-user says so and runs nothing.
    """
    environment = {"QEMU_VERSION": "1"}
    outcome = namespaces.call(lambda _: _outcome(arch, environment, True), id_map=namespaces.own_single_map())
    first, _, _ = str(outcome.get("output", "")).partition("\n")
    return first


def _outcome(arch: Arch, environment: dict[str, str], chroot: bool) -> dict[str, Any]:
    """Run the probe on a file system of its own; runs in a confined child, so gives what fits into JSON."""
    folder = linux.new_filesystem("tmpfs", {"mode": "0755", "size": "1m"})
    file = os.open("probe", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755, dir_fd=folder)
    os.write(file, elf.probe_program(arch))
    program = os.fstat(file)
    os.close(file)
    output, send = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        linux.die_with_parent(signal.SIGKILL)  # an emulator may hang when crossroot is killed
        if os.getppid() == parent:
            _exec_probe(folder, send, environment, chroot)
        os._exit(1)
    os.close(send)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(_TIMEOUT)
    running, status = _look_after_exec(pid)
    left = signal.alarm(0)
    text = os.read(output, _OUTPUT_LIMIT)
    os.close(output)
    if text.startswith(b"errno "):
        return {"errno": int(text.split()[1])}
    return {
        "status": os.waitstatus_to_exitcode(status),
        "output": text.decode(errors="replace"),
        "timed_out": left == 0,
        "native": running and running["inode"] == [program.st_dev, program.st_ino],
        "running": running,
    }


def _exec_probe(folder: int, send: int, environment: dict[str, str], chroot: bool) -> None:
    try:
        os.fchdir(folder)
        if chroot:
            os.chroot(".")
            path = "/probe"
        else:
            # A descriptor names it, as its file system is mounted nowhere; the emulator opens the path again.
            program = os.open("probe", os.O_RDONLY)
            os.set_inheritable(program, True)
            path = f"/proc/self/fd/{program}"
        os.dup2(send, 1)
        os.dup2(send, 2)
        _try_to_stop_at_exec()
        os.execve(path, [_ARGV0], environment)
    except OSError as error:
        os.write(send, b"errno %d" % (error.errno or 0))
    finally:
        os._exit(1)


def _try_to_stop_at_exec() -> None:
    try:
        linux.stop_at_exec()
    except OSError as error:
        # Some containers' seccomp filters and yama's strictest ptrace_scope refuse it; the probe works without.
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
            raise


def _look_after_exec(pid: int) -> tuple[dict[str, Any] | None, int]:
    """The path and inode of what the process runs, if it stopped after execve, and its wait status in the end."""
    running = None
    while True:
        status = os.waitpid(pid, 0)[1]
        if not os.WIFSTOPPED(status):
            return running, status
        stopped_by = os.WSTOPSIG(status)
        if stopped_by == signal.SIGTRAP:
            running = _executable(pid)
        linux.go_on(pid, 0 if stopped_by == signal.SIGTRAP else stopped_by)


def _executable(pid: int) -> dict[str, Any] | None:
    link = f"/proc/{pid}/exe"
    try:
        facts = os.stat(link)
        return {"path": os.readlink(link), "inode": [facts.st_dev, facts.st_ino]}
    except OSError:
        return None  # an emulator that its user may execute but not read shows nothing of itself


def _verdict(arch: Arch, outcome: dict[str, Any]) -> Verdict:
    code = outcome.get("errno")
    if code == errno.ENOEXEC:
        return Verdict("none", problem="the kernel has no handler for it", error=code)
    if code is not None:
        return Verdict("broken", problem=_EXEC_PROBLEMS.get(code, os.strerror(code)), error=code)
    running = outcome["running"] or {"path": "", "inode": None}
    emulator = "" if outcome["native"] else running["path"]
    inode = None if outcome["native"] or not running["inode"] else (running["inode"][0], running["inode"][1])
    status = outcome["status"]
    if status in (ord(_ARGV0), _LOST_ARGV0):
        native = outcome["native"] if outcome["running"] else not emulator_version(arch)
        kind: Kind = "native" if native else "emulated"
        return Verdict(kind, keeps_argv0=status == ord(_ARGV0), emulator=emulator, inode=inode)
    return Verdict("broken", problem=_failure(outcome), emulator=emulator, inode=inode)


def _failure(outcome: dict[str, Any]) -> str:
    if outcome["timed_out"]:
        return f"its handler did not finish within {_TIMEOUT} s"
    status = outcome["status"]
    said = outcome["output"].strip().splitlines()
    how = f"was killed by signal {-status}" if status < 0 else f"exited with {status}"
    return f"its handler {how}" + (f": {said[-1]}" if said else "")


_EXEC_PROBLEMS = {
    errno.ENOENT: "its handler's interpreter, or the loader that needs, is not found inside a chroot",
    errno.EACCES: "its handler's interpreter may not be executed (mode, or a noexec file system)",
    errno.ELOOP: "its handler's interpreter is itself handled by a handler",
    errno.EPERM: "executing it is not permitted here",
}
