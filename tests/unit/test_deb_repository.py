"""The packages of a lock as a repository: found by digest, on the first mirror that has them, or named."""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import arch, fetch
from crossroot.distros import deb_repository
from crossroot.errors import CrossrootError
from crossroot.installed import Pin
from crossroot.lock import Lock
from crossroot.profiles import Profile
from tests.support import http

PLACE = "pool/main/t/tool_1.0_all.deb"


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[http.Server]:
    """A mirror with one package, made by dpkg-deb."""
    control = tmp_path / "tool/DEBIAN/control"
    control.parent.mkdir(parents=True)
    control.write_text("Package: tool\nVersion: 1.0\nArchitecture: all\nMaintainer: me\nDescription: one\n of mine\n")
    deb = tmp_path / "mirror" / PLACE
    deb.parent.mkdir(parents=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tmp_path / "tool", deb], check=True)
    with http.serve(tmp_path / "mirror") as server:
        yield server


@pytest.fixture
def lock(tmp_path: Path, mirror: http.Server) -> Lock:
    digest = hashlib.sha256((tmp_path / "mirror" / PLACE).read_bytes()).hexdigest()
    return Lock(
        profile=Profile("mine", arch.find("riscv64"), distro="debian", suite="trixie"),
        archive="",
        sha512="",
        mirror=mirror.url,
        branch="trixie",
        made="2026-01-01T00:00:00Z",
        world=("tool:all",),
        keys={},
        packages={"tool:all": Pin("1.0", digest, PLACE)},
    )


def test_its_index_has_the_packages_with_the_locks_digests(tmp_path: Path, mirror: http.Server, lock: Lock) -> None:
    folder = tmp_path / "repository"
    deb_repository.make(folder, lock, [f"{mirror.url}/nothing", f"{mirror.url}/"], tmp_path / "cache")
    lines = (folder / "Packages").read_text().splitlines()
    pin = lock.packages["tool:all"]
    assert lines[0] == "Package: tool"
    assert lines[-3:] == [
        f"Filename: ./{pin.digest}.deb",
        f"Size: {(folder / f'{pin.digest}.deb').stat().st_size}",
        f"SHA256: {pin.digest}",
    ]
    index = hashlib.sha256((folder / "Packages").read_bytes()).hexdigest()
    assert f" {index} {(folder / 'Packages').stat().st_size} Packages" in (folder / "Release").read_text()


def test_what_is_in_the_cache_needs_no_mirror(tmp_path: Path, mirror: http.Server, lock: Lock) -> None:
    deb_repository.make(tmp_path / "one", lock, [mirror.url], tmp_path / "cache")
    deb_repository.make(tmp_path / "two", lock, [], tmp_path / "cache")
    assert len(mirror.seen) == 1


def test_what_no_mirror_has_is_named(tmp_path: Path, mirror: http.Server, lock: Lock) -> None:
    others = {f"gone{number}:all": Pin("1", f"{number:064}", f"pool/{number}.deb") for number in range(2)}
    with pytest.raises(CrossrootError) as caught:
        deb_repository.make(
            tmp_path / "one", lock.but(packages=lock.packages | others), [mirror.url], tmp_path / "cache"
        )
    assert caught.value.message == f"no mirror ({mirror.url}) has gone0:all 1, gone1:all 1 any more"
    assert "snapshot" in caught.value.hint


def test_a_mirror_that_does_not_answer_is_another_thing(
    tmp_path: Path, mirror: http.Server, lock: Lock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    with pytest.raises(CrossrootError, match="no connection to the server") as caught:
        deb_repository.make(tmp_path / "one", lock, [f"{mirror.url}/no", "http://127.0.0.1:9"], tmp_path / "cache")
    assert not isinstance(caught.value, fetch.NotFound)


def test_another_file_in_its_place_is_refused(tmp_path: Path, mirror: http.Server, lock: Lock) -> None:
    (tmp_path / "mirror" / PLACE).write_bytes(b"another one")
    with pytest.raises(CrossrootError, match="wrong sha256"):
        deb_repository.make(tmp_path / "one", lock, [mirror.url], tmp_path / "cache")


def test_what_is_no_package_is_refused(tmp_path: Path, lock: Lock, mirror: http.Server) -> None:
    (tmp_path / "mirror/text").write_bytes(b"no package")
    pin = Pin("1", hashlib.sha256(b"no package").hexdigest(), "text")
    with pytest.raises(CrossrootError, match=r"text:all in .* is no package"):
        deb_repository.make(tmp_path / "one", lock.but(packages={"text:all": pin}), [mirror.url], tmp_path / "cache")
