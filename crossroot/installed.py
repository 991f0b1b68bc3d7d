"""What is installed in a root, as apk, or dpkg and apt, have written it down.

Called with the root as "/", by a child that is confined to it.
"""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from crossroot import guest
from crossroot.record import Record

_APK_DATABASES = ("/usr/lib/apk/db/installed", "/lib/apk/db/installed")  # of apk-tools 3 and 2
_APK_WORLD = "/etc/apk/world"

_DPKG_DATABASE = "/var/lib/dpkg/status"
_APT_STATES = "/var/lib/apt/extended_states"  # which packages are there for others only
_APT_LISTS = Path("/var/lib/apt/lists")
_DPKG_INSTALLED = "install ok installed"  # dpkg-query(1): wanted, no error, status


class Pin(Record):
    """A package as it has to be.

    digest: Q1 and base64 of the SHA1 of its control member, as apk's index has it; or the SHA256 of a .deb in hex; ""
    if nobody knows. path: of a .deb below the URI of its archive.
    """

    version: str
    digest: str = ""
    path: str = ""


class Installed(Record):
    """Packages by name, a .deb's as NAME:ARCH. world: those that were asked for, in the words of apk or as above."""

    packages: dict[str, Pin]
    world: tuple[str, ...]


def look() -> Installed:
    """What is installed: by apk, without virtual packages, or by dpkg; nothing if there is no database of either."""
    if os.path.isfile(_DPKG_DATABASE):
        return _of_dpkg()
    blocks = _blocks(next(filter(os.path.isfile, _APK_DATABASES), ""), ("P", "V", "C"))
    pins = {block["P"]: Pin(block["V"], block["C"]) for block in blocks if not block["P"].startswith(".")}
    return Installed(pins, tuple(guest.read(_APK_WORLD).decode(errors="replace").split()))


def set_world(world: Iterable[str]) -> None:
    """Say which packages were asked for. Raises OSError."""
    if not os.path.isfile(_DPKG_DATABASE):
        guest.write(_APK_WORLD, "".join(f"{name}\n" for name in world).encode())
        return
    native, automatic = _native_arch(), []
    for full in sorted(_versions().keys() - set(world)):
        name, _, arch = full.rpartition(":")
        # apt keeps packages for all arches under its own.
        known_as = native if arch == "all" else arch
        automatic.append(f"Package: {name}\nArchitecture: {known_as}\nAuto-Installed: 1\n\n")
    guest.write(_APT_STATES, "".join(automatic).encode())


# dpkg and apt


def _of_dpkg() -> Installed:
    """What dpkg has installed, with digests and paths as far as apt's lists, which apt has verified, have them."""
    versions = _versions()
    pins = {name: Pin(version) for name, version in versions.items()}
    for file in sorted(_APT_LISTS.glob("*_Packages")):
        for block in _blocks(str(file), ("Package", "Architecture", "Version", "SHA256", "Filename")):
            name = f"{block['Package']}:{block['Architecture']}"
            if versions.get(name) == block["Version"] and not pins[name].digest:
                pins[name] = Pin(block["Version"], block["SHA256"].lower(), block["Filename"])
    native = _native_arch()
    states = _blocks(_APT_STATES, ("Package", "Architecture", "Auto-Installed"))
    automatic = {f"{state['Package']}:{state['Architecture']}" for state in states if state["Auto-Installed"] == "1"}
    automatic |= {f"{name.removesuffix(native)}all" for name in automatic if name.endswith(f":{native}")}
    return Installed(pins, tuple(sorted(versions.keys() - automatic)))


def _versions() -> dict[str, str]:
    blocks = _blocks(_DPKG_DATABASE, ("Package", "Architecture", "Version", "Status"))
    return {
        f"{block['Package']}:{block['Architecture']}": block["Version"]
        for block in blocks
        if block["Status"] == _DPKG_INSTALLED
    }


def _native_arch() -> str:
    """The arch of dpkg itself, which is that of the root."""
    blocks = _blocks(_DPKG_DATABASE, ("Package", "Architecture"))
    return next((block["Architecture"] for block in blocks if block["Package"] == "dpkg"), "")


def _blocks(file: str, keys: Sequence[str]) -> Iterator[dict[str, str]]:
    """The fields `keys` of each block of `KEY:VALUE` lines, blocks that lack one left out; none if there is no file."""
    if not os.path.isfile(file):
        return
    found: dict[str, str] = {}
    with open(file, encoding="utf-8", errors="replace") as lines:
        for line in itertools.chain(lines, ["\n"]):
            if line == "\n":
                if len(found) == len(keys):
                    yield found
                found = {}
            key, colon, value = line.partition(":")
            if colon and key in keys:
                found.setdefault(key, value.strip())
