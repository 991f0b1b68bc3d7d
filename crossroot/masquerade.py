"""Compilers by way of ccache and distcc: names that come first on a session's PATH and stand for the root's compilers.

Both call that a masquerade. Each name is a script in a file system of the session's own: nothing of it is in the root.
"""

from __future__ import annotations

import os
import re
import stat

from crossroot import guest, ui, wrappers
from crossroot.errors import CrossrootError
from crossroot.mounts import Bind, Content, New, Replace, Script
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crossroot.metadata import Root
    from crossroot.mounts import Step
    from crossroot.session import Session

PLACE = "/dev/crossroot-compilers"
CACHE = "/dev/crossroot-ccache"
LOCKS = "/dev/crossroot-distcc"
_PREFIX = "by-distcc"  # what ccache calls with a compiler's path before the words of a compilation

_COMPILER = re.compile(r"(?:(?P<triplet>\w+(?:-\w+){1,3})-)?(?:gcc|g\+\+|cc|c\+\+|c[89]9|clang|clang\+\+)(?:-[0-9.]+)?")

# Without the masquerade on PATH a compiler finds itself, and neither of the two finds the masquerade again.
_SCRIPT = """\
#!{shell}
path=:$PATH:
case $path in
    *:{place}:*)
        path=${{path%%:{place}:*}}:${{path#*:{place}:}}
        path=${{path#:}}
        PATH=${{path%:}}
        ;;
esac
{exports}exec {command} "$@"
"""

# A host may have its cross compilers in another folder.
_PREFIX_SCRIPT = """\
#!{shell}
name=${{1##*/}}
shift
exec {distcc} "$name" "$@"
"""


class Compiler(Record):
    """file: what PATH leads to, without the masquerade. real: where its links end, both absolute in the root.

    remote: its name on other hosts, where it compiles for the root's arch; "" if it has none. identity: of the root's
    file, for ccache; "" where ccache is to look at the file itself.
    """

    name: str
    file: str
    real: str
    remote: str
    identity: str


def applied(root: Root, plan: Session, *, ccache: bool, cache: str) -> Session:
    """The session with its compilers by way of ccache, and of distcc if the root has hosts for it.

    cache: crossroot's folder of caches. What is not installed is left out, with a note.
    """
    path = plan.env["PATH"]
    by_ccache = _tool(root, "ccache", path) if ccache else ""
    by_distcc = _tool(root, "distcc", path) if root.distcc and plan.network else ""
    found = compilers(root, path, {step.target for step in plan.mounts if isinstance(step, Replace)})
    if not found and (by_ccache or by_distcc):
        ui.note(f"{root.name} has no compiler for ccache or distcc to start")
    if not found or not (by_ccache or by_distcc):
        return plan
    native = any(isinstance(step, Bind) and step.target == wrappers.PLACE for step in plan.mounts)
    shell = f"{wrappers.PLACE}/{wrappers.SHELL}" if native else "/bin/sh"
    steps: list[Step] = [New("tmpfs", PLACE, {"mode": "0755", "size": "1m"})]
    steps += [Script(script(each, shell, by_ccache, by_distcc), f"{PLACE}/{each.name}") for each in found]
    env: dict[str, str] = {}
    if by_ccache:
        steps.append(Bind(shared_cache(cache, root.arch), CACHE))
        # Users of the session share the cache. Its inode cache is memory shared by processes of two arches, so none.
        env |= {"CCACHE_DIR": CACHE, "CCACHE_UMASK": "000", "CCACHE_NOINODECACHE": "1"}
    if by_distcc:
        steps.append(Script(_PREFIX_SCRIPT.format(shell=shell, distcc=by_distcc), f"{PLACE}/{_PREFIX}"))
        steps.append(New("tmpfs", LOCKS, {"mode": "1777", "size": "1m"}))
        # Its locks must not stay in the root, and names are right as they are.
        env |= {"DISTCC_HOSTS": " ".join(root.distcc), "DISTCC_DIR": LOCKS, "DISTCC_NO_REWRITE_CROSS": "1"}
    if profile := guest.read_below(root.rootfs_folder, "/etc/profile"):
        # Login shells begin with a PATH of their own.
        steps.append(Content(f"{profile}\nPATH={PLACE}:$PATH\n".encode(errors="surrogateescape"), "/etc/profile"))
    return plan.but(mounts=(*plan.mounts, *steps), env={**env, **plan.env, "PATH": f"{PLACE}:{path}"})


def _tool(root: Root, name: str, path: str) -> str:
    """The absolute path in the root of ccache or distcc; "" if it is not installed, which is said."""
    for folder in path.split(":"):
        if _real(root, f"{folder}/{name}"):
            return f"{folder}/{name}"
    ui.note(f"{root.name} has no {name}, so it compiles without; to install it: crossroot install {root.name} {name}")
    return ""


def compilers(root: Root, path: str, replaced: set[str]) -> list[Compiler]:
    """The compilers that PATH leads to. replaced: by native ones."""
    files: dict[str, str] = {}
    for folder in path.split(":"):
        for name in sorted(guest.names_below(root.rootfs_folder, folder)):
            if _COMPILER.fullmatch(name):
                files.setdefault(name, f"{folder}/{name}")
    triplets = {match["triplet"] for name in files if (match := _COMPILER.fullmatch(name)) and match["triplet"]}
    found = []
    for name, file in files.items():
        if real := _real(root, file):
            # A native compiler stands for the root's own, which it is a mount over until the session ends.
            identity = _identity(root, real) if real in replaced else ""
            found.append(Compiler(name, file, real, remote(real, triplets, set(files)), identity))
    return found


def remote(real: str, triplets: set[str], names: set[str]) -> str:
    """The name under which other hosts have a cross compiler with a triplet in its name; "" if there is none.

    clang's name says no arch, so that elsewhere it would compile for another one.
    """
    name = os.path.basename(real)
    if name.startswith(tuple(f"{triplet}-" for triplet in triplets)):
        return name
    return next((each for triplet in sorted(triplets) if (each := f"{triplet}-{name}") in names), "")


def script(compiler: Compiler, shell: str, ccache: str, distcc: str) -> str:
    """The script that stands for a compiler. ccache, distcc: their paths, "" for without."""
    exports = ""
    distcc = distcc if compiler.remote else ""
    command = compiler.file
    if distcc and not ccache:
        command = f"{distcc} {compiler.remote}"
    if ccache:
        command = f"{ccache} {compiler.file}"
        if compiler.identity:
            exports += f"export CCACHE_COMPILERCHECK=string:{compiler.identity}\n"
        if distcc:
            exports += f"export CCACHE_PREFIX={PLACE}/{_PREFIX}\n"
            command = f"{ccache} {os.path.dirname(compiler.real)}/{compiler.remote}"
    return _SCRIPT.format(shell=shell, place=PLACE, exports=exports, command=command)


def shared_cache(cache: str, arch: str) -> str:
    """The host's folder of ccache's files for an arch, made if need be. Raises CrossrootError if that fails.

    All users of a session may write to it, so others of the host must not reach it.
    """
    above = os.path.join(cache, "ccache")
    folder = os.path.join(above, arch)
    try:
        os.makedirs(cache, exist_ok=True)
        for path, mode in ((above, 0o700), (folder, 0o777)):
            if not os.path.isdir(path):
                os.makedirs(path, exist_ok=True)
                os.chmod(path, mode)
    except OSError as error:
        raise CrossrootError(
            f"cannot make {folder} for ccache: {error.strerror}", hint="free its place, or set CROSSROOT_CACHE"
        ) from error
    return folder


def _real(root: Root, file: str) -> str:
    """Where the links of an executable of the root end, as an absolute path in it; "" if there is no such file."""
    try:
        descriptor = guest.open_below(root.rootfs_folder, file, os.O_PATH)
    except OSError:
        return ""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
            return ""
        return os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(os.path.realpath(root.rootfs_folder))
    finally:
        os.close(descriptor)


def _identity(root: Root, real: str) -> str:
    """What ccache by itself would take from a compiler's file."""
    descriptor = guest.open_below(root.rootfs_folder, real, os.O_PATH)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return f"{os.path.basename(real)}-{status.st_size}-{status.st_mtime_ns}"
