"""Copies of roots: clones, snapshots, and back. Files are shared where the file system can (reflink), else copied.

A copy is a plain rootfs of its own: a change of one is never seen in the other.
"""

import contextlib
import os
from pathlib import Path

from crossroot import metadata, namespaces, snapshots, store, tree
from crossroot.locking import lock_root
from crossroot.metadata import Root
from crossroot.tasks import task
from crossroot.ui import Progress


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


def copy_rootfs(root: Root, unfinished: Path, title: str) -> bool:
    """Copy the rootfs of a root into the empty one of the folder `unfinished`, as `tree.copy`. title: for the user."""
    source = os.open(root.rootfs, os.O_PATH | os.O_DIRECTORY)

    def work(progress: Progress) -> bool:
        return tree.copy(source, os.open(unfinished / "rootfs", os.O_RDONLY | os.O_DIRECTORY), progress)

    try:
        with task(title) as progress:
            shared: bool = namespaces.call(work, id_map=root.id_map, progress=progress)
    finally:
        os.close(source)
    return shared
