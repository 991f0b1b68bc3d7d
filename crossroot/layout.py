"""The folders of the store: where what is, what may be a name, and the kernel's errors about them in words.

    STORE/.crossroot-store       marker: nothing is ever deleted in a folder without it
    STORE/roots/NAME/            a root: root.json, rootfs/ and sessions/, one record a running session
    STORE/snapshots/NAME/TAG/    a snapshot of a root, see `crossroot.snapshots`: root.json and rootfs/
    STORE/unfinished/            what is under way, or was killed: NAME.VERB.RANDOM, with a verb of VERBS
    STORE/locks/NAME             see `crossroot.locking`

All functions take and give paths as strings or as Path: a Path costs its import, which sessions do without.
"""

from __future__ import annotations

import errno
import os
import stat

from crossroot import namespaces
from crossroot.errors import CrossrootError, UsageError
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    StrPath = str | os.PathLike[str]

MARKER = ".crossroot-store"

# What is done to a root in unfinished/: said of it while it is under way, and of what it leaves when it is killed. The
# root is then as before a change, or after it: what is left is the new copy, or the old one.
VERBS = {
    "remove": ("removing", "what was left of the removal"),
    "change": ("changing", "what was left of the change"),
    "create": ("creating", "the unfinished creation"),
    "snapshot": ("copying", "the unfinished snapshot"),
}

_HEXADECIMAL = set("0123456789abcdef")
_PARTS = ("roots", "unfinished", "locks")
_LONGEST_NAME = 63


def check_name(name: str) -> str:
    """The name of a root as it is, if it can be one; else UsageError. It is used as the name of folders."""
    plain = name.replace(".", "").replace("_", "").replace("-", "")
    if not (name.isascii() and (plain.isalnum() and name[0].isalnum()) and len(name) <= _LONGEST_NAME):
        what = "is a path, not a name" if "/" in name or name in (".", "..") else "cannot be the name of a root"
        raise UsageError(
            f"{name!r} {what}",
            hint=f"use up to {_LONGEST_NAME} letters, digits, '.', '_' and '-', a letter or digit first",
        )
    return name


def root_folder(name: str, store: StrPath) -> str:
    """Where the root `name` is, or will be. Raises UsageError for an impossible name."""
    return os.path.join(store, "roots", check_name(name))


def snapshot_folder(name: str, tag: str, store: StrPath) -> str:
    """Where the snapshot `tag` of the root `name` is, or will be. Raises UsageError for an impossible name or tag."""
    return os.path.join(store, "snapshots", check_name(name), check_name(tag))


def snapshot_tags(name: str, store: StrPath) -> list[str]:
    """The tags of a root's snapshots, sorted."""
    return names(store, os.path.join("snapshots", check_name(name)))


def is_store(store: StrPath) -> bool:
    """Whether the store is there; False if it can be made. Raises CrossrootError for a folder that is none of ours."""
    try:
        entries = os.listdir(store)
        owner = os.stat(store).st_uid
    except FileNotFoundError:
        return False
    except OSError as error:
        raise explained(error) from error
    if entries and MARKER not in entries:
        raise CrossrootError(
            f"{store} is not empty and not a store of crossroot (it has no {MARKER})",
            hint="set CROSSROOT_STORE to another folder",
        )
    if owner != os.geteuid():
        # Its owner could lay symbolic links in the way of our writes.
        raise CrossrootError(
            f"the store {store} belongs to another user (id {owner})",
            hint="run crossroot as that user, or set CROSSROOT_STORE to another folder",
        )
    return bool(entries)


def make_store(store: StrPath) -> None:
    """Make what is missing of the store, the marker first: a folder with anything else but no marker is refused."""
    try:
        if not is_store(store):
            os.makedirs(store, exist_ok=True)
            # Only for its owner: a rootfs holds setuid files of any age, which other local users must not reach.
            os.chmod(store, stat.S_IRWXU)
            os.close(os.open(os.path.join(store, MARKER), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        for part in _PARTS:
            folder = os.path.join(store, part)
            if not os.path.isdir(folder):
                os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise explained(error, store) from error


def names(store: StrPath, part: str) -> list[str]:
    """The sorted entries of a folder of the store, none if it is not there (yet)."""
    if not is_store(store):
        return []
    try:
        return sorted(os.listdir(os.path.join(store, part)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explained(error, store) from error


class Unfinished(Record):
    """A folder of unfinished/. entry: its name there. name: of the root. verb: one of VERBS."""

    entry: str
    name: str
    verb: str


def unfinished(store: StrPath) -> list[Unfinished]:
    """The entries of unfinished/ that are ours."""
    split = ((entry, *entry.rsplit(".", 2)) for entry in names(store, "unfinished"))
    return [
        Unfinished(fields[0], fields[1], fields[2])
        for fields in split
        if len(fields) == 4 and fields[2] in VERBS and len(fields[3]) == 8 and set(fields[3]) <= _HEXADECIMAL
    ]


def new_unfinished(name: str, verb: str, store: StrPath) -> str:
    """A name for a folder of unfinished/ that is not there yet."""
    return os.path.join(store, "unfinished", f"{name}.{verb}.{os.urandom(4).hex()}")


def explained(error: OSError, path: StrPath = "") -> CrossrootError:
    """The kernel's error about the store, with a hint. path: named if the error names none."""
    hints = {
        errno.ENOSPC: "free some space or inodes (df, df -i), or set CROSSROOT_STORE to a folder on another disk",
        errno.EDQUOT: "free some of your quota, or set CROSSROOT_STORE to a folder on another disk",
        errno.EROFS: "set CROSSROOT_STORE to a folder on a writable file system",
        errno.EACCES: "set CROSSROOT_STORE to a folder that you may write to",
        errno.EPERM: "see whether it is immutable: lsattr -d",
        errno.ENOTDIR: "set CROSSROOT_STORE to a folder",
    }
    error.filename = error.filename if isinstance(error.filename, (str, bytes)) else os.fspath(path)
    return CrossrootError(namespaces.describe_os_error(error), hint=hints.get(error.errno or 0, ""))
