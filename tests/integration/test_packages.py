"""Packages are installed by a real apk from signed repositories; whatever goes wrong, the root is as before."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import apk_repository, archives, expect, http, releases
from tests.support.alpine import Alpine, serve
from tests.support.apk_repository import Package
from tests.support.identity import Crossroot

pytestmark = [pytest.mark.emulation, pytest.mark.alpine]

HELLO = Package(
    "hello",
    "1.0-r0",
    "riscv64",
    {"usr/bin/hello": b"#!/bin/sh\necho hello\n"},
    {"post-install": b"#!/bin/sh\numask 0\nuname -m >/etc/installed-on\nid -u >>/etc/installed-on\n"},
    depends=["libhello"],
)
PACKAGES = [
    HELLO,
    Package("libhello", "1.0-r0", "riscv64", {"usr/lib/libhello": b"library"}),
    Package("needy", "1.0-r0", "riscv64", depends=["nowhere"]),
    Package("foe", "1.0-r0", "riscv64", {"usr/bin/foe": b"x"}, depends=["!hello"]),
    Package("thief", "1.0-r0", "riscv64", {"usr/bin/hello": b"other"}),
    Package("failing", "1.0-r0", "riscv64", {"usr/bin/failing": b"x"}, {"post-install": b"#!/bin/sh\nexit 3\n"}),
    Package("slow", "1.0-r0", "riscv64", {"usr/bin/slow": b"x"}, {"post-install": b"#!/bin/sh\nsleep 100\n"}),
    Package("changed", "1.0-r0", "riscv64", {"usr/bin/changed": b"content"}),
    Package("large", "1.0-r0", "riscv64", {"usr/bin/large": bytes(40 << 20)}),
]


@pytest.fixture
def crossroot(crossroot: Crossroot) -> Crossroot:
    """With an empty cache, too."""
    return dataclasses.replace(crossroot, cache=crossroot.tmp / "cache")


@pytest.fixture
def alpine(crossroot: Crossroot, tmp_path: Path) -> Iterator[Alpine]:
    with serve(crossroot.mirror, tmp_path, PACKAGES, [Package("other", "1.0-r0", "riscv64")]) as found:
        changed = tmp_path / found.branch / "main/riscv64/changed-1.0-r0.apk"
        changed.write_bytes(changed.read_bytes()[:-20] + bytes(20))
        yield found


@pytest.fixture
def secure(alpine: Alpine, tmp_path: Path) -> Iterator[Alpine]:
    """The same over https, with a certificate of our own: tls.pem below `folder`."""
    certificate, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    with http.serve(tmp_path, tls=(certificate, key)) as server:
        server.url = server.url.replace("127.0.0.1", "localhost")  # apk knows no certificates of addresses
        yield dataclasses.replace(alpine, server=server)


@pytest.fixture
def root(crossroot: Crossroot, alpine: Alpine) -> Crossroot:
    """With a root riscv64 that trusts the mirror's packages."""
    env = alpine.profile(crossroot)
    crossroot.run("create", "mine", "--name", "riscv64", env=env, check=True)
    return crossroot


def rootfs(crossroot: Crossroot, name: str = "riscv64") -> Path:
    return crossroot.store / "roots" / name / "rootfs"


def state(crossroot: Crossroot) -> tuple[list[str], str, int]:
    """What must not change when an installation fails: the digest, the metadata, the folder itself."""
    info = crossroot.run("info", "riscv64", "--json", check=True).stdout
    files = crossroot.run("run", "riscv64", "--no-cwd", "--no-network", "--", "sh", "-c", LISTING, check=True).stdout
    return files.splitlines(), info, rootfs(crossroot).stat().st_ino


LISTING = "cd / && find bin etc home lib root sbin usr var -exec stat -c '%n %F %a %u %g %s %Y' {} + | sort"


# What works


def test_packages_are_installed_natively_and_only_their_scripts_are_emulated(root: Crossroot) -> None:
    result = root.run("install", "riscv64", "hello", check=True)
    assert result.stdout == ""
    assert "emulated" not in result.stderr
    assert (rootfs(root) / "etc/installed-on").read_text() == "riscv64\n0\n"
    assert root.run("run", "riscv64", "--", "hello").stdout == "hello\n"
    assert json.loads(root.run("info", "riscv64", "--json").stdout)["packages"] == ["hello"]
    assert "hello" in (rootfs(root) / "etc/apk/world").read_text().split()
    assert sorted(os.listdir(rootfs(root) / "dev")) == []
    expect.roots(root.store, "riscv64")


def test_a_root_is_made_from_packages_over_https(crossroot: Crossroot, secure: Alpine) -> None:
    secure.publish([*PACKAGES, *releases.as_packages(secure.folder, "riscv64")])
    # /etc/hosts, as an empty root does not know localhost.
    more = 'source = "packages"\npackages = ["libhello"]\nbinds = ["/etc/hosts"]'
    env = secure.profile(crossroot, more)
    certificate = crossroot.tmp / "tls.pem"
    certificate.write_bytes((secure.folder / "tls.pem").read_bytes())
    crossroot.run("create", "mine", env={**env, "REQUESTS_CA_BUNDLE": str(certificate)}, check=True)
    assert (rootfs(crossroot, "mine") / "usr/lib/libhello").exists()


def test_the_tool_is_fetched_once_and_is_no_root_of_the_user(root: Crossroot, alpine: Alpine) -> None:
    root.run("install", "riscv64", "libhello", check=True)
    seen = [path for path in alpine.server.paths() if f"/{releases.HOST}/" in path]
    root.run("install", "riscv64", "hello", check=True)
    assert [path for path in alpine.server.paths() if f"/{releases.HOST}/" in path] == seen
    assert [each["name"] for each in json.loads(root.run("list", "--json").stdout)] == ["riscv64"]


def test_packages_are_downloaded_once_for_several_roots(root: Crossroot, alpine: Alpine) -> None:
    env = alpine.profile(root)
    root.run("create", "mine", "--package", "libhello", env=env, check=True)
    root.run("install", "riscv64", "libhello", check=True)
    downloads = [path for path in alpine.server.paths() if path.endswith("/libhello-1.0-r0.apk")]
    assert len(downloads) == 1


def test_an_upgrade_brings_the_newer_version(root: Crossroot, alpine: Alpine) -> None:
    root.run("install", "riscv64", "libhello", check=True)
    alpine.publish([*PACKAGES, Package("libhello", "1.1-r0", "riscv64", {"usr/lib/libhello": b"newer"})])
    root.run("upgrade", "riscv64", check=True)
    assert (rootfs(root) / "usr/lib/libhello").read_bytes() == b"newer"
    assert json.loads(root.run("info", "riscv64", "--json").stdout)["packages"] == ["libhello"]


def test_a_root_answers_to_other_names_of_its_arch(crossroot: Crossroot, alpine: Alpine) -> None:
    if "aarch64" not in crossroot.mirror.arches:
        pytest.fail("the mirror of the tests has no aarch64")
    releases.copy(crossroot.mirror, ["aarch64"], alpine.folder)
    alpine.publish([Package("tool", "1.0-r0", "aarch64", {"usr/bin/tool": b"#!/bin/sh\nuname -m\n"})])
    env = alpine.profile(crossroot, extends="aarch64")
    crossroot.run("create", "mine", "--name", "aarch64", env=env, check=True)
    crossroot.run("install", "arm64", "tool", check=True)
    assert crossroot.run("run", "aarch64", "--", "tool").stdout == "aarch64\n"


def test_without_a_native_apk_the_roots_own_is_used_and_that_is_said(root: Crossroot, alpine: Alpine) -> None:
    shutil.rmtree(alpine.folder / alpine.branch / "releases" / releases.HOST)
    result = root.run("install", "riscv64", "hello", check=True)
    assert "the root's own is used, emulated and slower" in result.stderr
    assert root.run("run", "riscv64", "--", "hello").stdout == "hello\n"


def test_a_root_is_made_of_signed_packages_alone(crossroot: Crossroot, alpine: Alpine) -> None:
    minimal = releases.as_packages(alpine.folder, "riscv64")
    alpine.publish([*PACKAGES, *minimal])
    own = alpine.folder / "own"
    apk_repository.write(own, [Package("extra", "1.0-r0", "riscv64", {"usr/bin/extra": b"x"})], alpine.key)
    more = f'source = "packages"\nrepositories = ["{alpine.server.url}/own"]\npackages = ["hello", "extra"]\n'
    env = alpine.profile(crossroot, more)
    crossroot.run("create", "mine", env=env, check=True)
    assert not [path for path in alpine.server.paths() if path.endswith("riscv64.tar.gz")]
    assert crossroot.run("run", "mine", "--", "hello").stdout == "hello\n"
    modes = [oct((rootfs(crossroot, "mine") / folder).stat().st_mode & 0o7777) for folder in ("tmp", "proc", "dev")]
    assert modes == ["0o1777", "0o555", "0o755"]
    assert (rootfs(crossroot, "mine") / "etc/apk/arch").read_text() == "riscv64\n"
    facts = json.loads(crossroot.run("info", "mine", "--json").stdout)
    assert (facts["branch"], facts["sha512"]) == (alpine.branch, "")
    assert facts["source"] == f"packages of {alpine.server.url}/latest-stable"
    repositories = (rootfs(crossroot, "mine") / "etc/apk/repositories").read_text().splitlines()
    wanted = [f"{alpine.server.url}/{alpine.branch}/{name}" for name in ("main", "community")]
    assert repositories == [*wanted, f"{alpine.server.url}/own"]


# What fails


@pytest.mark.parametrize(
    ("package", "said", "error"),
    [
        ("nothing", "nothing (no such package)", "its repositories have no package nothing"),
        ("needy", "required by: needy-1.0-r0[nowhere]", "its repositories have no package nowhere"),
        ("foe", "breaks: foe-1.0-r0[!hello]", "hello-1.0-r0 and foe-1.0-r0[!hello] exclude each other"),
        ("thief", "trying to overwrite", "thief-1.0-r0 and hello-1.0-r0 both have the file usr/bin/hello"),
        ("failing", "script exited with error 3", "the script failing-1.0-r0.post-install failed with status 3"),
        ("changed", "changed-1.0-r0", "changed-1.0-r0 is not what its signature says"),
    ],
)
def test_a_failure_is_explained_and_leaves_the_root_as_it_was(
    package: str, said: str, error: str, root: Crossroot
) -> None:
    root.run("install", "riscv64", "hello", check=True)
    before = state(root)
    result = root.run("install", "riscv64", package)
    assert said in result.stderr
    expect.error(result, f"installing {package} failed: {error}")
    assert state(root) == before
    expect.roots(root.store, "riscv64")


@pytest.mark.parametrize("command", [["install", "riscv64", "hello"], ["upgrade", "riscv64"]])
def test_an_index_that_is_signed_by_a_stranger_is_refused(command: list[str], root: Crossroot, alpine: Alpine) -> None:
    alpine.publish(PACKAGES, key=apk_repository.new_key("stranger@example.org-2.rsa.pub"))
    before = state(root)
    result = root.run(*command)
    assert "UNTRUSTED signature" in result.stderr
    expect.error(result, "is signed with a key that the root does not trust")
    assert state(root) == before


def test_a_repository_that_cannot_be_reached_is_named(root: Crossroot) -> None:
    gone = "http://127.0.0.1:9"
    repositories = rootfs(root) / "etc/apk/repositories"
    repositories.write_text(f"{gone}\n")
    before = state(root)
    expect.error(root.run("install", "riscv64", "hello"), f"{gone} cannot be reached")
    expect.error(root.run("upgrade", "riscv64"), f"{gone} cannot be reached")
    assert state(root) == before


def test_a_root_in_use_is_left_alone_and_its_sessions_are_named(root: Crossroot) -> None:
    with root.popen("run", "riscv64", "--", "sh", "-c", "echo ready; sleep 100") as session:
        assert session.stdout
        session.stdout.readline()
        try:
            for command in (["install", "riscv64", "hello"], ["upgrade", "riscv64"]):
                expect.error(root.run(*command), "riscv64 is in use by pid ")
        finally:
            session.terminate()
            session.wait()
    root.run("install", "riscv64", "hello", check=True)


def test_there_has_to_be_such_a_root(crossroot: Crossroot) -> None:
    for command in (["install", "riscv64", "hello"], ["upgrade", "riscv64"]):
        expect.error(crossroot.run(*command), "there is no root riscv64 in")


def test_an_option_is_no_package(root: Crossroot) -> None:
    expect.error(root.run("install", "riscv64", "--", "--allow-untrusted"), "is not the name of a package", status=2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interruption_leaves_the_root_as_it_was(number: signal.Signals, root: Crossroot) -> None:
    before = state(root)
    with root.popen("install", "riscv64", "slow") as running:
        assert running.stderr
        while b"Executing slow" not in (line := running.stderr.readline()):
            assert line, "it ended before it was interrupted"
        running.send_signal(number)
        running.stderr.read()
        status = running.wait()
    assert status == (-number if number == signal.SIGKILL else 128 + number)
    listed = root.run("list", check=True)  # which clears away what a killed one has left
    said = "crossroot: removed what was left of the change of riscv64 (it was interrupted)\n"
    assert listed.stderr == (said if number == signal.SIGKILL else "")
    expect.roots(root.store, "riscv64")
    assert state(root) == before
    root.run("install", "riscv64", "hello", check=True)


@pytest.mark.root
def test_a_full_disk_leaves_the_root_as_it_was(root: Crossroot) -> None:
    if root.kind != "root":
        pytest.skip("needs root")
    folder = root.tmp / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m,mode=755", "tmpfs", folder], check=True)
    try:
        shutil.copytree(root.store, folder / "store", symlinks=True, dirs_exist_ok=True)
        small = Crossroot(root.identity, root.mirror, root.tmp, folder / "store", root.cache)
        before = state(small)
        result = small.run("install", "riscv64", "large")
        expect.error(result, "no space is left on the disk")
        assert state(small) == before
    finally:
        subprocess.run(["umount", folder], check=True)


def test_what_is_no_alpine_or_debian_is_refused(crossroot: Crossroot) -> None:
    path = crossroot.tmp / "archive"
    path.write_bytes(archives.rootfs("riscv64"))
    crossroot.run("create", "riscv64", "--from", path, check=True)
    expect.error(crossroot.run("install", "riscv64", "hello"), "riscv64 is small", status=2)
