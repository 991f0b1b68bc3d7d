"""Packs a tree into a tar whose bytes depend on the tree alone: the counterpart of `crossroot.unpack`.

The format is pax (POSIX.1-2001), written here byte for byte, as tarfile's headers have changed between versions of
Python. A header says what fits into the old fields there, and the rest in pax records before it.
"""

import lzma
import os
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from crossroot import tree
from crossroot.errors import UsageError
from crossroot.tree import Entry
from crossroot.ui import Progress

_BLOCK = 512
NEVER = 1 << 62  # seconds
_SKIPPED = {stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device"}
_TYPES = {stat.S_IFREG: b"0", stat.S_IFLNK: b"2", stat.S_IFDIR: b"5", stat.S_IFIFO: b"6"}
_HARD_LINK = b"1"
_PAX = b"x"

Write = Callable[[bytes], object]


class Compressor(Protocol):
    """What zlib, lzma and zstandard have in common."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


class _Store:
    """The compressor that does nothing."""

    def compress(self, data: bytes, /) -> bytes:
        return data

    def flush(self) -> bytes:
        return b""


def gzip() -> Compressor:
    """A compressor to gzip, with neither a time nor a name in its header."""
    return zlib.compressobj(wbits=16 + zlib.MAX_WBITS)


def _zstd() -> Compressor:
    import zstandard

    return zstandard.ZstdCompressor().compressobj()


_COMPRESSORS: dict[str, Callable[[], Compressor]] = {
    ".tar": _Store,
    ".tar.gz": gzip,
    ".tgz": gzip,
    ".tar.xz": lzma.LZMACompressor,
    ".tar.zst": _zstd,
}


def compressor_for(name: str) -> Compressor:
    """The compressor that the name of an archive asks for. Raises UsageError for a name that tells none."""
    for suffix, new in _COMPRESSORS.items():
        if name.endswith(suffix):
            return new()
    raise UsageError(f"{name} says of no compression", hint=f"end the name in {', '.join(_COMPRESSORS)}")


@dataclass(frozen=True)
class Times:
    """Which time files get, all in whole seconds since the epoch.

    since: when the root was created; what was written from then on gets `instead`. latest: no time is later than that.
    """

    since: int
    instead: int
    latest: int = NEVER

    def of(self, mtime_ns: int) -> int:
        """The time for a file that has this one."""
        seconds = mtime_ns // 10**9
        return max(0, min(seconds if seconds < self.since else self.instead, self.latest))


def newest_before(top: int, since: int) -> int:
    """The newest time in the tree `top` that is before `since`, in whole seconds; 0 if there is none."""
    seconds = (entry.status.st_mtime_ns // 10**9 for entry in tree.walk(top))
    return max((time for time in seconds if 0 <= time < since), default=0)


@dataclass(frozen=True)
class Member:
    """An entry of a tar. type: a typeflag of ustar. time: seconds. records: further pax records."""

    path: bytes
    type: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    time: int = 0
    target: bytes = b""
    records: dict[bytes, bytes] = field(default_factory=dict)


def folder(path: bytes, time: int) -> Member:
    """A folder of root's."""
    return Member(path + b"/", _TYPES[stat.S_IFDIR], 0o755, time=time)


def file(path: bytes, size: int, time: int) -> Member:
    """A regular file of root's."""
    return Member(path, _TYPES[stat.S_IFREG], 0o644, size=size, time=time)


def pack(top: int, write: Write, times: Times, progress: Progress) -> dict[str, int]:
    """Write the tree below the descriptor `top` as a tar; gives the kinds of files left out and how many of each.

    Sockets and devices are left out: a tar holds no sockets, and /dev is the affair of whoever runs the tree.
    progress: told the bytes of content. Raises CrossrootError as `tree.walk` does, or what `write` raises.
    """
    skipped: Counter[str] = Counter()
    done = 0
    for entry in tree.walk(top):
        kind = stat.S_IFMT(entry.status.st_mode)
        if kind in _SKIPPED:
            skipped[_SKIPPED[kind]] += 1
        elif entry.first or kind not in (stat.S_IFREG, stat.S_IFDIR):
            add(_member(entry, times, {}), (), write)
        else:
            done += _pack_opened(entry, times, write)
            progress(done, None)
    finish(write)
    return dict(skipped)


def _pack_opened(entry: Entry, times: Times, write: Write) -> int:
    """Write a regular file or folder; gives the bytes of its content."""
    descriptor = entry.open()
    try:
        records = {b"SCHILY.xattr." + name: value for name, value in tree.xattrs(descriptor, entry.path).items()}
        member = _member(entry, times, records)
        add(member, tree.content(descriptor, entry) if member.size else (), write)
    finally:
        os.close(descriptor)
    return member.size


def _member(entry: Entry, times: Times, records: dict[bytes, bytes]) -> Member:
    status = entry.status
    kind = stat.S_IFMT(status.st_mode)
    return Member(
        path=entry.path + b"/" if kind == stat.S_IFDIR else entry.path,
        type=_HARD_LINK if entry.first else _TYPES[kind],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if kind == stat.S_IFREG and not entry.first else 0,
        time=times.of(status.st_mtime_ns),
        target=entry.first or (entry.target() if kind == stat.S_IFLNK else b""),
        records=records,
    )


# The format


def add(member: Member, content: Iterable[bytes], write: Write) -> None:
    """Write one entry. content: `member.size` bytes in pieces."""
    write(_header(member))
    for piece in content:
        write(piece)
    write(_padding(member.size))


def finish(write: Write) -> None:
    """Write the end mark."""
    write(bytes(2 * _BLOCK))


def _header(member: Member) -> bytes:
    records = {**member.records, **_records_of_what_does_not_fit(member)}
    if not records:
        return _ustar(member)
    data = b"".join(_record(key, value) for key, value in sorted(records.items()))
    extension = Member(b"././@PaxHeader", _PAX, 0o644, size=len(data))
    return _ustar(extension) + data + _padding(len(data)) + _ustar(member)


def _records_of_what_does_not_fit(member: Member) -> dict[bytes, bytes]:
    texts = {b"path": member.path, b"linkpath": member.target}
    numbers = {
        b"uid": (member.uid, 7),
        b"gid": (member.gid, 7),
        b"size": (member.size, 11),
        b"mtime": (member.time, 11),
    }
    found = {key: text for key, text in texts.items() if len(text) > 100 or not text.isascii()}
    found |= {key: b"%d" % number for key, (number, digits) in numbers.items() if number >= 8**digits}
    return found


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH KEY=VALUE\\n`, where the length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return b"%d" % length + rest


def _ustar(member: Member) -> bytes:
    """A header block; what does not fit is cut, or 0, and stands in pax records."""
    start = member.path[:100].ljust(100, b"\0")
    start += _octal(member.mode, 7) + _octal(member.uid, 7) + _octal(member.gid, 7)
    start += _octal(member.size, 11) + _octal(member.time, 11)
    end = member.type + member.target[:100].ljust(100, b"\0") + b"ustar\x0000"
    end = end.ljust(_BLOCK - len(start) - 8, b"\0")
    checksum = sum(start) + sum(end) + 8 * ord(" ")
    return start + b"%06o\0 " % checksum + end


def _octal(number: int, digits: int) -> bytes:
    return b"%0*o\0" % (digits, number if number < 8**digits else 0)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)
