"""Walking, digesting and copying trees, as whoever runs the tests."""

import hashlib
import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crossroot import tree
from crossroot.errors import CrossrootError


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def digest(folder: Path) -> str:
    with opened(folder) as descriptor:
        return tree.digest(descriptor)


def paths(folder: Path) -> list[bytes]:
    with opened(folder) as descriptor:
        return [entry.path for entry in tree.walk(descriptor)]


def copied(source: Path, destination: Path) -> None:
    destination.mkdir()
    with opened(source) as read, opened(destination) as written:
        tree.copy(read, written)


def make(top: Path) -> Path:
    """A tree with all that a rootfs may hold but devices."""
    for folder in ("bin", "etc/apk", "var/empty"):
        (top / folder).mkdir(parents=True)
    (top / "bin/busybox").write_bytes(b"\x7fELF" * 1000)
    (top / "bin/busybox").chmod(0o4755)
    os.link(top / "bin/busybox", top / "bin/sh")
    (top / "etc/mtab").symlink_to("/proc/mounts")
    os.link(top / "etc/mtab", top / "etc/mtab.hard", follow_symlinks=False)
    (top / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    os.setxattr(top / "etc/passwd", "user.note", b"a\0=b\n")
    os.setxattr(top / "var", "user.folder", b"")
    (top / "etc/empty").touch()
    (top / os.fsdecode(b"etc/caf\xe9\n")).write_text("name of bytes")
    os.mkfifo(top / "var/fifo", 0o640)
    (top / "var/empty").chmod(0o1777)
    (top / "etc/passwd").chmod(0o600)
    times = (1_700_000_000_123_456_789, -1_000_000_001)
    for path in [*top.rglob("*"), top]:
        os.utime(path, ns=times, follow_symlinks=False)
    return top


def describe(top: Path) -> dict[str, tuple[object, ...]]:
    """All that a copy has to keep, for each file of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status, name = path.lstat(), str(path.relative_to(top))
        content: object = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        # A folder's own link count depends on the file system; its atime changes as it is read.
        inode = ("folder",) if path.is_dir() else (status.st_nlink, first.setdefault(status.st_ino, name))
        attributes = {key: os.getxattr(path, key, follow_symlinks=False) for key in _xattr_names(path)}
        found[name] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, inode, content, attributes)
    return found


def _xattr_names(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


# The walk


def test_the_walk_is_sorted_by_the_bytes_of_the_names_of_each_folder(tmp_path: Path) -> None:
    for name in (b"b/z", b"b-c", b"b/Z", b"\xff", b"B", b"b0"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert paths(tmp_path) == [b".", b"B", b"b", b"b/Z", b"b/z", b"b-c", b"b0", b"\xff"]


def test_the_walk_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (tmp_path / "tree/link").symlink_to("../outside")
    assert paths(tmp_path / "tree") == [b".", b"link"]


def test_a_tree_may_be_deeper_than_paths_and_descriptors_reach(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    here = os.open(source, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir("d", dir_fd=here)
        here, old = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(old)
    os.close(here)
    try:
        assert len(paths(source)) == 2501
        copied(source, copy)
        assert digest(copy) == digest(source)
    finally:
        subprocess.run(["rm", "-rf", source, copy], check=True)  # pytest would recurse too deep


def test_a_folder_that_is_moved_away_meanwhile_ends_the_walk(tmp_path: Path) -> None:
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/c").mkdir()
    (tmp_path / "other/c").mkdir(parents=True)  # not to be taken for that of the tree
    with (
        opened(tmp_path / "tree") as descriptor,
        pytest.raises(CrossrootError, match="changed while it was being read"),
    ):
        for entry in tree.walk(descriptor):
            if entry.path == b"a/b":
                (tmp_path / "tree/a").rename(tmp_path / "other/a")


def test_a_file_that_is_replaced_by_a_fifo_meanwhile_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with opened(tmp_path) as descriptor:
        entry = next(found for found in tree.walk(descriptor) if found.path == b"file")
    with opened(tmp_path) as folder:
        (tmp_path / "file").unlink()
        os.mkfifo(tmp_path / "file")
        again = tree.Entry(entry.path, entry.depth, folder, entry.name, entry.status, entry.first)
        with pytest.raises(CrossrootError, match="'file' in the rootfs changed"):
            again.open()


# The digest


def recomputed(top: Path) -> str:
    """The digest as docs/export.md tells to compute it."""
    total = hashlib.sha256(b"crossroot tree 1\n")
    seen: dict[int, bytes] = {}
    everything = [b".", *(os.fsencode(path.relative_to(top)) for path in top.rglob("*"))]
    for path in sorted(everything, key=lambda path: path.split(b"/") if path != b"." else []):
        file = os.path.join(os.fsencode(top), path)
        status = os.lstat(file)
        if not stat.S_ISDIR(status.st_mode) and seen.setdefault(status.st_ino, path) != path:
            fields = [path, b"h", seen[status.st_ino]]
        else:
            kind = stat.filemode(status.st_mode)[0].replace("-", "f").encode()
            mode, owner = b"%04o" % stat.S_IMODE(status.st_mode), (b"%d" % status.st_uid, b"%d" % status.st_gid)
            fields = [path, kind, mode, *owner]
            if kind == b"l":
                fields.append(os.readlink(file))
            if kind == b"f":
                data = Path(os.fsdecode(file)).read_bytes()
                fields += [b"%d" % len(data), hashlib.sha256(data).hexdigest().encode()]
            if kind in b"fd":
                fields += [
                    b"%s=%s" % (n.encode(), os.getxattr(file, n).hex().encode()) for n in sorted(os.listxattr(file))
                ]
        total.update(b"".join(field + b"\0" for field in [*fields, b""]))
    return total.hexdigest()


def test_the_digest_can_be_recomputed_from_the_documentation(tmp_path: Path) -> None:
    assert digest(make(tmp_path)) == recomputed(tmp_path)


def test_the_digest_knows_no_times(tmp_path: Path) -> None:
    before = digest(make(tmp_path))
    for path in [tmp_path, *tmp_path.rglob("*")]:
        os.utime(path, (5, 5), follow_symlinks=False)
    assert digest(tmp_path) == before


def replace_link(top: Path) -> None:
    (top / "etc/mtab.hard").unlink()
    (top / "etc/mtab.hard").symlink_to("/proc/mounts")


def replace_hard_link(top: Path) -> None:
    (top / "bin/sh").unlink()
    (top / "bin/sh").write_bytes((top / "bin/busybox").read_bytes())
    (top / "bin/sh").chmod(0o4755)


def swap_content(top: Path) -> None:
    (top / "etc/passwd").write_text("toor:x:0:0::/root:/bin/sh\n")


CHANGES: list[Callable[[Path], object]] = [
    lambda top: (top / "etc/passwd").rename(top / "etc/passwd-"),
    lambda top: (top / "etc/passwd").chmod(0o601),
    lambda top: (top / "bin/busybox").chmod(0o755),
    lambda top: top.chmod(0o711),
    lambda top: os.truncate(top / "etc/empty", 1),
    lambda top: os.removexattr(top / "etc/passwd", "user.note"),
    lambda top: os.setxattr(top / "var", "user.folder", b"x"),
    lambda top: (top / "var/empty/new").touch(),
    lambda top: (top / "var/fifo").unlink(),
    swap_content,
    replace_link,
    replace_hard_link,
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_digest_knows_everything_else(tmp_path: Path, change: Callable[[Path], object]) -> None:
    before = digest(make(tmp_path))
    change(tmp_path)
    assert digest(tmp_path) != before


# The copy


def test_a_copy_is_exact(tmp_path: Path) -> None:
    make(tmp_path / "source")
    copied(tmp_path / "source", tmp_path / "copy")
    assert describe(tmp_path / "copy") == describe(tmp_path / "source")
    assert digest(tmp_path / "copy") == digest(tmp_path / "source")


def test_a_copy_shares_no_inode_with_its_source(tmp_path: Path) -> None:
    make(tmp_path / "source")
    copied(tmp_path / "source", tmp_path / "copy")
    (tmp_path / "copy/etc/passwd").write_text("")
    assert (tmp_path / "source/etc/passwd").read_text() != ""


def test_a_copy_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    make(tmp_path / "source")
    (tmp_path / "copy").mkdir()
    old = os.umask(0o277)
    try:
        with opened(tmp_path / "source") as read, opened(tmp_path / "copy") as written:
            tree.copy(read, written)
    finally:
        os.umask(old)
    assert describe(tmp_path / "copy") == describe(tmp_path / "source")


def test_sockets_are_copied(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "source/socket"))
    copied(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy/socket").is_socket()


def test_holes_stay_holes(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    sizes = {"middle": 64 << 20, "nothing": 32 << 20, "end": 16 << 20}
    for name, size in sizes.items():
        with open(tmp_path / "source" / name, "wb") as file:
            if name != "nothing":
                file.write(b"start")
            if name == "middle":
                file.seek(size - 3)
                file.write(b"end")
            file.truncate(size)
    copied(tmp_path / "source", tmp_path / "copy")
    for name, size in sizes.items():
        copy, source = tmp_path / "copy" / name, tmp_path / "source" / name
        assert copy.stat().st_size == size
        assert copy.stat().st_blocks == source.stat().st_blocks
    assert digest(tmp_path / "copy") == digest(tmp_path / "source")


def test_a_copy_goes_to_another_file_system(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"crossroot-test-{os.getpid()}"
    assert os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(os.urandom(3 << 20))
    try:
        copied(tmp_path / "source", other)
        assert describe(other) == describe(tmp_path / "source")
    finally:
        for name in ("file",):
            (other / name).unlink(missing_ok=True)
        other.rmdir()


def test_a_destination_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "source")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/bin").symlink_to(tmp_path)
    with (
        opened(tmp_path / "source") as read,
        opened(tmp_path / "copy") as written,
        pytest.raises(CrossrootError, match="cannot copy 'bin': File exists"),
    ):
        tree.copy(read, written)
