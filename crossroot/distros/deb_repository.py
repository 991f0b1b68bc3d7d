"""The packages of a lock of Debian or Ubuntu as a repository of their own, from which apt cannot take another one.

They are found by their digests: in the cache, else on a mirror. A repository in the trivial archive format
(sources.list(5)) holds links to them, and an index with the lock's digests, by which apt verifies what it takes.
"""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from crossroot import fetch
from crossroot import lock as locks
from crossroot.errors import CrossrootError
from crossroot.fetch import Digest
from crossroot.lock import Lock
from crossroot.tasks import task
from crossroot.ui import Progress


def make(folder: Path, lock: Lock, mirrors: Sequence[str], cache: Path) -> None:
    """Make `folder`, a repository of the lock's packages. mirrors: URIs of archives, looked into in this order.

    Raises CrossrootError that names what none of them has any more.
    """
    folder.mkdir()
    with task(f"downloading {len(lock.packages)} packages") as progress:
        files = _fetch(lock, mirrors, cache, progress)
    blocks = []
    for name, file in files.items():
        digest = lock.packages[name].digest
        (folder / f"{digest}.deb").symlink_to(file)
        blocks.append(
            f"{_control(name, file)}\nFilename: ./{digest}.deb\nSize: {file.stat().st_size}\nSHA256: {digest}\n"
        )
    index = "\n".join(blocks).encode()
    (folder / "Packages").write_bytes(index)
    suite = lock.profile.suite
    (folder / "Release").write_text(
        # mmdebstrap selects packages by the suite.
        f"Suite: {suite}\nCodename: {suite}\nSHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} Packages\n"
    )


def _fetch(lock: Lock, mirrors: Sequence[str], cache: Path, progress: Progress) -> dict[str, Path]:
    """The verified files of all packages, by name."""
    files, gone, done = {}, [], 0
    for name, pin in sorted(lock.packages.items()):
        urls = [f"{mirror.rstrip('/')}/{pin.path}" for mirror in mirrors]
        try:
            with fetch.download(urls, Digest("sha256", pin.digest), cache=cache) as verified:
                files[name] = verified.path
                done += verified.size
        except fetch.NotFound:
            gone.append(f"{name} {pin.version}")
        progress(done, None)
    if gone:
        raise locks.gone_from(f"no mirror ({', '.join(map(fetch.shown, mirrors))})", gone)
    return files


def _control(name: str, file: Path) -> str:
    """What a package says of itself."""
    result = subprocess.run(
        ["dpkg-deb", "--field", file], capture_output=True, text=True, errors="replace", check=False
    )
    if result.returncode != 0:
        raise CrossrootError(f"{name} in {file} is no package: {result.stderr.strip()}", hint="lock the profile again")
    return result.stdout.strip()
