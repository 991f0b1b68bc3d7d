"""Snapshots of roots on disk: atomic publication, and locks, beside those of roots.

    STORE/snapshots/NAME/TAG/    root.json, with the time in `taken`, and rootfs/; flock(2) of the folder: shared by who
                                 reads the snapshot, exclusive for its removal

They lie beside the roots, so that they outlive a root that is replaced; `store.remove` takes them with the root.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import contextmanager
from pathlib import Path

from crossroot import deletion, fastjson, layout, metadata, store
from crossroot.errors import CrossrootError
from crossroot.locking import BusyError, Lock, lock_root
from crossroot.metadata import Root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def open_snapshot(name: str, tag: str, folder: Path) -> Root:
    """The root as it was when the snapshot was made, in the snapshot's folder. Raises CrossrootError.

    folder: of the store, here and below.
    """
    path = layout.snapshot_folder(name, tag, folder)
    if not os.path.lexists(path):
        known = os.path.lexists(layout.root_folder(name, folder))
        raise _no_snapshot(name, tag, folder) if known else metadata.no_root(name, folder)
    return metadata.read_root(path).but(name=name)


def taken(name: str, tag: str, folder: Path) -> str:
    """When a snapshot was made, see `metadata.timestamp`; "" if that can't be told."""
    try:
        return str(fastjson.loads(Path(layout.snapshot_folder(name, tag, folder), "root.json").read_bytes())["taken"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _no_snapshot(name: str, tag: str, folder: Path) -> CrossrootError:
    tags = layout.snapshot_tags(name, folder)
    return CrossrootError(
        f"{name} has no snapshot {tag}",
        hint=f"it has: {', '.join(tags)}" if tags else f"make one: crossroot snapshot {name} {tag}",
    )


@contextmanager
def create(name: str, tag: str, folder: Path) -> Iterator[tuple[Root, Path]]:
    """The root, and a hidden folder with an empty rootfs/ for its snapshot; inside the block `publish` it.

    The root can't be changed or removed by others meanwhile, but by its sessions. At the end the hidden folder is
    deleted. Raises CrossrootError if there is such a snapshot, or no such root.
    """
    with lock_root(name, folder, exclusive=False, wait=False):
        root = metadata.open_root(name, folder)
        if os.path.lexists(layout.snapshot_folder(name, tag, folder)):
            raise _exists(name, tag)
        with store.hidden_folder(name, "snapshot", folder) as unfinished:
            yield root, unfinished


def _exists(name: str, tag: str) -> CrossrootError:
    return CrossrootError(
        f"{name} has a snapshot {tag} already", hint=f"take another tag, or first: crossroot remove {name}@{tag}"
    )


def publish(unfinished: Path, root: Root, tag: str) -> None:
    """Give the finished snapshot in `unfinished`, a folder of `create`, its place in the store, in one step."""
    path = Path(layout.snapshot_folder(root.name, tag, unfinished.parent.parent))
    with store.explaining(unfinished):
        store.write_metadata(unfinished, {**root.to_json(), "taken": metadata.timestamp()})
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.rename(path)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise _exists(root.name, tag) from error  # somebody else was faster
            raise
        store.sync_folder(path.parent)


@contextmanager
def lock(name: str, tag: str, folder: Path, *, exclusive: bool) -> Iterator[None]:
    """Hold a snapshot: shared to read it, exclusive to remove it. Its root can't be removed meanwhile.

    Raises CrossrootError if there is none, or if others hold it.
    """
    path = Path(layout.snapshot_folder(name, tag, folder))
    with lock_root(name, folder, exclusive=False, wait=False):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise _no_snapshot(name, tag, folder) from error
        except OSError as error:
            raise deletion.not_plain(path) from error
        with Lock(descriptor):
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"another crossroot is using the snapshot {name}@{tag}", hint="try again when it has finished"
                ) from None  # its EAGAIN is no lack of processes, see errors.shortage_cure
            if not os.path.lexists(path):
                raise _no_snapshot(name, tag, folder)  # it was removed meanwhile
            yield


def remove(name: str, tag: str, folder: Path) -> None:
    """Delete a snapshot. Raises CrossrootError as `store.remove`."""
    with lock(name, tag, folder, exclusive=True):
        store.take_away(Path(layout.snapshot_folder(name, tag, folder)), name, folder)
