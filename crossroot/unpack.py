"""Unpacks the archive of a rootfs, in a process that is already confined to the destination.

The caller has chrooted into an empty folder, so no symbolic link of the archive leads out of it; what can be
refused by looking at an entry is refused here all the same. tarfile reads the headers, nothing else: its own
extraction refuses or changes what a rootfs needs (absolute links, setuid, 1777, nanoseconds).

The way of an archive: _read -> _decompressed -> _bounded -> _Stream -> _members -> _Tree.
"""

import bz2
import contextlib
import errno
import itertools
import lzma
import os
import re
import stat
import tarfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from crossroot import arch
from crossroot.errors import CrossrootError
from crossroot.record import Record
from crossroot.ui import Progress, no_progress

MAX_ENTRIES = 5_000_000
MAX_BYTES = 64 << 30  # of the archive once decompressed, and of the files in it with their holes
MAX_HEADER = 256 << 10  # bytes of headers one entry may have; tarfile holds them in memory
MAX_XZ_MEMORY = 512 << 20  # xz -9 needs 65 MiB

_READ_SIZE = 64 << 10
_PIECE_SIZE = 256 << 10
_PROGRAM_FOLDERS = (b"bin/", b"sbin/", b"usr/bin/", b"usr/sbin/")
_ELF_HEADER_SIZE = 64
_SKIPPED = {
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "fifo",
    b"V": "volume label",
}
_BAD_HEADER = (tarfile.TarError, ValueError, LookupError, ArithmeticError, RecursionError)  # what tarfile raises
_NUMBER = re.compile("[0-9]{1,20}")
_NOT_TAR = (
    (b"<", "a web page"),
    (b"PK\x03\x04", "a zip archive"),
    (b"!<arch>\n", "a Debian package or static library"),
    (b"hsqs", "a squashfs image"),
    (b"7z\xbc\xaf", "a 7z archive"),
)
_FORMATS_HINT = "give a .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst of a root file system"
_AGAIN_HINT = "download it again and compare its hash with the one published"

_Made = TypeVar("_Made")


class Unpacked(Record):
    """What `unpack` did.

    files: regular files written. bytes: their sizes, holes included. skipped: kind of entry to how many were left
    out. xattrs_refused: extended attributes the file system did not take. machines: name of an arch to how many
    programs in bin, sbin, usr/bin and usr/sbin are for it; arches that share a magic are counted both.
    """

    files: int
    bytes: int
    skipped: dict[str, int]
    xattrs_refused: int
    machines: dict[str, int]


def prepare() -> None:
    """Import what `unpack` needs beyond this module's own imports: after a chroot, nothing of the host is there."""
    import zstandard  # noqa: F401


def unpack(archive: BinaryIO, *, keep_owners: bool, progress: Progress) -> Unpacked:
    """Unpack a tar, plain or compressed with gzip, bzip2, xz or zstd, into the current directory.

    archive: read from its position to its end. keep_owners: give files their numeric owners; without it they stay
    the caller's, as they must in a user namespace with a single id. progress: told the bytes of `archive` read.
    Modes, times (to the nanosecond), links and the xattrs user.* and security.capability are as archived, whatever
    the umask. Directories get theirs at the end, since writing into them changes times and needs permission.

    Raises CrossrootError for an archive that is corrupt, cut short, no tar, too large or made to lead out of the
    destination, and for a file system that is full or refuses something. The destination then holds a part.
    """
    tree = _Tree(keep_owners)
    umask = os.umask(0o077)
    try:
        start, stream = _open(archive, progress)
        for member in _members(stream, start):
            tree.add(member, stream)
        if tree.entries == 0:
            raise CrossrootError("the archive has no entries", hint=_FORMATS_HINT)
        stream.drain()
        tree.finish_directories()
    except EOFError as error:
        raise _cut_short() from error
    finally:
        os.umask(umask)
    return Unpacked(tree.files, tree.bytes, dict(tree.skipped), tree.xattrs_refused, dict(tree.machines))


def members(archive: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The headers in a tar, plain or compressed; raises CrossrootError as `unpack` does."""
    try:
        start, stream = _open(archive, no_progress)
        yield from _members(stream, start)
    except EOFError as error:
        raise _cut_short() from error


def decompressed(archive: BinaryIO) -> Iterator[bytes]:
    """The tar inside an archive, plain or compressed; raises CrossrootError as `unpack` does."""
    compressed = _read(archive, no_progress)
    return _bounded(_decompressed(next(compressed, b""), compressed))


# The archive as bytes


def _open(archive: BinaryIO, progress: Progress) -> tuple[bytes, "_Stream"]:
    """The first bytes of an archive as stored, and the tar inside."""
    compressed = _read(archive, progress)
    start = next(compressed, b"")
    if not start:
        raise CrossrootError("the archive is empty", hint=_AGAIN_HINT)
    return start, _Stream(_bounded(_decompressed(start, compressed)))


def _read(archive: BinaryIO, progress: Progress) -> Iterator[bytes]:
    """The bytes of the archive as they are stored."""
    try:
        total = _size(archive)
        done = 0
        while data := archive.read(_READ_SIZE):
            done += len(data)
            progress(done, total)
            yield data
    except OSError as error:
        raise CrossrootError(f"cannot read the archive: {error.strerror or error}") from error


def _size(archive: BinaryIO) -> int | None:
    """Bytes from the position of the archive to its end; None for a pipe."""
    if not archive.seekable():
        return None
    position = archive.tell()
    size = archive.seek(0, os.SEEK_END) - position
    archive.seek(position)
    return size


class _Decompressor(Protocol):
    """What the decompressors of bz2 and lzma have in common, and those of zlib and zstandard are made to have."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        piece = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length
        return piece


class _Zstd:
    # zstandard's decompressobj cannot bound its output, and its stream_reader does not notice that a stream is cut
    # short. So it is fed little at a time: a block of 128 KiB takes at least 4 bytes, so this makes 8 MiB at most.
    _FEED = 256

    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor().decompressobj()
        self._error = zstandard.ZstdError
        self._rest = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._rest

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data + bytes(self._rest)

    def decompress(self, data: bytes, max_length: int) -> bytes:  # noqa: ARG002  (see _FEED)
        if data:
            self._rest = memoryview(data)
        feed, self._rest = self._rest[: self._FEED], self._rest[self._FEED :]
        try:
            return self._inner.decompress(feed)
        except self._error as error:
            raise ValueError(str(error)) from error


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_MEMORY)


_ZSTD_SKIPPABLE = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))  # pzstd begins so
_COMPRESSIONS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[], _Decompressor]], ...] = (
    (b"\x1f\x8b", _Gzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\0", _xz),
    ((b"\x28\xb5\x2f\xfd", *_ZSTD_SKIPPABLE), _Zstd),
)


def _decompressed(start: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    """The tar inside the archive that begins with `start` and goes on with `rest`."""
    compressed = itertools.chain([start], rest)
    if start[257:262] != b"ustar":
        for magic, new in _COMPRESSIONS:
            if start.startswith(magic):
                return _decompress(compressed, new)
    return compressed


def _decompress(compressed: Iterable[bytes], new: Callable[[], _Decompressor]) -> Iterator[bytes]:
    """The content of one or more compressed streams, one after the other (pigz, pbzip2, pixz, pzstd make several).

    Comes in pieces of bounded size, none of them empty. Raises CrossrootError if the last stream has no end.
    """
    decompressor: _Decompressor | None = None
    for data in compressed:
        while True:
            if decompressor is None:
                data = data.lstrip(b"\0")  # padding after a stream
                if not data:
                    break
                decompressor = new()
            try:
                piece = decompressor.decompress(data, _PIECE_SIZE)
            except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:  # OSError is bz2's
                raise _corrupt(str(error)) from error
            if piece:
                yield piece
            if decompressor.eof:
                data, decompressor = decompressor.unused_data, None
            elif decompressor.needs_input:
                break
            else:
                data = b""
    if decompressor is not None:
        raise _cut_short()


def _bounded(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same pieces; an error as soon as there are more than MAX_BYTES."""
    total = 0
    for piece in pieces:
        total += len(piece)
        if total > MAX_BYTES:
            raise _too_large()
        yield piece


class _Stream:
    """The tar, read forwards only: headers by tarfile with `read`, content with `pieces`.

    header_room: how many bytes of headers may still be read. latest: what `read` gave last.
    Both methods raise EOFError if the tar ends before.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._position = 0
        self.header_room = MAX_HEADER
        self.latest = b""

    def tell(self) -> int:
        return self._position

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes of headers."""
        if not 0 <= size <= self.header_room:
            raise _corrupt(f"an entry has a header of more than {MAX_HEADER >> 10} KiB, or of a negative size")
        self.header_room -= size
        self.latest = b"".join(self.pieces(size))
        return self.latest

    def pieces(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes, as they come."""
        while size > 0:
            if not self._rest:
                self._rest = memoryview(next(self._pieces, b""))
                if not self._rest:
                    raise EOFError
            piece = self._rest[:size]
            self._rest = self._rest[size:]
            self._position += len(piece)
            size -= len(piece)
            yield piece

    def skip_to(self, position: int) -> None:
        """Leave out what is before `position`."""
        for _ in self.pieces(position - self._position):
            pass

    def drain(self) -> None:
        """Read to the end, since the checksum of a compressed stream stands there."""
        for _ in self._pieces:
            pass


# The archive as entries


def _members(stream: _Stream, start: bytes) -> Iterator[tarfile.TarInfo]:
    """The entries of the tar. The consumer reads the content of a regular file from the stream.

    start: first bytes of the archive as stored, to tell what it is if it is no tar. Raises CrossrootError, or
    EOFError if the tar ends without its end mark.
    """
    try:
        tar = tarfile.TarFile(fileobj=cast(Any, stream), encoding="utf-8", errors="surrogateescape")
    except (tarfile.TarError, EOFError) as error:
        raise _no_tar(start) from error
    except _BAD_HEADER as error:
        raise _corrupt(str(error)) from error
    if tar.firstmember is None:  # type: ignore[attr-defined]
        _check_end(stream)
    count = 0
    while (member := _next_member(tar, stream)) is not None:
        count += 1
        if count > MAX_ENTRIES:
            raise CrossrootError(f"the archive has more than {MAX_ENTRIES} entries")
        yield member
        if stream.tell() > tar.offset:
            raise _corrupt(f"{_shown(member.name)} has more content than its size allows")
        stream.skip_to(tar.offset)


def _next_member(tar: tarfile.TarFile, stream: _Stream) -> tarfile.TarInfo | None:
    """The next entry; None at the end mark, a block of zeros."""
    stream.header_room = MAX_HEADER
    try:
        member = tar.next()
    except _BAD_HEADER as error:
        raise _corrupt(str(error)) from error
    if member is None:
        _check_end(stream)
    else:
        _check_numbers(member)
    tar.members.clear()  # type: ignore[attr-defined]  # or it would keep every entry in memory
    return member


def _check_end(stream: _Stream) -> None:
    """tarfile takes a bad header for the end, which is a block of zeros."""
    if any(stream.latest):
        raise _corrupt("an entry has a bad header")


def _check_numbers(member: tarfile.TarInfo) -> None:
    for key in ("size", "uid", "gid"):  # where a pax header has no number, tarfile takes 0
        if not _NUMBER.fullmatch(member.pax_headers.get(key, "0")):
            raise _corrupt(f"{_shown(member.name)} has an impossible {key}")
    # 0xffffffff is (uid_t)-1, "leave it" to chown(2)
    if not (0 <= member.uid < 0xFFFFFFFF and 0 <= member.gid < 0xFFFFFFFF):
        raise _corrupt(f"{_shown(member.name)} belongs to the impossible owner {member.uid}:{member.gid}")


class _Attributes(Record):
    """What an inode gets once its content is there. xattrs: name to value."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: dict[bytes, bytes]


def _attributes(member: tarfile.TarInfo) -> _Attributes:
    return _Attributes(member.mode & 0o7777, member.uid, member.gid, _mtime_ns(member), _xattrs(member))


def _mtime_ns(member: tarfile.TarInfo) -> int:
    """Nanoseconds since the epoch; from the text of a pax header, of which tarfile makes an inexact float."""
    text = member.pax_headers.get("mtime", str(member.mtime))
    whole, _, fraction = text.removeprefix("-").partition(".")
    try:
        nanoseconds = int(whole or "0") * 10**9 + int(fraction[:9].ljust(9, "0"))
    except ValueError as error:
        raise _corrupt(f"{_shown(member.name)} has the impossible time {text[:40]}") from error
    if nanoseconds >= 1 << 92:  # seconds beyond 63 bits: no time_t
        raise _corrupt(f"{_shown(member.name)} has the impossible time {text[:40]}")
    return -nanoseconds if text.startswith("-") else nanoseconds


def _xattrs(member: tarfile.TarInfo) -> dict[bytes, bytes]:
    """The extended attributes that mean the same on every machine: user.* and security.capability."""
    found = {}
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and (name == "security.capability" or name.startswith("user.")):
            found[_encoded(name)] = value.encode("utf-8", "surrogateescape")
    return found


def path_of(name: str) -> bytes:
    """A name in the archive as a path relative to the destination, "." for the destination itself.

    Names are bytes to the kernel; tarfile's surrogates stand for those that are no UTF-8.
    """
    parts = [part for part in _encoded(name).split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise CrossrootError(
            f"the archive is unsafe: {_shown(name)} contains '..'", hint="do not use archives from this source"
        )
    return b"/".join(parts) or b"."


def _encoded(text: str) -> bytes:
    if "\0" in text:
        raise _corrupt(f"{_shown(text)} contains a zero byte")
    return text.encode("utf-8", "surrogateescape")


# The tree in the destination


class _Tree:
    """The current directory as it fills, and the count of what went into it.

    directories: path to what the directory gets at the end.
    """

    def __init__(self, keep_owners: bool) -> None:
        self.keep_owners = keep_owners
        self.entries = 0
        self.files = 0
        self.bytes = 0
        self.skipped: Counter[str] = Counter()
        self.xattrs_refused = 0
        self.machines: Counter[str] = Counter()
        self.directories: dict[bytes, _Attributes] = {}

    def add(self, member: tarfile.TarInfo, stream: _Stream) -> None:
        """Make what one entry says; the content of a regular file is next in `stream`."""
        self.entries += 1
        path = path_of(member.name)
        if path == b"." and not member.isdir():
            raise _corrupt("its root is not a directory")
        try:
            self._make(path, member, stream)
        except OSError as error:
            raise _failure(error, path) from error

    def finish_directories(self) -> None:
        """Give directories their attributes, children first: a parent may then refuse to be entered."""
        for path in sorted(self.directories, key=lambda path: (path != b".", path), reverse=True):
            try:
                if _is_directory(path):  # unless a later entry has replaced it
                    self._finish_directory(path)
            except OSError as error:
                raise _failure(error, path) from error

    def _finish_directory(self, path: bytes) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            self._set_attributes(descriptor, self.directories[path])
        finally:
            os.close(descriptor)

    def _make(self, path: bytes, member: tarfile.TarInfo, stream: _Stream) -> None:
        if member.isreg():
            self._make_file(path, member, stream)
        elif member.isdir():
            self._make_directory(path, _attributes(member))
        elif member.issym():
            self._make_symlink(path, member)
        elif member.islnk():
            self._make_hard_link(path, path_of(member.linkname))
        elif member.type in _SKIPPED:
            self.skipped[_SKIPPED[member.type]] += 1
        else:
            raise _corrupt(f"{_shown(path)} is of the unknown type {member.type!r}")

    def _make_file(self, path: bytes, member: tarfile.TarInfo, stream: _Stream) -> None:
        if self.bytes + member.size > MAX_BYTES:
            raise _too_large()
        self.bytes += member.size
        self.files += 1
        attributes = _attributes(member)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = self._replace(path, lambda: os.open(path, flags, 0o600))
        try:
            _write_content(descriptor, member, stream)
            if attributes.mode & 0o111 and path.startswith(_PROGRAM_FOLDERS):
                self._count_machine(os.pread(descriptor, _ELF_HEADER_SIZE, 0))
            self._set_attributes(descriptor, attributes)
        finally:
            os.close(descriptor)

    def _make_directory(self, path: bytes, attributes: _Attributes) -> None:
        if not _is_directory(path):
            self._replace(path, lambda: os.mkdir(path, 0o700))
        self.directories[path] = attributes

    def _make_symlink(self, path: bytes, member: tarfile.TarInfo) -> None:
        target = _encoded(member.linkname)
        self._replace(path, lambda: os.symlink(target, path))
        self._set_attributes(path, _attributes(member))

    def _make_hard_link(self, path: bytes, target: bytes) -> None:
        try:
            inode = os.lstat(target)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _corrupt(f"{_shown(path)} is a hard link to {_shown(target)}, which does not exist") from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(inode, os.lstat(path)):  # `tar c FILE FILE` makes the second a link to itself
                return
        self._replace(path, lambda: os.link(target, path, follow_symlinks=False))

    def _replace(self, path: bytes, make: Callable[[], _Made]) -> _Made:
        """Call `make`, which creates `path`; once more after creating its parents or removing what is there."""
        try:
            return make()
        except FileNotFoundError:
            self._make_parents(path)
        except FileExistsError:
            self._remove(path)
        return make()

    def _make_parents(self, path: bytes) -> None:
        parts = path.split(b"/")
        for end in range(1, len(parts)):
            parent = b"/".join(parts[:end])
            with contextlib.suppress(FileExistsError):
                os.mkdir(parent, 0o700)
                self.directories[parent] = _Attributes(0o755, 0, 0, time.time_ns(), {})

    def _remove(self, path: bytes) -> None:
        if _is_directory(path):
            os.rmdir(path)
        else:
            os.unlink(path)

    def _count_machine(self, header: bytes) -> None:
        for candidate in arch.of_elf(header):
            self.machines[candidate.name] += 1

    def _set_attributes(self, target: int | bytes, attributes: _Attributes) -> None:
        """target: the descriptor of a file or directory, or the path of a symbolic link.

        Each step may undo the one before: chown(2) clears setuid and capabilities; user.* needs write permission.
        """
        link = isinstance(target, bytes)
        if self.keep_owners:
            _change_owner(target, attributes.uid, attributes.gid)
        for name, value in attributes.xattrs.items():
            try:
                os.setxattr(target, name, value, follow_symlinks=not link)
            except OSError:
                self.xattrs_refused += 1
        if not link:
            os.chmod(target, attributes.mode)
        os.utime(target, ns=(attributes.mtime_ns, attributes.mtime_ns), follow_symlinks=not link)


def _is_directory(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _write_content(descriptor: int, member: tarfile.TarInfo, stream: _Stream) -> None:
    """Write the content of a regular file; of a sparse one the stored extents, leaving holes between them."""
    extents = cast("list[tuple[int, int]] | None", member.sparse)
    for offset, size in extents if extents is not None else [(0, member.size)]:
        if not (0 <= offset <= offset + size <= member.size):
            raise _corrupt(f"{_shown(member.name)} has content outside of its size")
        os.lseek(descriptor, offset, os.SEEK_SET)
        for piece in stream.pieces(size):
            _write(descriptor, piece)
    if extents is not None:
        os.ftruncate(descriptor, member.size)


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _change_owner(target: int | bytes, uid: int, gid: int) -> None:
    """chown(2), numeric. Raises CrossrootError if the user namespace has no such id (user_namespaces(7))."""

    def refused(uid: int, gid: int) -> bool:
        try:
            os.chown(target, uid, gid, follow_symlinks=isinstance(target, int))
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOVERFLOW):
                return True
            raise
        return False

    if refused(uid, gid):
        which = f"uid {uid}" if refused(uid, -1) else f"gid {gid}"
        raise CrossrootError(
            f"the archive has files of {which}, which is not mapped in this user namespace: "
            "the range of subordinate ids is too small",
            hint="give the user a larger range in /etc/subuid and /etc/subgid, or unpack as root",
        )


# Errors


def _shown(name: str | bytes) -> str:
    """A name from the archive, quoted so that it can do no harm to a terminal."""
    data = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    return repr(data.decode("utf-8", "backslashreplace"))


def _corrupt(why: str) -> CrossrootError:
    return CrossrootError(f"the archive is corrupt: {why}", hint=_AGAIN_HINT)


def _cut_short() -> CrossrootError:
    return CrossrootError("the archive is cut short: it ends before its end mark", hint=_AGAIN_HINT)


def _too_large() -> CrossrootError:
    return CrossrootError(f"the archive holds more than {MAX_BYTES >> 30} GiB")


def _no_tar(start: bytes) -> CrossrootError:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    looks = next((f", it looks like {what}" for magic, what in _NOT_TAR if text.startswith(magic)), "")
    return CrossrootError(f"the archive is not a tar{looks}", hint=_FORMATS_HINT)


def _failure(error: OSError, path: bytes) -> CrossrootError:
    """An error of the file system, met while making `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CrossrootError(
            f"no space left while unpacking {_shown(path)}: {error.strerror}", hint="free some, or use another store"
        )
    return CrossrootError(f"cannot unpack {_shown(path)}: {error.strerror}", hint=_AGAIN_HINT)
