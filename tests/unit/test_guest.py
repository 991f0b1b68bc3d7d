"""crossroot.guest: users and files of a root that may hold anything."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossroot import guest, namespaces
from crossroot.errors import CrossrootError

PASSWD = "root:x:0:0:root:/root:/bin/ash\nguest:x:405:100:guest:/home/guest:\nrelative:x:7:8:::/bin/sh\n405:x:1:1::/:\n"
GROUP = "root:x:0:root\nusers:x:100:\nwheel:x:10:root,guest\naudio:x:18:guest\n"


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(PASSWD)
    (tmp_path / "etc/group").write_text(GROUP)
    return tmp_path


def inside(rootfs: Path, function: Callable[[], Any]) -> Any:
    """What `function` gives when the rootfs is "/", in a child, as JSON has it."""

    def run(_: object) -> Any:
        os.chroot(rootfs)
        os.chdir("/")
        return function()

    return namespaces.call(run, id_map=namespaces.own_single_map())


def identity(rootfs: Path, user: str) -> list[Any]:
    def look() -> list[Any]:
        found = guest.identity(user)
        return [found.uid, found.gid, list(found.groups), found.home, found.shell]

    result: list[Any] = inside(rootfs, look)
    return result


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("root", [0, 0, [0, 10], "/root", "/bin/ash"]),
        ("0", [0, 0, [0, 10], "/root", "/bin/ash"]),
        ("guest", [405, 100, [10, 18, 100], "/home/guest", "/bin/sh"]),
        ("guest:audio", [405, 18, [10, 18], "/home/guest", "/bin/sh"]),
        ("guest:77", [405, 77, [10, 18, 77], "/home/guest", "/bin/sh"]),
        ("relative", [7, 8, [8], "/", "/bin/sh"]),
        ("1234", [1234, 1234, [1234], "/", "/bin/sh"]),
        ("1234:56", [1234, 56, [56], "/", "/bin/sh"]),
        ("4294967294", [4294967294, 4294967294, [4294967294], "/", "/bin/sh"]),
    ],
)
def test_identities(rootfs: Path, user: str, expected: list[Any]) -> None:
    assert identity(rootfs, user) == expected


@pytest.mark.parametrize("user", ["nobody", "", ":0", "4294967295", "99999999999", "²", "٣", "-1"])
def test_unknown_users_and_impossible_numbers_are_refused(rootfs: Path, user: str) -> None:
    with pytest.raises(CrossrootError, match="the root has no user") as caught:
        identity(rootfs, user)
    assert caught.value.hint == "it has root, guest, relative, 405"


@pytest.mark.parametrize("group", ["staff", "4294967295", "²"])
def test_unknown_groups_are_refused(rootfs: Path, group: str) -> None:
    with pytest.raises(CrossrootError, match=f"the root has no group '{group}'"):
        identity(rootfs, f"root:{group}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"root:x:0:0\n",
        "root:x:²:0:root:/root:/bin/sh\n".encode(),
        b"root:x:99999999999:0:root:/root:/bin/sh\n",
        b"root:x:4294967295:0:root:/root:/bin/sh\n",
    ],
)
def test_nonsense_in_passwd_is_no_user(rootfs: Path, content: bytes) -> None:
    (rootfs / "etc/passwd").write_bytes(content.replace(b"root", b"guest"))
    with pytest.raises(CrossrootError, match="the root has no user 'guest'"):
        identity(rootfs, "guest")
    assert identity(rootfs, "0")[:2] == [0, 0]


def test_root_is_root_without_an_entry(rootfs: Path) -> None:
    (rootfs / "etc/passwd").unlink()
    assert identity(rootfs, "root")[:2] == [0, 0]


def test_what_is_no_regular_file_has_no_content(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "file").write_bytes(b"content")
    for name in ("fifo", "dangling", "missing", "file/below", "."):
        assert guest.read(str(tmp_path / name)) == b""
    assert guest.read(str(tmp_path / "file")) == b"content"


def test_reading_is_bounded_and_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 5 << 20)
    before = os.listdir("/proc/self/fd")
    assert len(guest.read(str(tmp_path / "large"))) == 4 << 20
    guest.read(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


def test_a_link_of_the_root_leads_nowhere_but_into_the_root(rootfs: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("evil:x:0:0::/:/bin/sh\n")
    (rootfs / "etc/passwd").unlink()
    (rootfs / "etc/passwd").symlink_to(outside)
    with pytest.raises(CrossrootError, match="the root has no user 'evil'"):
        identity(rootfs, "evil")


def test_writing_replaces_a_link_and_not_what_it_names(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("untouched")
    (tmp_path / "link").symlink_to(precious)
    guest.write(str(tmp_path / "link"), b"ours")
    guest.write(str(tmp_path / "new/folder/file"), b"new")
    assert (precious.read_text(), (tmp_path / "link").read_bytes()) == ("untouched", b"ours")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "new/folder/file").read_bytes() == b"new"
    assert (tmp_path / "link").stat().st_mode & 0o7777 == 0o644


def test_os_release_of_the_root(rootfs: Path) -> None:
    assert inside(rootfs, guest.os_release) == {}
    (rootfs / "usr/lib").mkdir(parents=True)
    (rootfs / "usr/lib/os-release").write_text('ID=other\nVERSION_ID="1"\n')
    assert inside(rootfs, guest.os_release) == {"ID": "other", "VERSION_ID": "1"}
    (rootfs / "etc/os-release").write_text("ID=alpine\n")
    assert inside(rootfs, guest.os_release) == {"ID": "alpine"}
