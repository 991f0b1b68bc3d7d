"""Archives that nobody sound would make, drawn by hypothesis, and what unpacking them has to come to.

    @given(hostile.archives(outside=b"/home/somebody"))
    def unpacks(archive: hostile.Archive) -> None:
        assert unpack(archive.data) == hostile.expected(archive.entries)

`expected` is crossroot's promise in its simplest form: a tree in memory, in which links are followed as the kernel
does below a chroot.
"""

import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from hypothesis import strategies as st

from tests.support.archives import COMPRESSIONS

REGULAR, FOLDER, SYMLINK, HARD_LINK = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
_LEFT_OUT = (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"V")
_FORMATS: tuple[Literal[0, 1, 2], ...] = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
_XATTR = "SCHILY.xattr.user."
_MAX_NAME, _MAX_PATH, _MAX_LINKS = 255, 4095, 40  # NAME_MAX, PATH_MAX without its zero, path_resolution(7)


@dataclass(frozen=True)
class Entry:
    """What a header means. content: of a regular file, its holes filled. owner: uid and gid. mtime: nanoseconds."""

    kind: bytes
    name: str
    target: str
    content: bytes
    mode: int
    owner: tuple[int, int]
    mtime: int
    xattrs: dict[str, str]


@dataclass(frozen=True)
class Archive:
    """data: the file. entries: what it means; None if it was damaged, so that nobody can say."""

    data: bytes = field(repr=False)
    entries: tuple[Entry, ...] | None


# The archives


def archives(outside: bytes) -> st.SearchStrategy[Archive]:
    """Any archive. outside: a folder beside the destination, for the names and links to aim at."""
    return st.one_of(_whole(outside.decode()), _whole(outside.decode()), _damaged(outside.decode()))


@st.composite
def _whole(draw: st.DrawFn, outside: str) -> Archive:
    drawn = draw(_entries(outside))
    pack = draw(st.sampled_from(list(COMPRESSIONS.values())))
    return Archive(pack(b"".join(data for _, data in drawn) + bytes(1024)), tuple(entry for entry, _ in drawn))


@st.composite
def _damaged(draw: st.DrawFn, outside: str) -> Archive:
    """Sizes in headers that lie, bits flipped in the tar or in what it is packed as, or an end that is missing."""
    tar = bytearray(b"".join(data for _, data in draw(_entries(outside))) + bytes(1024))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(tar) // 512 - 1)) * 512
        header = tar[at : at + 512]
        header[124:136] = draw(st.sampled_from([b"00000000007\0", b"77777777777\0", b"\x80" + b"\xff" * 11]))
        if draw(st.booleans()):
            header[draw(st.integers(0, 511))] ^= 1 << draw(st.integers(0, 7))
        header[148:156] = b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:])
        tar[at : at + 512] = header
    data = bytearray(draw(st.sampled_from(list(COMPRESSIONS.values())))(bytes(tar)))
    for _ in range(draw(st.integers(0, 2))):
        data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
    return Archive(bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data), None)


@cache
def _names(outside: str, *, fatal: bool) -> st.SearchStrategy[str]:
    """Few and short ones, so that they meet, and strange ones. fatal: also those that have to be refused."""
    ordinary = st.sampled_from(["a", "b", "c", "A", "d"])
    strange = ["x\ny", "back\\slash", "\udcff\udcfe", "ä", " ", "n" * 120, "n" * 255, outside, f"./{outside}", "a/", ""]
    part = st.one_of(*[ordinary] * 5, st.sampled_from([*strange, "..", ".", "n" * 256] if fatal else strange))
    relative = st.lists(part, min_size=1, max_size=3).map("/".join)
    names = st.one_of(relative, relative, relative.map(lambda name: f"/{name}"))
    return st.one_of(*[names] * 29, st.just(f"{'l' * 240}/" * 20 + "f")) if fatal else names


@cache
def _targets(outside: str, *, fatal: bool) -> st.SearchStrategy[str]:
    """What symbolic links point to: each other, themselves, nothing, and outwards in several ways."""
    ways = [*["/", ".", "..", "../..", "../a", "/a", f"../outside/{'x' * 90}"], *[outside, "../outside"] * 3]
    goals = st.sampled_from([outside, f"{outside}/folder", f"{outside}/file"])
    climbing = st.tuples(st.integers(1, 30), goals).map(lambda way: "../" * way[0] + way[1].lstrip("/"))
    names = _names(outside, fatal=fatal).map(lambda name: name or "a")
    ordinary = st.one_of(names, st.sampled_from(ways), goals, climbing)
    hopeless: st.SearchStrategy[str] = st.sampled_from(["", "t" * 5000])
    return st.one_of(*[ordinary] * 29, hopeless) if fatal else ordinary


@st.composite
def _entries(draw: st.DrawFn, outside: str) -> list[tuple[Entry, bytes]]:
    """Entries, and the headers and content of each."""
    fatal = draw(st.integers(0, 2)) == 0
    drawn: list[tuple[Entry, bytes]] = []
    for _ in range(draw(st.integers(0, 12))):
        before = [entry for entry, _ in drawn]
        drawn.append(draw(_entry(outside, fatal, before)))
    return drawn


@st.composite
def _entry(draw: st.DrawFn, outside: str, fatal: bool, before: list[Entry]) -> tuple[Entry, bytes]:
    """An entry, which often leads through, or to, one of those before it."""
    linkable = [entry.name for entry in before if entry.kind in (REGULAR, SYMLINK)]
    parents = [entry.name for entry in before[-3:] if entry.kind in (FOLDER, SYMLINK)]
    often = [REGULAR, REGULAR, REGULAR, FOLDER, FOLDER, SYMLINK, SYMLINK]
    kind = draw(st.sampled_from([*often, *_LEFT_OUT, *[HARD_LINK] * (2 if linkable or fatal else 0)]))
    name = draw(_names(outside, fatal=fatal))
    if draw(st.booleans()) and parents:
        name = f"{draw(st.sampled_from(parents))}/{name}"
    target = ""
    if kind == SYMLINK:
        target = draw(_targets(outside, fatal=fatal))
    elif kind == HARD_LINK:
        anything = st.one_of(_names(outside, fatal=fatal), st.just(f"{outside}/file"))
        known = st.sampled_from(linkable) if linkable else anything
        target = draw(st.one_of(known, anything) if fatal else known)
    content = draw(st.sampled_from([b"", b"x", b"content", bytes(512), b"y" * 1000])) if kind == REGULAR else b""
    mode = draw(st.one_of(st.sampled_from([0o644, 0o755, 0, 0o4755, 0o6777, 0o1777]), st.integers(0, 0o7777)))
    owner = draw(st.tuples(*[st.sampled_from([0, 0, 0, 1, 1000, 65534])] * 2))
    seconds = draw(st.sampled_from([0, 1, 1_700_000_000, 2**31 + 5, 2**33, -5]))
    entry = Entry(kind, name, target, content, mode, owner, seconds * 10**9, {})

    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode, info.mtime = kind, target, len(content), mode, seconds
    info.uid, info.gid = owner
    if draw(st.integers(0, 3)):
        return entry, _packed(info, content, draw(st.sampled_from(_FORMATS)))
    return _overridden(draw, entry, info)


def _overridden(draw: st.DrawFn, entry: Entry, info: tarfile.TarInfo) -> tuple[Entry, bytes]:
    """The same with lies in the header, which its pax records set right."""
    said: dict[str, str] = {}
    content = entry.content
    if draw(st.booleans()):
        said["path"], info.name = entry.name, "elsewhere"
    if entry.target and draw(st.booleans()):
        said["linkpath"], info.linkname = entry.target, "elsewhere"
    if draw(st.booleans()):
        said["uid"], said["gid"] = str(entry.owner[0]), str(entry.owner[1])
    if entry.kind == REGULAR and draw(st.booleans()):
        said["size"] = str(len(content))
    xattrs = {"k": "value"} if draw(st.booleans()) else {}
    said |= {_XATTR + key: value for key, value in xattrs.items()}
    mtime = draw(st.sampled_from(["1725615277.123456789", "7.5", "0.000000001"]))
    said["mtime"] = mtime
    seconds, _, fraction = mtime.partition(".")
    content_with_holes = content
    if entry.kind == REGULAR and content and "size" not in said and draw(st.booleans()):
        start = draw(st.sampled_from([0, 4096, 100_000]))
        said |= {"GNU.sparse.size": str(start + len(content) + 50), "GNU.sparse.map": f"{start},{len(content)}"}
        content_with_holes = bytes(start) + content + bytes(50)
    info.pax_headers = said
    meant = Entry(
        entry.kind,
        entry.name,
        entry.target,
        content_with_holes,
        entry.mode,
        entry.owner,
        int(seconds) * 10**9 + int(fraction.ljust(9, "0")),
        xattrs,
    )
    return meant, _packed(info, content, tarfile.PAX_FORMAT)


def _packed(info: tarfile.TarInfo, content: bytes, format: Literal[0, 1, 2]) -> bytes:
    try:
        header = info.tobuf(format, "utf-8", "surrogateescape")
    except ValueError:  # what ustar has no room for
        header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % 512)


# What is expected of them


class Refused(Exception):
    """Unpacking has to fail."""


class _NotAFolderError(Refused):
    """ENOTDIR."""


class _MissingError(Exception):
    """ENOENT."""


class _ThereError(Exception):
    """EEXIST."""


@dataclass(eq=False)
class _Node:
    """An inode. entries: those of a folder, None of others. target: of a symbolic link."""

    kind: bytes
    entries: dict[bytes, "_Node"] = field(default_factory=dict)
    target: bytes = b""
    content: bytes = b""
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)
    mtime: int | None = None  # unknown
    xattrs: dict[str, str] = field(default_factory=dict)


Tree = dict[str, tuple[object, ...]]


def expected(entries: tuple[Entry, ...]) -> Tree:
    """Path to what is there, as `describe` in tests/support/unpacker.py has it. Raises Refused."""
    model = _Model()
    if not entries:
        raise Refused("no entries")
    for entry in entries:
        model.add(entry)
    model.finish()
    return model.described()


def _relative(name: str) -> bytes:
    parts = [part for part in name.encode("utf-8", "surrogateescape").split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise Refused("a name that climbs")
    return b"/".join(parts) or b"."


class _Model:
    def __init__(self) -> None:
        self.root = _Node(FOLDER)
        self.folders: dict[bytes, Entry | None] = {}

    def add(self, entry: Entry) -> None:
        path = _relative(entry.name)
        if path == b"." and entry.kind != FOLDER:
            raise Refused("the root is no folder")
        if entry.kind == FOLDER:
            if not self._is_folder(path):
                self._replace(path, lambda: _Node(FOLDER))
            self.folders[path] = entry
        elif entry.kind in (REGULAR, SYMLINK):
            target = entry.target.encode("utf-8", "surrogateescape")
            if entry.kind == SYMLINK and not 0 < len(target) <= _MAX_PATH:
                raise Refused("no target of a link")
            node = _Node(entry.kind, target=target, content=entry.content)
            self._replace(path, lambda: node)
            self._give(node, entry)
        elif entry.kind == HARD_LINK:
            self._link(path, _relative(entry.target))

    def finish(self) -> None:
        for path in sorted(self.folders, key=lambda path: (path != b".", path), reverse=True):
            if self._is_folder(path):
                self._give(self._find(path), self.folders[path])

    def _give(self, node: _Node, entry: Entry | None) -> None:
        """entry: None for a folder that no entry is about."""
        node.mode = 0o777 if node.kind == SYMLINK else entry.mode if entry else 0o755
        node.owner = entry.owner if entry else (0, 0)
        node.mtime = entry.mtime if entry else None
        if entry and node.kind != SYMLINK:
            node.xattrs |= entry.xattrs

    def _link(self, path: bytes, target: bytes) -> None:
        try:
            node = self._find(target)
        except _MissingError:
            raise Refused("a link to nothing") from None
        try:
            if self._find(path) is node:
                return
        except _MissingError:
            pass
        if node.kind == FOLDER:
            raise Refused("a hard link to a folder")
        self._replace(path, lambda: node)

    def _replace(self, path: bytes, make: Callable[[], _Node]) -> None:
        try:
            self._make(path, make)
        except _MissingError:
            self._make_parents(path)
        except _ThereError:
            self._remove(path)
        else:
            return
        try:
            self._make(path, make)
        except (_MissingError, _ThereError):
            raise Refused("still not") from None

    def _make_parents(self, path: bytes) -> None:
        parts = path.split(b"/")
        for end in range(1, len(parts)):
            parent = b"/".join(parts[:end])
            try:
                self._make(parent, lambda: _Node(FOLDER))
                self.folders[parent] = None
            except _ThereError:
                pass
            except _MissingError:
                raise Refused("a link that leads nowhere") from None

    def _remove(self, path: bytes) -> None:
        folder, name = self._parent(path)
        if folder.entries[name].entries:
            raise Refused("a folder that is not empty")
        del folder.entries[name]

    def _make(self, path: bytes, make: Callable[[], _Node]) -> None:
        folder, name = self._parent(path)
        if name in folder.entries:
            raise _ThereError
        folder.entries[name] = make()

    def _is_folder(self, path: bytes) -> bool:
        try:
            return self._find(path).kind == FOLDER
        except (_MissingError, _NotAFolderError):
            return False

    def _parent(self, path: bytes) -> tuple[_Node, bytes]:
        if len(path) > _MAX_PATH:
            raise Refused("a path that is too long")
        above, _, name = path.rpartition(b"/")
        trail = self._walk([self.root], above, [0])
        if trail[-1].kind != FOLDER:
            raise _NotAFolderError
        if len(name) > _MAX_NAME:
            raise Refused("a name that is too long")
        return trail[-1], name

    def _find(self, path: bytes) -> _Node:
        """lstat(2)."""
        if path == b".":
            return self.root
        folder, name = self._parent(path)
        if name not in folder.entries:
            raise _MissingError
        return folder.entries[name]

    def _walk(self, trail: list[_Node], path: bytes, links: list[int]) -> list[_Node]:
        """The folders from the root to what `path` is, from the last one of `trail`. links: how many were followed."""
        if path.startswith(b"/"):
            trail = [self.root]
        for part in path.split(b"/"):
            if part in (b"", b"."):
                continue
            here = trail[-1]
            if here.kind != FOLDER:
                raise _NotAFolderError
            if part == b"..":
                trail = trail[:-1] or trail
                continue
            if len(part) > _MAX_NAME:
                raise Refused("a name that is too long")
            if part not in here.entries:
                raise _MissingError
            node = here.entries[part]
            if node.kind == SYMLINK:
                links[0] += 1
                if links[0] > _MAX_LINKS:
                    raise Refused("too many links")
                trail = self._walk(trail, node.target, links)
            else:
                trail = [*trail, node]
        return trail

    def described(self) -> Tree:
        found: Tree = {}
        first: dict[int, str] = {}

        def visit(name: bytes, node: _Node) -> None:
            text = name.decode("latin-1")
            content = node.target if node.kind == SYMLINK else node.content
            linked = text if node.kind == FOLDER else first.setdefault(id(node), text)
            found[text] = (
                node.kind.decode(),
                node.mode,
                *node.owner,
                node.mtime,
                linked,
                content.decode("latin-1"),
                node.xattrs,
            )
            for part in sorted(node.entries):
                visit(name + b"/" + part, node.entries[part])

        visit(b"", self.root)
        return found
