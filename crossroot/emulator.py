"""Find a qemu-user that can serve as a handler: static, and for the host's own arch.

What `crossroot.emulator_fetch` got lies in the cache, in several versions side by side:

    emulators/QEMU/VERSION/qemu-QEMU   QEMU is qemu's name of the arch
    emulators/QEMU/VERSION/info.json   where it comes from
    emulators/QEMU/default             the version `crossroot emulator use` chose
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from crossroot import elf, osrelease, paths, ui
from crossroot.arch import Arch
from crossroot.arch import of_host as arch_of_host
from crossroot.errors import CrossrootError, UsageError
from crossroot.record import Record

# Where distributions put qemu-user when it is not on PATH, as for a user without sbin or on NixOS-like layouts.
_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-user", "/usr/libexec/qemu-binfmt")

_NUMBERS = r"[0-9]{1,6}(?:\.[0-9]{1,6}){0,3}"
_TIMEOUT = 20  # seconds an emulator may take to tell its version

# The CPU model that each arch runs fastest with, by the version of qemu: the first that fits. The other arches have
# nothing to win. What it costs not to do it, as measured on x86_64 with compilers (busybox's tools win 6 % at most):
_FASTEST_CPU = {
    # Since 10, the default has Ztso, which costs a barrier for every access to memory: 1.6 to 2 times slower.
    "riscv64": ((">=10", "max,ztso=off"),),
    # Pointer authentication by the architected cipher instead of a hash of qemu's own (since 6): 1.36 times slower.
    "aarch64": ((">=6", "max,pauth-impdef=on"),),
}

# What emulators from these versions on take of the CPU time of the fastest, for tools of busybox on x86_64 (the work of
# bench/emulators.py): riscv64 1, 1.25, 1.45 with the CPU models above; aarch64 1, 1.26, 1.30; armv7 1, 1.24, 1.28.
_TIMES = (("11", 1.35), ("10", 1.25), ("0", 1.0))

# The package with a static qemu-user, by the ID or ID_LIKE of os-release(5).
_PACKAGES = {
    "alpine": "apk add qemu-{qemu}",
    "debian": "apt install qemu-user-static",
    "ubuntu": "apt install qemu-user-static",
    "fedora": "dnf install qemu-user-static-{qemu}",
    "arch": "pacman -S qemu-user-static",
    "suse": "zypper install qemu-linux-user",
    "void": "xbps-install qemu-user-static",
    "gentoo": "emerge app-emulation/qemu with USE='static-user' QEMU_USER_TARGETS={qemu}",
}


class Emulator(Record):
    """A qemu-user that crossroot fetched. version: as `qemu-x --version` says it. path: of the executable."""

    version: str
    path: Path


def find(arch: Arch, explicit: Path | None = None, version: str = "", *, cache: Path | None = None) -> Path:
    """The static qemu-user for `arch`: `explicit` if given, else one that was fetched, else the host's own.

    version: which one will do, see `satisfies`; of several that were fetched then the fastest, and without it
    the one `crossroot emulator use` chose, or the fastest. cache: the folder of downloads, if not the usual one.
    Raises CrossrootError that names what is missing or wrong with what was found, UsageError for a bad `version`.
    """
    if explicit is not None:
        if problem := why_unusable(explicit):
            raise CrossrootError(f"{explicit} cannot be the emulator: {problem}", hint=install_hint(arch))
        return explicit.resolve()
    check_request(version)
    wrong = []
    for candidate, its_version in _candidates(arch, cache or paths.cache(), asked=bool(version)):
        problem = why_unusable(candidate)
        if not problem and satisfies(its_version, version):
            return candidate.resolve()
        wrong.append(f"{candidate} {problem or f'has version {its_version}'}")
    wanted = f"emulator for {arch.name}" + (f" of version {version}" if version else "")
    what = f"no usable {wanted}: {wrong[0]}" if wrong else f"no {wanted} on this host"
    fetch = f"crossroot emulator fetch {arch.name}" + (f" --qemu-version '{version}'" if version else "")
    raise CrossrootError(what, hint=f"{fetch}, or {install_hint(arch)}")


def _candidates(arch: Arch, cache: Path, *, asked: bool) -> Iterator[tuple[Path, str]]:
    """Executables for `arch` with their versions, best first; a host's own is asked for its version only if `asked`."""
    mine = fetched(arch, cache)
    if not asked:
        choice = chosen(arch, cache)
        mine.sort(key=lambda each: each.version != choice)
    for each in mine:
        yield each.path, each.version
    for path in on_host(arch):
        yield path, version_of(path) if asked else ""


def on_host(arch: Arch) -> list[Path]:
    """Files of the host that are called as an emulator for `arch`, on PATH and where distributions put them."""
    folders = dict.fromkeys([*os.environ.get("PATH", "").split(":"), *_FOLDERS])
    names = (f"qemu-{arch.qemu}-static", f"qemu-{arch.qemu}")
    files = (Path(folder) / name for folder in folders if folder for name in names)
    # Not Path.is_file, which raises for a folder that the user may not enter, such as one of root's left on PATH by su.
    return [file for file in files if os.path.isfile(file)]


def why_unusable(path: Path) -> str:
    """Why a file can't serve as a handler's interpreter, read from its content; "" if it can.

    A dynamic one would need its loader and libraries inside every root (kernel: binfmt_misc opens the interpreter
    with flag F, but not what the interpreter itself asks for).
    """
    try:
        header = elf.read(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if header is None:
        return "is not an ELF executable"
    if not any(runs_on_host(arch) for arch in header.arches):
        return f"is for {', '.join(arch.name for arch in header.arches) or 'an unknown arch'}, not for this host"
    if not header.static:
        return "is dynamically linked, so it would not start inside a root"
    if os.access(path, os.X_OK):
        return ""
    noexec = os.statvfs(path).f_flag & os.ST_NOEXEC
    return "is on a file system mounted noexec" if noexec else "is not executable"


def runs_on_host(arch: Arch) -> bool:
    """Whether `arch` is the kernel's own (uname(2)), which needs no handler."""
    return arch == arch_of_host()


def install_hint(arch: Arch) -> str:
    """How to get a static qemu-user on this distribution."""
    release = osrelease.host()
    for name in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        for known, command in _PACKAGES.items():
            if name == known or (known == "suse" and "suse" in name):
                if name == "debian" and release.get("VERSION_ID", "0").isdigit() and int(release["VERSION_ID"]) >= 13:
                    command = "apt install qemu-user"
                return f"{command.format(qemu=arch.qemu)}, or name one with --qemu PATH"
    return f"install a static qemu-{arch.qemu} (package qemu-user-static), or name one with --qemu PATH"


# --- versions ---------------------------------------------------------------------------------------------


def check_request(version: str) -> None:
    """Raise UsageError unless `version` can be asked for: "10", "10.0", ">=8", or "" for any."""
    if version and not re.fullmatch(rf"(>=)?{_NUMBERS}", version):
        raise UsageError(
            f"'{version}' is not a version of qemu", hint="give 10 or 10.0 for any 10.0.x, or '>=8' for a minimum"
        )


def satisfies(version: str, request: str) -> bool:
    """Whether `version` will do: "10" asks for any 10.x, ">=8" for 8 or later, "" for anything."""
    if not request:
        return True
    if not version:
        return False
    if request.startswith(">="):
        pairs = zip_longest(numbers(version), numbers(request[2:]), fillvalue=0)
        return next((have > want for have, want in pairs if have != want), True)
    wanted = numbers(request)
    return numbers(version)[: len(wanted)] == wanted


def numbers(version: str) -> list[int]:
    """The numbers at the start of a version, for comparing: [9, 1, 2] for 9.1.2-r0; none if it starts otherwise."""
    found = re.match(_NUMBERS, version)
    return [int(number) for number in found[0].split(".")] if found else []


def version_of(path: Path) -> str:
    """The version an emulator tells when it is run, "" if it tells none or does not run."""
    import subprocess  # not needed to find an emulator

    try:
        result = subprocess.run([path, "--version"], capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return version_in(result.stdout.decode(errors="replace"))


def version_in(text: str) -> str:
    """The version in what an emulator says of itself, "" if there is none."""
    found = re.search(rf"version ({_NUMBERS})", text)
    return found[1] if found else ""


def fastest_cpu(arch: Arch, version: str) -> str:
    """The CPU model (QEMU_CPU) that an emulator of this version is fastest with; "" for its default."""
    return next((cpu for wanted, cpu in _FASTEST_CPU.get(arch.name, ()) if satisfies(version, wanted)), "")


def _time(version: str) -> float:
    """What an emulator of this version takes of the time of the fastest."""
    return next(time for since, time in _TIMES if satisfies(version, f">={since}"))


# --- what was fetched -------------------------------------------------------------------------------------


def folder(arch: Arch, cache: Path) -> Path:
    """Where the fetched emulators for `arch` are."""
    return cache / "emulators" / arch.qemu


def fetched(arch: Arch, cache: Path) -> list[Emulator]:
    """The emulators for `arch` that were fetched, fastest first, and newest first of those that are as fast."""
    try:
        names = os.listdir(folder(arch, cache))
    except (FileNotFoundError, PermissionError):  # the latter with sudo -u, in a home that is another's
        return []
    newest = sorted((name for name in names if re.fullmatch(_NUMBERS, name)), key=numbers, reverse=True)
    versions = sorted(newest, key=_time)
    return [Emulator(name, folder(arch, cache) / name / f"qemu-{arch.qemu}") for name in versions]


def info(emulator: Emulator) -> dict[str, str]:
    """What is known of a fetched emulator: version, source, package and sha256; nothing if that was lost."""
    try:
        content = json.loads((emulator.path.parent / "info.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return {key: str(value) for key, value in content.items()} if isinstance(content, dict) else {}


def chosen(arch: Arch, cache: Path) -> str:
    """The version that `choose` set; "" if none was."""
    try:
        return (folder(arch, cache) / "default").read_text().strip()
    except (FileNotFoundError, PermissionError):
        return ""


def choose(arch: Arch, version: str, cache: Path) -> Emulator:
    """Make the fastest fetched emulator that satisfies `version` the one that is used where no version is asked for.

    An empty `version` undoes the choice. Gives the one used from now on. Raises CrossrootError if there is none.
    """
    emulator = _fetched_of(arch, version, cache)
    with locked(arch, cache):
        file = folder(arch, cache) / "default"
        if version:
            part = file.with_name(".default")
            part.write_text(emulator.version + "\n")
            part.replace(file)
        else:
            file.unlink(missing_ok=True)
    return emulator


def remove(arch: Arch, version: str, cache: Path) -> list[Emulator]:
    """Remove the fetched emulators for `arch` that satisfy `version`, all if it is empty; gives those removed.

    Sessions that run keep theirs: a handler holds the file open. Raises CrossrootError if there is none.
    """
    _fetched_of(arch, version, cache)
    with locked(arch, cache):
        gone = [each for each in fetched(arch, cache) if satisfies(each.version, version)]
        for each in gone:
            shutil.rmtree(each.path.parent)
        if chosen(arch, cache) in [each.version for each in gone]:
            (folder(arch, cache) / "default").unlink()
    return gone


def _fetched_of(arch: Arch, version: str, cache: Path) -> Emulator:
    """The fastest fetched emulator that satisfies `version`."""
    check_request(version)
    there = fetched(arch, cache)
    for each in there:
        if satisfies(each.version, version):
            return each
    versions = ", ".join(each.version for each in there)
    raise CrossrootError(
        f"no emulator {version} for {arch.name} was fetched" if version else f"no emulator for {arch.name} was fetched",
        hint=f"there are {versions}" if there else f"crossroot emulator fetch {arch.name}",
    )


@contextmanager
def locked(arch: Arch, cache: Path) -> Iterator[Path]:
    """Keep others from changing the fetched emulators for `arch` while the block runs; gives their folder."""
    where = folder(arch, cache)
    where.mkdir(parents=True, exist_ok=True)
    with (where / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ui.note(f"another crossroot is fetching an emulator for {arch.name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield where
