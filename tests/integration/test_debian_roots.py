"""scripts/debian-busybox-mirror: small real roots where no Alpine mirror can be reached."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import arch, osrelease
from crossroot.arch import Arch
from crossroot.distros import alpine
from tests.support import debian_archive, http
from tests.support.identity import Crossroot
from tests.support.mirror import REPOSITORY

pytestmark = [pytest.mark.network, pytest.mark.emulation, pytest.mark.slow]


def make_mirror(folder: Path, *names: str, sources: str = "") -> subprocess.CompletedProcess[str]:
    """Run the script; `sources` replaces the host's sources.list, if given."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    if sources:
        listed, configuration = folder.with_suffix(".list"), folder.with_suffix(".conf")
        listed.write_text(sources)
        configuration.write_text(f'Dir::Etc::sourcelist "{listed}"; Dir::Etc::sourceparts "/dev/null";')
        environment["APT_CONFIG"] = str(configuration)
    command = [sys.executable, str(REPOSITORY / "scripts/debian-busybox-mirror"), str(folder), *names]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def target() -> Arch:
    """The arch to make roots for."""
    return arch.find(debian_archive.first_whole("riscv64", "aarch64"))


@pytest.fixture(scope="module")
def debian_mirror(target: Arch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[http.Server]:
    folder = tmp_path_factory.mktemp("debian") / "mirror"
    result = make_mirror(folder, target.name)
    assert result.returncode == 0, result.stderr
    with http.serve(folder) as server:
        yield server


def test_its_index_names_the_archive_with_its_true_hash(target: Arch, debian_mirror: http.Server) -> None:
    release = alpine.find_minirootfs(target, "latest-stable", [debian_mirror.url])
    assert debian_mirror.folder is not None
    archive = debian_mirror.folder / release.urls[0].removeprefix(f"{debian_mirror.url}/")
    content = archive.read_bytes()
    assert (release.size, release.sha512) == (len(content), hashlib.sha512(content).hexdigest())


def test_its_root_runs_like_an_alpine_one(crossroot: Crossroot, target: Arch, debian_mirror: http.Server) -> None:
    crossroot.run("create", target.name, "--mirror", debian_mirror.url, check=True)
    script = "uname -m; id -u; echo x | sed s/x/y/; stat -c %a /tmp; su guest -s /bin/sh -c 'id -un'"
    result = crossroot.run("run", target.name, "--", "sh", "-c", script, check=True)
    assert result.stdout.splitlines() == [target.uname, "0", "y", "1777", "guest"]


def test_no_debian_archive_among_the_sources_is_said(tmp_path: Path) -> None:
    result = make_mirror(tmp_path / "mirror", "riscv64", sources="# none\n")
    assert result.returncode == 1
    assert result.stderr.startswith("debian-busybox-mirror: no Debian archive with these arches among apt's sources")
    assert not (tmp_path / "mirror").exists()


def test_an_archive_that_the_debian_keyring_does_not_verify_is_refused(tmp_path: Path) -> None:
    suite = osrelease.host().get("VERSION_CODENAME", "sid")
    release = tmp_path / f"archive/dists/{suite}/Release"
    (release.parent / "main/binary-amd64").mkdir(parents=True)
    (release.parent / "main/binary-amd64/Packages").write_text("")
    release.write_text(f"Codename: {suite}\nArchitectures: amd64\nComponents: main\n")
    with http.serve(tmp_path / "archive") as server:
        result = make_mirror(tmp_path / "mirror", "x86_64", sources=f"deb [trusted=yes] {server.url} {suite} main\n")
    assert result.returncode == 1
    assert server.url in result.stderr
    assert "is not signed" in result.stderr
    assert not (tmp_path / "mirror").exists()
