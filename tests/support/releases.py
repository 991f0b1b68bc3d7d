"""Real releases of the tests' mirror: copied into a mirror of a test's own, and taken apart into packages."""

import os
import tarfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import yaml

from crossroot import arch
from tests.support.apk_repository import Package
from tests.support.mirror import Mirror

HOST = arch.find(os.uname().machine).name


def copy(mirror: Mirror, arches: Sequence[str], folder: Path) -> str:
    """Copy the minirootfs of latest-stable of each arch to `folder`, as the mirror has it; the branch's name."""
    branch = ""
    for name in arches:
        index = _read(f"{mirror.url}/latest-stable/releases/{name}/latest-releases.yaml")
        release = next(each for each in yaml.safe_load(index) if each["flavor"] == "alpine-minirootfs")
        branch = release["branch"]
        where = folder / branch / "releases" / name
        where.mkdir(parents=True)
        (where / "latest-releases.yaml").write_bytes(index)
        (where / release["file"]).write_bytes(_read(f"{mirror.url}/{branch}/releases/{name}/{release['file']}"))
        if not (folder / "latest-stable").exists():
            (folder / "latest-stable").symlink_to(branch)
    return branch


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:
        content: bytes = response.read()
    return content


def as_packages(folder: Path, name: str) -> list[Package]:
    """What a root of Alpine needs at least, as packages: the contents of the minirootfs that `copy` got."""
    (archive,) = folder.glob(f"v*/releases/{name}/*.tar.gz")
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if path.startswith(("etc/apk", "lib/apk", "dev", "proc", "sys", "tmp")):
                continue
            if member.isfile() and (content := tar.extractfile(member)):
                files[path] = content.read()
            elif member.issym():
                links[path] = member.linkname
    others = ("alpine-keys", "alpine-release", "apk-tools", "busybox", "libc-utils")
    return [
        Package("alpine-baselayout", "1.0-r0", name, files, links=links),
        *(Package(other, "1.0-r0", name, {f"usr/share/doc/{other}": other.encode()}) for other in others),
    ]
