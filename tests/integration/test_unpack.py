"""Unpacking in the confinement it is made for: a chroot in namespaces, as root."""

import io
import os
import stat
import subprocess
import tarfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from crossroot import linux, namespaces, unpack
from crossroot.errors import CrossrootError
from crossroot.namespaces import IdMap
from crossroot.ui import no_progress
from tests.support.mirror import Mirror
from tests.unit.test_unpack import file, folder, hard_link, symlink, tar

pytestmark = pytest.mark.root

SINGLE_ID = IdMap(((0, 0, 1),), ((0, 0, 1),))
CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)  # cap_net_raw=ep, as in /bin/ping


@pytest.fixture(autouse=True)
def _needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The destination."""
    destination = tmp_path / "root"
    destination.mkdir()
    return destination


def unpack_into(
    destination: Path,
    archive: bytes,
    *,
    keep_owners: bool = True,
    id_map: IdMap | None = None,
    before: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Unpack in a child that is chrooted into `destination`. before: called by the child before the chroot."""
    unpack.prepare()

    def confined(_: object) -> dict[str, Any]:
        before()
        os.chroot(destination)
        os.chdir("/")
        return unpack.unpack(io.BytesIO(archive), keep_owners=keep_owners, progress=no_progress).as_dict()

    done: dict[str, Any] = namespaces.call(confined, id_map=id_map)
    return done


def describe(tree: Path) -> dict[str, tuple[object, ...]]:
    """Every entry below and including `tree`: type and mode, owner, time, links, content or target."""
    found: dict[str, tuple[object, ...]] = {}
    first_name: dict[int, str] = {}
    for path in [tree, *sorted(tree.rglob("*"))]:
        status = path.lstat()
        name = str(path.relative_to(tree))
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        linked_to = None if path.is_dir() else first_name.setdefault(status.st_ino, name)
        found[name] = (
            stat.filemode(status.st_mode),
            (status.st_uid, status.st_gid),
            status.st_mtime_ns,
            status.st_nlink,
            linked_to,
            content,
            {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)},
        )
    return found


def unpack_with_tar(archive: bytes, destination: Path) -> None:
    (destination.parent / "archive").write_bytes(archive)
    destination.mkdir(mode=0o755)
    subprocess.run(
        ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", "../archive"], cwd=destination, check=True
    )


def archives(mirror: Mirror) -> Iterator[tuple[str, bytes]]:
    """The newest rootfs of each arch of the mirror."""
    for name in mirror.arches:
        with urllib.request.urlopen(f"{mirror.url}/latest-stable/releases/{name}/latest-releases.yaml") as index:
            releases = yaml.safe_load(index)
        release = next(entry for entry in releases if entry["flavor"] == "alpine-minirootfs")
        address = f"{mirror.url}/{release['branch']}/releases/{name}/{release['file']}"
        with urllib.request.urlopen(address) as answer:
            yield name, answer.read()


def test_every_release_comes_out_as_tar_unpacks_it(mirror: Mirror, tmp_path: Path) -> None:
    assert mirror.arches
    for name, archive in archives(mirror):
        ours, theirs = tmp_path / name / "ours", tmp_path / name / "theirs"
        ours.mkdir(parents=True)
        done = unpack_into(ours, archive)
        unpack_with_tar(archive, theirs)
        expected = describe(theirs)
        assert describe(ours) == expected
        assert done["files"] > 0
        assert done["machines"].keys() <= {name, "armhf", "armv7"}
        assert name in done["machines"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_archive_with_everything_comes_out_as_tar_unpacks_it(tmp_path: Path, root: Path, format: int) -> None:
    exact = {"pax_headers": {"mtime": "1725615277.123456789"}} if format == tarfile.PAX_FORMAT else {"mtime": 7}
    archive = tar(
        folder("./", mode=0o755, **exact),
        folder("./tmp", mode=0o1777, uid=3, gid=4, **exact),
        folder("./mail", mode=0o2775, gid=8, **exact),
        file("./mail/box", b"mail", mode=0o660, uid=70_000, gid=2**31, **exact),
        file("./su", b"program", mode=0o6755, uid=5, **exact),
        hard_link("./sudo", "su"),
        symlink("./link", "/etc/passwd", uid=1000, gid=1001, **exact),
        file("./" + "long/" * 40 + "name", uid=1, **exact),
        file("./caf\udce9", **exact),
        format=format,
    )
    unpack_into(root, archive)
    unpack_with_tar(archive, tmp_path / "theirs")
    ours, theirs = describe(root), describe(tmp_path / "theirs")
    for name in ours:  # made on the way, at another moment
        if name.startswith("long") and not name.endswith("name"):
            ours[name], theirs[name] = (None, *ours[name][3:]), (None, *theirs[name][3:])
    assert ours == theirs


def test_capabilities_survive_the_change_of_owner(root: Path) -> None:
    headers = {"SCHILY.xattr.security.capability": CAPABILITY.decode("utf-8", "surrogateescape")}
    done = unpack_into(root, tar(file("ping", mode=0o755, uid=7, pax_headers=headers)))
    assert done["xattrs_refused"] == 0
    assert os.getxattr(root / "ping", "security.capability") == CAPABILITY


def test_capabilities_that_are_refused_are_counted(root: Path) -> None:
    headers = {"SCHILY.xattr.security.capability": "no capability"}
    assert unpack_into(root, tar(file("ping", pax_headers=headers)))["xattrs_refused"] == 1


def test_without_owners_everything_belongs_to_the_caller(root: Path) -> None:
    archive = tar(file("a", uid=5, gid=6, mode=0o4755), symlink("l", "a", uid=5), folder("d", uid=5, mode=0o2755))
    unpack_into(root, archive, keep_owners=False, id_map=SINGLE_ID)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in root.iterdir()} == {(0, 0)}
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o4755
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o2755


@pytest.mark.parametrize(
    ("owner", "named"), [({"uid": 1234}, "uid 1234"), ({"gid": 42}, "gid 42"), ({"uid": 7, "gid": 8}, "uid 7")]
)
@pytest.mark.parametrize("make", [file, folder, lambda name, **fields: symlink(name, "x", **fields)])
def test_an_id_outside_of_the_user_namespace_is_named(
    root: Path, make: Callable[..., Any], owner: dict[str, int], named: str
) -> None:
    with pytest.raises(CrossrootError, match=f"files of {named}, which is not mapped in this user namespace") as caught:
        unpack_into(root, tar(make("a", **owner)), id_map=SINGLE_ID)
    assert "/etc/subuid" in caught.value.hint


@pytest.mark.parametrize("way", ["by-name", "up{outside}", "x/up{outside}"])
def test_a_symlink_as_parent_does_not_lead_out(root: Path, tmp_path: Path, way: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "canary").write_text("alive")
    before = describe(outside)
    way = way.format(outside=outside)
    links = (symlink("by-name", str(outside)), symlink("up", "../" * 20), folder("x"), symlink("x/up", "/.."))
    for attack in (file(f"{way}/canary", b"dead"), folder(f"{way}/new"), symlink(f"{way}/new", "x")):
        try:
            unpack_into(root, tar(*links, attack))
        except CrossrootError as error:
            assert "No such file or directory" in error.message  # the link dangles in the chroot
        assert describe(outside) == before


def test_a_symlink_to_the_root_leads_to_the_destination(root: Path) -> None:
    links = (symlink("self", "/"), symlink("up", "../../.."))
    unpack_into(root, tar(*links, file("self/etc/name", b"inside"), file("up/b")))
    assert (root / "etc/name").read_bytes() == b"inside"
    assert (root / "b").is_file()


def test_a_hard_link_through_a_symlink_does_not_lead_out(root: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.write_text("alive")
    with pytest.raises(CrossrootError, match="does not exist"):
        unpack_into(root, tar(symlink("out", str(tmp_path)), hard_link("mine", "out/canary"), file("mine", b"dead")))
    assert (canary.read_text(), canary.stat().st_nlink) == ("alive", 1)


def test_a_full_file_system_is_named(root: Path) -> None:
    def mount_small() -> None:
        linux.move_mount(linux.new_filesystem("tmpfs", {"size": "64k"}), str(root))

    with pytest.raises(CrossrootError, match="no space left while unpacking 'big'") as caught:
        unpack_into(root, tar(file("big", bytes(1 << 20))), before=mount_small)
    assert caught.value.hint


def test_a_file_system_without_inodes_is_full_too(root: Path) -> None:
    def mount_small() -> None:
        linux.move_mount(linux.new_filesystem("tmpfs", {"nr_inodes": "4"}), str(root))

    with pytest.raises(CrossrootError, match="no space left while unpacking"):
        unpack_into(root, tar(*(file(f"{number}") for number in range(9))), before=mount_small)


def test_a_read_only_destination_is_an_error_of_ours(root: Path) -> None:
    def mount_read_only() -> None:
        linux.move_mount(linux.new_filesystem("tmpfs", {}, linux.MOUNT_ATTR_RDONLY), str(root))

    with pytest.raises(CrossrootError, match="cannot unpack 'a': Read-only file system"):
        unpack_into(root, tar(file("a")), before=mount_read_only)
