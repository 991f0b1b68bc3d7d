"""Locks of Debian's roots: the same tree again, whoever makes it, from the cache or from any mirror.

As each root takes its time, the ordinary user makes the lock and root uses it, too.
"""

import dataclasses
import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from crossroot import arch
from crossroot import lock as locks
from crossroot.distros import deb_repository, debian
from crossroot.errors import CrossrootError
from crossroot.handlers import Handler
from tests.support import debian_archive, expect, http
from tests.support.identity import Crossroot, Identity, new_folder, root_identity
from tests.support.mirror import Mirror

AS_USER = pytest.mark.parametrize("identity", ["user"], indirect=True)
AS_ROOT = pytest.mark.parametrize("identity", ["root"], indirect=True)
pytestmark = [pytest.mark.network, pytest.mark.long, pytest.mark.timeout(900)]

NATIVE = arch.find(os.uname().machine)
NO_NETWORK = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}

# Of the smallest kind, with a package that makes an account, and hooks that leave the time of the creation, and remove
# the lists that the lock is made from.
PROFILE = f"""
extends = "debian-{NATIVE.debian}"
variant = "essential"
packages = ["hello", "dbus-system-bus-common"]
hooks = ["date +%N >/var/log/made; date +%N >/etc/machine-id", "rm -rf /var/lib/apt/lists/*"]
"""


@pytest.fixture(scope="module")
def lock_text(user: Identity, scratch: Path, mirror: Mirror) -> str:
    """A lock that the ordinary user has made."""
    tmp = new_folder(scratch, user)
    instance = Crossroot(user, mirror, tmp, tmp / "store", tmp / "cache")
    env = write_profile(instance, "small", PROFILE)
    result = instance.run("lock", "small", "-o", "small.lock", env=env, timeout=600, check=True)
    assert re.search(r"locked \d+ packages in small.lock", result.stderr)
    expect.roots(instance.store)
    return (instance.tmp / "small.lock").read_text()


def write_profile(instance: Crossroot, name: str, text: str) -> dict[str, str]:
    """Write a profile; the environment in which crossroot finds it."""
    folder = instance.tmp / "config/crossroot/profiles"
    folder.mkdir(parents=True)
    (folder / f"{name}.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(instance.tmp / "config")}


@pytest.fixture
def locked(crossroot: Crossroot, lock_text: str) -> Path:
    file = crossroot.tmp / "small.lock"
    file.write_text(lock_text)
    return file


def rebuild(instance: Crossroot, lock: Path, name: str, **env: str) -> str:
    """Make the root of a lock; its digest."""
    instance.run("create", "--locked", lock, "--name", name, env=env, timeout=600, check=True)
    text: str = json.loads(instance.run("info", name, "--json", "--digest", check=True).stdout)["digest"]
    return text


def test_a_lock_has_version_arch_digest_and_place_of_each_package(lock_text: str) -> None:
    lock = tomllib.loads(lock_text)
    version, digest, path = lock["packages"][f"hello:{NATIVE.debian}"].split()
    assert path == f"pool/main/h/hello/hello_{version}_{NATIVE.debian}.deb"
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert {f"libc6:{NATIVE.debian}", "debconf:all"} < set(lock["packages"])
    assert f"hello:{NATIVE.debian}" in lock["world"]
    assert "adduser:all" not in lock["world"]
    assert (lock["profile"]["suite"], lock["profile"]["components"]) == ("trixie", ["main"])
    assert lock["archives"]
    assert all(line.startswith("deb [signed-by=") for line in lock["sources"])


@AS_USER
def test_two_creations_are_the_same_tree_and_the_second_needs_no_network(
    crossroot: Crossroot, locked: Path, scratch: Path, folders_to_remove: list[Path]
) -> None:
    first = rebuild(crossroot, locked, "one")
    assert rebuild(crossroot, locked, "other", **NO_NETWORK) == first
    check(crossroot, "other", locked)
    if os.geteuid() == 0:
        home = new_folder(scratch, root_identity(scratch))
        folders_to_remove.append(home)
        root = Crossroot(root_identity(home), crossroot.mirror, home, home / "store", home / "cache")
        assert rebuild(root, locked, "roots") == first


def check(instance: Crossroot, name: str, locked: Path) -> None:
    """The root is in order, and what the lock says."""
    assert instance.run("run", name, "--", "hello", "--greeting=ok", check=True).stdout == "ok\n"
    script = "dpkg --audit; getent passwd messagebus >&2; apt-mark showauto"
    result = instance.run("run", name, "--", "sh", "-c", script, check=True)
    assert "messagebus:x:" in result.stderr
    assert "adduser" in result.stdout.split()
    assert "hello" not in result.stdout.split()
    rootfs = instance.store / "roots" / name / "rootfs"
    sources = (rootfs / "etc/apt/sources.list").read_text().splitlines()
    assert sources == tomllib.loads(locked.read_text())["sources"]
    assert list((rootfs / "var/log").rglob("made")) == []


@AS_ROOT
@pytest.mark.emulation
def test_a_foreign_root_is_locked_and_made_again(crossroot: Crossroot) -> None:
    target = arch.find(debian_archive.first_whole("riscv64", "aarch64"))
    env = write_profile(crossroot, "foreign", f'extends = "debian-{target.debian}"\nvariant = "essential"\n')
    crossroot.run("lock", "foreign", "-o", "foreign.lock", env=env, timeout=600, check=True)
    rebuild(crossroot, crossroot.tmp / "foreign.lock", "foreign")
    assert crossroot.run("run", "foreign", "--", "uname", "-m", check=True).stdout == f"{target.uname}\n"


# What cannot be had again


def changed(locked: Path, package: str, digest: str = "", path: str = "") -> None:
    """Change what the lock says of a package."""
    text = locked.read_text()
    line = next(line for line in text.splitlines() if line.startswith(f'"{package}:{NATIVE.debian}" = '))
    version, before, place = line.partition(" = ")[2].strip('"').split()
    after = f'"{package}:{NATIVE.debian}" = "{version} {digest or before} {path or place}"'
    locked.write_text(text.replace(line, after))


@AS_USER
def test_what_no_mirror_has_any_more_is_named(crossroot: Crossroot, locked: Path) -> None:
    changed(locked, "hello", digest="0" * 64, path="pool/main/h/hello/hello_1.0-1_gone.deb")
    version = tomllib.loads(locked.read_text())["packages"][f"hello:{NATIVE.debian}"].split()[0]
    result = crossroot.run("create", "--locked", locked, timeout=300)
    hint = expect.error(result, f"has hello:{NATIVE.debian} {version} any more")
    assert "crossroot lock" in hint
    assert "snapshot" in hint
    expect.roots(crossroot.store)


@AS_USER
def test_a_package_that_is_another_one_now_is_refused(crossroot: Crossroot, locked: Path) -> None:
    changed(locked, "hello", digest="0" * 64)
    result = crossroot.run("create", "--locked", locked, timeout=300)
    expect.error(result, f"wrong sha256: expected {'0' * 64}")
    expect.roots(crossroot.store)


@AS_USER
def test_a_package_without_a_digest_is_no_lock(crossroot: Crossroot, locked: Path) -> None:
    locked.write_text(re.sub(r'("hello:\w+" = "\S+) .*', r'\1"', locked.read_text()))
    expect.error(crossroot.run("create", "--locked", locked), "has no proper digest and path of hello", status=2)


@AS_ROOT
def test_apt_verifies_what_it_takes(crossroot: Crossroot, locked: Path) -> None:
    lock = locks.read(locked)
    repository, rootfs = crossroot.tmp / "repository", crossroot.tmp / "rootfs"
    deb_repository.make(repository, lock, lock.archives, crossroot.cache)
    rootfs.mkdir()
    file = repository / f"{lock.packages[f'hello:{NATIVE.debian}'].digest}.deb"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    recipe = debian.Recipe("debian", NATIVE, "trixie", ("main",), "essential", tuple(lock.packages))
    exact = debian.Exact(repository, lock.sources, b"", lock.seconds)
    with pytest.raises(CrossrootError, match="do not fit together"):
        debian.rebuild(recipe, exact, rootfs, Handler("native"), None)


@AS_USER
def test_a_mirror_of_the_profile_is_asked_first(crossroot: Crossroot, locked: Path) -> None:
    lock = locks.read(locked)
    with http.serve(crossroot.tmp) as server:
        profile = lock.profile.but(mirrors=(server.url,))
        text = locks.render(lock.but(profile=profile, archives=()))
        locked.write_text(text)
        cold = dataclasses.replace(crossroot, cache=crossroot.tmp / "cold")
        expect.error(cold.run("create", "--locked", locked), f"no mirror ({server.url}) has ")
        paths = {seen.path for seen in server.seen}
    assert {f"/{pin.path}" for pin in lock.packages.values()} <= paths
