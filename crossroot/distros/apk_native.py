"""An apk for the host's own arch, which installs into roots of any arch at native speed.

It comes from the mirror and branch of the root, so that it knows their format, and is kept in the cache:

    tools/apk-ARCH-BRANCH/sbin/apk.static   from the signed package apk-tools-static
    tools/apk-ARCH-BRANCH/...               or else the whole minirootfs of the host's arch, whose apk is dynamic

Both run inside a session of the foreign root, like any of its programs: the kernel executes native ELF files there as
anywhere. So apk sees nothing of the host, and its root is "/". Only package scripts are emulated.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from crossroot import apk, fetch, namespaces, ui
from crossroot.arch import Arch
from crossroot.arch import find as find_arch
from crossroot.distros import alpine
from crossroot.errors import CrossrootError
from crossroot.record import Record
from crossroot.tasks import task
from crossroot.ui import Progress

_STATIC = "sbin/apk.static"
_LARGEST = 64 << 20  # bytes of apk.static; that of 3.20 has 5 MB
_LONGEST_USE = 30 * 24 * 3600  # seconds; for branches that go on to newer formats, edge and latest-stable


class NativeApk(Record):
    """folder: to be bound into a session. arch: the host's."""

    folder: Path
    arch: Arch

    def command(self, where: str) -> list[str]:
        """How to call it in a session where its folder is bound at `where`."""
        if (self.folder / _STATIC).exists():
            return [f"{where}/{_STATIC}"]
        # The loader as a program (ld.so(8), musl's too), as the root's own /lib has none for this arch.
        (loader,) = self.folder.glob("lib/ld-musl-*.so.1")
        libraries = ":".join(f"{where}/{folder}" for folder in ("lib", "usr/lib"))
        return [f"{where}/lib/{loader.name}", "--library-path", libraries, f"{where}/sbin/apk"]


def find(mirrors: Sequence[str], branch: str, cache: Path, keys: Mapping[str, bytes]) -> NativeApk:
    """The native apk for roots of `branch`, fetched and verified if it is not in the cache yet.

    keys: public ones of the root, trusted besides Alpine's; roots that do not have them get an apk of their own.
    Raises CrossrootError if it cannot be had, or was changed on its way.
    """
    host = find_arch(os.uname().machine)
    own = hashlib.sha256(b"".join(keys[name] for name in sorted(keys))).hexdigest()[:12] if keys else ""
    folder = cache / "tools" / "-".join(filter(None, ("apk", host.name, branch, own)))
    with _locked(folder):
        if not _usable(folder, branch):
            _fetch(host, mirrors, branch, folder, cache, apk.keys(host) | dict(keys))
    return NativeApk(folder, host)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from fetching the same meanwhile."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _usable(folder: Path, branch: str) -> bool:
    if not folder.is_dir():
        return False
    moving = not re.fullmatch(r"v[0-9.]+", branch)
    return not moving or time.time() - folder.stat().st_mtime < _LONGEST_USE


def _fetch(
    host: Arch, mirrors: Sequence[str], branch: str, folder: Path, cache: Path, keys: Mapping[str, bytes]
) -> None:
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as staging:
        finished = Path(staging) / "finished"
        finished.mkdir()
        try:
            _get_static(host, mirrors, branch, finished, keys)
        except fetch.NotFound as error:
            ui.note(f"{error.message}; taking apk from the minirootfs for {host.name}")
            _get_minirootfs(host, mirrors, branch, finished, cache)
        finished.chmod(0o755)
        os.utime(finished)
        if folder.exists():
            folder.rename(Path(staging) / "before")
        finished.rename(folder)


def _get_static(host: Arch, mirrors: Sequence[str], branch: str, folder: Path, keys: Mapping[str, bytes]) -> None:
    """Put apk.static into `folder`. Raises fetch.NotFound if no mirror has it."""
    missing = []
    for mirror in mirrors:
        try:
            _get_static_from(f"{mirror.rstrip('/')}/{branch}/main/{host.name}", host, folder, keys)
        except fetch.NotFound as error:
            missing.append(error.message)
        else:
            return
    raise fetch.NotFound("; ".join(missing))


def _get_static_from(repository: str, host: Arch, folder: Path, keys: Mapping[str, bytes]) -> None:
    where = fetch.shown(repository)
    index = fetch.read_small(f"{repository}/APKINDEX.tar.gz", limit=apk.LARGEST_INDEX)
    packages = apk.read_index(index, keys, f"{where}/APKINDEX.tar.gz")
    package = next((each for each in packages if each.name == "apk-tools-static" and each.arch == host.name), None)
    if package is None:
        raise fetch.NotFound(f"{where} has no apk-tools-static")
    program = folder / _STATIC
    program.parent.mkdir()
    with (
        task(f"fetching {package.file} from {where}") as progress,
        fetch.download(
            [f"{repository}/{package.file}"], None, cache=folder.parent, size=package.size, progress=progress
        ) as file,
        program.open("wb") as target,
    ):
        apk.verify_package(file.file, keys, package, f"{where}/{package.file}")
        apk.extract_file(file.file, _STATIC, target, limit=_LARGEST, where=f"{where}/{package.file}")
    program.chmod(0o755)


def _get_minirootfs(host: Arch, mirrors: Sequence[str], branch: str, folder: Path, cache: Path) -> None:
    """Unpack the minirootfs of the host's arch; all its files will belong to the caller."""
    from crossroot import unpack

    unpack.prepare()
    release = alpine.find_minirootfs(host, branch, mirrors)
    digest = fetch.Digest("sha512", release.sha512)
    with task(f"downloading Alpine {release.version} for {host.name}, for its apk") as progress:
        verified = fetch.download(release.urls, digest, cache=cache, size=release.size, progress=progress)

    def work(progress: Progress) -> None:
        os.chroot(folder)
        os.chdir("/")
        unpack.unpack(verified.file, keep_owners=False, progress=progress)

    with verified:
        namespaces.call(work, id_map=namespaces.own_single_map())
    if not (folder / "sbin/apk").is_file() or not list(folder.glob("lib/ld-musl-*.so.1")):
        shutil.rmtree(folder)
        raise CrossrootError(f"{fetch.shown(release.urls[0])} has no apk", hint="name another mirror with --mirror URL")
