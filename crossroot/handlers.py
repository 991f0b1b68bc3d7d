"""Which handler runs the programs of an arch: decided by trying, registered on the host only where nothing else can.

A session uses, in this order: the CPU itself, the host's handler when it really works, a private handler in the
session's own user namespace, and, as root on kernels without those, a host-wide handler that is announced.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crossroot import binfmt, emulator, paths, probe, ui
from crossroot.arch import Arch
from crossroot.emulator import Wanted
from crossroot.errors import CrossrootError

POLICIES = ("auto", "host", "private")
ANY = Wanted()


@dataclass(frozen=True)
class Handler:
    """What runs a root's programs: "native" (the CPU), "host" (a host-wide handler), "private" (the session's).

    interpreter: the emulator to register; only for "private".
    """

    scope: str
    interpreter: Path | None = None


def choose(
    arch: Arch, policy: str = "auto", qemu: Wanted = ANY, version: str = "", mirrors: Sequence[str] = ()
) -> Handler:
    """Decide what runs programs of `arch` in a session; tried, not guessed.

    policy: "host" or "private" forces that scope. qemu: an emulator to use instead of what the host registered.
    version: which emulators will do if `qemu` does not say, see `emulator.satisfies`. mirrors: Alpine's, to fetch
    an emulator from when the host has none. Registers on the host, and says so, only as root and where the kernel
    has no private handlers. Raises CrossrootError if nothing can run them.
    """
    version = qemu.version or version
    if emulator.runs_on_host(arch):
        if qemu.source or policy == "private":
            raise CrossrootError(
                f"{arch.name} is this host's own arch and is never emulated", hint="omit --qemu and --binfmt"
            )
        return Handler("native")
    if policy != "private" and not qemu.source:
        verdict = probe.run(arch)
        too_old = verdict.kind == "emulated" and bool(version) and not _host_has(arch, version)
        if too_old and (policy == "host" or not binfmt.private_possible()):
            raise CrossrootError(
                f"the host's handler for {arch.name} is not qemu {version}",
                hint="use --binfmt private (Linux 6.7 or later), or register another one",
            )
        # A handler without flag P loses argv[0]; it is used only where there is no better one.
        good = verdict.keeps_argv0 or policy == "host" or not binfmt.private_possible()
        if verdict.runs and good and not too_old:
            return Handler("native" if verdict.kind == "native" else "host")
        if verdict.kind == "broken" and policy == "host":
            raise CrossrootError(
                f"the host's handler for {arch.name} is broken: {verdict.problem}",
                hint=f"use --binfmt private, or: {_register_command(arch)}",
            )
    if policy != "host" and binfmt.private_possible():
        return Handler("private", _emulator(arch, qemu, version, mirrors))
    if os.geteuid() == 0:
        _register(arch, _emulator(arch, qemu, version, mirrors))
        return Handler("host")
    if policy == "host":
        raise CrossrootError(
            f"the host has no handler for {arch.name}, and only root can register one",
            hint=f"use --binfmt private (Linux 6.7 or later), or: {_register_command(arch)}",
        )
    raise CrossrootError(
        f"no handler runs {arch.name} on this host, and its kernel ({os.uname().release}) has no private ones",
        hint=f"use Linux 6.7 or later, or: {_register_command(arch)}",
    )


def _emulator(arch: Arch, qemu: Wanted, version: str, mirrors: Sequence[str]) -> Path:
    """The emulator to register: the one that is insisted on, the host's or a fetched one, or one fetched now."""
    if "://" not in qemu.source:
        try:
            return emulator.find(arch, Path(qemu.source) if qemu.source else None, version)
        except CrossrootError:
            if qemu.source:
                raise
    from crossroot import emulator_fetch  # its libraries are slow to import

    source = qemu.source or None
    return emulator_fetch.ensure(arch, source, version, sha256=qemu.sha256, cache=paths.cache(), mirrors=mirrors)


def _host_has(arch: Arch, version: str) -> bool:
    """Whether the emulator of the host's handler is of a version that will do."""
    found = re.search(r" version (\S+)", probe.emulator_version(arch))
    return found is not None and emulator.satisfies(found[1], version)


def _register_command(arch: Arch) -> str:
    return binfmt.as_root(f"crossroot binfmt register {arch.name}")


def _register(arch: Arch, interpreter: Path) -> None:
    """Register a handler for the whole host, and say so."""
    from crossroot import binfmt_register  # hardly any session needs it

    binfmt.mount_table()
    with binfmt.locked_table():
        binfmt_register.install(arch, interpreter, binfmt.HOST_FLAGS)
    ui.note(
        f"registered {interpreter} for {arch.name} on this host; undo with: crossroot binfmt unregister {arch.name}"
    )
