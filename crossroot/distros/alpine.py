"""Alpine: which minirootfs is the newest of a branch, its signature, and the repositories of its packages.

A mirror is the URL of a folder laid out as dl-cdn.alpinelinux.org/alpine:

    BRANCH/releases/ARCH/latest-releases.yaml, the archives, their .sha512 and .asc (detached PGP signature)
    BRANCH/main/ARCH, BRANCH/community/ARCH   the repositories of apk
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossroot import apk, fetch
from crossroot.arch import ALPINE, Arch
from crossroot.errors import CrossrootError, UsageError
from crossroot.record import Record

DEFAULT_MIRROR = "https://dl-cdn.alpinelinux.org/alpine"
DEFAULT_BRANCH = "latest-stable"

_INDEX = "latest-releases.yaml"
_INDEX_LIMIT = 256 << 10  # bytes; real ones have about 5 KiB
_FLAVOR = "alpine-minirootfs"
_STABLE = r"v[0-9]{1,3}\.[0-9]{1,3}"
_BRANCH = rf"edge|latest-stable|{_STABLE}"
_VERSION = r"[0-9][0-9A-Za-z._]*"
_SIZE = r"[1-9][0-9]{0,11}"

_FIRST_BRANCH = {"riscv64": "v3.20", "loongarch64": "v3.21"}


class Release(Record):
    """A minirootfs that can be downloaded. version: 3.20.3, or a date for edge. branch: as the mirror names it,
    never latest-stable. arch: Alpine's name. mirror: whose index, at index_url, says so. urls: of the archive, that
    mirror's first, then the others'. signature_url: of the detached PGP signature. sha512: hex. size: in bytes."""

    version: str
    branch: str
    arch: str
    mirror: str
    urls: tuple[str, ...]
    index_url: str
    signature_url: str
    sha512: str
    size: int


def find_minirootfs(arch: Arch, branch: str, mirrors: Sequence[str]) -> Release:
    """The newest minirootfs of `branch` for `arch`, by the first of `mirrors` that knows.

    branch: latest-stable, edge or v3.20. Raises CrossrootError if no mirror has an index with a sound entry, and
    UsageError for what can't be the name of a branch.
    """
    if not re.fullmatch(_BRANCH, branch):
        dotted = re.fullmatch(r"v?([0-9]+\.[0-9]+)(\..*)?", branch)
        meant = f"perhaps you meant v{dotted[1]}; " if dotted else ""
        raise UsageError(
            f"'{fetch.shown(branch)}' is not a branch of Alpine",
            hint=f"{meant}branches are latest-stable, edge, v3.20 and the like",
        )
    mirrors = [mirror.rstrip("/") for mirror in mirrors]
    errors = []
    for mirror in mirrors:
        try:
            return _newest(arch, branch, mirror, mirrors)
        except CrossrootError as error:
            errors.append(error)
    missing = all(isinstance(error, fetch.NotFound) for error in errors)
    raise CrossrootError(
        f"no Alpine {branch} for {arch.name}: " + "; ".join(error.message for error in errors),
        hint=_missing_hint(arch, branch) if missing else errors[0].hint,
    )


def repositories(mirror: str, branch: str) -> str:
    """Content of /etc/apk/repositories for main and community of `branch`."""
    return "".join(f"{mirror.rstrip('/')}/{branch}/{name}\n" for name in ("main", "community"))


def packages(arch: Arch, repository: str, keys: Mapping[str, bytes]) -> set[str]:
    """The names of all packages that a repository has for `arch`, by its signed index.

    repository: a URL as in /etc/apk/repositories. keys: public ones, trusted besides Alpine's. Raises CrossrootError,
    fetch.NotFound if it has nothing for the arch.
    """
    url = f"{repository}/{arch.name}/APKINDEX.tar.gz"
    index = fetch.read_small(url, limit=apk.LARGEST_INDEX)
    return {package.name for package in apk.read_index(index, apk.keys(arch) | dict(keys), fetch.shown(url))}


def find_repositories(arch: Arch, branch: str, mirrors: Sequence[str]) -> str:
    """The first of `mirrors` that has packages of `branch` for `arch`. Raises CrossrootError if there is none."""
    errors = []
    for mirror in (mirror.rstrip("/") for mirror in mirrors):
        try:
            fetch.read_small(f"{mirror}/{branch}/main/{arch.name}/APKINDEX.tar.gz", limit=apk.LARGEST_INDEX)
        except CrossrootError as error:
            errors.append(error)
        else:
            return mirror
    missing = all(isinstance(error, fetch.NotFound) for error in errors)
    raise CrossrootError(
        f"no packages of Alpine {branch} for {arch.name}: " + "; ".join(error.message for error in errors),
        hint=_missing_hint(arch, branch) if missing else errors[0].hint,
    )


def branch_of(version: str, otherwise: str) -> str:
    """The branch of an Alpine of this version: v3.20 for 3.20.3. Those of edge have no such version: `otherwise`."""
    found = re.fullmatch(r"([0-9]+\.[0-9]+)(\.[0-9]+)?", version)
    return f"v{found[1]}" if found else otherwise


def is_older(version: str, than: str) -> bool:
    """Whether one version of a release is older than another: 3.20.3 than 3.20.10, 3.21.0_rc1 than 3.21.0."""
    return _order(version) < _order(than)


def _order(version: str) -> tuple[list[int], bool, list[int]]:
    release, _, candidate = version.partition("_")
    return _numbers(release), not candidate, _numbers(candidate)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"[0-9]{1,18}", text)]


def verify_signature(archive: fetch.Verified, signature: bytes, keyring: Path) -> None:
    """Check the detached PGP `signature` of `archive` with gpgv; every key in `keyring` is trusted.

    keyring: a binary keyring, as `gpg --export` writes it. Raises CrossrootError if gpgv does not accept the
    signature or is not installed. The position in archive.file does not change.
    """
    _check_keyring(keyring)
    # Opening the descriptor by /proc gives the same inode, whatever the path names by now, with an offset of its own.
    with (
        tempfile.NamedTemporaryFile(prefix="crossroot-signature-") as file,
        Path(f"/proc/self/fd/{archive.file.fileno()}").open("rb") as data,
    ):
        file.write(signature)
        file.flush()
        try:
            result = subprocess.run(
                ["gpgv", "--keyring", str(keyring.absolute()), file.name, "-"],
                stdin=data,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                check=False,
            )
        except FileNotFoundError as error:
            raise CrossrootError(
                "the signature can't be checked: gpgv is not installed",
                hint="install it (package gpgv, or gnupg), or remove the keyring from the profile",
            ) from error
    if result.returncode != 0:
        said = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
        raise CrossrootError(
            f"the signature of {archive.path} is not good: {fetch.shown(said[-1].removeprefix('gpgv: '))}",
            hint=f"check that {keyring} has the key of Alpine's releases, or use another mirror",
        )


def _check_keyring(keyring: Path) -> None:
    try:
        with keyring.open("rb") as file:
            armored = file.read(10) == b"-----BEGIN"
    except OSError as error:
        raise CrossrootError(
            f"cannot read the keyring {keyring}: {error.strerror}", hint="check the path in the profile"
        ) from error
    if armored:
        raise CrossrootError(
            f"the keyring {keyring} is ASCII-armored, which gpgv can't read",
            hint=f"convert it: gpg --dearmor < {keyring} > {keyring.with_suffix('.gpg')}",
        )


def _newest(arch: Arch, branch: str, mirror: str, mirrors: Sequence[str]) -> Release:
    """The release that the index of one mirror names. Nothing in the index is believed: the file's name follows
    from version and arch, and what does not fit the request is refused, an older branch for instance."""
    index_url = f"{mirror}/{branch}/releases/{arch.name}/{_INDEX}"
    try:
        content = fetch.read_small(index_url, limit=_INDEX_LIMIT)
    except fetch.NotFound:
        if branch != DEFAULT_BRANCH or not (stable := _copied_link(mirror)):
            raise
        return _newest(arch, stable, mirror, mirrors)
    entry = _minirootfs_entry(index_url, content)
    version = _field(index_url, entry, "version", _VERSION)
    own_branch = _field(index_url, entry, "branch", _STABLE if branch == DEFAULT_BRANCH else re.escape(branch))
    if own_branch.startswith("v") and not version.startswith(own_branch[1:] + "."):
        raise _bad_index(index_url, f"version {version} is not of branch {own_branch}")
    _field(index_url, entry, "arch", re.escape(arch.name))
    name = f"{_FLAVOR}-{version}-{arch.name}.tar.gz"
    _field(index_url, entry, "file", re.escape(name))
    where = f"{own_branch}/releases/{arch.name}/{name}"
    others = [other for other in mirrors if other != mirror]
    return Release(
        version=version,
        branch=own_branch,
        arch=arch.name,
        mirror=mirror,
        urls=tuple(f"{each}/{where}" for each in (mirror, *others)),
        index_url=index_url,
        signature_url=f"{mirror}/{where}.asc",
        sha512=_field(index_url, entry, "sha512", "[0-9a-f]{128}"),
        size=int(_field(index_url, entry, "size", _SIZE)),
    )


def _copied_link(mirror: str) -> str:
    """The branch that latest-stable means on a mirror that was copied without symbolic links, as archives and version
    control do: there it is a file that holds the target of the link. "" if it is no such file."""
    try:
        text = fetch.read_small(f"{mirror}/{DEFAULT_BRANCH}", limit=_INDEX_LIMIT).decode(errors="replace").strip()
    except fetch.NotFound:
        return ""
    return text if re.fullmatch(_STABLE, text) else ""


def _minirootfs_entry(index_url: str, content: bytes) -> dict[object, object]:
    import yaml

    try:
        # BaseLoader builds lists, dicts and str only: edge's version 20240923 is not to become a number.
        entries = yaml.load(content, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        # The last three: deep nesting, and escapes such as "\UFFFFFFFF" that are no character.
        raise _bad_index(index_url, "it is not YAML") from error
    if not isinstance(entries, list):
        raise _bad_index(index_url, "it is not a list")
    for entry in entries:
        if isinstance(entry, dict) and entry.get("flavor") == _FLAVOR:
            return entry
    raise _bad_index(index_url, f"it has no {_FLAVOR}")


def _field(index_url: str, entry: dict[object, object], key: str, pattern: str) -> str:
    """The text under `key`, which has to match `pattern` as a whole."""
    value = entry.get(key, "missing")
    if not isinstance(value, str):  # and is not shown: a list of lists of aliases may be endless when written out
        raise _bad_index(index_url, f"{key} is no text")
    if not re.fullmatch(pattern, value):
        raise _bad_index(index_url, f"{key} is {fetch.shown(repr(value))[:80]}")
    return value


def _bad_index(index_url: str, why: str) -> CrossrootError:
    return CrossrootError(
        f"{fetch.shown(index_url)} is not a sound index: {why}", hint="name another mirror with --mirror URL"
    )


def _missing_hint(arch: Arch, branch: str) -> str:
    """What to do when the mirrors answer, but have no such branch or arch."""
    if arch not in ALPINE:
        names = ", ".join(each.name for each in ALPINE)
        return f"Alpine has {names}; for another arch use --from with a rootfs of your own"
    first = _FIRST_BRANCH.get(arch.name)
    if first and branch.startswith("v") and _number(branch) < _number(first):
        return f"Alpine has {arch.name} since {first}; try --branch {first}, latest-stable or edge"
    return f"check the mirror, or try --branch {DEFAULT_BRANCH} or --branch edge"


def _number(branch: str) -> list[int]:
    return [int(part) for part in branch.removeprefix("v").split(".")]
