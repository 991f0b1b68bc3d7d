"""Does this machine run programs of an arch? Found out by running one, in an empty chroot as a session would.

An empty chroot shows what counts for a root: that a handler was opened when it was registered (flag F) and needs
nothing from the file system (kernel: Documentation/admin-guide/binfmt-misc.rst).
"""

import errno
import os
import signal
from dataclasses import dataclass
from typing import Any

from crossroot import elf, linux, namespaces
from crossroot.arch import Arch

_TIMEOUT = 20  # seconds a probe may take; an emulator starts in some 10 ms
_ARGV0 = "*"  # its code, 42, is the probe's exit status when argv[0] arrives
_LOST_ARGV0 = ord("/")  # the probe's path starts so, and replaces argv[0] when the handler lacks flag P
_OUTPUT_LIMIT = 4096


@dataclass(frozen=True)
class Verdict:
    """What came of running a program of an arch.

    runs: it ran to its end. keeps_argv0: its argv[0] arrived as given. problem: why it did not run, "" if it did;
    no_handler: the kernel knows no way to run it (ENOEXEC), rather than a way that fails.
    """

    runs: bool
    keeps_argv0: bool = False
    no_handler: bool = False
    problem: str = ""


def run(arch: Arch) -> Verdict:
    """Run the probe program of `arch` in an empty chroot. Raises CrossrootError if namespaces are refused."""
    outcome = namespaces.call(lambda _: _outcome(arch, {}), id_map=namespaces.own_single_map())
    return _verdict(outcome)


def emulator_version(arch: Arch) -> str:
    """What the registered emulator says of its version; "" if the arch runs without one."""
    environment = {"QEMU_VERSION": "1"}
    outcome = namespaces.call(lambda _: _outcome(arch, environment), id_map=namespaces.own_single_map())
    first, _, _ = str(outcome.get("output", "")).partition("\n")
    return first


def _outcome(arch: Arch, environment: dict[str, str]) -> dict[str, Any]:
    """Run the probe in a chroot on a file system of its own; runs in a confined child."""
    folder = linux.new_filesystem("tmpfs", {"mode": "0755", "size": "1m"})
    file = os.open("probe", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755, dir_fd=folder)
    os.write(file, elf.probe_program(arch))
    os.close(file)
    output, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        _exec_probe(folder, send, environment)
    os.close(send)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.alarm(_TIMEOUT)
    text = _read_all(output)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = signal.alarm(0)
    if text.startswith(b"errno "):
        return {"errno": int(text.split()[1])}
    return {"status": status, "output": text.decode(errors="replace"), "timed_out": left == 0}


def _exec_probe(folder: int, send: int, environment: dict[str, str]) -> None:
    try:
        os.fchdir(folder)
        os.chroot(".")
        os.dup2(send, 1)
        os.dup2(send, 2)
        os.execve("/probe", [_ARGV0], environment)
    except OSError as error:
        os.write(send, b"errno %d" % (error.errno or 0))
    finally:
        os._exit(1)


def _read_all(descriptor: int) -> bytes:
    text = b""
    while chunk := os.read(descriptor, _OUTPUT_LIMIT):
        text = (text + chunk)[:_OUTPUT_LIMIT]
    os.close(descriptor)
    return text


def _verdict(outcome: dict[str, Any]) -> Verdict:
    code = outcome.get("errno")
    if code == errno.ENOEXEC:
        return Verdict(runs=False, no_handler=True, problem="the kernel has no handler for it")
    if code is not None:
        return Verdict(runs=False, problem=_EXEC_PROBLEMS.get(code, os.strerror(code)))
    status = outcome["status"]
    if status in (ord(_ARGV0), _LOST_ARGV0):
        return Verdict(runs=True, keeps_argv0=status == ord(_ARGV0))
    if outcome["timed_out"]:
        return Verdict(runs=False, problem=f"its handler did not finish within {_TIMEOUT} s")
    said = outcome["output"].strip().splitlines()
    how = f"was killed by signal {-status}" if status < 0 else f"exited with {status}"
    return Verdict(runs=False, problem=f"its handler {how}" + (f": {said[-1]}" if said else ""))


_EXEC_PROBLEMS = {
    errno.ENOENT: "its handler's interpreter is not found inside a chroot (registered without flag F)",
    errno.EACCES: "its handler's interpreter may not be executed (mode, or a noexec file system)",
    errno.ELOOP: "its handler's interpreter is itself handled by a handler",
    errno.EPERM: "executing it is not permitted here",
}
