"""Which handler runs the programs of an arch: decided by trying, registered on the host only where nothing else can.

A session uses, in this order: the CPU itself, the host's handler when it really works, a private handler in the
session's own user namespace, and, as root on kernels without those, a host-wide handler that is announced.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from crossroot import binfmt, emulator, probe, ui
from crossroot.arch import Arch
from crossroot.errors import CrossrootError

POLICIES = ("auto", "host", "private")


@dataclass(frozen=True)
class Handler:
    """What runs a root's programs: "native" (the CPU), "host" (a host-wide handler), "private" (the session's).

    interpreter: the emulator to register; only for "private".
    """

    scope: str
    interpreter: Path | None = None


def choose(arch: Arch, policy: str = "auto", qemu: Path | None = None) -> Handler:
    """Decide what runs programs of `arch` in a session; tried, not guessed.

    policy: "host" or "private" forces that scope. qemu: an emulator to use instead of what the host registered.
    Registers on the host, and says so, only as root and where the kernel has no private handlers. Raises
    CrossrootError if nothing can run them.
    """
    if emulator.runs_on_host(arch):
        if qemu is not None or policy == "private":
            raise CrossrootError(
                f"{arch.name} is this host's own arch and is never emulated", hint="omit --qemu and --binfmt"
            )
        return Handler("native")
    if policy != "private" and qemu is None:
        verdict = probe.run(arch)
        # A handler without flag P loses argv[0]; it is used only where there is no better one.
        if verdict.runs and (verdict.keeps_argv0 or policy == "host" or not binfmt.private_possible()):
            emulated = any(entry.serves(arch) for entry in binfmt.entries())
            return Handler("host" if emulated else "native")
        if verdict.problem and not verdict.no_handler and policy == "host":
            raise CrossrootError(
                f"the host's handler for {arch.name} is broken: {verdict.problem}",
                hint="use --binfmt private, or repair the entry in /proc/sys/fs/binfmt_misc",
            )
    if policy != "host" and binfmt.private_possible():
        return Handler("private", emulator.find(arch, qemu))
    if os.geteuid() == 0:
        interpreter = emulator.find(arch, qemu)
        register(arch, interpreter)
        return Handler("host")
    if policy == "host":
        raise CrossrootError(
            f"the host has no handler for {arch.name}, and only root can register one",
            hint="use --binfmt private (Linux 6.7 or later), or run this command once as root",
        )
    raise CrossrootError(
        f"no handler runs {arch.name} on this host, and its kernel ({os.uname().release}) has no private ones",
        hint="use Linux 6.7 or later, or let root register one: sudo crossroot run --binfmt host NAME -- true",
    )


def register(arch: Arch, interpreter: Path) -> None:
    """Register a host-wide handler for `arch`, say so, and prove that it works; a failing one is removed again."""
    binfmt.mount_table()
    name = f"crossroot-{arch.name}"
    try:
        (binfmt.TABLE / "register").write_bytes(binfmt.rule(arch, str(interpreter), binfmt.HOST_FLAGS))
    except FileExistsError:
        raise CrossrootError(
            f"a host entry {name} exists but does not work", hint=f"look at {binfmt.TABLE / name}"
        ) from None
    except OSError as error:
        raise CrossrootError(
            f"the kernel refused a handler for {arch.name} with {interpreter}: {error.strerror}",
            hint="the path may be too long (127 bytes)",
        ) from error
    verdict = probe.run(arch)
    if not verdict.runs:
        (binfmt.TABLE / name).write_text("-1")
        raise CrossrootError(
            f"{interpreter} does not run {arch.name} programs: {verdict.problem}",
            hint="name another emulator with --qemu PATH",
        )
    ui.note(f"registered {interpreter} for {arch.name} on this host; undo with: echo -1 > {binfmt.TABLE / name}")
