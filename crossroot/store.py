"""Roots come and go: listing, atomic publication, and removal that cannot touch anything else.

`crossroot.layout` says where things are, `crossroot.locking` who may do what meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from contextlib import contextmanager
from pathlib import Path

from crossroot import deletion, fastjson, launcher, layout, linux, locking, metadata, namespaces, ui
from crossroot.errors import CrossrootError
from crossroot.locking import BusyError, Lock, lock_root
from crossroot.metadata import Root
from crossroot.namespaces import IdMap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_PATIENCE = 10.0  # seconds that a session whose end is forced may take
_CONFINED = linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH | linux.RESOLVE_NO_XDEV
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


def list_roots(store: Path) -> list[Root]:
    """All roots by name; what is damaged is noted and left out."""
    roots = []
    for name in layout.names(store, "roots"):
        folder = os.path.join(store, "roots", name)
        try:
            roots.append(metadata.read_root(folder))
        except CrossrootError as error:
            if os.path.lexists(folder):  # else it was removed meanwhile
                ui.note(_with_hint(error))
    return roots


# Creation


def root_path(name: str, store: Path) -> Path:
    """Where the root `name` is, or will be. Raises UsageError for an impossible name."""
    return Path(layout.root_folder(name, store))


@contextmanager
def create(name: str, store: Path, *, replace: bool, verb: str = "create", hint: str = "") -> Iterator[Path]:
    """A hidden folder with an empty rootfs/ to build the root `name` in; inside the block `publish` it.

    verb: what others are told of it, "create" or "change".

    The root is locked meanwhile. At the end whatever is then in the hidden folder is deleted: nothing after a
    publication, the old root after one that replaced it, the unfinished root after an exception of any kind.
    Raises CrossrootError if the root exists (unless `replace`), is in use, or is being created by somebody else.
    hint: what to do if it exists.
    """
    path = root_path(name, store)
    layout.make_store(store)
    if not replace:
        _refuse_existing(path, hint)
    with lock_root(name, store, exclusive=True, wait=False):
        if not replace:
            _refuse_existing(path, hint)  # again, now that nobody else can publish it
        elif os.path.lexists(path):
            _check_deletable(path, store)
        with hidden_folder(name, verb, store) as folder:
            with explaining(folder):
                (folder / "sessions").mkdir()
            yield folder


def _refuse_existing(path: Path, hint: str) -> None:
    if os.path.lexists(path):
        raise CrossrootError(
            f"the root {path.name} exists already", hint=hint or "--force replaces it, --name OTHER makes another one"
        )


@contextmanager
def hidden_folder(name: str, verb: str, store: Path) -> Iterator[Path]:
    """A new folder in unfinished/, with an empty rootfs/; whatever is in it at the end is deleted."""
    folder = Path(layout.new_unfinished(name, verb, store))
    try:
        with explaining(folder):
            (folder / "rootfs").mkdir(parents=True)
            (folder / "rootfs").chmod(0o755)  # the / of the root, whatever the caller's umask
        yield folder
    finally:
        _delete_or_note(folder, store)


def publish(unfinished: Path, root: Root) -> None:
    """Give the finished root in `unfinished`, a folder of `create`, its name in the store, in one step.

    A root that is there already changes places with it. Raises CrossrootError if the file system refuses.
    """
    path = root_path(root.name, unfinished.parent.parent)
    with explaining(unfinished):
        launcher.write(unfinished)
        write_metadata(unfinished, root.to_json())
        if path.exists():
            linux.exchange(str(unfinished), str(path))
        else:
            unfinished.rename(path)
        sync_folder(path.parent)


def write_metadata(folder: Path, data: dict[str, Any]) -> None:
    """Write root.json, safe on the disk. Raises OSError."""
    with open(folder / "root.json", "wb") as file:
        file.write(fastjson.dumps(data) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(path: Path) -> None:
    """fsync(2) of a folder: the names in it are safe on the disk then."""
    descriptor = os.open(path, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Removal


def remove(name: str, store: Path, *, force: bool) -> None:
    """Delete a root and its snapshots. force: end its sessions first.

    Raises CrossrootError when a session runs in it, when anything is mounted below, when a symbolic link stands in
    the place of one of its folders, or when a file refuses; what is left then is deleted by the next `recover`.
    """
    path = root_path(name, store)
    if not layout.is_store(store) or not os.path.lexists(path):
        raise metadata.no_root(name, store)
    _check_deletable(path, store)
    with _lock_to_remove(name, store, force=force):
        if not os.path.lexists(path):
            raise metadata.no_root(name, store)  # somebody else was faster
        snapshots = [Path(layout.snapshot_folder(name, tag, store)) for tag in layout.snapshot_tags(name, store)]
        for folder in (path, *snapshots):
            _check_deletable(folder, store)
        # The snapshots first: killed in between, the root is there and can be removed again.
        for folder in snapshots:
            take_away(folder, name, store)
        with contextlib.suppress(FileNotFoundError):
            (store / "snapshots" / name).rmdir()
        take_away(path, name, store)


def _lock_to_remove(name: str, store: Path, *, force: bool) -> Lock:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return lock_root(name, store, exclusive=True, wait=False)
        except BusyError:
            if not force or time.monotonic() > deadline:
                raise
        for record in locking.running(root_path(name, store)):
            locking.end_session(record)
        time.sleep(0.01)  # the crossroot that waited for the session holds the lock a moment longer


def take_away(path: Path, name: str, store: Path) -> None:
    """Delete the root `name`, or a snapshot of it, which is in the folder `path`."""
    _check_deletable(path, store)
    _delete(_set_aside(path, name, store), store)


def _set_aside(path: Path, name: str, store: Path) -> Path:
    """Rename a root or snapshot out of the way, so that a killed removal leaves no half of it in its place."""
    aside = Path(layout.new_unfinished(name, "remove", store))
    with explaining(path):
        try:
            path.rename(aside)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # overlayfs cannot rename a folder of a lower layer, of a container's image for instance
            # (Documentation/filesystems/overlayfs.rst, "Renaming directories"). Without root.json nobody takes it
            # for a whole root.
            (path / "root.json").unlink(missing_ok=True)
            return path
    return aside


def recover(store: Path) -> list[str]:
    """Delete what interrupted commands have left, unless it is in use; gives a sentence for each.

    For commands that change or list the store. What cannot be deleted is noted and stays.
    """
    done = []
    for found in layout.unfinished(store):
        folder = store / "unfinished" / found.entry
        with contextlib.suppress(BusyError), lock_root(found.name, store, exclusive=True, wait=False):
            if _delete_or_note(folder, store):
                done.append(f"removed {layout.VERBS[found.verb][1]} of {found.name} (it was interrupted)")
    return done


def _check_deletable(folder: Path, store: Path) -> None:
    """Refuse what is not made of plain folders of the store, or below which something is mounted."""
    mounts = deletion.mounts_below(folder)
    if mounts:
        raise CrossrootError(
            f"something is mounted in {folder}: {', '.join(map(deletion.shown, mounts))}",
            hint="; ".join(f"umount {deletion.shown(mount)}" for mount in reversed(mounts)),
        )
    store_descriptor = os.open(store, os.O_PATH | os.O_DIRECTORY)
    try:
        for part in (folder, folder / "sessions", folder / "rootfs"):
            with contextlib.suppress(FileNotFoundError):
                os.close(deletion.open_plain(store_descriptor, str(part.relative_to(store)), store))
    finally:
        os.close(store_descriptor)


# Deletion


def _delete_or_note(folder: Path, store: Path) -> bool:
    """Delete what is there; if that fails, say why and leave it to the next command. Whether something was deleted."""
    if not os.path.lexists(folder):
        return False
    try:
        _delete(folder, store)
    except CrossrootError as error:
        ui.note(f"{folder} is left over: {_with_hint(error)}")
        return False
    return True


def _delete(folder: Path, store: Path) -> None:
    """Delete a folder of the store, in a child that has nothing mounted below it and owns all its files."""
    _check_deletable(folder, store)
    if _remove_empty(folder):
        return
    relative = folder.relative_to(store)
    real = Path(os.path.realpath(store))
    namespaces.call(lambda _: deletion.delete(real, relative, layout.MARKER), id_map=_id_map_of(folder))


def _remove_empty(folder: Path) -> bool:
    """Remove a creation that nothing came into: this needs no namespaces, whose lack may be why nothing came."""
    try:
        for part in (folder / "rootfs", folder / "sessions", folder):
            part.rmdir()
    except OSError:
        return False  # for the thorough way, which also says what is wrong
    return True


def _id_map_of(folder: Path) -> IdMap | None:
    """The id map that owns the files of a root; that of a half made one must be what the caller has now."""
    try:
        recorded = metadata.read_root(folder).id_map
    except CrossrootError:
        recorded = None
    return recorded or namespaces.own_id_map()


# Errors


def _with_hint(error: CrossrootError) -> str:
    return f"{error.message} (hint: {error.hint})" if error.hint else error.message


@contextmanager
def explaining(path: Path) -> Iterator[None]:
    """Turn the kernel's errors about the store into CrossrootError. path: named when the kernel's error names none."""
    try:
        yield
    except OSError as error:
        raise layout.explained(error, path) from error
