"""Which handler runs the programs of an arch: decided by trying, registered on the host only where nothing else can.

A session uses, in this order: the CPU itself, the host's handler when it really works, a private handler in the
session's own user namespace, and, as root on kernels without those, a host-wide handler that is announced.

What was decided is remembered in the cache with all that it depends on, as trying takes as long as a session's whole
set-up.
"""

from __future__ import annotations

import os

from crossroot import __version__, paths, ui
from crossroot import arch as arches
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

    emulator: path of the qemu-user that does it; "" for "native", and where the host does not let us see which.
    version: of it, "" if unknown. cpu: the model (QEMU_CPU) that it is fastest with, "" for its default.
    """

    scope: str
    emulator: str = ""
    version: str = ""
    cpu: str = ""


def cpu(handler: Handler, profiled: str) -> str:
    """The CPU model for the emulator (QEMU_CPU): that of the profile, or else the fastest; "" for its own default."""
    return "" if handler.scope == "native" else profiled or handler.cpu


def choose(
    arch: Arch, policy: str = "auto", qemu: Wanted = ANY, version: str = "", mirrors: Sequence[str] = ()
) -> Handler:
    """Decide what runs programs of `arch` in a session; tried, not guessed.

    policy: "host" or "private" forces that scope. qemu: an emulator to use instead of what the host registered.
    version: which emulators will do if `qemu` does not say, see `emulator.satisfies`. mirrors: Alpine's, to fetch
    an emulator from when the host has none. Registers on the host, and says so, only as root and where the kernel
    has no private handlers. Raises CrossrootError if nothing can run them.
    """
    if arch == arches.of_host():
        if qemu.source or policy == "private":
            raise CrossrootError(
                f"{arch.name} is this host's own arch and is never emulated", hint="omit --qemu and --binfmt"
            )
        return Handler("native")
    asked = qemu.version or version
    handler = None if qemu.source else _remembered(arch, policy, asked)
    if handler is None:
        handler = _decide(arch, policy, qemu, asked, mirrors)
        if not qemu.source:
            _remember(arch, policy, asked, handler)
    if version and qemu != ANY:
        _warn(handler, version)
    return handler


def _warn(handler: Handler, version: str) -> None:
    """Say so if an emulator that the caller insists on is none of those that the profile takes."""
    from crossroot import emulator

    if handler.scope != "native" and not emulator.satisfies(handler.version, version):
        which = f"{handler.emulator or 'the emulator'} is qemu {handler.version or 'of an unknown version'}"
        ui.note(f"{which}, and the profile asks for {version}: some programs may fail")


def expected(arch: Arch, policy: str, version: str) -> Handler:
    """What `choose` would decide on, without fetching or registering anything.

    Raises CrossrootError if there is no emulator yet, or nothing can run the arch.
    """
    from crossroot import emulator

    if arch == arches.of_host():
        return Handler("native")
    there = _there(arch, policy, ANY, version)
    return there or _with_emulator(arch, _scope_of_new(arch, policy), emulator.find(arch, version=version))


# What was decided


def _memory(arch: Arch, policy: str, version: str) -> str:
    """The file for what was decided: one for each that is asked for, as sessions that ask for several alternate."""
    name = " ".join(filter(None, (arch.name, policy, version)))
    return os.path.join(paths.cache_folder(), "handlers", name.replace("/", "_"))


def _remembered(arch: Arch, policy: str, version: str) -> Handler | None:
    """What was decided under the conditions of now; None if it has to be decided anew."""
    try:
        with open(_memory(arch, policy, version), encoding="utf-8", errors="surrogateescape") as file:
            *fields, conditions = file.read().split("\n", 4)
            handler = Handler(*fields)
    except (OSError, TypeError, ValueError):
        return None
    if handler.scope == "host" and not _table_in_sight():
        return None  # it may be gone
    return handler if conditions == _conditions(arch, policy, version, handler.emulator) else None


def _remember(arch: Arch, policy: str, version: str, handler: Handler) -> None:
    file = _memory(arch, policy, version)
    text = "\n".join([*handler.as_dict().values(), _conditions(arch, policy, version, handler.emulator)])
    unfinished = f"{file}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(unfinished, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(text)
        os.rename(unfinished, file)
    except OSError:
        pass  # a cache that cannot be written to only makes sessions slower


def _conditions(arch: Arch, policy: str, version: str, emulator: str) -> str:
    """All that a decision depends on, a line each.

    This crossroot, the boot, the user, pid and mount namespaces' owners (a container may share the cache with its
    host), what is asked for, the host's table where it is in sight, and the files among which emulators are looked for.
    Where the table is not in sight, a handler that was registered since is not noticed; the private one goes on serving
    then.
    """
    lines = [__version__, _read("/proc/sys/kernel/random/boot_id"), policy, version, os.environ.get("PATH", "")]
    lines += [os.readlink(f"/proc/self/ns/{name}") for name in ("user", "pid")]
    emulators = os.path.join(paths.cache_folder(), "emulators", arch.qemu)
    folders = [folder for folder in os.environ.get("PATH", "").split(":") if folder]
    lines += [_identity(file) for file in (emulator, emulators, os.path.join(emulators, "default"), *folders)]
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
    if there := _there(arch, policy, qemu, version):
        return there
    scope = _scope_of_new(arch, policy)
    path = _emulator(arch, qemu, version, mirrors)
    if scope == "host":
        _register(arch, path)
    return _with_emulator(arch, scope, path)


def _with_emulator(arch: Arch, scope: str, path: Path) -> Handler:
    from crossroot import emulator

    version = emulator.version_of(path)
    return Handler(scope, str(path), version, emulator.fastest_cpu(arch, version))


def _there(arch: Arch, policy: str, qemu: Wanted, version: str) -> Handler | None:
    """The CPU, or the host's handler, if it runs programs of `arch` well enough; None if a handler has to be made."""
    from crossroot import binfmt, emulator, probe

    if policy == "private" or qemu.source:
        return None
    verdict = probe.run(arch)
    if verdict.kind == "native":
        return Handler("native")
    if verdict.kind == "broken" and policy == "host":
        raise CrossrootError(
            f"the host's handler for {arch.name} is broken: {verdict.problem}",
            hint=f"use --binfmt private, or: {_register_command(arch)}",
        )
    if verdict.kind != "emulated":
        return None
    forced = policy == "host" or not binfmt.private_possible()
    # A handler without flag P loses argv[0]; it is used only where there is no better one.
    if not verdict.keeps_argv0 and not forced:
        return None
    # Not of the file at the emulator's path, which a newer one may have taken since the kernel opened it.
    its_version = emulator.version_in(probe.emulator_version(arch))
    if emulator.satisfies(its_version, version):
        return Handler("host", verdict.emulator, its_version, emulator.fastest_cpu(arch, its_version))
    if forced:
        raise CrossrootError(
            f"the host's handler for {arch.name} is not qemu {version}"
            + (f" but {its_version}" if its_version else ""),
            hint="use --binfmt private (Linux 6.7 or later), or register another one",
        )
    return None


def _scope_of_new(arch: Arch, policy: str) -> str:
    """Where a new handler can be registered. Raises CrossrootError if nowhere."""
    from crossroot import binfmt

    if policy != "host" and binfmt.private_possible():
        return "private"
    if policy == "private":
        raise CrossrootError(
            f"this kernel ({os.uname().release}) has no private handlers, or this container refuses them",
            hint="use Linux 6.7 or later, or omit --binfmt private",
        )
    if os.geteuid() == 0:
        return "host"
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
