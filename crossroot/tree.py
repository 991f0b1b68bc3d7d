"""A whole tree of files: walk it in one order, digest it, copy it.

Works below a descriptor of the top folder, and by descriptors only, so that neither a link nor a session that moves
folders meanwhile leads out of the tree. For owners as they are inside of a root, the caller has to be in a user
namespace with the root's id map.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from crossroot import linux
from crossroot.errors import CrossrootError
from crossroot.record import Record
from crossroot.ui import Progress, no_progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CONFINED = linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH | linux.RESOLVE_NO_XDEV
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_FIDEDUPERANGE = 0xC0189436  # ioctl_fideduperange(2)
_DIFFERS = 1  # FILE_DEDUPE_RANGE_DIFFERS
_PIECE = 1 << 20  # bytes
_TYPES = {
    stat.S_IFDIR: b"d",
    stat.S_IFREG: b"f",
    stat.S_IFLNK: b"l",
    stat.S_IFIFO: b"p",
    stat.S_IFSOCK: b"s",
    stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b",
}


class Entry(Record):
    """One file of a tree, of any type; to be used before the walk goes on.

    path: relative to the top, b"." for the top itself. depth: how many folders of the tree it lies in. folder: a
    descriptor of the one it lies in, and of the top for the top. name: its name there. status: as lstat(2) gives it.
    first: for a further hard link, the path under which its inode came first; else b"".
    """

    path: bytes
    depth: int
    folder: int
    name: bytes
    status: os.stat_result
    first: bytes

    def open(self) -> int:
        """A descriptor for reading a regular file or a folder. Raises CrossrootError if it is another one now."""
        # Non-blocking, as somebody may have put a fifo there since.
        try:
            descriptor = linux.openat2(self.folder, self.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, _CONFINED)
        except OSError as error:
            raise unreadable(error, self.path) from error
        status = os.fstat(descriptor)
        # The type too: the number of a deleted inode is soon that of another.
        same_type = stat.S_IFMT(status.st_mode) == stat.S_IFMT(self.status.st_mode)
        if _identity(status) != _identity(self.status) or not same_type:
            os.close(descriptor)
            raise changed(self.path)
        return descriptor

    def target(self) -> bytes:
        """Where a symbolic link points to."""
        try:
            return os.readlink(self.name, dir_fd=self.folder)
        except OSError as error:
            raise unreadable(error, self.path) from error


class _Visit(Record):
    """A folder on the way from the top to where the walk stands.

    prefix: of the paths in it. identity: its device and inode. names: those still to come, the next one last.
    """

    prefix: bytes
    identity: tuple[int, int]
    names: list[bytes]


def walk(top: int) -> Iterator[Entry]:
    """Every file of the tree whose top folder is the descriptor `top`.

    The top comes first, every folder before what is in it, and what is in a folder sorted by the bytes of its names.
    Raises CrossrootError if something is mounted in the tree, if it changes meanwhile, or if a folder is unreadable.
    """
    path = b"."
    inodes: dict[tuple[int, int], bytes] = {}
    # One descriptor: down by openat2, up by "..", which must be the folder it came from. So no tree is too deep.
    here = linux.openat2(top, ".", _FOLDER, _CONFINED)
    try:
        yield Entry(path, 0, here, path, os.fstat(here), b"")
        trail = [_visit(here, b"")]
        while trail:
            visit = trail[-1]
            if not visit.names:
                trail.pop()
                if trail:
                    here = _instead(here, _parent(here, trail[-1].identity))
                continue
            name = visit.names.pop()
            path = visit.prefix + name
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
            folder = stat.S_ISDIR(status.st_mode)
            first = path if folder or status.st_nlink == 1 else inodes.setdefault(_identity(status), path)
            yield Entry(path, len(trail), here, name, status, b"" if first is path else first)
            if folder:
                here = _instead(here, linux.openat2(here, name, _FOLDER | os.O_NOFOLLOW, _CONFINED))
                trail.append(_visit(here, path + b"/"))
    except OSError as error:
        raise unreadable(error, path) from error
    finally:
        os.close(here)


def _visit(folder: int, prefix: bytes) -> _Visit:
    names = sorted(map(os.fsencode, os.listdir(folder)), reverse=True)
    return _Visit(prefix, _identity(os.fstat(folder)), names)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _instead(descriptor: int, other: int) -> int:
    os.close(descriptor)
    return other


def _parent(folder: int, identity: tuple[int, int]) -> int:
    parent = os.open("..", _FOLDER, dir_fd=folder)
    if _identity(os.fstat(parent)) != identity:
        os.close(parent)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return parent


def xattrs(descriptor: int, path: bytes) -> dict[bytes, bytes]:
    """The extended attributes that mean the same on every machine, sorted by name: user.* and security.capability.

    descriptor: of an entry with this path, by `Entry.open`. Raises CrossrootError if they are unreadable.

    In a user namespace the kernel gives capabilities as seen inside of it (capabilities(7), namespaced file
    capabilities), so they are the same whoever owns the root.
    """
    try:
        names = [name for name in os.listxattr(descriptor) if name.startswith("user.") or name == "security.capability"]
        return {os.fsencode(name): os.getxattr(descriptor, name) for name in sorted(names)}
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # the file system has none
            return {}
        raise unreadable(error, path) from error


# Digest


def digest(top: int) -> str:
    """The sha256, in hex, of what is in a tree: names, types, modes, owners, sizes, contents, links and xattrs.

    No times: two creations of one root differ in them. docs/export.md says what exactly is hashed.
    Raises CrossrootError as `walk` does, or if a file is unreadable.
    """
    import hashlib  # copies do without it

    total = hashlib.sha256(b"crossroot tree 1\n")
    for entry in walk(top):
        total.update(b"\0".join(_record(entry)) + b"\0\0")
    return total.hexdigest()


def _record(entry: Entry) -> list[bytes]:
    """The fields of an entry in the digest. None is empty, so that an empty one marks the end."""
    status = entry.status
    if entry.first:
        return [entry.path, b"h", entry.first]
    kind = stat.S_IFMT(status.st_mode)
    fields = [entry.path, _TYPES[kind], b"%04o" % stat.S_IMODE(status.st_mode)]
    fields += [b"%d" % status.st_uid, b"%d" % status.st_gid]
    if kind == stat.S_IFLNK:
        fields.append(entry.target())
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        fields.append(b"%d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev)))
    elif kind in (stat.S_IFREG, stat.S_IFDIR):
        descriptor = entry.open()
        try:
            if kind == stat.S_IFREG:
                fields += [b"%d" % status.st_size, _sha256(descriptor, entry)]
            for name, value in xattrs(descriptor, entry.path).items():
                fields.append(name + b"=" + value.hex().encode())
        finally:
            os.close(descriptor)
    return fields


def _sha256(descriptor: int, entry: Entry) -> bytes:
    import hashlib

    found = hashlib.sha256()
    for piece in content(descriptor, entry):
        found.update(piece)
    return found.hexdigest().encode()


def content(descriptor: int, entry: Entry) -> Iterator[bytes]:
    """The content of a regular file that `entry.open` has opened, as much as its status says.

    Raises CrossrootError if it cannot be read, or has become shorter.
    """
    left = entry.status.st_size
    while left:
        try:
            piece = os.read(descriptor, min(left, _PIECE))
        except OSError as error:
            raise unreadable(error, entry.path) from error
        if not piece:
            raise changed(entry.path)
        left -= len(piece)
        yield piece


# Copy


def copy(source: int, destination: int, progress: Progress = no_progress) -> bool:
    """Copy the tree of the descriptor `source` into the empty folder `destination`, exactly.

    Owners, modes, times to the nanosecond, hard links, holes and `xattrs` are as in the source, those of the top folder
    too. Content is shared with the source where the file system can (ioctl_ficlone(2)): whether all of it is.
    progress: told the bytes of files that are done.
    Raises CrossrootError, and leaves a part, if the source is unreadable or changes, or the destination refuses.
    """
    copy = _Copy(destination, progress)
    try:
        for entry in walk(source):
            copy.add(entry)
        copy.finish(0)
        return copy.shared
    except OSError as error:
        raise _not_copied(error, copy.path) from error
    finally:
        os.close(copy.here)


class _Open(Record):
    """A folder of the copy that is being filled, and what it gets when it is full.

    path: see Entry. above: device and inode of the folder of the copy that it lies in.
    """

    path: bytes
    above: tuple[int, int]
    status: os.stat_result
    xattrs: dict[bytes, bytes]


class _Copy:
    """The copy as it grows, in the order of `walk`.

    top: its descriptor. here: that of the folder being filled. path: what was worked on last, for messages. done: bytes
    of files. shared: whether all content is the source's, without a copy.
    """

    def __init__(self, destination: int, progress: Progress) -> None:
        self.progress = progress
        self.done = 0
        self.shared = True
        self.top = destination
        self.here = os.open(".", _FOLDER, dir_fd=destination)
        self.path = b"."
        self._folders: list[_Open] = []

    def add(self, entry: Entry) -> None:
        """Copy one entry, a folder without what is in it."""
        self.finish(entry.depth)
        self.path = entry.path
        kind = stat.S_IFMT(entry.status.st_mode)
        if entry.first:
            os.link(entry.first, entry.name, src_dir_fd=self.top, dst_dir_fd=self.here, follow_symlinks=False)
        elif kind == stat.S_IFREG:
            self._add_file(entry)
        elif kind == stat.S_IFDIR:
            self._add_folder(entry)
        elif kind == stat.S_IFLNK:
            os.symlink(entry.target(), entry.name, dir_fd=self.here)
            self._set_attributes_of_name(entry)
        else:
            os.mknod(entry.name, kind | 0o600, entry.status.st_rdev, dir_fd=self.here)
            os.chmod(entry.name, stat.S_IMODE(entry.status.st_mode), dir_fd=self.here)
            self._set_attributes_of_name(entry)

    def finish(self, depth: int) -> None:
        """Leave folders until `depth` are open. They get their attributes last, as filling them changes their times."""
        while len(self._folders) > depth:
            folder = self._folders.pop()
            self.path = folder.path
            # The parent first: the folder may then refuse to be searched.
            parent = _parent(self.here, folder.above) if self._folders else os.dup(self.top)
            _set_attributes(self.here, folder.status, folder.xattrs)
            self.here = _instead(self.here, parent)

    def _add_folder(self, entry: Entry) -> None:
        above = _identity(os.fstat(self.here))
        if entry.depth:
            os.mkdir(entry.name, 0o700, dir_fd=self.here)
            self.here = _instead(self.here, os.open(entry.name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.here))
        source = entry.open()
        try:
            self._folders.append(_Open(entry.path, above, entry.status, xattrs(source, entry.path)))
        finally:
            os.close(source)

    def _add_file(self, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        source = entry.open()
        try:
            file = os.open(entry.name, flags, 0o600, dir_fd=self.here)
            try:
                self._add_content(source, file, entry)
                _set_attributes(file, entry.status, xattrs(source, entry.path))
            finally:
                os.close(file)
        finally:
            os.close(source)

    def _add_content(self, source: int, file: int, entry: Entry) -> None:
        size = entry.status.st_size
        if size and not _share(source, file):
            self.shared = False
            _copy_content(source, file, entry)
        if (self.done + size) // _PIECE > self.done // _PIECE:
            self.progress(self.done + size, None)
        self.done += size

    def _set_attributes_of_name(self, entry: Entry) -> None:
        status = entry.status
        os.chown(entry.name, status.st_uid, status.st_gid, dir_fd=self.here, follow_symlinks=False)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(entry.name, ns=times, dir_fd=self.here, follow_symlinks=False)


def _set_attributes(descriptor: int, status: os.stat_result, attributes: dict[bytes, bytes]) -> None:
    """In this order, since chown(2) clears setuid and capabilities."""
    os.fchown(descriptor, status.st_uid, status.st_gid)
    for name, value in attributes.items():
        os.setxattr(descriptor, name, value)
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))


# What the kernel says where two files cannot share or exchange content: other file systems, or not this one.
_CANNOT = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS)


def _copy_content(source: int, file: int, entry: Entry) -> None:
    size = entry.status.st_size
    if entry.status.st_blocks * 512 >= size:
        _copy_range(source, file, 0, size, entry.path)
        return
    for start, end in _extents(source, size):
        _copy_range(source, file, start, end, entry.path)
    os.ftruncate(file, size)


def _share(source: int, file: int) -> bool:
    """Let `file` have the content of `source` without a copy; False where that cannot be."""
    try:
        fcntl.ioctl(file, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def _extents(source: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has content between its holes (lseek(2), SEEK_DATA)."""
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        yield start, min(end, size)


def _copy_range(source: int, file: int, start: int, end: int, path: bytes) -> None:
    while start < end:
        try:
            done = os.copy_file_range(source, file, end - start, start, start)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            os.lseek(file, start, os.SEEK_SET)
            done = os.sendfile(file, source, start, end - start)
        if done == 0:
            raise changed(path)
        start += done


# Sharing


def share(source: int, destination: int) -> int:
    """Let files of the tree `destination` have the content of equal files under the same names in `source`; how many.

    The kernel compares them and lets them share it on the disk (ioctl_fideduperange(2)), so neither changes. 0 where
    the file system can't. Raises CrossrootError if `destination` is unreadable or changes.
    """
    done = 0
    for entry in walk(destination):
        if entry.first or not stat.S_ISREG(entry.status.st_mode) or not entry.status.st_size:
            continue
        try:
            other = linux.openat2(source, entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, _CONFINED)
        except OSError:
            continue  # no such file there, or not for us
        file = entry.open()
        try:
            status = os.fstat(other)
            if stat.S_ISREG(status.st_mode) and status.st_size == entry.status.st_size:
                done += _dedupe(other, file, status.st_size)
        except OSError as error:
            if error.errno in _CANNOT:
                return done
            raise unreadable(error, entry.path) from error
        finally:
            os.close(file)
            os.close(other)
    return done


def _dedupe(source: int, file: int, size: int) -> bool:
    """Whether two files of this size share all content now. Raises OSError where that cannot be."""
    done = 0
    while done < size:
        # struct file_dedupe_range with one struct file_dedupe_range_info.
        request = bytearray(struct.pack("=QQHHIqQQiI", done, size - done, 1, 0, 0, file, done, 0, 0, 0))
        fcntl.ioctl(source, _FIDEDUPERANGE, request)
        deduped, status = struct.unpack_from("=Qi", request, 40)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        if status == _DIFFERS or not deduped:
            return False
        done += deduped
    return True


# Errors


def unreadable(error: OSError, path: bytes) -> CrossrootError:
    """An error of the kernel, met while reading `path` of a tree."""
    if error.errno == errno.EXDEV:
        return CrossrootError(f"something is mounted on {shown(path)} in the rootfs", hint="unmount it")
    if error.errno in (errno.ESTALE, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
        return changed(path)
    return CrossrootError(f"cannot read {shown(path)} in the rootfs: {error.strerror}")


def changed(path: bytes) -> CrossrootError:
    """The error for a file that is not any more what it was a moment ago."""
    return CrossrootError(
        f"{shown(path)} in the rootfs changed while it was being read", hint="end what changes it and try again"
    )


def _not_copied(error: OSError, path: bytes) -> CrossrootError:
    hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
    return CrossrootError(f"cannot copy {shown(path)}: {error.strerror}", hint=hint)


def shown(path: bytes) -> str:
    """A path of a tree, quoted so that it can do no harm to a terminal."""
    return repr(path.decode(errors="backslashreplace"))
