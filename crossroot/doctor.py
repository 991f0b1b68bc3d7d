"""What this machine can do for crossroot, tried rather than guessed: each finding with its cause and the cure here.

The advice is that of the errors of `create` and `run`: both come from the same functions.
"""

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from crossroot import apt, binfmt, binfmt_status, emulator, emulator_fetch, linux, namespaces
from crossroot import arch as arches
from crossroot.arch import Arch
from crossroot.binfmt import as_root
from crossroot.distros.alpine import DEFAULT_BRANCH
from crossroot.errors import CrossrootError

Level = Literal["ok", "warning", "problem"]

_OLDEST_KERNEL = (5, 12)  # mount_setattr(2)
_PATIENCE = 5.0  # seconds for all mirrors to answer
_INDEX_LIMIT = 256 << 10  # bytes
_SCARCE = 1 << 30  # bytes of free space that a root with a few packages can use up
_TOO_LITTLE = 100 << 20  # bytes; not enough for an archive and what is in it
_SESSION_NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. id: stable, for scripts. level: "problem" keeps create or run from working,
    "warning" does not. what: what was found. cause: why it is so. cure: the command to type here, or other advice.
    """

    id: str
    level: Level
    what: str
    cause: str = ""
    cure: str = ""


def examine(wanted: Sequence[Arch], *, store: Path, cache: Path, mirrors: Sequence[str]) -> list[Finding]:
    """Look at all that `create` and `run` need, and change nothing.

    wanted: arches that have to run, so that it is a problem if one can't; if empty, Alpine's are looked at, and
    those that can't run are warnings. mirrors: URLs of which one has to answer.
    """
    findings = [_kernel(), _user_namespaces(), *_id_ranges(), _namespaces(), _proc(), _overlay()]
    findings += [_binfmt(), _private_handlers()]
    findings += [_folder("store", store), _folder("cache", cache)]
    reachable = _mirrors(mirrors, wanted)
    findings += reachable
    can_fetch = apt.release() is not None or any(finding.level == "ok" for finding in reachable)
    for arch in wanted or arches.ALPINE:
        findings.append(_arch(arch, can_fetch=can_fetch, needed=bool(wanted)))
    return findings


def works(findings: Sequence[Finding]) -> bool:
    """Whether create and run will work."""
    return all(finding.level != "problem" for finding in findings)


# --- the kernel, namespaces and mounts --------------------------------------------------------------------


def _kernel() -> Finding:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal())
    if numbers >= _OLDEST_KERNEL:
        return Finding("kernel", "ok", f"Linux {release}")
    oldest = ".".join(map(str, _OLDEST_KERNEL))
    return Finding("kernel", "problem", f"Linux {release}", f"crossroot needs Linux {oldest}", "update the kernel")


def _tried(attempt: Callable[[], object], *, flags: int = linux.CLONE_NEWNS) -> CrossrootError | None:
    """Try something as the sessions of the calling user would; the error, if it fails."""
    try:
        namespaces.call(lambda _: bool(attempt()), id_map=namespaces.own_id_map(), flags=flags)
    except CrossrootError as error:
        return error
    return None


def _mount_tmpfs() -> None:
    try:
        os.close(linux.new_filesystem("tmpfs", {"size": "1m"}))
    except OSError as error:
        raise namespaces.refused_namespace(error) from error


def _user_namespaces() -> Finding:
    """A user namespace with the caller's id map, and a mount in it: AppArmor lets the first pass, and not the
    second. Root needs one for private handlers only."""
    if os.geteuid() != 0:
        error = _tried(_mount_tmpfs)
        if error is None:
            return Finding("user-namespaces", "ok", "user namespaces and mounts in them work for you")
        return Finding("user-namespaces", "problem", "you cannot enter a root", error.message, error.hint)
    try:
        namespaces.call(lambda _: _mount_tmpfs(), id_map=namespaces.identity_map())
    except CrossrootError as error:
        what = "root has no user namespaces, so no private handlers"
        return Finding("user-namespaces", "warning", what, error.message, error.hint)
    return Finding("user-namespaces", "ok", "user namespaces work; root needs them for private handlers only")


def _id_ranges() -> list[Finding]:
    if os.geteuid() == 0:
        return []
    if reason := namespaces.single_id_reason():
        cause, _, cure = reason.partition(": ")
        what = "all files of your roots will belong to you alone, and chown fails in them"
        return [Finding("id-ranges", "warning", what, cause, cure)]
    return [Finding("id-ranges", "ok", "newuidmap, newgidmap and ranges of subordinate ids are there")]


def _namespaces() -> Finding:
    if error := _tried(_mount_tmpfs, flags=_SESSION_NAMESPACES):
        return Finding("namespaces", "problem", "sessions cannot be isolated", error.message, error.hint)
    return Finding("namespaces", "ok", "mount, pid, ipc and uts namespaces work")


def _mount_proc() -> None:
    """In a pid namespace only a child sees it, and only from there can /proc be mounted."""
    pid = os.fork()
    if pid == 0:
        try:
            linux.new_filesystem("proc", {})
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or 1)
    if status := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError(status, os.strerror(status), "/proc")


def _proc() -> Finding:
    error = _tried(_mount_proc, flags=_SESSION_NAMESPACES)
    if isinstance(error, namespaces.NamespaceRefused):
        return Finding("proc", "problem", "sessions get no /proc", error.message, error.hint)
    if error:
        what = "sessions see the processes of this container in /proc"
        cause = f"parts of /proc are masked, so a new one cannot be mounted ({error.message})"
        cure = "docker run --security-opt systempaths=unconfined, or podman run --security-opt unmask=ALL"
        return Finding("proc", "warning", what, cause, cure)
    return Finding("proc", "ok", "sessions get a /proc of their own")


def _mount_overlay(options: dict[str, str]) -> None:
    folder = linux.new_filesystem("tmpfs", {"size": "1m"})
    linux.move_mount(folder, "/tmp")
    for name in ("lower", "upper", "work"):
        os.mkdir(f"/tmp/{name}")
    folders = {"lowerdir": "/tmp/lower", "upperdir": "/tmp/upper", "workdir": "/tmp/work"}
    linux.new_filesystem("overlay", {**folders, **options})


def _overlay() -> Finding:
    options = {"userxattr": ""} if os.geteuid() != 0 else {}
    if error := _tried(lambda: _mount_overlay(options)):
        what = "overlayfs is refused, so changes in a session cannot be thrown away"
        cure = error.hint if isinstance(error, namespaces.NamespaceRefused) else as_root("modprobe overlay")
        return Finding("overlay", "warning", what, error.message, cure)
    return Finding("overlay", "ok", "overlayfs works")


# --- handlers ---------------------------------------------------------------------------------------------


def _binfmt() -> Finding:
    """The table of the host, as far as it can be seen; sessions with private handlers do without it."""
    mounted = (binfmt.TABLE / "register").exists()
    with binfmt.visible_table() as table:
        if table is None:
            cure = as_root(f"mount -t binfmt_misc binfmt_misc {binfmt.TABLE}")
            cause = "it is not mounted here; programs are tried all the same"
            return Finding("binfmt", "warning", "the handlers of this host cannot be listed", cause, cure)
        if not binfmt.enabled(table):
            cure = as_root(f"echo 1 > {binfmt.TABLE}/status")
            return Finding("binfmt", "warning", "no handler of this host is used", "binfmt_misc is disabled", cure)
        count = len(binfmt.entries(table))
        if mounted and os.statvfs(table).f_flag & os.ST_RDONLY:
            cause = "binfmt_misc is mounted read-only here"
            return Finding("binfmt", "warning", "no handler can be registered", cause, "register it on the host")
    where = f"mounted on {binfmt.TABLE}" if mounted else "not mounted; `crossroot binfmt register` does that"
    return Finding("binfmt", "ok", f"binfmt_misc is enabled, {count} entries, {where}")


def _private_handlers() -> Finding:
    try:
        if binfmt.private_possible():
            return Finding("private-handlers", "ok", "sessions can have handlers of their own")
        cause = f"Linux {os.uname().release} or a container refuses them"
        cure = f"update to Linux 6.7 or later, or: {as_root('crossroot binfmt register --all')}"
    except CrossrootError as error:
        cause, cure = error.message, error.hint
    return Finding("private-handlers", "warning", "sessions use handlers of the whole host only", cause, cure)


def _arch(arch: Arch, *, can_fetch: bool, needed: bool) -> Finding:
    """Whether a session for `arch` would find something that runs its programs."""
    name = f"arch-{arch.name}"
    bad: Level = "problem" if needed else "warning"
    try:
        status = binfmt_status.look(arch)
        private = binfmt.private_possible()
    except CrossrootError as error:
        return Finding(name, bad, f"{arch.name} cannot be tried", error.message, error.hint)
    if status.verdict == "native":
        return Finding(name, "ok", f"{arch.name} runs on this host's own CPU")
    if status.runs and (status.keeps_argv0 or not private):
        how = f"{arch.name} runs through {status.version or status.interpreter} (entry {status.entry or 'not visible'})"
        return Finding(name, "warning" if status.problem else "ok", how, status.problem, status.cure)
    if not private and os.geteuid() != 0:
        return Finding(name, bad, f"{arch.name} does not run", status.problem, status.cure)
    scope = "a private handler" if private else "a handler that it registers on this host"
    try:
        path = emulator.find(arch)
    except CrossrootError as error:
        return _missing_emulator(arch, error, can_fetch=can_fetch, needed=needed)
    version = emulator.version_of(path)
    if problem := emulator_fetch.why_it_fails(arch, path):
        what, cure = f"{path} {version} does not run {arch.name}", f"crossroot emulator fetch {arch.name}"
        return Finding(name, bad, what, problem, cure)
    fastest = emulator.fastest_cpu(arch, version)
    how = f"{arch.name} will run through {scope} with {path} {version}" + (f", CPU {fastest}" if fastest else "")
    if status.verdict == "none":
        return Finding(name, "ok", how)
    return Finding(name, "warning", f"{how}, as the host's own is not good enough", status.problem, status.cure)


def _missing_emulator(arch: Arch, error: CrossrootError, *, can_fetch: bool, needed: bool) -> Finding:
    """A missing emulator is fetched by create and run, if there is anything to fetch it from."""
    name = f"arch-{arch.name}"
    if can_fetch:
        what = f"{arch.name} has no emulator yet; create and run will fetch one"
        return Finding(name, "warning", what, error.message, error.hint)
    return Finding(name, "problem" if needed else "warning", f"{arch.name} does not run", error.message, error.hint)


# --- files and the network --------------------------------------------------------------------------------


def _folder(which: str, folder: Path) -> Finding:
    """Whether the store or cache can be written to, and what its file system is like."""
    there = folder
    while not os.path.exists(there):  # nor does one in a folder that is closed to us
        there = there.parent
    variable = f"CROSSROOT_{which.upper()}"
    elsewhere = f"set {variable} to a folder on another file system"
    facts = os.statvfs(there)
    free = shutil.disk_usage(there).free
    what = f"the {which} {folder}: {_filesystem(there)}, {free / 1e9:.1f} GB free"
    if facts.f_flag & os.ST_RDONLY:
        return Finding(which, "problem", what, "its file system is mounted read-only", elsewhere)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        cause = f"{there} is not writable for you" if there.is_dir() else f"{there} is no folder"
        return Finding(which, "problem", what, cause, f"set {variable} to a folder of yours")
    if facts.f_flag & os.ST_NOEXEC:
        use = "no program in a root would start" if which == "store" else "no emulator that is fetched would start"
        cause = f"its file system is mounted noexec: {use}"
        return Finding(which, "problem" if which == "store" else "warning", what, cause, elsewhere)
    if free < _TOO_LITTLE:
        return Finding(which, "problem", what, "there is too little space for a root", elsewhere)
    if free < _SCARCE:
        return Finding(which, "warning", what, "there is space for a small root only", elsewhere)
    if which == "store" and facts.f_flag & os.ST_NOSUID:
        cause = "its file system is mounted nosuid: su and sudo do nothing in roots"
        return Finding(which, "warning", what, cause, elsewhere)
    return Finding(which, "ok", what)


def _filesystem(folder: Path) -> str:
    """The type of the file system a folder is on, by its mount with the longest path (proc_pid_mountinfo(5))."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, source = line.partition(" - ")
        if fields.split()[2] == number:
            return source.split()[0]
    return "file system unknown"  # btrfs shows other numbers


def _mirrors(mirrors: Sequence[str], wanted: Sequence[Arch]) -> list[Finding]:
    """Whether mirrors answer; one that does is enough. All are asked at once."""
    arch = wanted[0] if wanted and wanted[0] in arches.ALPINE else arches.ALPINE[0]
    urls = {
        mirror: f"{mirror.rstrip('/')}/{DEFAULT_BRANCH}/releases/{arch.name}/latest-releases.yaml" for mirror in mirrors
    }
    answers: dict[str, CrossrootError | None] = {}
    threads = [threading.Thread(target=_ask, args=(mirror, url, answers), daemon=True) for mirror, url in urls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE)
    failures = {mirror: answers.get(mirror, _SILENT) for mirror in mirrors}
    worst: Level = "warning" if None in failures.values() else "problem"
    return [
        Finding("mirror", worst, f"{mirror} cannot be used", failure.message, failure.hint)
        if failure
        else Finding("mirror", "ok", f"{mirror} answers")
        for mirror, failure in failures.items()
    ]


_SILENT = CrossrootError(
    f"it does not answer within {_PATIENCE:.0f} s",
    hint="check the network and the proxy settings (http_proxy, https_proxy), or name another mirror with --mirror URL",
)


def _ask(mirror: str, url: str, answers: dict[str, CrossrootError | None]) -> None:
    from crossroot import fetch

    try:
        fetch.read_small(url, limit=_INDEX_LIMIT)
        answers[mirror] = None
    except CrossrootError as error:
        answers[mirror] = error
