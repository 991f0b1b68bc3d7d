"""Roots on disk: names, metadata, locks, atomic publication, and removal that cannot touch anything else.

    STORE/.crossroot-store       marker: nothing is ever deleted in a folder without it
    STORE/roots/NAME/            a root: root.json, rootfs/ and sessions/, one record a running session
    STORE/unfinished/            creations (NAME.create.RANDOM) and removals (NAME.remove.RANDOM) under way, or killed
    STORE/locks/NAME             flock(2): shared by sessions, exclusive for creation and removal; never unlinked

A lock belongs to its open file, which children inherit and programs they execute do not. So it holds as long as any
process of a session or a creation lives, whoever was killed first, and needs no cleaning up.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from crossroot import deletion, linux, namespaces, ui
from crossroot.errors import CrossrootError, UsageError
from crossroot.namespaces import IdMap

_MARKER = ".crossroot-store"
_FORMAT = 1
_PATIENCE = 10.0  # seconds that a killed session may take to end
_CONFINED = linux.RESOLVE_NO_SYMLINKS | linux.RESOLVE_BENEATH | linux.RESOLVE_NO_XDEV
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_UNFINISHED_NAME = re.compile(r"(?P<name>.+)\.(?P<verb>create|remove)\.[0-9a-f]{8}")
_TEXTS = (
    *("arch", "distro", "branch", "version", "source", "sha512", "mirror"),
    *("created", "user", "shell", "qemu_cpu", "qemu_version", "binfmt", "crossroot_version"),
)


@dataclass(frozen=True)
class Root:
    """A named rootfs in the store. All texts may be "" where there is nothing to say.

    source: URL or file of the archive it was made from, sha512 its hash. created: see `timestamp`. id_map: under which
    its files were made, None for root's own. binds, user, shell, qemu_cpu, qemu_version, binfmt: of the profile, for
    sessions.
    """

    name: str
    path: Path
    arch: str
    distro: str
    branch: str
    version: str
    source: str
    sha512: str
    mirror: str
    created: str
    id_map: IdMap | None
    env: dict[str, str]
    binds: tuple[str, ...]
    user: str
    shell: str
    qemu_cpu: str
    qemu_version: str
    binfmt: str
    packages: tuple[str, ...]
    crossroot_version: str

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    def to_json(self) -> dict[str, Any]:
        """The content of root.json: everything but name and path, which are those of the folder."""
        data = asdict(self)
        del data["name"], data["path"]
        return {"format": _FORMAT, **data, "id_map": self.id_map and self.id_map.to_json()}

    @staticmethod
    def from_json(data: Any, path: Path) -> "Root":
        """The root in the folder `path` with this root.json. Raises CrossrootError if it makes no sense."""
        try:
            data = {"qemu_version": "", **data}  # which early roots lack
            if data["format"] != _FORMAT:
                raise CrossrootError(
                    f"{path / 'root.json'} has format {data['format']}, this crossroot knows format {_FORMAT}",
                    hint="use the version of crossroot that made it, or a newer one",
                )
            return Root(
                name=path.name,
                path=path,
                id_map=None if data["id_map"] is None else IdMap.from_json(data["id_map"]),
                env=dict(zip(_texts(data["env"]), _texts(data["env"].values()), strict=True)),
                binds=_texts(data["binds"]),
                packages=_texts(data["packages"]),
                **dict(zip(_TEXTS, _texts(data[key] for key in _TEXTS), strict=True)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(path, f"root.json has no proper {error}") from error


def _texts(values: Any) -> tuple[str, ...]:
    texts = tuple(values)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"text in {texts}")
    return texts


def timestamp() -> str:
    """The time now, in UTC, as ISO 8601 writes it: 2024-05-01T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# Names and folders


def check_name(name: str) -> str:
    """The name of a root as it is, if it can be one; else UsageError. It is used as the name of folders."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name):
        what = "is a path, not a name" if "/" in name or name in (".", "..") else "cannot be the name of a root"
        raise UsageError(
            f"{name!r} {what}",
            hint="use up to 63 letters, digits, '.', '_' and '-', a letter or digit first",
        )
    return name


def root_path(name: str, store: Path) -> Path:
    """Where the root `name` is, or will be. Raises UsageError for an impossible name."""
    return store / "roots" / check_name(name)


def _is_store(store: Path) -> bool:
    """Whether the store is there; False if it can be made. Raises CrossrootError for a folder that is none of ours."""
    try:
        entries = os.listdir(store)
        owner = os.stat(store).st_uid
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _explained(error) from error
    if entries and _MARKER not in entries:
        raise CrossrootError(
            f"{store} is not empty and not a store of crossroot (it has no {_MARKER})",
            hint="set CROSSROOT_STORE to another folder",
        )
    if owner != os.geteuid():
        # Its owner could lay symbolic links in the way of our writes.
        raise CrossrootError(
            f"the store {store} belongs to another user (id {owner})",
            hint="run crossroot as that user, or set CROSSROOT_STORE to another folder",
        )
    return bool(entries)


def _make_store(store: Path) -> None:
    """Make what is missing of the store, the marker first: a folder with anything else but no marker is refused."""
    with _explaining(store):
        if not _is_store(store):
            store.mkdir(parents=True, exist_ok=True)
            # Only for its owner: a rootfs holds setuid files of any age, which other local users must not reach.
            store.chmod(0o700)
            (store / _MARKER).touch()
        for part in ("roots", "unfinished", "locks"):
            (store / part).mkdir(exist_ok=True)


def _names(store: Path, part: str) -> list[str]:
    """The sorted entries of a folder of the store, none if it is not there (yet)."""
    if not _is_store(store):
        return []
    with _explaining(store / part):
        try:
            return sorted(os.listdir(store / part))
        except FileNotFoundError:
            return []


# Metadata


def open_root(name: str, store: Path) -> Root:
    """The root of that name. Raises CrossrootError if there is none or its metadata is damaged."""
    path = root_path(name, store)
    if not _is_store(store) or not os.path.lexists(path):
        raise _no_root(name, store)
    return _read_root(path)


def list_roots(store: Path) -> list[Root]:
    """All roots by name; what is damaged is noted and left out."""
    roots = []
    for name in _names(store, "roots"):
        path = store / "roots" / name
        try:
            roots.append(_read_root(path))
        except CrossrootError as error:
            if os.path.lexists(path):  # else it was removed meanwhile
                ui.note(_with_hint(error))
    return roots


def _read_root(path: Path) -> Root:
    if path.is_symlink():
        # Two names for one root would also be two locks.
        raise deletion.not_plain(path)
    try:
        data = json.loads((path / "root.json").read_bytes())
    except OSError as error:
        raise _damaged(path, f"root.json: {error.strerror}") from error
    except ValueError as error:
        raise _damaged(path, f"root.json is not JSON: {error}") from error
    return Root.from_json(data, path)


def _damaged(path: Path, why: str) -> CrossrootError:
    return CrossrootError(
        f"the root {path.name} is damaged: {why}", hint=f"crossroot remove {path.name}, then create it again"
    )


def _no_root(name: str, store: Path) -> CrossrootError:
    from difflib import get_close_matches  # only this error needs it

    near = get_close_matches(name, _names(store, "roots"), n=1)
    return CrossrootError(
        f"there is no root {name} in {store}",
        hint=f"did you mean {near[0]}? Otherwise: crossroot create {name}" if near else f"crossroot create {name}",
    )


# Locks


class Lock:
    """A lock held until `close`, and by children forked before that until they end or execute a program.

    record: a file to unlink at the end.
    """

    def __init__(self, descriptor: int, record: Path | None = None) -> None:
        self.descriptor = descriptor
        self.record = record

    def close(self) -> None:
        # No LOCK_UN: it would unlock for the children too.
        if self.record:
            self.record.unlink(missing_ok=True)
        os.close(self.descriptor)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_root(name: str, store: Path, *, exclusive: bool, wait: bool) -> Lock:
    """Lock a root: shared to use it, exclusive to create, replace or remove it.

    Read its metadata after that, not before. Without `wait`, raises CrossrootError when others hold the lock, and
    says who.
    """
    if not exclusive and not root_path(name, store).exists():
        raise _no_root(name, store)
    _make_store(store)
    with _explaining(store / "locks"):
        descriptor = os.open(store / "locks" / check_name(name), os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        fcntl.flock(descriptor, mode if wait else mode | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise _busy(name, store) from error
    except BaseException:
        os.close(descriptor)
        raise
    return Lock(descriptor)


class _BusyError(CrossrootError):
    """Others hold the lock."""


def _busy(name: str, store: Path) -> _BusyError:
    path = root_path(name, store)
    sessions = _running(path)
    if sessions:
        listed = ", ".join(str(session) for session in sessions)
        return _BusyError(
            f"{name} is in use by {listed}", hint=f"wait for its end, or: crossroot remove --force {name}"
        )
    verbs = {found["verb"] for found in _unfinished(store) if found["name"] == name}
    doing = "removing" if "remove" in verbs else "creating" if "create" in verbs or not path.exists() else "using"
    return _BusyError(f"another crossroot is {doing} {name}", hint="try again when it has finished")


# Sessions


@dataclass(frozen=True)
class SessionRecord:
    """A running session. pid: of its pid 1, as the caller sees it. started: see `timestamp`."""

    path: Path
    pid: int
    command: tuple[str, ...]
    started: str
    start_ticks: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({' '.join(self.command)!r}, since {self.started})"


def start_session_record(root: Root, pid: int, command: Sequence[str]) -> Lock:
    """Let others know that a session with this pid 1 runs in the root, until the Lock is closed or its holders end.

    pid: as seen from outside of the session, where `remove --force` will look for it.
    """
    hidden = root.path / "sessions" / f".{pid}"
    record = hidden.with_name(str(pid))
    with _explaining(hidden):
        data = {"pid": pid, "command": list(command), "started": timestamp(), "start_ticks": _start_ticks(pid)}
        descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            # Visible only when locked and complete: whoever finds it unlocked takes it for stale.
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, json.dumps(data).encode())
            hidden.rename(record)
        except BaseException:
            os.close(descriptor)
            raise
    return Lock(descriptor, record)


def running_sessions(root: Root) -> list[SessionRecord]:
    """The sessions that run in the root. Records of dead ones are dropped."""
    return _running(root.path)


def _running(path: Path) -> list[SessionRecord]:
    records = []
    folder = path / "sessions"
    names = os.listdir(folder) if folder.is_dir() else []
    for name in sorted(filter(str.isdecimal, names), key=int):
        with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
            if _locked(folder / name):
                data = json.loads((folder / name).read_bytes())
                record = SessionRecord(folder / name, **{**data, "command": tuple(data["command"])})
                records.append(record)
            else:
                (folder / name).unlink()
    return records


def _locked(record: Path) -> bool:
    descriptor = os.open(record, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        # Shared, so that two who look at a stale record do not take each other for the session.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _start_ticks(pid: int) -> str:
    """When the process started (proc_pid_stat(5), field 22), which tells it from a later one of the same pid."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return text.rpartition(")")[2].split()[19]


def end_session(record: SessionRecord) -> None:
    """Kill the session and wait until it is gone. Raises CrossrootError if it does not go."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended by itself
        descriptor = os.pidfd_open(record.pid)
        try:
            # Now that the descriptor holds on to one process: is it the session's, and not a later one of that pid?
            if _start_ticks(record.pid) == record.start_ticks and _locked(record.path):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
    deadline = time.monotonic() + _PATIENCE
    with contextlib.suppress(FileNotFoundError):
        while _locked(record.path):
            if time.monotonic() > deadline:
                raise CrossrootError(
                    f"the session {record} does not end", hint=f"see what it waits for: cat /proc/{record.pid}/stack"
                )
            time.sleep(0.01)


# Creation


@contextmanager
def create(name: str, store: Path, *, replace: bool) -> Iterator[Path]:
    """A hidden folder with an empty rootfs/ to build the root `name` in; inside the block `publish` it.

    The root is locked meanwhile. At the end whatever is then in the hidden folder is deleted: nothing after a
    publication, the old root after one that replaced it, the unfinished root after an exception of any kind.
    Raises CrossrootError if the root exists (unless `replace`), is in use, or is being created by somebody else.
    """
    path = root_path(name, store)
    _make_store(store)
    if not replace:
        _refuse_existing(path)
    with lock_root(name, store, exclusive=True, wait=False):
        if not replace:
            _refuse_existing(path)  # again, now that nobody else can publish it
        elif os.path.lexists(path):
            _check_deletable(path, store)
        folder = _new_unfinished(name, "create", store)
        try:
            with _explaining(folder):
                (folder / "sessions").mkdir(parents=True)
                (folder / "rootfs").mkdir()
                (folder / "rootfs").chmod(0o755)  # the / of the root, whatever the caller's umask
            yield folder
        finally:
            _delete_or_note(folder, store)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise CrossrootError(
            f"the root {path.name} exists already", hint="--force replaces it, --name OTHER makes another one"
        )


def _new_unfinished(name: str, verb: str, store: Path) -> Path:
    return store / "unfinished" / f"{name}.{verb}.{os.urandom(4).hex()}"


def publish(unfinished: Path, root: Root) -> None:
    """Give the finished root in `unfinished`, a folder of `create`, its name in the store, in one step.

    A root that is there already changes places with it. Raises CrossrootError if the file system refuses.
    """
    path = root_path(root.name, unfinished.parent.parent)
    with _explaining(unfinished):
        with open(unfinished / "root.json", "w") as file:
            json.dump(root.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(unfinished)
        if path.exists():
            linux.exchange(str(unfinished), str(path))
        else:
            unfinished.rename(path)
        _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, _FOLDER)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# Removal


def remove(name: str, store: Path, *, force: bool) -> None:
    """Delete a root. force: end its sessions first.

    Raises CrossrootError when a session runs in it, when anything is mounted below, when a symbolic link stands in
    the place of one of its folders, or when a file refuses; what is left then is deleted by the next `recover`.
    """
    path = root_path(name, store)
    if not _is_store(store) or not os.path.lexists(path):
        raise _no_root(name, store)
    _check_deletable(path, store)
    with _lock_to_remove(name, store, force=force):
        if not os.path.lexists(path):
            raise _no_root(name, store)  # somebody else was faster
        _check_deletable(path, store)
        _delete(_set_aside(name, store), store)


def _lock_to_remove(name: str, store: Path, *, force: bool) -> Lock:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return lock_root(name, store, exclusive=True, wait=False)
        except _BusyError:
            if not force or time.monotonic() > deadline:
                raise
        for record in _running(root_path(name, store)):
            end_session(record)
        time.sleep(0.01)  # the crossroot that waited for the session holds the lock a moment longer


def _set_aside(name: str, store: Path) -> Path:
    """Rename the root out of the way, so that a killed removal leaves no half root under its name."""
    path, aside = root_path(name, store), _new_unfinished(name, "remove", store)
    with _explaining(path):
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
    for found in _unfinished(store):
        name, folder = found["name"], store / "unfinished" / found.string
        with contextlib.suppress(_BusyError), lock_root(name, store, exclusive=True, wait=False):
            if _delete_or_note(folder, store):
                what = "the unfinished creation" if found["verb"] == "create" else "what was left of the removal"
                done.append(f"removed {what} of {name} (it was interrupted)")
    return done


def _unfinished(store: Path) -> list[re.Match[str]]:
    """The entries of unfinished/ that are ours, with the groups name and verb."""
    return [match for entry in _names(store, "unfinished") if (match := _UNFINISHED_NAME.fullmatch(entry))]


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
    namespaces.call(lambda _: deletion.delete(real, relative, _MARKER), id_map=_id_map_of(folder))


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
        recorded = _read_root(folder).id_map
    except CrossrootError:
        recorded = None
    return recorded or namespaces.own_id_map()


# Errors


def _with_hint(error: CrossrootError) -> str:
    return f"{error.message} (hint: {error.hint})" if error.hint else error.message


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn the kernel's errors about the store into CrossrootError. path: named when the kernel's error names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename if isinstance(error.filename, (str, bytes)) else str(path)
        raise _explained(error) from error


def _explained(error: OSError) -> CrossrootError:
    hints = {
        errno.ENOSPC: "free some space or inodes (df, df -i), or set CROSSROOT_STORE to a folder on another disk",
        errno.EDQUOT: "free some of your quota, or set CROSSROOT_STORE to a folder on another disk",
        errno.EROFS: "set CROSSROOT_STORE to a folder on a writable file system",
        errno.EACCES: "set CROSSROOT_STORE to a folder that you may write to",
        errno.EPERM: "see whether it is immutable: lsattr -d",
        errno.ENOTDIR: "set CROSSROOT_STORE to a folder",
    }
    return CrossrootError(namespaces.describe_os_error(error), hint=hints.get(error.errno or 0, ""))
