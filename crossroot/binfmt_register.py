"""Register and unregister handlers in the mounted binfmt_misc: checked before, proven after, rolled back on failure.

A rule is first registered under a trial name, where it is the newest and so the one in use, and proven by running
programs. Only then does it take the place of the entry that was there, which until then has not been touched.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossroot import arch as arches
from crossroot import binfmt, binfmt_conf, binfmt_rule, binfmt_status, elf, emulator, emulator_fetch, paths, probe
from crossroot.arch import Arch
from crossroot.binfmt import Entry, as_root
from crossroot.errors import CrossrootError

_TRIAL_SUFFIX = "-trial"
_START = 256  # bytes of a file that a rule can look at


def register(
    arch: Arch, *, qemu: Path | None = None, setuid: bool = False, persist: bool = False, replace: bool = False
) -> list[str]:
    """Make the kernel run programs of `arch` through qemu-user, in every root of this host; say what was done.

    qemu: the emulator, instead of the one that is found, or else fetched. setuid: let setuid programs of the arch
    have their effect, for every local user. persist: after a restart, too. replace: also where a working handler or
    another configuration file is in the way. Nothing is registered where the CPU runs the arch, or a handler with
    the wanted flags does. Raises CrossrootError if it can't be done; the table then is as it was before.
    """
    _need_root()
    flags = binfmt.HOST_FLAGS + ("C" if setuid else "")
    binfmt.mount_table()
    if not binfmt.enabled(binfmt.TABLE):
        cure = as_root(f"echo 1 > {binfmt.TABLE}/status")
        raise CrossrootError("binfmt_misc is disabled as a whole, so no handler would be used", hint=cure)
    if persist and not binfmt.in_initial_user_namespace():
        raise CrossrootError("handlers of a user namespace end with it, so they can't persist", hint="omit --persist")
    # Also while probing: the trial of another process would be what is probed.
    with binfmt.locked_table():
        return _register(arch, qemu, flags, persist=persist, replace=replace)


def _register(arch: Arch, qemu: Path | None, flags: str, *, persist: bool, replace: bool) -> list[str]:
    if probe.run(arch).kind == "native":
        return [f"{arch.name} runs on this host's own CPU: nothing to do"]
    if persist and not replace:
        binfmt_conf.check_replaceable(arch)
    standing = None if replace else _satisfying(arch, flags, qemu)
    if standing and (not persist or _comes_with_start(standing)):
        return [f"{arch.name} runs already, through the entry {standing.name}: nothing to do"]
    own = standing if standing and standing.name == binfmt_rule.own_name(arch) else None
    interpreter = Path(own.interpreter) if own else emulator_fetch.ensure(arch, qemu, cache=paths.cache())
    if not persist:
        return _install(arch, interpreter, flags)
    with binfmt_conf.written(arch, interpreter, flags) as file:
        done = [] if own else _install(arch, interpreter, flags)
        return [*done, *_apply(arch, interpreter, flags, file)]


def _install(arch: Arch, interpreter: Path, flags: str) -> list[str]:
    install(arch, interpreter, flags)
    done = [f"registered {interpreter} for {arch.name}{_where()}"]
    if "C" in flags and binfmt.in_initial_user_namespace():
        done.append(f"any user of this host can now gain rights with a setuid program for {arch.name}")
    return done


def _need_root() -> None:
    if os.geteuid() != 0:
        hint = "sudo crossroot binfmt …; crossroot run needs no such handler on Linux 6.7 and later"
        raise CrossrootError("only root can change the handlers of this host", hint=hint)


def _where() -> str:
    if binfmt.in_initial_user_namespace():
        return ""
    return ", in this user namespace only and for as long as it lives; the host's handlers are not used in it"


def _satisfying(arch: Arch, flags: str, qemu: Path | None) -> Entry | None:
    """The entry that serves `arch` as wanted already.

    An entry that crossroot made for another arch with the same rule (armhf, armv7) does not count: each arch gets
    its own, so that one can be unregistered without breaking the other.
    """
    verdict = probe.run(arch)
    if not verdict.runs or not verdict.keeps_argv0:
        return None
    serving = [entry for entry in binfmt.entries() if entry.enabled and entry.serves(arch)]
    entry = next(iter(serving), None)
    if entry and entry.name.startswith(binfmt_rule.OWN_PREFIX):
        entry = next((entry for entry in serving if entry.name == binfmt_rule.own_name(arch)), None)
    if entry is None or not set(flags) <= set(entry.flags):
        return None
    wanted = _inode(qemu) if qemu else verdict.inode
    return entry if wanted == verdict.inode else None


def _comes_with_start(entry: Entry) -> bool:
    """Whether somebody else registers the entry whenever the system starts."""
    return binfmt_status.owner(entry.name) in ("systemd", "binfmt-support")


def install(arch: Arch, interpreter: Path, flags: str) -> None:
    """Register `interpreter` for `arch` as crossroot's own entry, once it is proven to work; call it with the table
    mounted and locked.

    Raises CrossrootError if the rule would be dangerous, is refused or does not work; then, as for whatever else
    ends it, the table is as it was before.
    """
    _check_harmless(arch, interpreter)
    name = binfmt_rule.own_name(arch)
    trial = name + _TRIAL_SUFFIX
    _remove_if_there(trial)  # of a process that was killed
    with _removed_afterwards(trial):
        binfmt.add(binfmt_rule.rule(arch, str(interpreter), flags, trial))
        _prove(arch, interpreter)
        with _undisturbed():
            _remove_if_there(name)
            binfmt.add(binfmt_rule.rule(arch, str(interpreter), flags))


def _check_harmless(arch: Arch, interpreter: Path) -> None:
    """Raise CrossrootError if the rule would match programs that the CPU runs.

    Rules are asked before native ELF loading. One that matched the interpreter would end every exec in ELOOP; one
    that matched the shell would emulate the host, or break it so that nothing could be started to repair it.
    """
    rule = Entry("", True, "", "", 0, arch.elf.magic, arch.elf.mask)
    starts = {str(path): _start_of(path) for path in (interpreter, Path("/bin/sh"), Path(sys.executable))}
    for native in arches.ALL.values():
        if emulator.runs_on_host(native):
            starts[f"programs of {native.name}"] = elf.probe_program(native)
    for what, start in starts.items():
        if rule.matches(start):
            raise CrossrootError(
                f"a handler for {arch.name} would take {what} away from the CPU; it was not registered",
                hint="native programs need no handler",
            )


def _start_of(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_START)


def _prove(arch: Arch, interpreter: Path) -> None:
    """Raise CrossrootError unless programs of `arch` run through `interpreter`, inside a root and outside."""
    verdict = probe.run(arch)
    problem = verdict.problem
    if verdict.runs and verdict.inode not in (None, _inode(interpreter)):
        problem = f"{verdict.emulator or 'the CPU'} runs them instead"
    elif verdict.runs and not verdict.keeps_argv0:
        problem = "it does not keep argv[0] (qemu before 5.2)"
    elif verdict.runs:
        problem = probe.run(arch, chroot=False).problem
    if problem:
        raise CrossrootError(
            f"{interpreter} does not run {arch.name} programs: {problem}; its entry was removed again",
            hint="name another emulator with --qemu PATH",
        )


def _inode(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino


@contextmanager
def _removed_afterwards(name: str) -> Iterator[None]:
    try:
        yield
    finally:
        with _undisturbed():
            _remove_if_there(name)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let signals wait while the block runs, which must be short."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _remove_if_there(name: str) -> None:
    if (binfmt.TABLE / name).exists():
        binfmt.remove(name)


def _apply(arch: Arch, interpreter: Path, flags: str, file: Path) -> list[str]:
    """Let systemd apply the file for the next start now, and prove that; say what was done and what is left to do."""
    if binfmt_conf.systemd_runs():
        try:
            binfmt_conf.apply(file)
            _prove(arch, interpreter)
        except CrossrootError as error:
            # Removed and registered anew by systemd, or not; what stands is known again when crossroot did it.
            install(arch, interpreter, flags)
            raise CrossrootError(f"registered until the next start only: {error.message}", hint=error.hint) from error
    advice = binfmt_conf.start_advice(arch)
    later = (
        f"when the system starts, {other} comes later and wins over {file.name}"
        for other in binfmt_conf.later_files(arch)
    )
    return [f"wrote {file}", *([advice] if advice else []), *later]


def unregister(arch: Arch, *, force: bool = False) -> list[str]:
    """Remove crossroot's handler for `arch` and its file for the next start; say what was done.

    force: remove everybody's entries that serve `arch`; but never crossroot's for an arch with the same rule.
    Raises CrossrootError if only foreign entries serve it and `force` is not given.
    """
    _need_root()
    with binfmt.visible_table() as table:
        if table is None:
            raise CrossrootError("binfmt_misc cannot be seen here", hint="run it outside of the container")
        serving = [entry for entry in binfmt.entries(table) if entry.serves(arch)]
        own = [entry for entry in serving if entry.name in _own_names(arch)]
        foreign = [entry for entry in serving if not entry.name.startswith(binfmt_rule.OWN_PREFIX)]
        done = []
        if file := binfmt_conf.remove(arch, force=force):
            done.append(f"removed {file}")
        for entry in own + (foreign if force else []):
            binfmt.remove(entry.name, table)
            done.append(f"unregistered {entry.name} (owner: {binfmt_status.owner(entry.name)})")
    if foreign and not force and not done:
        names = ", ".join(f"{entry.name} (owner: {binfmt_status.owner(entry.name)})" for entry in foreign)
        raise CrossrootError(
            f"crossroot registered nothing for {arch.name}; it is served by {names}",
            hint=as_root(f"crossroot binfmt unregister --force {arch.name}"),
        )
    remaining = [entry.name for entry in serving if entry not in own and not (force and entry in foreign)]
    if remaining:
        done.append(f"{arch.name} is still served by {', '.join(remaining)}")
    return done or [f"crossroot registered nothing for {arch.name}: nothing to do"]


def _own_names(arch: Arch) -> tuple[str, str]:
    return binfmt_rule.own_name(arch), binfmt_rule.own_name(arch) + _TRIAL_SUFFIX


def all_own() -> list[Arch]:
    """The arches that crossroot has an entry or a file for the next start for."""
    with binfmt.visible_table() as table:
        names = {entry.name for entry in binfmt.entries(table)} if table else set()
    persistent = binfmt_conf.persistent_arches(arches.ALL)
    return [arch for arch in arches.ALL.values() if arch in persistent or names & set(_own_names(arch))]
