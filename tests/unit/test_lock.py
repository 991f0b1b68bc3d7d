"""Locks are written and read, compared with what is installed, and two roots are settled to be the same."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from crossroot import arch, lock, namespaces, normalise
from crossroot.errors import CrossrootError, UsageError
from crossroot.lock import Lock, Pin
from crossroot.profiles import Profile

LOCK = Lock(
    profile=Profile("mine", arch.find("riscv64"), packages=("tool", "lib>1"), env={"A": 'quote " and \\'}),
    archive="https://one.example.org/alpine/v3.20/releases/riscv64/a.tar.gz",
    sha512="0" * 128,
    mirror="https://one.example.org/alpine",
    branch="v3.20",
    made="2024-09-06T12:00:00Z",
    world=("busybox", "tool"),
    keys={"me@example.org-1.rsa.pub": b"-----BEGIN PUBLIC KEY-----\nAAAA\n"},
    packages={"tool": Pin("1.0-r0", "Q1abc="), "gtk+3.0": Pin("3.24-r1", "Q1def=")},
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text(lock.render(LOCK))
    read = lock.read(file)
    assert replace(read, profile=replace(read.profile, sources=())) == LOCK


def test_the_same_lock_is_the_same_text_whatever_the_order() -> None:
    turned = replace(LOCK, packages=dict(reversed(LOCK.packages.items())))
    assert lock.render(turned) == lock.render(LOCK)


def test_paths_of_the_host_are_left_out() -> None:
    profile = replace(LOCK.profile, keyring="/home/me/alpine.gpg", keys=("/home/me/key.rsa.pub",))
    assert "/home/me" not in lock.render(replace(LOCK, profile=profile))


def test_the_archive_may_be_on_any_mirror_of_the_profile() -> None:
    profile = replace(LOCK.profile, mirrors=("https://one.example.org/alpine", "https://two.example.org/"))
    place = "/v3.20/releases/riscv64/a.tar.gz"
    assert replace(LOCK, profile=profile).urls == [LOCK.archive, f"https://two.example.org{place}"]


def test_a_key_cannot_have_the_name_of_a_path(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text(lock.render(replace(LOCK, keys={"../../etc/shadow": b""})))
    with pytest.raises(UsageError, match="name of a key"):
        lock.read(file)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"tool": Pin("1.1-r0", "Q1abc=")}, "tool is 1.1-r0, not 1.0-r0"),
        ({"tool": Pin("1.0-r0", "Q1new=")}, "tool 1.0-r0 is another build now (Q1new=, not Q1abc=)"),
        ({"more": Pin("1", "Q1=")}, "more, which is not in the lock, was installed"),
    ],
)
def test_each_difference_is_named(found: dict[str, Pin], said: str) -> None:
    with pytest.raises(CrossrootError) as caught:
        lock.check(LOCK, LOCK.packages | found)
    assert caught.value.message == f"the root is not what the lock says: {said}"


def test_many_differences_are_counted() -> None:
    packages = {f"p{number}": Pin("1", "") for number in range(9)}
    with pytest.raises(CrossrootError, match=r"p4 is missing and 4 more$"):
        lock.check(replace(LOCK, packages=packages), {})


def in_root(rootfs: Path, function: Callable[[], object]) -> object:
    """What the function gives with `rootfs` as its root."""

    def work(_: object) -> object:
        os.chroot(rootfs)
        os.chdir("/")
        return function()

    return namespaces.call(work, id_map=namespaces.own_single_map() or namespaces.identity_map())


def write(rootfs: Path, name: str, content: str = "x") -> Path:
    path = rootfs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.userns
@pytest.mark.parametrize("folder", ["lib/apk/db", "usr/lib/apk/db"])
def test_what_apk_installed_is_read_but_not_what_is_virtual(folder: str, tmp_path: Path) -> None:
    text = "C:Q1a=\nP:one\nV:1.0-r0\nD:C:x\nF:usr\nR:P:odd\n\nC:Q1b=\nP:.deps\nV:0\n\nC:Q1c=\nP:two\nV:2-r1"
    write(tmp_path, f"{folder}/installed", text)
    found = in_root(tmp_path, lambda: {name: pin.version for name, pin in lock.installed().items()})
    assert found == {"one": "1.0-r0", "two": "2-r1"}


@pytest.mark.userns
def test_settling_removes_logs_caches_and_what_is_the_hosts(tmp_path: Path) -> None:
    gone = [write(tmp_path, name) for name in ("var/log/apk.log", "var/log/a/b", "var/cache/apk/x", "etc/shadow-")]
    empty = [write(tmp_path, name) for name in ("etc/resolv.conf", "etc/machine-id")]
    kept = [write(tmp_path, name) for name in ("var/lib/x", "etc/hosts")]
    (tmp_path / "var/log/link").symlink_to("/var/lib")
    in_root(tmp_path, lambda: normalise.settle(100))
    assert [path for path in gone if path.exists()] == []
    assert [path.read_bytes() for path in empty] == [b"", b""]
    assert [path.read_text() for path in kept] == ["x", "x"]
    assert sorted(path.name for path in (tmp_path / "var/log").iterdir()) == ["a"]


@pytest.mark.userns
def test_settling_dates_no_password_after_the_lock(tmp_path: Path) -> None:
    shadow = write(tmp_path, "etc/shadow", "root:*::0:::::\nnew:!:200:0:99999:7:::\nold:!:50:0:99999:7:::\n")
    shadow.chmod(0o640)
    in_root(tmp_path, lambda: normalise.settle(100))
    assert shadow.read_text() == "root:*::0:::::\nnew:!:100:0:99999:7:::\nold:!:50:0:99999:7:::\n"
    assert shadow.stat().st_mode & 0o7777 == 0o640
