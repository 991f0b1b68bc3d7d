"""Packages in a root: Alpine's by a native apk where one can be had, Debian's by the root's own apt.

    install("riscv64", ["build-base"], store, cache)
    upgrade("riscv64", store, cache)

Both work on a copy of the root, which takes its place in one step when all is well; so a failure, Ctrl-C or SIGKILL
leaves the root as it was.
"""

import contextlib
import fcntl
import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

from crossroot import clone, enter, fetch, metadata, namespaces, session, store, ui
from crossroot.arch import find as find_arch
from crossroot.distros import alpine, apk_native, debian
from crossroot.errors import EXIT_FAILED, EXIT_SIGNAL_BASE, CrossrootError, UsageError
from crossroot.metadata import Root
from crossroot.namespaces import Reporter
from crossroot.record import Record
from crossroot.wanted import ANY, Wanted

# In a session's own /dev, so that nothing of it is left in the root.
_TOOL = "/dev/crossroot/tool"
_CACHE = "/dev/crossroot/cache"
_CERTIFICATES = "/dev/crossroot/certificates.pem"

# What a minirootfs has in its /etc/apk/world, and the package with os-release.
_BASE = ("alpine-baselayout", "alpine-keys", "alpine-release", "apk-tools", "busybox", "libc-utils")

# Of apk's output, what makes a failure of it whatever its status: for failing triggers, and for repositories left out
# for their signature, that is 0.
_GRAVE = re.compile(r"UNTRUSTED signature|BAD signature|BAD archive|script exited with error")

_UPGRADE = ["/bin/sh", "-c", "apt-get -q update && exec apt-get -qy dist-upgrade"]

_MINUTE = 61  # seconds
_TAIL = 64 << 10  # bytes of output in which the cause of a failure is looked for
_INTERRUPTED = [EXIT_SIGNAL_BASE + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]


class _Cause(Record):
    """A way to fail. pattern: of what is then printed, its groups fill {0} and so on in the others."""

    pattern: str
    message: str
    hint: str


_FULL = _Cause(
    "No space left on device",
    "no space is left on the disk",
    "free some, or set CROSSROOT_STORE and CROSSROOT_CACHE to folders on another disk",
)

# The first that fits is told. Messages of apk-tools 2.14 and apt 2.6.
_APK_CAUSES = (
    _FULL,
    _Cause(
        r"(\S+): UNTRUSTED signature",
        "{0} is signed with a key that the root does not trust",
        "add the public key to the root's /etc/apk/keys, or to keys in the profile",
    ),
    _Cause(
        r"(\S+): BAD (?:signature|archive)",
        "{0} is not what its signature says: it was changed",
        "try again later, or use another mirror",
    ),
    _Cause(
        r"ERROR: (\S+): script exited with error (\d+)",
        "the script {0} failed with status {1}",
        "its own output is above; an emulator that lacks something can be the reason: crossroot doctor",
    ),
    _Cause(
        r"(\S+): (could not connect to server|DNS lookup error|temporary error|network error|operation timed out|"
        r"network connection aborted|connection \w+)",
        "{0} cannot be reached: {1}",
        "check the network and proxy, and the root's /etc/apk/repositories",
    ),
    _Cause(
        r"(?s)unable to select packages:.*?^  (\S+) \(no such package\)",
        "its repositories have no package {0}",
        "check the name at https://pkgs.alpinelinux.org, and the root's /etc/apk/repositories",
    ),
    _Cause(
        r"(?s)unable to select packages:\s+(\S+):\s+(?:breaks|conflicts|masked in): (\S+)",
        "{0} and {1} exclude each other",
        "see above which packages want what; leave one out, or remove it: crossroot run NAME -- apk del PACKAGE",
    ),
    _Cause(
        r"(\S+): trying to overwrite (\S+) owned by (\S+)\.",
        "{0} and {2} both have the file {1}",
        "leave one of them out",
    ),
    _Cause(
        r"Not continuing due to stale/unavailable repositories|WARNING: updating and opening",
        "a repository cannot be read",
        "see above which and why; check the root's /etc/apk/repositories",
    ),
)
_APT_CAUSES = (
    _FULL,
    _Cause(
        r"Unable to locate package (\S+)",
        "its archive has no package {0}",
        "check the name: apt-cache search WORD in the root, and its /etc/apt/sources.list",
    ),
    _Cause(
        r"(NO_PUBKEY \w+|EXPKEYSIG \w+|is not signed)",
        "the archive is not signed by a key the root trusts ({0})",
        "install the newer keyring package in the root",
    ),
    _Cause(
        r"(?:Could not connect to|Could not resolve|Temporary failure resolving) '?([^\s']+)",
        "{0} cannot be reached",
        "check the network and proxy, and the root's /etc/apt/sources.list",
    ),
    _Cause(
        r"installed (\S+) package (\S+) script subprocess returned error exit status (\d+)",
        "the {1} script of {0} failed with status {2}",
        "its own output is above",
    ),
)


def install(name: str, packages: Sequence[str], store_folder: Path, cache: Path, qemu: Wanted = ANY) -> Root:
    """Install packages in a root that no session uses. Raises CrossrootError, and the root is as before then."""
    for package in packages:
        if not re.fullmatch(r"[^\s-]\S*", package):
            raise UsageError(f"{package!r} is not the name of a package", hint="give names, as in: gcc make")
    with _changing(name, store_folder) as root:
        changed = root.but(packages=tuple(dict.fromkeys((*root.packages, *packages))))
        add(root, packages, cache, qemu)
        store.publish(root.path, changed)
    return metadata.open_root(name, store_folder)


def upgrade(name: str, store_folder: Path, cache: Path, qemu: Wanted = ANY) -> Root:
    """Bring all packages of a root up to date; else as `install`."""
    with _changing(name, store_folder) as root:
        if _is_debian(root):
            _run_apt(root, qemu, _UPGRADE, "upgrading")
        else:
            _run_apk(root, cache, qemu, ["upgrade"], "upgrading", _native_apk(root, cache))
        store.publish(root.path, root)
    return metadata.open_root(name, store_folder)


def add(root: Root, packages: Sequence[str], cache: Path, qemu: Wanted = ANY) -> None:
    """Install packages in an unfinished root. Raises CrossrootError; it may be half done then."""
    what = f"installing {' '.join(packages)}"
    if _is_debian(root):
        _run_apt(root, qemu, debian.install_command(packages), what)
    else:
        _run_apk(root, cache, qemu, ["add", *packages], what, _native_apk(root, cache))


def initialise(root: Root, packages: Sequence[str], cache: Path, qemu: Wanted = ANY) -> None:
    """Install what a minirootfs consists of, and `packages`, in an unfinished root without a program.

    It has its repositories and keys in /etc/apk. Raises CrossrootError, also if there is no native apk.
    """
    command = ["add", "--initdb", *_BASE, *packages]
    _run_apk(root, cache, qemu, command, "installing Alpine", _find_native_apk(root, cache))


def unpack(root: Root, packages: Sequence[str], cache: Path) -> None:
    """As `initialise`, but only `packages` and what they depend on, without running their scripts."""
    command = ["add", "--initdb", "--no-scripts", *packages]
    _run_apk(root, cache, ANY, command, f"unpacking {' '.join(packages)}", _find_native_apk(root, cache))


@contextlib.contextmanager
def _changing(name: str, store_folder: Path) -> Iterator[Root]:
    """A copy of a root to change and publish, while its lock keeps others away; without that it is gone at the end."""
    _is_debian(metadata.open_root(name, store_folder))
    with store.create(name, store_folder, replace=True, verb="change") as unfinished:
        root = metadata.open_root(name, store_folder)  # again, now that nobody can change it
        clone.copy_rootfs(root, unfinished, f"copying {name}")
        yield root.but(folder=str(unfinished))


def _is_debian(root: Root) -> bool:
    """Whether it has apt, not apk. Raises UsageError for a distribution that has neither."""
    if root.distro not in ("alpine", *debian.DISTROS):
        raise UsageError(
            f"{root.name} is {root.distro}, and packages are installed in Alpine, Debian and Ubuntu only",
            hint=f"use its own package manager: crossroot shell {root.name} --user root",
        )
    return root.distro in debian.DISTROS


# apk


def _run_apk(
    root: Root,
    cache: Path,
    qemu: Wanted,
    arguments: Sequence[str],
    what: str,
    tool: apk_native.NativeApk | None,
) -> None:
    """Run apk in a session of the root: `tool`, or the root's own."""
    shared = cache / "apk" / root.arch
    shared.mkdir(parents=True, exist_ok=True)
    binds, env = [f"{shared}:{_CACHE}"], {}
    command = ["apk"]
    if tool:
        # A root that is only being made has no certificates of its own.
        binds += [f"{tool.folder}:{_TOOL}:ro", f"{fetch.certificates()}:{_CERTIFICATES}:ro"]
        env["SSL_CERT_FILE"] = _CERTIFICATES
        command = tool.command(_TOOL)
    # Without an explicit --root apk-tools 2 ignores --arch.
    command += ["--root", "/", "--arch", root.arch, "--cache-dir", _CACHE, "--update-cache", *arguments]
    with (shared / "lock").open("w") as lock:
        # Two apks that download the same file would write into one temporary file.
        fcntl.flock(lock, fcntl.LOCK_EX)
        _age(shared)
        status, output = _run(root, qemu, command, binds, env, what)
    if status != 0 or _GRAVE.search(output):
        raise _explained(what, status, output, _APK_CAUSES)


def _age(shared: Path) -> None:
    """Let the cached indexes look older: in spite of --update-cache apk takes one of the last minute for the newest,
    and asks for one that was modified since then."""
    for index in shared.glob("APKINDEX.*"):
        modified = index.lstat().st_mtime - _MINUTE
        os.utime(index, (modified, modified), follow_symlinks=False)


def _native_apk(root: Root, cache: Path) -> apk_native.NativeApk | None:
    """The apk to use; None for the root's own, because it is native anyway, or no other can be had."""
    if find_arch(os.uname().machine).name == root.arch:
        return None
    try:
        return _find_native_apk(root, cache)
    except CrossrootError as error:
        ui.note(f"no native apk, so the root's own is used, emulated and slower: {error.message}")
        return None


def _find_native_apk(root: Root, cache: Path) -> apk_native.NativeApk:
    branch = root.branch or alpine.branch_of(root.version, "edge")
    return apk_native.find([root.mirror or alpine.DEFAULT_MIRROR], branch, cache, root.public_keys)


# apt


def _run_apt(root: Root, qemu: Wanted, command: Sequence[str], what: str) -> None:
    status, output = _run(root, qemu, command, [], debian.INSTALL_ENVIRONMENT, what)
    if status != 0:
        raise _explained(what, status, output, _APT_CAUSES)


# Running either


def _run(
    root: Root, qemu: Wanted, command: Sequence[str], binds: Sequence[str], env: dict[str, str], what: str
) -> tuple[int, str]:
    """Run a command as the root's root, without input, its output copied to stderr; its status and last output."""
    settings = tuple(f"{name}={value}" for name, value in env.items())
    # By number, as a root that is only being made has no /etc/passwd.
    options = session.Options(user="0", workdir="/", cwd=False, binds=tuple(binds), env=settings, qemu=qemu)
    plan = session.plan(root, options, command)
    ui.note(what)
    before = os.umask(0o022)  # what scripts of packages write shall not depend on the caller's
    try:
        with _streams_copied() as copier:
            status = enter.run(plan, terminal=False)
    finally:
        os.umask(before)
    return status, copier.output


class _Copier:
    """What a process of ours has copied to stderr; the last part of it, at the end."""

    output = ""


@contextlib.contextmanager
def _streams_copied() -> Iterator[_Copier]:
    """Meanwhile, stdin is empty and what is written to stdout or stderr goes to stderr and is remembered."""
    reader, writer = os.pipe()
    # A process, not a thread, as sessions are forked.
    child = namespaces.spawn(lambda reporter: _copy(reader, writer, reporter), id_map=None)
    os.close(reader)
    saved = [os.dup(number) for number in (0, 1, 2)]
    empty = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((empty, writer, writer)):
        os.dup2(descriptor, number)
    os.close(empty)
    os.close(writer)
    copier = _Copier()
    try:
        yield copier
    finally:
        for number, descriptor in enumerate(saved):
            os.dup2(descriptor, number)
            os.close(descriptor)
        copier.output = "".join(message["output"] for message in namespaces.messages(child))
        os.close(child.channel)
        os.waitpid(child.pid, 0)


def _copy(reader: int, writer: int, reporter: Reporter) -> int:
    os.close(writer)
    tail = b""
    while data := os.read(reader, 65536):
        os.write(2, data)
        tail = (tail + data)[-_TAIL:]
    reporter.send(output=tail.decode(errors="replace"))
    return 0


def _explained(what: str, status: int, output: str, causes: Sequence[_Cause]) -> CrossrootError:
    """The error for a failure, with the cause where the output tells it."""
    exit_code = status if status in _INTERRUPTED else EXIT_FAILED
    for cause in causes:
        if found := re.search(cause.pattern, output, re.MULTILINE):
            message = cause.message.format(*map(fetch.shown, found.groups()))
            return CrossrootError(f"{what} failed: {message}", hint=cause.hint, exit_code=exit_code)
    return CrossrootError(f"{what} failed with status {status}", hint="its own output is above", exit_code=exit_code)
