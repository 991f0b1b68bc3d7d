"""Which archive a rootfs is unpacked from, and that it is the right one: found, downloaded, verified.

cache/newest/HASH    the newest release that an index has named, as a line "VERSION URL"; HASH: sha256 of that URL
"""

import hashlib
import json
import os
from pathlib import Path

from crossroot.distros import alpine
from crossroot.errors import CrossrootError
from crossroot.fetch import Digest, NotFound, Verified, cached, download, open_local, read_small, shown
from crossroot.lock import Lock
from crossroot.profiles import Profile
from crossroot.record import Record
from crossroot.request import Request
from crossroot.tasks import task
from crossroot.ui import note

_SIGNATURE_LIMIT = 64 << 10  # bytes
_ORIGIN = ("source", "mirror", "branch")


class Archive(Record):
    """A verified archive and where it came from; mirror and branch are "" unless it is a distribution's.

    folder: of an image layout, whose index.json is the archive, as it holds the hashes of all the rest.
    """

    verified: Verified
    source: str
    mirror: str = ""
    branch: str = ""
    folder: Path | None = None


def fetch(request: Request, cache: Path) -> Archive:
    """The archive to unpack, verified against the best hash there is: given, pinned, or the mirror's."""
    profile = request.profile
    pinned = Digest("sha512", profile.sha512) if profile.sha512 else None
    digest = request.digest or pinned
    if request.lock:
        return _fetch_locked(request.lock, cache)
    if request.archive is None:
        return _fetch_release(profile, digest, cache, allow_older=request.allow_downgrade)
    if "://" in request.archive:
        with task(f"downloading {shown(request.archive)}") as progress:
            verified = download([request.archive], digest, cache=cache, progress=progress)
        return Archive(verified, shown(request.archive))
    path = Path(request.archive).expanduser().absolute()
    if path.is_dir():
        return Archive(open_local(path / "index.json", digest), str(path), folder=path)
    return Archive(open_local(path, digest), str(path))


def _fetch_locked(lock: Lock, cache: Path) -> Archive:
    with task(f"downloading {shown(lock.archive)}") as progress:
        verified = download(lock.urls, Digest("sha512", lock.sha512), cache=cache, progress=progress)
    return Archive(verified, lock.archive, lock.mirror, lock.branch)


def _fetch_release(profile: Profile, digest: Digest | None, cache: Path, *, allow_older: bool) -> Archive:
    """The newest minirootfs of the profile's branch, or the one that is pinned.

    allow_older: than what the same index has named before.
    """
    if digest and not profile.keyring and (archive := _known(profile, digest, cache)):
        return archive
    release = alpine.find_minirootfs(profile.arch, profile.branch, profile.mirrors)
    record = cache / "newest" / hashlib.sha256(release.index_url.encode()).hexdigest()
    if not digest and not allow_older:
        _refuse_older(release, record)
    with task(f"downloading Alpine {release.version} for {profile.arch.name}") as progress:
        verified = download(
            release.urls, digest or Digest("sha512", release.sha512), cache=cache, size=release.size, progress=progress
        )
    if profile.keyring:
        alpine.verify_signature(verified, _signature(release), Path(profile.keyring))
    archive = Archive(verified, shown(release.urls[0]), release.mirror, release.branch)
    _remember(archive, profile, cache)
    _remember_release(release, record)
    return archive


# A pinned archive in the cache needs no index, and so no network, if it is known where it came from.


def _remember(archive: Archive, profile: Profile, cache: Path) -> None:
    """Note where the archive came from, beside the blobs."""
    facts = {"asked": profile.branch, **{key: getattr(archive, key) for key in _ORIGIN}}
    file = _origin_file(archive.verified, cache)
    try:
        file.parent.mkdir(exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(facts))
        part.replace(file)
    except OSError as error:
        raise CrossrootError(f"cannot write {file}: {error.strerror}", hint="set CROSSROOT_CACHE") from error


def _known(profile: Profile, digest: Digest, cache: Path) -> Archive | None:
    """The pinned archive, if the cache has it and it came from that branch of one of the profile's mirrors."""
    verified = cached(digest, cache)
    if verified is None:
        return None
    try:
        facts = json.loads(_origin_file(verified, cache).read_text())
        mirrors = [mirror.rstrip("/") for mirror in profile.mirrors]
        if facts["asked"] == profile.branch and facts["mirror"] in mirrors:
            source, mirror, branch = (str(facts[key]) for key in _ORIGIN)
            return Archive(verified, source, mirror, branch)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the mirror knows
    verified.file.close()
    return None


def _origin_file(verified: Verified, cache: Path) -> Path:
    return cache / "origins" / verified.sha512


def _refuse_older(release: alpine.Release, record: Path) -> None:
    """A mirror that goes back is out of date, or keeps from us what was repaired since."""
    try:
        newest = record.read_text(errors="replace").split()[0]
    except (OSError, IndexError):
        return  # nothing is known of this index
    if alpine.is_older(release.version, newest):
        raise CrossrootError(
            f"{shown(release.index_url)} names Alpine {release.version}, but has named {newest} before",
            hint="name another mirror with --mirror URL, or accept the older one: --allow-downgrade",
        )


def _remember_release(release: alpine.Release, record: Path) -> None:
    """Keep what an index has named, now that the release was there; also an older one, if that was accepted."""
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        unfinished = record.with_suffix(f".{os.getpid()}")
        unfinished.write_text(f"{release.version} {shown(release.index_url)}\n")
        unfinished.replace(record)
    except OSError as error:
        note(f"cannot remember that Alpine {release.version} was seen, in {record}: {error.strerror}")


def _signature(release: alpine.Release) -> bytes:
    try:
        return read_small(release.signature_url, limit=_SIGNATURE_LIMIT)
    except NotFound as error:
        raise CrossrootError(
            f"the mirror has no signature for its archive: {error.message}",
            hint="name another mirror with --mirror URL, or pin the hash: sha512 in the profile, instead of keyring",
        ) from error
