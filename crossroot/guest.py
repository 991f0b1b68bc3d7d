"""The files of a root that crossroot itself reads and writes: its users (passwd(5), group(5)) and what it is.

Called with the root as "/", but for what ends in `_below`. Python's pwd module must not be used there: glibc would load
NSS libraries of the root into crossroot.
"""

from __future__ import annotations

import errno
import os
import stat

from crossroot import linux
from crossroot.errors import CrossrootError
from crossroot.record import Record


class _Database(Record):
    """fields: how many a line has. numeric: the places of those that hold ids."""

    file: str
    fields: int
    numeric: tuple[int, ...]


_PASSWD = _Database("/etc/passwd", 7, (2, 3))
_GROUP = _Database("/etc/group", 4, (2,))
_ROOT = ["root", "x", "0", "0", "root", "/root", "/bin/sh"]  # of a rootfs without /etc/passwd
_LARGEST_FILE = 4 << 20  # bytes
_LARGEST_TEXT = 64 << 20  # bytes; dpkg's status file is long
_LARGEST_ID = 0xFFFFFFFE  # the next one means "none" to system calls


class Identity(Record):
    """Numbers and places of a user inside a root."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str
    shell: str


def identity(user: str) -> Identity:
    """Look up USER[:GROUP], each a name or a number. A number needs no entry. Raises CrossrootError otherwise."""
    name, _, group = user.partition(":")
    accounts = _rows(_PASSWD) or [_ROOT]
    row = next((row for row in accounts if name in (row[0], row[2])), None)
    if row is None and not _is_id(name):
        known = ", ".join(row[0] for row in accounts[:8])
        raise CrossrootError(f"the root has no user '{name}'", hint=f"it has {known}")
    uid = int(row[2]) if row else int(name)
    gid = _group_id(group) if group else int(row[3]) if row else uid
    groups = {int(other[2]) for other in _rows(_GROUP) if row and row[0] in other[3].split(",")}
    home = row[5] if row and row[5].startswith("/") else "/"
    shell = row[6] if row and row[6] else "/bin/sh"
    return Identity(uid, gid, tuple(sorted({gid, *groups})), home, shell)


def read(file: str) -> bytes:
    """The content of a regular file of the root, b"" if there is none; at most 4 MiB of it."""
    try:
        # The root is foreign: a fifo here must not make us wait.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        if error.errno == errno.ELOOP:  # links in a circle
            return b""
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        with open(descriptor, "rb", closefd=False) as stream:
            return stream.read(_LARGEST_FILE)
    finally:
        os.close(descriptor)


def open_below(rootfs: str, file: str, flags: int) -> int:
    """Open a file of the root in the folder `rootfs`, whose links lead nowhere out of it. Raises OSError."""
    folder = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return linux.openat2(folder, file.lstrip("/"), flags | os.O_CLOEXEC, linux.RESOLVE_IN_ROOT)
    finally:
        os.close(folder)


def read_below(rootfs: str, file: str) -> str:
    """The text of a regular file of the root in the folder `rootfs`, at most 64 MiB; "" if there is none."""
    try:
        descriptor = open_below(rootfs, file, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return stream.read(_LARGEST_TEXT).decode(errors="surrogateescape")


def names_below(rootfs: str, folder: str) -> list[str]:
    """What is in a folder of the root in the folder `rootfs`; nothing if there is no such folder."""
    try:
        descriptor = open_below(rootfs, folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return os.listdir(descriptor)
    finally:
        os.close(descriptor)


def os_release() -> dict[str, str]:
    """The fields of the root's os-release file; none if it has no such file."""
    from crossroot import osrelease  # no session needs it

    texts = (read(file).decode(errors="replace") for file in osrelease.FILES)
    return next((osrelease.parse(text) for text in texts if text), {})


def write(file: str, content: bytes) -> None:
    """Put a file of ours into the root, in the place of whatever is there, a link included; mode 0644."""
    os.makedirs(os.path.dirname(file), exist_ok=True)
    if os.path.lexists(file):
        os.unlink(file)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    with open(descriptor, "wb") as stream:
        os.fchmod(descriptor, 0o644)
        stream.write(content)


def _group_id(group: str) -> int:
    if _is_id(group):
        return int(group)
    for row in _rows(_GROUP):
        if row[0] == group:
            return int(row[2])
    raise CrossrootError(f"the root has no group '{group}'", hint="look at /etc/group in the root")


def _rows(database: _Database) -> list[list[str]]:
    """The well-formed lines of a database; none if the root has no such regular file."""
    text = read(database.file).decode(errors="surrogateescape")
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) == database.fields and all(_is_id(row[at]) for at in database.numeric)]


def _is_id(text: str) -> bool:
    # Python refuses to convert what has more than 4300 digits.
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _LARGEST_ID
