"""Archives made here, unpacked for real in a forked child, which is chrooted when the tests run as root."""

import bz2
import gc
import gzip
import io
import json
import lzma
import os
import pickle
import random
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
import zstandard

from crossroot import arch, unpack
from crossroot.errors import CrossrootError
from crossroot.ui import no_progress

Result = TypeVar("Result")

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


class Member(NamedTuple):
    header: tarfile.TarInfo
    content: bytes = b""


def file(name: str, content: bytes = b"content", **fields: Any) -> Member:
    return Member(_header(name, size=len(content), **fields), content)


def folder(name: str, **fields: Any) -> Member:
    return Member(_header(name, **{"type": tarfile.DIRTYPE, "mode": 0o755, **fields}))


def symlink(name: str, target: str, **fields: Any) -> Member:
    return Member(_header(name, type=tarfile.SYMTYPE, linkname=target, **fields))


def hard_link(name: str, target: str) -> Member:
    return Member(_header(name, type=tarfile.LNKTYPE, linkname=target))


def node(name: str, kind: bytes) -> Member:
    return Member(_header(name, type=kind))


def _header(name: str, **fields: Any) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(header, field, value)
    return header


def tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    """The archive of these members."""
    out = io.BytesIO()
    with tarfile.TarFile(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as archive:
        for header, content in members:
            archive.addfile(header, io.BytesIO(content))
    return out.getvalue()


def raw_header(name: bytes, kind: bytes, size: bytes) -> bytes:
    """A header block with a size field as given, and a right checksum."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124 : 124 + len(size)] = size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    return with_checksum(bytes(block))


def with_checksum(header: bytes) -> bytes:
    """The header block with the checksum that belongs to it."""
    blank = header[:148] + b" " * 8 + header[156:512]
    return header[:148] + b"%06o\0 " % sum(blank) + header[156:512]


def pax_header(records: bytes, kind: bytes = b"x") -> bytes:
    return raw_header(b"pax", kind, b"%011o\0" % len(records)) + records.ljust(-(-len(records) // 512) * 512, b"\0")


def pax_record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def confined(destination: Path, action: Callable[[], Result]) -> Result:
    """What `action` gives or raises in a child whose current directory, and root if may be, is `destination`."""
    destination.mkdir(exist_ok=True)
    unpack.prepare()
    receive, send = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(receive)
        outcome: object = None
        try:
            os.chdir(destination)
            if os.geteuid() == 0:
                os.chroot(".")
            outcome = action()
        except BaseException as error:
            outcome = error
        with open(send, "wb") as out:
            pickle.dump(outcome, out)
        os._exit(0)
    os.close(send)
    with open(receive, "rb") as answer:
        result = pickle.load(answer)
    os.waitpid(pid, 0)
    if isinstance(result, BaseException):
        raise result
    return result  # type: ignore[no-any-return]


def unpack_into(destination: Path, archive: bytes) -> unpack.Unpacked:
    return confined(destination, lambda: unpack.unpack(io.BytesIO(archive), keep_owners=False, progress=no_progress))


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The destination; nothing but it may change in tmp_path."""
    destination = tmp_path / "root"
    destination.mkdir()
    return destination


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A file outside of the destination that must stay as it is."""
    path = tmp_path / "canary"
    path.write_text("alive")
    return path


# What an archive may be


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_tar_format_is_unpacked(root: Path, format: int) -> None:
    done = unpack_into(root, tar(folder("etc"), file("etc/name", b"value"), format=format))
    assert (root / "etc/name").read_bytes() == b"value"
    assert (done.files, done.bytes) == (1, 5)


@pytest.mark.parametrize("compression", COMPRESS)
def test_compression_is_recognised_by_content(root: Path, compression: str) -> None:
    content = random.Random(1).randbytes(700_000)
    unpack_into(root, COMPRESS[compression](tar(file("big", content), file("last", b"end"))))
    assert (root / "big").read_bytes() == content
    assert (root / "last").read_bytes() == b"end"


@pytest.mark.parametrize("compression", COMPRESS)
def test_content_that_compresses_well_comes_out_whole(root: Path, compression: str) -> None:
    unpack_into(root, COMPRESS[compression](tar(file("zeros", bytes(9_000_000)), file("last", b"end"))))
    assert (root / "zeros").stat().st_size == 9_000_000
    assert (root / "last").read_bytes() == b"end"


@pytest.mark.parametrize("compression", COMPRESS)
def test_several_compressed_streams_in_a_row_are_one_archive(root: Path, compression: str) -> None:
    content = random.Random(2).randbytes(200_000)
    plain = tar(file("big", content))
    compress = COMPRESS[compression]
    unpack_into(root, compress(plain[:100]) + compress(plain[100:150_000]) + compress(plain[150_000:]))
    assert (root / "big").read_bytes() == content


@pytest.mark.parametrize("compression", ["gzip", "xz"])
def test_zero_padding_after_a_compressed_stream_is_ignored(root: Path, compression: str) -> None:
    unpack_into(root, COMPRESS[compression](tar(file("a"))) + bytes(100_000))
    assert (root / "a").exists()


def test_zstd_may_begin_with_a_skippable_frame(root: Path) -> None:
    skippable = struct.pack("<II", 0x184D2A50, 4) + b"abcd"
    unpack_into(root, skippable + COMPRESS["zstd"](tar(file("a"))))
    assert (root / "a").exists()


def test_a_plain_tar_whose_first_name_looks_compressed_is_a_plain_tar(root: Path) -> None:
    unpack_into(root, tar(file("BZh9")))
    assert (root / "BZh9").exists()


def test_an_archive_is_read_from_a_pipe(root: Path) -> None:
    totals = []

    def action() -> list[int | None]:
        receive, send = os.pipe()
        if os.fork() == 0:
            os.write(send, tar(file("a")))
            os._exit(0)
        os.close(send)
        with open(receive, "rb") as pipe:
            unpack.unpack(pipe, keep_owners=False, progress=lambda _, total: totals.append(total))
        os.wait()
        return totals

    assert set(confined(root, action)) == {None}
    assert (root / "a").exists()


def test_progress_counts_the_bytes_of_the_archive_as_stored(root: Path) -> None:
    archive = gzip.compress(tar(file("a", random.Random(3).randbytes(300_000))))

    def action() -> list[tuple[int, int | None]]:
        calls: list[tuple[int, int | None]] = []
        unpack.unpack(io.BytesIO(archive), keep_owners=False, progress=lambda done, total: calls.append((done, total)))
        return calls

    calls = confined(root, action)
    assert calls[-1] == (len(archive), len(archive))
    assert len(calls) > 3
    assert calls == sorted(calls)


def test_what_came_of_it_is_plain_data(root: Path) -> None:
    done = unpack_into(root, tar(file("a")))
    assert json.loads(json.dumps(done.as_dict())) == done.as_dict()


def test_nothing_is_imported_after_prepare(root: Path) -> None:
    script = """
import io, os, sys
from crossroot import unpack, ui, errors
unpack.prepare()
os.chdir(sys.argv[1])
before = set(sys.modules)
for line in sys.stdin:
    try:
        unpack.unpack(io.BytesIO(bytes.fromhex(line)), keep_owners=False, progress=ui.no_progress)
    except errors.CrossrootError as error:
        str(error)
print(sorted(set(sys.modules) - before))
"""
    plain = tar(file("name-\udcff" * 30), folder("d"), symlink("l", "x"))
    archives = [plain, plain[:700], b"<html>", *(compress(plain) for compress in COMPRESS.values())]
    archives += [archive[:-1] for archive in archives] + [archive[:-30] + bytes(30) for archive in archives]
    done = subprocess.run(
        [sys.executable, "-c", script, str(root)],
        input="\n".join(archive.hex() for archive in archives),
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


# What is preserved


@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_modes_are_those_of_the_archive_whatever_the_umask(root: Path, umask: int) -> None:
    modes = {"su": 0o4755, "sgid": 0o2755, "secret": 0o400, "nothing": 0, "open": 0o666}
    archive = tar(
        folder("tmp", mode=0o1777),
        folder("closed", mode=0o500),
        file("closed/inside", mode=0o444),
        *(file(name, mode=mode) for name, mode in modes.items()),
    )

    def action() -> int:
        os.umask(umask)
        unpack.unpack(io.BytesIO(archive), keep_owners=False, progress=no_progress)
        return os.umask(0)

    assert confined(root, action) == umask
    assert {name: mode_of(root / name) for name in modes} == modes
    assert mode_of(root / "tmp") == 0o1777
    assert mode_of(root / "closed") == 0o500
    (root / "closed").chmod(0o700)
    assert mode_of(root / "closed/inside") == 0o444


def test_a_directory_that_cannot_be_entered_gets_its_files_first(root: Path) -> None:
    archive = tar(folder(".", mode=0o400), folder("a", mode=0), folder("a/b", mode=0o711), file("a/b/c"))

    def action() -> None:
        if os.geteuid() == 0:  # whom no mode stops
            os.chown(".", 65534, 65534)
            os.setuid(65534)
        unpack.unpack(io.BytesIO(archive), keep_owners=False, progress=no_progress)

    confined(root, action)
    modes = []
    for path in (root, root / "a", root / "a/b"):
        modes.append(mode_of(path))
        path.chmod(0o700)
    assert modes == [0o400, 0, 0o711]


def test_the_root_entry_sets_mode_and_time_of_the_destination(root: Path) -> None:
    unpack_into(root, tar(folder("./", mode=0o711, mtime=1234), file("./a")))
    assert (mode_of(root), root.stat().st_mtime) == (0o711, 1234)


def test_without_a_root_entry_the_destination_keeps_its_mode(root: Path) -> None:
    root.chmod(0o751)
    unpack_into(root, tar(file("a")))
    assert mode_of(root) == 0o751


def test_times_are_kept_to_the_nanosecond_also_of_directories_and_links(root: Path) -> None:
    def at(text: str) -> dict[str, Any]:
        return {"pax_headers": {"mtime": text}}

    unpack_into(
        root,
        tar(
            folder("dir", **at("1725615277.123456789")),
            file("dir/file", **at("1725615278.000000001")),
            symlink("dir/link", "file", **at("1725615279.5")),
            file("old", **at("-1.25")),
        ),
    )
    assert (root / "dir").stat().st_mtime_ns == 1725615277_123456789
    assert (root / "dir/file").stat().st_mtime_ns == 1725615278_000000001
    assert (root / "dir/link").lstat().st_mtime_ns == 1725615279_500000000
    assert (root / "old").stat().st_mtime_ns == -1_250000000


@pytest.mark.parametrize("target", ["/bin/busybox", "../../../etc/passwd", "missing", "/proc/self/", "a//b/./c"])
def test_symlinks_are_kept_verbatim(root: Path, target: str) -> None:
    unpack_into(root, tar(symlink("link", target)))
    assert os.readlink(root / "link") == target


def test_hard_links_share_an_inode(root: Path) -> None:
    unpack_into(root, tar(file("a", mode=0o640), hard_link("d/b", "./a"), hard_link("c", "/a")))
    assert len({(root / name).stat().st_ino for name in ("a", "d/b", "c")}) == 1
    assert mode_of(root / "a") == 0o640


def test_a_hard_link_to_itself_leaves_the_file(root: Path) -> None:
    unpack_into(root, tar(file("a", b"kept"), hard_link("a", "./a")))
    assert (root / "a").read_bytes() == b"kept"


def test_a_hard_link_to_a_symlink_is_the_symlink(root: Path, canary: Path) -> None:
    unpack_into(root, tar(symlink("s", str(canary)), hard_link("h", "s")))
    assert os.readlink(root / "h") == str(canary)
    assert canary.stat().st_nlink == 1


def test_extended_attributes_are_kept_or_counted(root: Path) -> None:
    value = b"\xff\x00=\n\x80"
    attributes = {
        "SCHILY.xattr.user.binary": value.decode("utf-8", "surrogateescape"),
        "SCHILY.xattr.user.text": "yes",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.security.selinux": "x",
    }
    probe = root.parent / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.text", b"yes")
        supported = True
    except OSError:
        supported = False

    def pax(name: str, kind: bytes = b"0") -> bytes:
        records = b"".join(
            pax_record(key.encode(), text.encode("utf-8", "surrogateescape")) for key, text in attributes.items()
        )
        return pax_header(records) + raw_header(name.encode(), kind, b"00000000000\0")

    done = unpack_into(root, pax("file") + pax("dir/", b"5") + bytes(1024))
    if supported:
        for name in ("file", "dir"):
            assert os.getxattr(root / name, "user.binary") == value
            assert os.getxattr(root / name, "user.text") == b"yes"
            assert "security.selinux" not in os.listxattr(root / name)
    assert done.xattrs_refused == (0 if supported else 4)


def test_refused_extended_attributes_are_no_error(root: Path) -> None:
    headers = {"SCHILY.xattr.user.no": "a link cannot have it"}
    done = unpack_into(root, tar(symlink("link", "target", pax_headers=headers)))
    assert done.xattrs_refused == 1
    assert os.readlink(root / "link") == "target"


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_targets_are_kept(root: Path, format: int) -> None:
    name = "/".join(["directory" * 10] * 5) + "/file"
    target = "t" * 4000
    unpack_into(root, tar(file(name), symlink("link", target), hard_link("hard", name), format=format))
    assert (root / name).read_bytes() == b"content"
    assert os.readlink(root / "link") == target
    assert (root / "hard").stat().st_nlink == 2


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_are_bytes(root: Path, format: int) -> None:
    name, target = b"caf\xe9-\xff", b"\xc3\xa9-\xfe"
    unpack_into(root, tar(symlink(os.fsdecode(name), os.fsdecode(target)), format=format))
    assert os.listdir(os.fsencode(root)) == [name]
    assert os.readlink(os.fsencode(root) + b"/" + name) == target


def test_absolute_names_lose_their_slash(root: Path) -> None:
    unpack_into(root, tar(file("//etc/a"), folder("/srv")))
    assert (root / "etc/a").is_file()
    assert (root / "srv").is_dir()


def test_a_missing_parent_is_created_0755(root: Path) -> None:
    before = os.umask(0o077)
    try:
        unpack_into(root, tar(file("a/b/c"), symlink("x/y", "z"), folder("m/n", mode=0o700)))
    finally:
        os.umask(before)
    assert [mode_of(root / name) for name in ("a", "a/b", "x", "m", "m/n")] == [0o755] * 4 + [0o700]


def test_a_parent_may_come_after_its_child(root: Path) -> None:
    unpack_into(root, tar(file("a/b"), folder("a", mode=0o1750, mtime=99)))
    assert (mode_of(root / "a"), (root / "a").stat().st_mtime) == (0o1750, 99)


def test_a_symlink_may_stand_for_a_parent(root: Path) -> None:
    unpack_into(root, tar(folder("usr/bin"), symlink("bin", "usr/bin"), file("bin/tool")))
    assert (root / "usr/bin/tool").is_file()
    assert (root / "bin").is_symlink()


def test_devices_fifos_and_labels_are_left_out_and_counted(root: Path) -> None:
    done = unpack_into(
        root,
        tar(
            node("dev/null", tarfile.CHRTYPE),
            node("dev/zero", tarfile.CHRTYPE),
            node("dev/sda", tarfile.BLKTYPE),
            node("run/fifo", tarfile.FIFOTYPE),
            node("label", b"V"),
            file("a"),
        ),
    )
    assert done.skipped == {"character device": 2, "block device": 1, "fifo": 1, "volume label": 1}
    assert os.listdir(root) == ["a"]


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
    ids=" ".join,
)
def test_sparse_files_keep_content_and_holes(tmp_path: Path, root: Path, options: list[str]) -> None:
    with open(tmp_path / "sparse", "wb") as out:
        for position in range(7):
            out.seek(position * 1_000_000 + 5000)
            out.write(b"island %d" % position)
        out.truncate(8_000_000)
    subprocess.run(
        ["tar", "cSf", "sparse.tar", *options, "sparse", "--transform=s/x$/x/", "sparse"],
        cwd=tmp_path,
        check=True,
    )
    done = unpack_into(root, (tmp_path / "sparse.tar").read_bytes())
    assert (root / "sparse").read_bytes() == (tmp_path / "sparse").read_bytes()
    assert (root / "sparse").stat().st_blocks * 512 < 1_000_000
    assert done.bytes == 8_000_000


# What it was made for


def elf(name: str) -> bytes:
    return bytes.fromhex(arch.find(name).elf.magic).ljust(64, b"\0") + b"code"


def test_programs_are_counted_by_machine(root: Path) -> None:
    done = unpack_into(
        root,
        tar(
            file("./bin/a", elf("riscv64"), mode=0o755),
            file("/usr/sbin/b", elf("riscv64"), mode=0o4511),
            file("sbin/c", elf("armv7"), mode=0o755),
            file("usr/bin/mips", elf("mipsel"), mode=0o755),
            file("bin/script", b"#!/bin/sh", mode=0o755),
            file("bin/data", elf("s390x"), mode=0o644),
            file("lib/library.so", elf("s390x"), mode=0o755),
            file("bin/short", b"\x7fELF", mode=0o755),
        ),
    )
    assert done.machines == {"riscv64": 2, "armhf": 1, "armv7": 1, "mipsel": 1}


# An entry in the place of another


def test_a_later_file_replaces_an_earlier_one(root: Path) -> None:
    unpack_into(root, tar(file("a", b"longer than"), hard_link("b", "a"), file("a", b"new")))
    assert (root / "a").read_bytes() == b"new"
    assert (root / "b").read_bytes() == b"longer than"


def test_a_file_replaces_a_symlink_and_not_what_it_points_to(root: Path, canary: Path) -> None:
    unpack_into(root, tar(symlink("a", str(canary)), file("a", b"dead")))
    assert (root / "a").read_bytes() == b"dead"
    assert not (root / "a").is_symlink()
    assert canary.read_text() == "alive"


def test_a_directory_replaces_a_symlink_and_not_what_it_points_to(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    unpack_into(root, tar(symlink("a", str(outside)), folder("a", mode=0o700), file("a/b")))
    assert not (root / "a").is_symlink()
    assert (mode_of(outside), os.listdir(outside)) == (0o755, [])


def test_a_symlink_replaces_an_empty_directory(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    unpack_into(root, tar(folder("a", mode=0o777), symlink("a", str(outside))))
    assert (root / "a").is_symlink()
    assert mode_of(outside) == 0o755


def test_a_directory_may_be_replaced_by_another_of_its_names(root: Path) -> None:
    unpack_into(root, tar(folder("usr/lib"), symlink("lib", "usr"), folder("usr/empty"), symlink("lib/empty", "lib")))
    assert os.readlink(root / "usr/empty") == "lib"


def test_other_kinds_replace_each_other(root: Path) -> None:
    unpack_into(root, tar(file("a"), folder("a"), symlink("b", "x"), symlink("b", "y"), file("c"), hard_link("b", "c")))
    assert (root / "a").is_dir()
    assert (root / "b").stat().st_nlink == 2


def test_a_directory_named_again_gets_the_later_mode_and_keeps_its_files(root: Path) -> None:
    unpack_into(root, tar(folder("a", mode=0o700), file("a/b"), folder("a", mode=0o1777)))
    assert mode_of(root / "a") == 0o1777
    assert (root / "a/b").exists()


@pytest.mark.parametrize("usurper", [file("a"), symlink("a", "/"), hard_link("a", "f")], ids=["file", "link", "hard"])
def test_nothing_else_replaces_a_directory_with_files(root: Path, usurper: Member) -> None:
    with pytest.raises(CrossrootError, match=r"cannot unpack 'a': Directory not empty"):
        unpack_into(root, tar(file("f"), file("a/b"), usurper))
    assert (root / "a/b").exists()


# What is refused


@pytest.mark.parametrize("name", ["../canary", "a/../../canary", "/../canary", "..", "a/..", "./.."])
@pytest.mark.parametrize("kind", [file, folder, lambda name: symlink(name, "x"), lambda name: hard_link(name, "f")])
def test_names_with_two_dots_are_refused(root: Path, canary: Path, kind: Callable[[str], Member], name: str) -> None:
    with pytest.raises(CrossrootError, match=r"contains '\.\.'"):
        unpack_into(root, tar(file("f"), kind(name)))
    assert canary.read_text() == "alive"


def test_hard_link_targets_with_two_dots_are_refused(root: Path, canary: Path) -> None:
    with pytest.raises(CrossrootError, match=r"contains '\.\.'"):
        unpack_into(root, tar(hard_link("a", "../canary")))
    assert canary.stat().st_nlink == 1


def test_names_that_merely_contain_dots_are_fine(root: Path) -> None:
    unpack_into(root, tar(file("..."), file("..a/b.."), file(".hidden")))
    assert sorted(os.listdir(root)) == ["...", "..a", ".hidden"]


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"<html>" + b"x" * 5000, "a web page"),
        (gzip.compress(b"just text" * 1000), "not a tar"),
        (b"just text" * 1000, "not a tar"),
        (b"!<arch>\ndebian-binary" + b"x" * 1000, "a Debian package"),
        (b"", "is empty"),
        (gzip.compress(b""), "not a tar"),
        (bytes(10240), "no entries"),
        (gzip.compress(bytes(10240)), "no entries"),
    ],
)
def test_what_is_no_tar_is_refused_with_a_hint(root: Path, content: bytes, looks: str) -> None:
    with pytest.raises(CrossrootError, match=looks) as caught:
        unpack_into(root, content)
    assert caught.value.hint
    assert os.listdir(root) == []


def test_a_zip_is_called_a_zip(root: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(CrossrootError, match="a zip archive"):
        unpack_into(root, out.getvalue())


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_compressed_archive_that_is_cut_short_is_refused(root: Path, compression: str) -> None:
    archive = COMPRESS[compression](tar(file("a", random.Random(4).randbytes(100_000))))
    for length in (20, len(archive) // 3, len(archive) - 12, len(archive) - 4, len(archive) - 1):
        with pytest.raises(CrossrootError, match="cut short"):
            unpack_into(root, archive[:length])


def test_a_plain_archive_that_is_cut_short_is_refused(root: Path) -> None:
    archive = tar(file("a", bytes(1000)), file("b", bytes(1000)))
    for length in (513, 1000, 1536, 1537, 2000, 3000, 3072, 3073):  # 3072: the end mark begins
        with pytest.raises(CrossrootError, match="cut short"):
            unpack_into(root, archive[:length])


@pytest.mark.parametrize("compression", COMPRESS)
def test_rubbish_after_a_compressed_stream_is_refused(root: Path, compression: str) -> None:
    with pytest.raises(CrossrootError, match="corrupt"):
        unpack_into(root, COMPRESS[compression](tar(file("a"))) + b"rubbish that is no further stream" * 9)


@pytest.mark.parametrize("compression", COMPRESS)
def test_flipped_bits_are_noticed_or_harmless(root: Path, compression: str) -> None:
    content = random.Random(5).randbytes(3000) + b"text " * 1000
    archive = COMPRESS[compression](tar(file("a", content)))
    chance = random.Random(6)

    def action() -> list[str]:
        wrong = []
        for _ in range(60):
            position = chance.randrange(len(archive))
            flipped = bytearray(archive)
            flipped[position] ^= 1 << chance.randrange(8)
            try:
                unpack.unpack(io.BytesIO(bytes(flipped)), keep_owners=False, progress=no_progress)
            except CrossrootError:
                continue
            if Path("a").read_bytes() != content:
                wrong.append(f"byte {position}")
        return wrong

    assert confined(root, action) == []


def test_mangled_headers_raise_nothing_but_our_error(root: Path) -> None:
    pax = {"mtime": "1.5", "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
    pieces = [
        tar(file("a" * 120), folder("d"), symlink("l", "t" * 120), format=tarfile.GNU_FORMAT),
        tar(file("s", b"1\n0\n9\n".ljust(512, b"\0") + b"nine char", pax_headers=pax), file("b"), hard_link("h", "b")),
        raw_header(b"old", b"S", b"00000001000\0") + bytes(1024),
    ]
    chance = random.Random(7)

    def action() -> list[str]:
        strange = []
        for round_ in range(400):
            mangled = bytearray(chance.choice(pieces))
            for _ in range(chance.randrange(1, 4)):
                mangled[chance.randrange(len(mangled))] = chance.choice((0, 0x2D, 0x31, 0x39, 0x80, 0xFF, 0x78))
            for block in range(0, len(mangled), 512):
                if mangled[block + 257 : block + 262] == b"ustar":
                    mangled[block : block + 512] = with_checksum(bytes(mangled[block : block + 512]))
            folder = f"round{round_}"
            os.mkdir(folder)
            os.chdir(folder)
            try:
                unpack.unpack(io.BytesIO(bytes(mangled)), keep_owners=False, progress=no_progress)
            except CrossrootError:
                pass
            except Exception as error:
                strange.append(f"{round_}: {error!r}")
            os.chdir("..")
        return strange

    assert confined(root, action) == []


def test_a_bad_header_in_the_middle_is_not_taken_for_the_end(root: Path) -> None:
    archive = bytearray(tar(file("a", bytes(512)), file("b")))
    archive[1024] ^= 1
    with pytest.raises(CrossrootError, match="bad header"):
        unpack_into(root, bytes(archive))


def test_a_bad_pax_record_in_the_middle_is_not_taken_for_the_end(root: Path) -> None:
    archive = tar(file("a"))[:1024] + pax_header(b"0 path=b\n") + tar(file("c"))
    with pytest.raises(CrossrootError, match="corrupt"):
        unpack_into(root, archive)


@pytest.mark.parametrize(
    "size",
    [b"-0000000001\0", b"\xff" * 12, b"\xff" * 11 + b"\x00"],
    ids=["minus sign", "base 256", "base 256, -256"],
)
@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g"])
def test_negative_sizes_are_refused(root: Path, size: bytes, kind: bytes) -> None:
    with pytest.raises(CrossrootError, match=r"negative|corrupt|not a tar"):
        unpack_into(root, tar(file("first"))[:1024] + raw_header(b"a", kind, size) + bytes(2048))


def test_a_header_of_negative_size_gives_no_room_for_more(root: Path) -> None:
    # Newer Pythons find it themselves.
    with pytest.raises(CrossrootError, match=r"negative size|bad header"):
        unpack_into(root, tar(file("a"))[:1024] + raw_header(b"g", b"g", b"\xff" * 8 + bytes(4)) + tar(file("b")))


@pytest.mark.parametrize("size", [b"-1", b"-512", b"9" * 30, b"9" * 5000, str((64 << 30) + 1).encode()])
def test_impossible_pax_sizes_are_refused(root: Path, size: bytes) -> None:
    archive = pax_header(pax_record(b"size", size)) + raw_header(b"a", b"0", b"00000000000\0") + bytes(2048)
    with pytest.raises(CrossrootError, match=r"impossible size|more than 64 GiB|is corrupt"):
        unpack_into(root, archive)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_a_header_too_large_for_memory_is_refused_before_it_is_read(root: Path, kind: bytes) -> None:
    with pytest.raises(CrossrootError, match="header of more than 256 KiB"):
        unpack_into(root, raw_header(b"a", kind, b"77777777777\0") + bytes(1024))


def test_an_endless_chain_of_headers_is_refused(root: Path) -> None:
    chain = raw_header(b"a", b"L", b"00000000000\0") * 5000
    for before in (b"", tar(file("first"))[:1024]):
        with pytest.raises(CrossrootError, match="corrupt"):
            unpack_into(root, before + chain)


def test_an_endless_sparse_map_is_refused(root: Path) -> None:
    records = pax_record(b"GNU.sparse.major", b"1") + pax_record(b"GNU.sparse.minor", b"0")
    archive = pax_header(records) + raw_header(b"a", b"0", b"77777777777\0") + b"9999999\n" + b"0\n" * 500_000
    with pytest.raises(CrossrootError, match="header of more than"):
        unpack_into(root, archive)


@pytest.mark.parametrize("extents", [b"100,9", b"-5,3", b"0,-3", b"4,-2", b"3,8"])
def test_sparse_content_outside_of_the_file_is_refused(root: Path, extents: bytes) -> None:
    records = (
        pax_record(b"GNU.sparse.size", b"10")
        + pax_record(b"GNU.sparse.numblocks", b"1")
        + pax_record(b"GNU.sparse.map", extents)
    )
    archive = pax_header(records) + raw_header(b"a", b"0", b"00000000011\0") + bytes(2048)
    with pytest.raises(CrossrootError, match="content outside of its size"):
        unpack_into(root, archive)


def test_more_content_than_its_size_is_refused(root: Path) -> None:
    extents = b",".join([b"0,1000"] * 9)
    records = pax_record(b"GNU.sparse.size", b"1000") + pax_record(b"GNU.sparse.map", extents)
    archive = pax_header(records) + raw_header(b"a", b"0", b"00000001000\0") + bytes(20_000)
    with pytest.raises(CrossrootError, match="more content than its size"):
        unpack_into(root, archive)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (b"0", b"path", b"a\0b"),
        (b"2", b"linkpath", b"a\0b"),
        (b"0", b"mtime", b"nan"),
        (b"0", b"mtime", b"1e9"),
        (b"0", b"mtime", b"9" * 40),
        (b"0", b"uid", b"root"),
        (b"0", b"gid", b""),
        (b"0", b"GNU.sparse.realsize", b"many"),
        (b"0", b"SCHILY.xattr.user.a\0b", b"value"),
    ],
)
def test_impossible_pax_values_are_refused(root: Path, kind: bytes, key: bytes, value: bytes) -> None:
    archive = pax_header(pax_record(key, value)) + raw_header(b"a", kind, b"00000000000\0") + bytes(1024)
    with pytest.raises(CrossrootError, match="corrupt"):
        unpack_into(root, archive)


@pytest.mark.parametrize("uid", ["-1", "4294967295", "99999999999"])
def test_impossible_owners_are_refused(root: Path, uid: str) -> None:
    with pytest.raises(CrossrootError, match="impossible"):
        unpack_into(root, tar(file("a", pax_headers={"uid": uid})))


def test_unknown_types_are_refused(root: Path) -> None:
    with pytest.raises(CrossrootError, match="unknown type"):
        unpack_into(root, tar(node("a", b"Z")))


def test_a_root_that_is_no_directory_is_refused(root: Path) -> None:
    with pytest.raises(CrossrootError, match="root is not a directory"):
        unpack_into(root, tar(symlink("./", "/etc")))


def test_a_hard_link_to_nothing_is_refused(root: Path) -> None:
    with pytest.raises(CrossrootError, match="hard link to 'b', which does not exist"):
        unpack_into(root, tar(hard_link("a", "b")))


def test_a_file_as_parent_is_refused(root: Path) -> None:
    with pytest.raises(CrossrootError, match="cannot unpack 'a/b': Not a directory"):
        unpack_into(root, tar(file("a"), file("a/b")))


def test_a_name_too_long_for_the_kernel_is_refused(root: Path) -> None:
    with pytest.raises(CrossrootError, match="File name too long"):
        unpack_into(root, tar(file("n" * 300)))


def test_names_in_messages_do_no_harm_to_a_terminal(root: Path) -> None:
    with pytest.raises(CrossrootError) as caught:
        unpack_into(root, tar(file("../\x1b[2J\n\udcff")))
    assert caught.value.message.isprintable()


# Bounds


def test_too_many_entries_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_ENTRIES", 3)
    unpack_into(root, tar(*(file(f"{number}") for number in range(3))))
    with pytest.raises(CrossrootError, match="more than 3 entries"):
        unpack_into(root, tar(*(node(f"{number}", tarfile.FIFOTYPE) for number in range(4))))


@pytest.mark.parametrize("compression", COMPRESS)
def test_a_size_bomb_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch, compression: str) -> None:
    monkeypatch.setattr(unpack, "MAX_BYTES", 1 << 20)
    bomb = COMPRESS[compression](tar(*(file(f"{number}", bytes(300_000)) for number in range(10))))
    assert len(bomb) < 20_000
    with pytest.raises(CrossrootError, match="holds more than"):
        unpack_into(root, bomb)
    assert sum(path.stat().st_size for path in root.iterdir()) <= 1 << 20


def test_a_bomb_behind_the_end_mark_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_BYTES", 1 << 20)
    with pytest.raises(CrossrootError, match="holds more than"):
        unpack_into(root, gzip.compress(tar(file("a")) + bytes(4 << 20)))


def test_holes_count_as_content(root: Path) -> None:
    records = pax_record(b"GNU.sparse.size", str(1 << 40).encode()) + pax_record(b"GNU.sparse.map", b"0,1")
    archive = pax_header(records) + raw_header(b"a", b"0", b"00000000001\0") + bytes(2048)
    with pytest.raises(CrossrootError, match="more than 64 GiB"):
        unpack_into(root, archive)


@pytest.mark.parametrize(
    "compress",
    [
        lambda data: gzip.compress(data, 1),
        lambda data: bz2.compress(data, 1),
        lambda data: lzma.compress(data, preset=0),
        COMPRESS["zstd"],
    ],
    ids=list(COMPRESS),
)
def test_memory_stays_bounded(tmp_path: Path, root: Path, compress: Callable[[bytes], bytes]) -> None:
    """A process with 48 MiB more address space than it has at the start unpacks a file of 96 MiB."""
    script = """
import os, resource, sys
from crossroot import unpack, ui
unpack.prepare()
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
archive = open(sys.argv[1], "rb")
os.chdir(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (used + (48 << 20),) * 2)
print(unpack.unpack(archive, keep_owners=False, progress=ui.no_progress).bytes)
"""
    size = 96 << 20
    archive = tmp_path / "archive"
    archive.write_bytes(compress(raw_header(b"a", b"0", b"%011o\0" % size) + bytes(size + 1024)))
    run = subprocess.run([sys.executable, "-c", script, str(archive), str(root)], capture_output=True, text=True)
    (root / "a").unlink()
    assert (run.stdout, run.stderr) == (f"{size}\n", "")


def test_xz_that_wants_too_much_memory_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MAX_XZ_MEMORY", 1 << 20)
    with pytest.raises(CrossrootError, match="Memory usage limit"):
        unpack_into(root, lzma.compress(tar(file("a")), preset=6))


def test_an_archive_that_cannot_be_read_is_an_error_of_ours(root: Path) -> None:
    class Dying(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 0:
                raise OSError(5, "Input/output error")
            return super().read(size)

    archive = Dying(tar(file("a", bytes(200_000))))
    with pytest.raises(CrossrootError, match="cannot read the archive: Input/output error"):
        confined(root, lambda: unpack.unpack(archive, keep_owners=False, progress=no_progress))


def test_a_file_too_large_for_the_limits_of_the_process_is_an_error_of_ours(root: Path) -> None:
    import resource
    import signal

    def action() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        unpack.unpack(io.BytesIO(tar(file("a", bytes(50_000)))), keep_owners=False, progress=no_progress)

    with pytest.raises(CrossrootError, match="cannot unpack 'a': File too large"):
        confined(root, action)


def test_entries_are_not_kept_in_memory(root: Path) -> None:
    archive = tar(*(node(f"{number}", tarfile.FIFOTYPE) for number in range(2000)))

    def count_entries() -> int:
        return sum(isinstance(thing, tarfile.TarInfo) for thing in gc.get_objects())

    def action() -> int:
        before = count_entries()
        counts = []
        unpack.unpack(
            io.BytesIO(archive), keep_owners=False, progress=lambda _done, _total: counts.append(count_entries())
        )
        return max(counts) - before

    assert confined(root, action) < 10


def test_a_thousand_entries_take_little_time(root: Path) -> None:
    archive = gzip.compress(tar(*(symlink(f"bin/{number}", "/bin/busybox") for number in range(1000))))
    start = time.monotonic()
    unpack_into(root, archive)
    assert time.monotonic() - start < 5
