"""Copies of roots: clones, snapshots, and back. Files are shared where the file system can (reflink), else copied.

A copy is a plain rootfs of its own: a change of one is never seen in the other.
"""

from __future__ import annotations

import contextlib
import os

from crossroot import layout, metadata, namespaces, snapshots, store, tree, ui
from crossroot.errors import CrossrootError
from crossroot.locking import BusyError, lock_root
from crossroot.metadata import Root
from crossroot.namespaces import IdMap
from crossroot.tasks import task
from crossroot.ui import Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def clone(source: str, tag: str, name: str, store_folder: Path) -> bool:
    """Make the root `name` as a copy of the root `source`, or of its snapshot `tag`; whether they share all content.

    Raises CrossrootError if `name` is there already, or `source` is not, or changes meanwhile.
    """
    hint = f"give another name, or first: crossroot remove {name}"
    with store.create(name, store_folder, replace=False, hint=hint) as unfinished, _held(source, tag, store_folder):
        root = _opened(source, tag, store_folder)
        shared = copy_rootfs(root, unfinished, f"cloning {source}")
        store.publish(unfinished, root.but(name=name, folder=str(unfinished)))
    return shared


def _held(source: str, tag: str, store_folder: Path) -> contextlib.AbstractContextManager[object]:
    if tag:
        return snapshots.lock(source, tag, store_folder, exclusive=False)
    return lock_root(source, store_folder, exclusive=False, wait=False)


def _opened(source: str, tag: str, store_folder: Path) -> Root:
    return snapshots.open_snapshot(source, tag, store_folder) if tag else metadata.open_root(source, store_folder)


def snapshot(name: str, tag: str, store_folder: Path) -> bool:
    """Keep a copy of the root as it is now, under `tag`; whether they share all content. Raises CrossrootError."""
    with snapshots.create(name, tag, store_folder) as (root, unfinished):
        shared = copy_rootfs(root, unfinished, f"copying {name}")
        snapshots.publish(unfinished, root, tag)
    return shared


def restore(name: str, tag: str, store_folder: Path) -> bool:
    """Let the root be again what it was at the snapshot, which stays; whether they share all content.

    What the root is now is lost. Raises CrossrootError if sessions run in it, and leaves it as it is then.
    """
    snapshots.open_snapshot(name, tag, store_folder)
    with store.create(name, store_folder, replace=True, verb="change") as unfinished:
        then = snapshots.open_snapshot(name, tag, store_folder)  # again, now that nobody can remove it
        shared = copy_rootfs(then, unfinished, f"restoring {name}")
        store.publish(unfinished, then.but(folder=str(unfinished)))
    return shared


@contextlib.contextmanager
def keeping(name: str, root: Root, store_folder: Path) -> Iterator[Callable[[int], None]]:
    """Reserve a name; gives the function that makes a root of it, of the tree an ephemeral session of `root` has left.

    Raises CrossrootError if the name is taken.
    """
    with store.create(name, store_folder, replace=False, hint=f"keep it under another name than {name}") as unfinished:

        def keep(source: int) -> None:
            _copy(source, unfinished, root.id_map, f"keeping {name}")
            store.publish(unfinished, root.but(name=name, folder=str(unfinished)))

        yield keep


def share(root: Root, store_folder: Path) -> None:
    """Let a root that is being made have content in common, on the disk, with a finished root of its kind.

    Only what is equal, as the kernel compares it, and only where the file system can; else nothing happens.
    """
    other = _sibling(root, store_folder)
    if other is None:
        return
    with contextlib.suppress(BusyError), lock_root(other.name, store_folder, exclusive=False, wait=False):
        source, destination = (os.open(each.rootfs, os.O_PATH | os.O_DIRECTORY) for each in (other, root))
        try:
            count = namespaces.call(lambda _: tree.share(source, destination), id_map=root.id_map)
        finally:
            os.close(source)
            os.close(destination)
        if count:
            ui.note(f"{count} files share their space with those of {other.name}, until one of them changes")


def _sibling(root: Root, store_folder: Path) -> Root | None:
    """The newest finished root of the same system, arch and owners."""
    found = []
    for name in layout.names(store_folder, "roots"):
        with contextlib.suppress(CrossrootError):  # what is damaged is of no use here
            other = metadata.read_root(layout.root_folder(name, store_folder))
            same = (other.arch, other.distro, other.branch) == (root.arch, root.distro, root.branch)
            if same and other.id_map == root.id_map and name != root.name:
                found.append(other)
    return max(found, key=lambda other: other.created, default=None)


def copy_rootfs(root: Root, unfinished: Path, title: str) -> bool:
    """Copy the rootfs of a root into the empty one of the folder `unfinished`, as `tree.copy`. title: for the user."""
    source = os.open(root.rootfs, os.O_PATH | os.O_DIRECTORY)
    try:
        return _copy(source, unfinished, root.id_map, title)
    finally:
        os.close(source)


def _copy(source: int, unfinished: Path, id_map: IdMap | None, title: str) -> bool:
    def work(progress: Progress) -> bool:
        return tree.copy(source, os.open(unfinished / "rootfs", os.O_RDONLY | os.O_DIRECTORY), progress)

    with task(title) as progress:
        shared: bool = namespaces.call(work, id_map=id_map, progress=progress)
    return shared
