"""The tar that crossroot writes, read by Python's and GNU tar's own eyes."""

import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from crossroot import pack
from crossroot.errors import CrossrootError, UsageError
from crossroot.pack import Member, Times
from crossroot.ui import no_progress

AS_THEY_ARE = Times(since=pack.NEVER, instead=0)


def packed(folder: Path, times: Times = AS_THEY_ARE) -> bytes:
    buffer = io.BytesIO()
    top = os.open(folder, os.O_RDONLY)
    try:
        pack.pack(top, buffer.write, times, no_progress)
    finally:
        os.close(top)
    return buffer.getvalue()


def read(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        return {member.name: member for member in tar.getmembers()}


def one(member: Member, content: bytes = b"") -> tarfile.TarInfo:
    """An entry, written and read again."""
    buffer = io.BytesIO()
    pack.add(member, [content], buffer.write)
    pack.finish(buffer.write)
    (found,) = read(buffer.getvalue()).values()
    return found


@pytest.mark.parametrize("path", ["a", "a" * 100, "a" * 101, "a/" * 1500 + "b", "caf\udce9", "café", "new\nline"])
def test_names_come_out_as_they_are(path: str) -> None:
    assert one(Member(os.fsencode(path), b"0", 0o644)).name == path
    assert one(Member(b"link", b"2", 0o777, target=os.fsencode(path))).linkname == path


@pytest.mark.parametrize("number", [0, 1, 0o7777777, 0o10000000, 2**32 - 2])
def test_owners_come_out_as_they_are(number: int) -> None:
    found = one(Member(b"a", b"0", 0o644, uid=number, gid=number))
    assert (found.uid, found.gid, found.uname, found.gname) == (number, number, "", "")


@pytest.mark.parametrize("time", [0, 1, 8**11 - 1, 8**11])
def test_times_come_out_as_they_are(time: int) -> None:
    assert one(Member(b"a", b"0", 0o644, time=time)).mtime == time


def test_a_header_tells_sizes_beyond_its_field() -> None:
    buffer = io.BytesIO()
    pack.add(Member(b"a", b"0", 0o644, size=8**11), [], lambda data: buffer.write(data[:1024]))
    assert b"19 size=8589934592\n" in buffer.getvalue()


@pytest.mark.parametrize("size", [1, 9, 10, 90, 91, 92, 93, 94, 95, 990])
def test_a_pax_record_counts_its_own_length(size: int) -> None:
    found = one(Member(b"a", b"0", 0o644, records={b"k": b"v" * size}))
    assert found.pax_headers["k"] == "v" * size


def test_gnu_tar_finds_no_difference(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/tool").write_bytes(b"x" * 700)
    (tree / "bin/tool").chmod(0o4755)
    os.link(tree / "bin/tool", tree / "bin/again")
    (tree / "link").symlink_to("/" + "far/" * 60)
    (tree / ("long/" * 3 + "n" * 200)).parent.mkdir(parents=True)
    (tree / ("long/" * 3 + "n" * 200)).write_text("long")
    (tree / "caf\udce9").touch()
    os.mkfifo(tree / "fifo")
    for path in [tree, *tree.rglob("*")]:
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    (tmp_path / "archive.tar").write_bytes(packed(tree))
    command = ["tar", "--compare", "--file", str(tmp_path / "archive.tar"), "--directory", str(tree)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_entries_come_sorted_and_hard_links_after_the_first_name(tmp_path: Path) -> None:
    for name in ("z", "b", "B"):
        (tmp_path / name).mkdir()
    (tmp_path / "b/second").write_text("x")
    os.link(tmp_path / "b/second", tmp_path / "B/first")
    found = read(packed(tmp_path))
    assert list(found) == [".", "B", "B/first", "b", "b/second", "z"]
    assert (found["b/second"].type, found["b/second"].linkname) == (tarfile.LNKTYPE, "B/first")


def test_xattrs_are_as_gnu_tar_writes_them(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    os.setxattr(tmp_path / "file", "user.note", b"a=b\n\xff")
    os.setxattr(tmp_path, "user.top", b"folder")
    found = read(packed(tmp_path))
    value = found["file"].pax_headers["SCHILY.xattr.user.note"]
    assert value.encode("utf-8", "surrogateescape") == b"a=b\n\xff"
    assert found["."].pax_headers["SCHILY.xattr.user.top"] == "folder"


def test_what_was_written_since_gets_another_time(tmp_path: Path) -> None:
    for name, time in (("old", 100), ("newest", 200), ("since", 300), ("later", 400), ("before", -5)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))
    os.utime(tmp_path, (300, 300))
    top = os.open(tmp_path, os.O_RDONLY)
    newest = pack.newest_before(top, 300)
    os.close(top)
    assert newest == 200
    found = {name: entry.mtime for name, entry in read(packed(tmp_path, Times(300, newest))).items()}
    assert found == {".": 200, "old": 100, "newest": 200, "since": 200, "later": 200, "before": 0}
    assert {entry.mtime for entry in read(packed(tmp_path, Times(300, newest, latest=150))).values()} == {0, 100, 150}


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3 << 20))

    def write(data: bytes) -> None:
        if len(data) > 1 << 19:
            os.truncate(tmp_path / "file", 1)

    top = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(CrossrootError, match="'file' in the rootfs changed while it was being read"):
        pack.pack(top, write, AS_THEY_ARE, no_progress)
    os.close(top)


def test_the_mode_has_no_type_in_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o2755)
    assert read(packed(tmp_path))["."].mode == stat.S_ISGID | 0o755


@pytest.mark.parametrize(
    ("name", "magic"), [("a.tar.gz", b"\x1f\x8b\x08\0\0\0\0\0"), ("a.tgz", b"\x1f\x8b"), ("a.tar.xz", b"\xfd7zXZ\0")]
)
def test_the_name_says_how_to_compress(name: str, magic: bytes) -> None:
    compressor = pack.compressor_for(name)
    data = compressor.compress(b"x" * 1000) + compressor.flush()
    assert data.startswith(magic)


@pytest.mark.parametrize("name", ["a", "a.gz", "tar.bz2", "a.tar.gz.part"])
def test_a_name_that_says_nothing_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=name):
        pack.compressor_for(name)
