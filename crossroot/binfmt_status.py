"""How the programs of an arch run on this machine, why they do not, and who registered what."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from crossroot import binfmt, binfmt_conf, binfmt_rule, elf, probe
from crossroot.arch import Arch
from crossroot.binfmt import Entry, as_root
from crossroot.probe import Verdict

# binfmt-support keeps a file for each entry it registers: update-binfmts(8).
_DEBIAN_RECORDS = Path("/var/lib/binfmts")


@dataclass(frozen=True)
class Other:
    """A further entry for the same programs, which is not used: a newer one wins, or it is disabled."""

    entry: str
    enabled: bool
    owner: str


@dataclass(frozen=True)
class Status:
    """What is known of an arch on this machine; "" and None where it does not apply or can't be told.

    verdict: "native", "emulated", "broken", "none", found by running a program in an empty chroot.
    problem, cure: why it does not run or not well, and what to type. keeps_argv0: a program's argv[0] arrives.
    version: what the emulator that ran says of itself. entry, flags, interpreter: as registered; where no entry
    can be seen, interpreter is the file that ran. static: of the file at that path. unchanged: that file is the
    one the kernel runs. owner: "crossroot", "systemd", "binfmt-support", "unknown". scope: "host" or "private",
    of this user namespace. others: further entries for the same programs, newest first.
    """

    arch: str
    verdict: str
    problem: str = ""
    cure: str = ""
    keeps_argv0: bool | None = None
    version: str = ""
    entry: str = ""
    flags: str = ""
    interpreter: str = ""
    static: bool | None = None
    unchanged: bool | None = None
    owner: str = ""
    scope: str = ""
    others: tuple[Other, ...] = ()

    @property
    def runs(self) -> bool:
        """Whether programs of the arch run in a root."""
        return self.verdict in ("native", "emulated")


def look(arch: Arch) -> Status:
    """Find out how programs of `arch` run here. Raises CrossrootError if namespaces are refused."""
    verdict = probe.run(arch)
    with binfmt.visible_table() as table:
        entries = binfmt.entries(table) if table else []
        all_enabled = binfmt.enabled(table) if table else True
        scope = _scope(table)
    serving = [entry for entry in entries if entry.serves(arch)]
    winner = winning(serving) if verdict.kind != "native" and all_enabled else None
    problem, cure = _explain(arch, verdict, entries, winner, all_enabled)
    interpreter = winner.interpreter if winner else verdict.emulator
    unchanged = _is_unchanged(interpreter, verdict) if interpreter else None
    if unchanged is False and not problem and os.path.exists(interpreter):
        problem = f"{interpreter} has been replaced; the file that was there before still runs"
        cure = as_root(f"crossroot binfmt register --replace {arch.name}")
    return Status(
        arch=arch.name,
        # With flag O the kernel says ENOEXEC where an entry fails, too.
        verdict="broken" if winner and verdict.kind == "none" else verdict.kind,
        problem=problem,
        cure=cure,
        keeps_argv0=verdict.keeps_argv0 if verdict.runs else None,
        version=probe.emulator_version(arch) if verdict.kind == "emulated" else "",
        entry=winner.name if winner else "",
        flags=winner.flags if winner else "",
        interpreter=interpreter,
        static=_is_static(interpreter) if interpreter else None,
        unchanged=unchanged,
        owner=owner(winner.name) if winner else "",
        scope=scope if interpreter else "",
        others=tuple(Other(entry.name, entry.enabled, owner(entry.name)) for entry in serving if entry is not winner),
    )


def winning(serving: list[Entry]) -> Entry | None:
    """The entry that the kernel takes, of all that match a program, newest first."""
    return next((entry for entry in serving if entry.enabled), None)


def owner(name: str) -> str:
    """Who registered an entry, judged by the records that systemd and Debian's binfmt-support keep of theirs."""
    if name.startswith(binfmt_rule.OWN_PREFIX):
        return "crossroot"
    if (_DEBIAN_RECORDS / name).exists():
        return "binfmt-support"
    return "systemd" if binfmt_conf.file_of(name) else "unknown"


def _explain(
    arch: Arch, verdict: Verdict, entries: list[Entry], winner: Entry | None, all_enabled: bool
) -> tuple[str, str]:
    """What is wrong and the command that cures it; both "" where all is well. entries: the whole table."""
    register = as_root(f"crossroot binfmt register {arch.name}")
    if verdict.runs and verdict.keeps_argv0:
        return "", ""
    if verdict.runs:
        return "argv[0] is lost, as its entry lacks flag P; busybox and others can fail", register
    if not all_enabled:
        return "binfmt_misc is disabled as a whole", as_root(f"echo 1 > {binfmt.TABLE}/status")
    if winner is None:
        disabled = next((entry.name for entry in entries if entry.serves(arch)), "")
        if disabled:
            return f"its entry {disabled} is disabled", as_root(f"echo 1 > {binfmt.TABLE}/{disabled}")
        return verdict.problem, register
    if taker := _taker_of(winner.interpreter, entries):
        # `echo` is built into every shell: nothing can be started where this is the host's own arch.
        return f"its interpreter {winner.interpreter} is itself taken by the entry {taker}", as_root(
            f"echo -1 > {binfmt.TABLE}/{taker}"
        )
    return _broken_entry(arch, verdict, winner), register


def _taker_of(interpreter: str, entries: list[Entry]) -> str:
    """The entry that the kernel would run an interpreter itself through; "" if there is none, as it should be.

    It ends in ELOOP, or in ENOEXEC if the entry has flag O (found by experiment).
    """
    try:
        with open(interpreter, "rb") as file:
            start = file.read(256)
    except OSError:
        return ""
    return next((entry.name for entry in entries if entry.enabled and entry.matches(start)), "")


def _broken_entry(arch: Arch, verdict: Verdict, winner: Entry) -> str:
    path = winner.interpreter
    if verdict.error == errno.ENOEXEC:
        return f"its interpreter {path} is no program that this host can run"
    if verdict.error == errno.ENOENT and "F" not in winner.flags:
        if not os.path.exists(path):
            return f"its interpreter {path} does not exist"
        return _outside_of_roots(arch, path) or "it runs, but not inside a root, as its entry lacks flag F"
    if verdict.error == errno.ENOENT and _is_static(path) is False:
        return f"its interpreter {path} is dynamically linked, and its loader is not found inside a root"
    if verdict.error == errno.EACCES or _on_noexec(path):
        return _not_permitted(path)
    if path.endswith("-binfmt-P") and "P" not in winner.flags:
        return f"its interpreter {path} needs flag P, which its entry lacks"
    return verdict.problem


def _outside_of_roots(arch: Arch, path: str) -> str:
    """Why an interpreter does not even run where its path leads to it; "" if it does."""
    outside = probe.run(arch, chroot=False)
    return _not_permitted(path) if outside.error == errno.EACCES else outside.problem


def _not_permitted(path: str) -> str:
    if _on_noexec(path):
        return f"its interpreter {path} lies on a file system mounted noexec"
    return f"its interpreter {path} is not executable"


def _on_noexec(path: str) -> bool:
    """An interpreter that was opened before (flag F) is killed there when it maps its code, with SIGSEGV."""
    return os.path.exists(path) and bool(os.statvfs(path).f_flag & os.ST_NOEXEC)


def _is_static(path: str) -> bool | None:
    try:
        header = elf.read(Path(path))
    except OSError:
        return None
    return header.static if header else None


def _is_unchanged(path: str, verdict: Verdict) -> bool | None:
    """Whether the file at `path` is the one that ran the probe: with flag F the kernel keeps the file it opened."""
    if verdict.inode is None:
        return None
    try:
        facts = os.stat(path)
    except FileNotFoundError:
        return False
    return (facts.st_dev, facts.st_ino) == verdict.inode


def _scope(table: Path | None) -> str:
    """Whose instance serves this process. The files of a user namespace's own one belong to its root; those of one
    that it inherited belong to an id it lacks."""
    if binfmt.in_initial_user_namespace():
        return "host"
    if table is None:
        return ""
    return "private" if (table / "register").stat().st_uid == 0 else "host"
