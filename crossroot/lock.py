"""Lock files: a root pinned down to the archive's hash and the exact version and digest of every package.

A lock is TOML, with a line for each package, so that its differences can be read. It holds the whole profile and the
public keys of the profile, so that it is enough by itself.
"""

import base64
import calendar
import re
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossroot import apk, fetch, profiles
from crossroot.errors import CrossrootError, UsageError
from crossroot.installed import Pin
from crossroot.profiles import Profile
from crossroot.record import Record

_FORMAT = 1
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MOST_NAMED = 5  # packages in one message
_PEM = b"-----BEGIN "
_DEB_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*:[a-z0-9-]+")  # and arch; Debian Policy, 5.6.7


class Lock(Record):
    """What it takes to make a root again.

    archive: URL, and sha512 its hash; both "" for a root of packages alone. mirror, branch: as in `metadata.Root`.
    made: a `metadata.timestamp`. packages, world: as in `Installed`. keys: public ones, by name; of Debian, a keyring.
    sources: the lines of the root's sources.list(5), and archives: URIs of all that its apt knows; () for Alpine.
    """

    profile: Profile
    archive: str
    sha512: str
    mirror: str
    branch: str
    made: str
    world: tuple[str, ...]
    keys: dict[str, bytes]
    packages: dict[str, Pin]
    sources: tuple[str, ...] = ()
    archives: tuple[str, ...] = ()

    @property
    def seconds(self) -> int:
        """When it was made, in seconds since the epoch."""
        return calendar.timegm(time.strptime(self.made, _TIME))

    @property
    def urls(self) -> list[str]:
        """Where the archive may be: at its own address, and in the same place of the other mirrors."""
        others = [mirror.rstrip("/") for mirror in self.profile.mirrors]
        place = self.archive.removeprefix(self.mirror)
        return list(dict.fromkeys([self.archive, *(mirror + place for mirror in others)]))


def render(lock: Lock) -> str:
    """The text of the lock file."""
    value = profiles.toml_value
    lines = [
        f"# A lock of the profile {lock.profile.name}. Make its root with: crossroot create --locked FILE",
        f"format = {_FORMAT}",
        f"name = {value(lock.profile.name)}",
        f"archive = {value(lock.archive)}",
        f"sha512 = {value(lock.sha512)}",
        f"mirror = {value(lock.mirror)}",
        f"branch = {value(lock.branch)}",
        f"made = {value(lock.made)}",
        f"world = {value(lock.world)}",
        *([f"sources = {value(lock.sources)}", f"archives = {value(lock.archives)}"] if lock.sources else []),
        "",
        # The archive is known by its hash, and the keys are below.
        profiles.to_toml(lock.profile.but(keyring="", keys=()), table="profile"),
        "[keys]",
        *(f"{value(name)} = {value(_key_text(key))}" for name, key in sorted(lock.keys.items())),
        "",
        "[packages]",
        *(
            f"{value(name)} = {value(f'{pin.version} {pin.digest} {pin.path}'.strip())}"
            for name, pin in sorted(lock.packages.items())
        ),
    ]
    return "\n".join(lines) + "\n"


def _key_text(key: bytes) -> str:
    """A key as it is, if that is text; a keyring of OpenPGP in base64."""
    return key.decode() if key.startswith(_PEM) else base64.b64encode(key).decode()


def _key(text: str) -> bytes:
    return text.encode() if text.encode().startswith(_PEM) else base64.b64decode(text, validate=True)


def read(path: Path) -> Lock:
    """The lock in a file. Raises UsageError if it cannot be read or makes no sense."""
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="make one: crossroot lock PROFILE") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unsound(path, str(error)) from error
    if document.get("format") != _FORMAT:
        raise UsageError(
            f"{path} is no lock of format {_FORMAT}, which this crossroot knows",
            hint="use the version of crossroot that made it, or lock the profile again",
        )
    try:
        return _from_document(document, path, text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _unsound(path, f"it has no proper {error}") from error


def _from_document(document: dict[str, Any], path: Path, text: str) -> Lock:
    texts = {key: _text(document, key) for key in ("archive", "sha512", "mirror", "branch", "made")}
    lock = Lock(
        profile=profiles.embedded(_text(document, "name"), document["profile"], path, text),
        world=tuple(map(str, document["world"])),
        keys={_file_name(name): _key(key) for name, key in document["keys"].items()},
        packages={name: Pin(*pin.split(" ")) for name, pin in document["packages"].items()},
        sources=tuple(map(str, document.get("sources", ()))),
        archives=tuple(map(str, document.get("archives", ()))),
        **texts,
    )
    if lock.sources:
        _check_debs(lock)
    if lock.seconds < 0 or (lock.archive and not re.fullmatch("[0-9a-f]{128}", lock.sha512)):
        raise ValueError("sha512")
    return lock


def _check_debs(lock: Lock) -> None:
    """Raise ValueError unless each package has a good name, and can be fetched and verified."""
    for name, pin in lock.packages.items():
        if not _DEB_NAME.fullmatch(name):
            raise ValueError(f"name of a package: {name!r}")
        if not re.fullmatch("[0-9a-f]{64}", pin.digest) or not pin.path:
            raise ValueError(f"digest and path of {name}")


def _text(document: dict[str, Any], key: str) -> str:
    if not isinstance(document[key], str):
        raise TypeError(key)
    return str(document[key])


def _file_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9@._+-]*", name):
        raise ValueError(f"name of a key: {name!r}")
    return name


def _unsound(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is not a sound lock: {why}", hint="make it anew: crossroot lock PROFILE -o FILE")


# Comparing with a root


def check(lock: Lock, found: dict[str, Pin]) -> None:
    """Raise CrossrootError unless the packages of a root are those of the lock, as far as their digests are known."""
    differences = []
    for name in sorted({*found, *lock.packages}):
        is_, wanted = found.get(name), lock.packages.get(name)
        if wanted is None:
            differences.append(f"{name}, which is not in the lock, was installed")
        elif is_ is None:
            differences.append(f"{name} is missing")
        elif is_.version != wanted.version:
            differences.append(f"{name} is {is_.version}, not {wanted.version}")
        elif is_.digest and is_.digest != wanted.digest:
            differences.append(f"{name} {wanted.version} is another build now ({is_.digest}, not {wanted.digest})")
    if differences:
        raise CrossrootError(f"the root is not what the lock says: {_several(differences)}", hint=_LOCK_ANEW)


def check_digests(lock: Lock) -> None:
    """Raise CrossrootError if nobody knows where to get a package of Debian again, and by what digest to verify it."""
    if unknown := [f"{name} {pin.version}" for name, pin in sorted(lock.packages.items()) if not pin.digest]:
        raise CrossrootError(
            f"apt's lists in the root do not have {_several(unknown)}",
            hint="if a hook installed it, name it under packages instead, or let the hook keep /var/lib/apt/lists",
        )


def gone(lock: Lock, present: dict[str, Pin], repositories: Sequence[str]) -> CrossrootError | None:
    """The error that names the packages that no repository has any more; None if all are there, as far as is known.

    present: what the root has from its archive. repositories: URLs, each with a folder of the arch.
    """
    arch = lock.profile.arch
    keys = apk.keys(arch) | lock.keys
    there = set()
    for repository in repositories:
        url = f"{repository}/{arch.name}/APKINDEX.tar.gz"
        index = apk.read_index(fetch.read_small(url, limit=apk.LARGEST_INDEX), keys, fetch.shown(url))
        there |= {(package.name, package.version) for package in index}
    wanted = {(name, pin.version) for name, pin in lock.packages.items() if present.get(name) != pin}
    missing = [f"{name} {version}" for name, version in sorted(wanted - there)]
    return gone_from("no repository of the lock", missing) if missing else None


def gone_from(where: str, missing: Sequence[str]) -> CrossrootError:
    """The error for packages, each NAME VERSION, that are not to be had there any more."""
    return CrossrootError(f"{where} has {_several(missing)} any more", hint=_LOCK_ANEW)


_LOCK_ANEW = (
    "lock the profile again: crossroot lock PROFILE -o FILE; or name a mirror in it that keeps old versions, "
    "such as a snapshot"
)


def _several(words: Sequence[str]) -> str:
    more = len(words) - _MOST_NAMED
    return ", ".join(words[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
