"""The mirror the tests bootstrap from, and where it comes from."""

import hashlib
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossroot import arch
from crossroot.distros.alpine import DEFAULT_BRANCH, DEFAULT_MIRROR
from tests.support import http

REPOSITORY = Path(__file__).parents[2]

# What scripts/debian-busybox-mirror calls the branch of its roots.
DEBIAN_BRANCH = "v0.0"


@dataclass(frozen=True)
class Mirror:
    """url: without a slash at the end. origin: where its content comes from, for messages.
    is_alpine: real Alpine, and not small Debian roots. arches: which have a latest-stable release."""

    url: str
    origin: str
    is_alpine: bool
    arches: tuple[str, ...]


@contextmanager
def first_available(scratch: Path) -> Iterator[Mirror]:
    """The first mirror there is, served on loopback unless it is on the internet.

    In this order: the folder or URL in CROSSROOT_TEST_MIRROR, a folder beside the repository, Alpine's own
    mirror, small roots made from the host's Debian archive. scratch: an empty folder.
    """
    named = os.environ.get("CROSSROOT_TEST_MIRROR", "")
    beside = REPOSITORY.parent / "shared/alpine-mirror"
    if "://" in named:
        yield _remote(named.rstrip("/"))
    elif named:
        with _local(Path(named), scratch) as mirror:
            yield mirror
    elif beside.is_dir():
        with _local(beside, scratch) as mirror:
            yield mirror
    elif _answers(DEFAULT_MIRROR, "riscv64"):
        yield _remote(DEFAULT_MIRROR)
    else:
        with _local(debian_roots(), scratch) as mirror:
            yield mirror


def _remote(url: str) -> Mirror:
    return Mirror(url, url, is_alpine=True, arches=tuple(name for name in arch.ALL if _answers(url, name)))


def _answers(url: str, name: str) -> bool:
    """Whether a mirror answers within three seconds, and has an arch."""
    try:
        with urllib.request.urlopen(f"{url}/{_index(name)}", timeout=3):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


@contextmanager
def _local(folder: Path, scratch: Path) -> Iterator[Mirror]:
    for entry in folder.absolute().iterdir():
        (scratch / entry.name).symlink_to(_target(entry))
    arches = tuple(name for name in arch.ALL if (scratch / _index(name)).is_file())
    with http.serve(scratch) as server:
        is_alpine = not (folder / DEBIAN_BRANCH).exists()
        yield Mirror(server.url, str(folder), is_alpine, arches)


def _target(entry: Path) -> Path:
    """What stands behind an entry of a mirror: a link that was copied as a small file names its target."""
    return entry.parent / entry.read_text().strip() if entry.is_file() else entry


def _index(name: str) -> str:
    return f"{DEFAULT_BRANCH}/releases/{name}/latest-releases.yaml"


def debian_roots() -> Path:
    """A mirror of small Debian roots, kept in the cache of whoever runs the tests; made when the script is new."""
    script = REPOSITORY / "scripts/debian-busybox-mirror"
    edition = hashlib.sha256(script.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / f"crossroot-tests/debian-roots-{edition}"
    if not folder.is_dir():
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        subprocess.run([sys.executable, str(script), str(folder)], env=environment, check=True)
    return folder
