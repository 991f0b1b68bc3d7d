"""Find a qemu-user that can serve as a handler: static, and for the host's own arch."""

import os
from pathlib import Path

from crossroot import elf, osrelease
from crossroot.arch import Arch
from crossroot.arch import find as find_arch
from crossroot.errors import CrossrootError

# Where distributions put qemu-user when it is not on PATH, as for a user without sbin or on NixOS-like layouts.
_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-user", "/usr/libexec/qemu-binfmt")

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


def find(arch: Arch, explicit: Path | None = None) -> Path:
    """The static qemu-user for `arch`: `explicit` if given, else the first on PATH or where distributions put it.

    Raises CrossrootError that names what is missing or wrong with what was found.
    """
    if explicit is not None:
        if problem := why_unusable(explicit):
            raise CrossrootError(f"{explicit} cannot be the emulator: {problem}", hint=install_hint(arch))
        return explicit.resolve()
    found = ""
    for candidate in _candidates(arch):
        problem = why_unusable(candidate)
        if not problem:
            return candidate.resolve()
        found = found or f"{candidate} {problem}"
    what = f"no usable emulator for {arch.name}: {found}" if found else f"no emulator for {arch.name} on this host"
    raise CrossrootError(what, hint=install_hint(arch))


def _candidates(arch: Arch) -> list[Path]:
    folders = dict.fromkeys([*os.environ.get("PATH", "").split(":"), *_FOLDERS])
    names = (f"qemu-{arch.qemu}-static", f"qemu-{arch.qemu}")
    paths = (Path(folder) / name for folder in folders if folder for name in names)
    return [path for path in paths if path.is_file()]


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
    return "" if os.access(path, os.X_OK) else "is not executable"


def runs_on_host(arch: Arch) -> bool:
    """Whether `arch` is the kernel's own (uname(2)), which needs no handler."""
    return arch == find_arch(os.uname().machine)


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
