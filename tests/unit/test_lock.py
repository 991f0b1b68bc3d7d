"""Locks are written and read, compared with what is installed, and two roots are settled to be the same."""

from pathlib import Path

import pytest

from crossroot import arch, lock, normalise
from crossroot.errors import CrossrootError, UsageError
from crossroot.installed import Pin
from crossroot.lock import Lock
from crossroot.profiles import Profile
from tests.support.roots import in_root, write

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

DEBIAN = LOCK.but(
    profile=Profile(
        "deb", arch.find("riscv64"), distro="debian", branch="", mirrors=(), suite="trixie", variant="minbase"
    ),
    archive="",
    sha512="",
    branch="trixie",
    keys={"crossroot.gpg": b"\x99\x01\0binary"},
    packages={"libc6:riscv64": Pin("2.41-12", "0" * 64, "pool/main/g/glibc/libc6_2.41-12_riscv64.deb")},
    sources=("deb [signed-by=/a.gpg] http://one.example.org/debian trixie main",),
    archives=("http://one.example.org/debian",),
)


@pytest.mark.parametrize("written", [LOCK, DEBIAN])
def test_a_lock_is_read_as_it_was_written(written: Lock, tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text(lock.render(written))
    read = lock.read(file)
    assert read.but(profile=read.profile.but(sources=())) == written


@pytest.mark.parametrize(
    "packages",
    [
        {"libc6:riscv64": Pin("1", "0" * 63, "pool/x.deb")},
        {"libc6:riscv64": Pin("1", "0" * 64)},
        {"--libc6:riscv64": Pin("1", "0" * 64, "pool/x.deb")},
        {"libc6,other:riscv64": Pin("1", "0" * 64, "pool/x.deb")},
    ],
)
def test_a_deb_needs_a_good_name_a_digest_and_a_place(packages: dict[str, Pin], tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text(lock.render(DEBIAN.but(packages=packages)))
    with pytest.raises(UsageError, match="libc6"):
        lock.read(file)


def test_what_is_in_no_list_is_not_locked() -> None:
    packages = DEBIAN.packages | {"own:all": Pin("1.0")}
    with pytest.raises(CrossrootError, match=r"do not have own:all 1\.0$") as caught:
        lock.check_digests(DEBIAN.but(packages=packages))
    assert "hook" in caught.value.hint


def test_a_digest_that_nobody_knows_is_not_compared() -> None:
    lock.check(DEBIAN, {name: Pin(pin.version) for name, pin in DEBIAN.packages.items()})


def test_the_same_lock_is_the_same_text_whatever_the_order() -> None:
    turned = LOCK.but(packages=dict(reversed(LOCK.packages.items())))
    assert lock.render(turned) == lock.render(LOCK)


def test_paths_of_the_host_are_left_out() -> None:
    profile = LOCK.profile.but(keyring="/home/me/alpine.gpg", keys=("/home/me/key.rsa.pub",))
    assert "/home/me" not in lock.render(LOCK.but(profile=profile))


def test_the_archive_may_be_on_any_mirror_of_the_profile() -> None:
    profile = LOCK.profile.but(mirrors=("https://one.example.org/alpine", "https://two.example.org/"))
    place = "/v3.20/releases/riscv64/a.tar.gz"
    assert LOCK.but(profile=profile).urls == [LOCK.archive, f"https://two.example.org{place}"]


def test_a_key_cannot_have_the_name_of_a_path(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    file.write_text(lock.render(LOCK.but(keys={"../../etc/shadow": b""})))
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
        lock.check(LOCK.but(packages=packages), {})


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
