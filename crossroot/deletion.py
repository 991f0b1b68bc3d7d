"""Deleting a folder of the store, and nothing else, whatever stands in it and whoever changes it meanwhile.

Knows nothing of roots: `crossroot.store` decides what is deleted, and calls `delete` in a confined child.
"""

import contextlib
import errno
import os
import re
from pathlib import Path

from crossroot import linux
from crossroot.errors import CrossrootError

_CONFINED = linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH | linux.RESOLVE_NO_XDEV
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


def delete(store: Path, relative: Path, marker: str) -> None:
    """Delete STORE/relative; for a child with a private mount namespace. marker: a file that says STORE is one.

    A bind mount of the same file system has the same st_dev, so a walk cannot tell it by that. Instead it takes place
    in a detached clone of the folder's own mount, in which nothing is mounted, and openat2 refuses mounts besides.
    """
    store_descriptor = os.open(store, os.O_PATH | os.O_DIRECTORY)
    os.close(linux.openat2(store_descriptor, marker, os.O_PATH, _CONFINED))
    parent = open_plain(store_descriptor, str(relative.parent), store)
    folder = open_plain(parent, relative.name, store / relative.parent)
    try:
        tree = linux.open_tree(".", folder=folder, recursive=False)
    except OSError as error:
        if error.errno == errno.EINVAL:
            # A user namespace may not uncover what is below mounts it was given (mount_namespaces(7), locked mounts).
            raise CrossrootError(f"something was mounted in {store / relative} just now") from error
        raise
    _empty(tree, store / relative)
    os.rmdir(relative.name, dir_fd=parent)


class _Visit:
    """A folder on the way from the top to where the deletion stands.

    identity: its device and inode. subfolders: those still to delete, None before the first look.
    """

    def __init__(self, name: str, identity: tuple[int, int]) -> None:
        self.name = name
        self.identity = identity
        self.subfolders: list[str] | None = None


def _empty(tree: int, top: Path) -> None:
    """Delete everything in the folder `tree`, which is `top`.

    Goes by one descriptor: down with openat2, which follows no link and crosses no mount, and up with "..", which must
    be the folder it came from: if others move folders meanwhile, it stops. So neither the depth of a tree nor a
    thread that swaps folders for links leads it out.
    """
    here = linux.openat2(tree, ".", _FOLDER, _CONFINED)
    trail = [_Visit(str(top), _identity(here))]
    try:
        while True:
            visit = trail[-1]
            if visit.subfolders is None:
                visit.subfolders = _delete_files(here)
            elif visit.subfolders:
                name = visit.subfolders.pop()
                child = _open_or_unlink(here, name)
                if child is not None:
                    os.close(here)
                    here = child
                    trail.append(_Visit(name, _identity(here)))
            elif len(trail) > 1:
                trail.pop()
                child, here = here, _parent(here, trail[-1].identity)
                os.close(child)
                os.rmdir(visit.name, dir_fd=here)
            else:
                break
    except OSError as error:
        names = [visit.name for visit in trail]
        if isinstance(error.filename, str):
            names.append(error.filename)
        raise _not_deleted(os.path.join(*names), top, error) from error
    finally:
        os.close(here)


def _delete_files(folder: int) -> list[str]:
    """Delete all entries of a folder but its subfolders, and give these."""
    subfolders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                os.unlink(entry.name, dir_fd=folder)
            except IsADirectoryError:
                subfolders.append(entry.name)
            except FileNotFoundError:
                pass  # somebody else was faster
    return subfolders


def _open_or_unlink(folder: int, name: str) -> int | None:
    """Open a subfolder; None if it has become something else meanwhile, which is unlinked, or nothing."""
    try:
        return linux.openat2(folder, name, _FOLDER | os.O_NOFOLLOW, _CONFINED)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    return None


def _parent(folder: int, identity: tuple[int, int]) -> int:
    parent = os.open("..", _FOLDER, dir_fd=folder)  # ENOENT if the folder was moved out of the tree
    if _identity(parent) != identity:
        os.close(parent)
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    return parent


def _identity(folder: int) -> tuple[int, int]:
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


_MOVED_MEANWHILE = (errno.ESTALE, errno.ENOENT, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)


def _not_deleted(path: str, top: Path, error: OSError) -> CrossrootError:
    where = shown(path)
    if error.errno in _MOVED_MEANWHILE:
        return CrossrootError(
            f"{where} changed while it was being deleted", hint="end what changes it; `crossroot list` deletes the rest"
        )
    hint = ""
    if error.errno == errno.EPERM:
        hint = f"if it is immutable (lsattr), as root: chattr -R -i {top}"
    elif error.errno == errno.EACCES:
        hint = "its owner is not in your id map: give back the ranges of /etc/subuid and /etc/subgid it was made with"
    return CrossrootError(f"cannot delete {where}: {error.strerror}", hint=hint)


def open_plain(store_descriptor: int, relative: str, store: Path) -> int:
    """Open a folder of the store that is reached neither through a symbolic link nor through another mount."""
    try:
        return linux.openat2(store_descriptor, relative, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, _CONFINED)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise not_plain(store / relative) from error
        if error.errno == errno.EXDEV:
            raise CrossrootError(
                f"{store / relative} is on another mount than its store", hint=f"findmnt -T {store / relative}"
            ) from error
        raise


def not_plain(path: Path) -> CrossrootError:
    """The error for what should be a folder of the store and is none."""
    return CrossrootError(
        f"{path} is not a plain folder, or lies behind a symbolic link: left alone",
        hint=f"look at it (namei {path}) and put the folder itself there",
    )


def mounts_below(folder: Path) -> list[str]:
    """The mount points at or below a folder, in the order they were made, from /proc/self/mountinfo (proc(5)).

    Compared by components, behind links: neither a sibling with a longer name nor a store behind a link confuses it.
    A link in the place of the folder itself is not followed.
    """
    real = Path(os.path.realpath(folder.parent)) / folder.name
    try:
        with open("/proc/self/mountinfo", "rb") as lines:
            points = [os.fsdecode(_unescape(line.split(b" ")[4])) for line in lines]
    except IndexError as error:
        raise CrossrootError("/proc/self/mountinfo is not the kernel's", hint="mount a proc on /proc") from error
    return [point for point in points if Path(point).is_relative_to(real)]


def _unescape(field: bytes) -> bytes:
    """Undo mountinfo's escapes: space, tab, newline and backslash stand there as three octal digits."""
    return re.sub(rb"\\([0-3][0-7]{2})", lambda match: bytes([int(match[1], 8)]), field)


def shown(path: str) -> str:
    """A path whose name may be anything, for one line of output."""
    return os.fsencode(path).decode(errors="backslashreplace").replace("\n", "\\n")
