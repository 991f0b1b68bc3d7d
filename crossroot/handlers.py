"""Which handler runs the programs of an arch: decided by trying, registered on the host only where nothing else can.

A session uses, in this order: the CPU itself, the host's handler when it really works, a private handler in the
session's own user namespace, and, as root on kernels without those, a host-wide handler that is announced.

What was decided is remembered in the cache with all that it depends on, as trying takes as long as a session's whole
set-up.
"""

from __future__ import annotations

import os

from crossroot import arch as arches
from crossroot import paths, ui
from crossroot.errors import CrossrootError
from crossroot.record import Record
from crossroot.wanted import ANY, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from crossroot.arch import Arch

POLICIES = ("auto", "host", "private")

_TABLE = "/proc/sys/fs/binfmt_misc"


class Handler(Record):
    """What runs a root's programs: "native" (the CPU), "host" (a host-wide handler), "private" (the session's).

    interpreter: path of the emulator to register; "" unless "private".
    """

    scope: str
    interpreter: str = ""


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
    if arch == arches.of_host():
        if qemu.source or policy == "private":
            raise CrossrootError(
                f"{arch.name} is this host's own arch and is never emulated", hint="omit --qemu and --binfmt"
            )
        return Handler("native")
    if qemu.source:
        return _decide(arch, policy, qemu, version, mirrors)
    if handler := _remembered(arch, policy, version):
        return handler
    handler = _decide(arch, policy, qemu, version, mirrors)
    _remember(arch, policy, version, handler)
    return handler


# What was decided


def _memory(arch: Arch) -> str:
    return os.path.join(paths.cache_folder(), "handlers", arch.name)


def _remembered(arch: Arch, policy: str, version: str) -> Handler | None:
    """What was decided under the conditions of now; None if it has to be decided anew."""
    try:
        with open(_memory(arch), encoding="utf-8", errors="surrogateescape") as file:
            scope, interpreter, conditions = file.read().split("\n", 2)
    except (OSError, ValueError):
        return None
    if scope == "host" and not _table_in_sight():
        return None  # it may be gone
    return Handler(scope, interpreter) if conditions == _conditions(arch, policy, version, interpreter) else None


def _remember(arch: Arch, policy: str, version: str, handler: Handler) -> None:
    file = _memory(arch)
    text = "\n".join([handler.scope, handler.interpreter, _conditions(arch, policy, version, handler.interpreter)])
    unfinished = f"{file}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(unfinished, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
        os.rename(unfinished, file)
    except OSError:
        pass  # a cache that cannot be written to only makes sessions slower


def _conditions(arch: Arch, policy: str, version: str, interpreter: str) -> str:
    """All that a decision depends on, a line each.

    The boot, the user, pid and mount namespaces' owners (a container may share the cache with its host), what is asked
    for, the host's table where it is in sight, and the files among which emulators are looked for. Where the table is
    not in sight, a handler that was registered since is not noticed; the private one goes on serving then.
    """
    lines = [_read("/proc/sys/kernel/random/boot_id"), policy, version, os.environ.get("PATH", "")]
    lines += [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "pid")]
    emulators = os.path.join(paths.cache_folder(), "emulators", arch.qemu)
    folders = [folder for folder in lines[3].split(":") if folder]
    lines += [_identity(file) for file in (interpreter, emulators, os.path.join(emulators, "default"), *folders)]
    if _table_in_sight():
        lines += [f"{name}: {_read(os.path.join(_TABLE, name))}" for name in sorted(os.listdir(_TABLE))]
    return "\n".join(lines)


def _table_in_sight() -> bool:
    return os.path.exists(os.path.join(_TABLE, "register"))


def _identity(file: str) -> str:
    """Something that differs when a file is replaced or changed, or something is put into a folder."""
    try:
        status = os.stat(file)
    except OSError:
        return "none"
    return f"{status.st_dev} {status.st_ino} {status.st_mode} {status.st_mtime_ns} {status.st_ctime_ns}"


def _read(file: str) -> str:
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return ""  # `register` can only be written


# Deciding


def _decide(arch: Arch, policy: str, qemu: Wanted, version: str, mirrors: Sequence[str]) -> Handler:
    """As `choose`, by trying."""
    from crossroot import binfmt, probe

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
        return Handler("private", str(_emulator(arch, qemu, version, mirrors)))
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
    from pathlib import Path

    from crossroot import emulator

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
    import re

    from crossroot import emulator, probe

    found = re.search(r" version (\S+)", probe.emulator_version(arch))
    return found is not None and emulator.satisfies(found[1], version)


def _register_command(arch: Arch) -> str:
    from crossroot import binfmt

    return binfmt.as_root(f"crossroot binfmt register {arch.name}")


def _register(arch: Arch, interpreter: Path) -> None:
    """Register a handler for the whole host, and say so."""
    from crossroot import binfmt, binfmt_register

    binfmt.mount_table()
    with binfmt.locked_table():
        binfmt_register.install(arch, interpreter, binfmt.HOST_FLAGS)
    ui.note(
        f"registered {interpreter} for {arch.name} on this host; undo with: crossroot binfmt unregister {arch.name}"
    )
