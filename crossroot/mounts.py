"""The mounts of a session as plain data: what to mount where, how to say it, how to do it.

Every mount is made in two steps. `prepare` makes it detached, while the host's paths are still in sight; `attach`
puts it in its place after pivot_root, when the guest's symbolic links can lead nowhere but into the guest.
"""

from __future__ import annotations

import os
import stat

from crossroot import linux
from crossroot.errors import CrossrootError
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SAFE = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


class Bind(Record):
    """A file or folder of the host, with what is mounted below it, at `target`.

    overlay: a size, see `overlay.over`, for a folder whose changes are to be lost with the session.
    """

    source: str
    target: str
    readonly: bool = False
    overlay: str = ""


class New(Record):
    """A new file system. options: as for mount(8), "" for a flag. attributes: MOUNT_ATTR_*."""

    fstype: str
    target: str
    options: dict[str, str]
    attributes: int = _SAFE


class Content(Record):
    """A file of the session's own with these bytes, over whatever the root has at `target`, a link included."""

    data: bytes
    target: str


class Link(Record):
    """A symbolic link, in a file system that the plan mounted before it."""

    points_to: str
    target: str


class Folder(Record):
    """A folder, in a file system that the plan mounted before it."""

    target: str


class Replace(Record):
    """A file of the host in the place of a file that the root has at `target`; nothing where it has none."""

    source: str
    target: str


Step = Bind | New | Content | Link | Folder | Replace


def describe(step: Step) -> str:
    """One step in words."""
    match step:
        case Bind():
            return f"bind {step.source} on {step.target}" + (" read-only" if step.readonly else "")
        case New():
            return f"mount {step.fstype} on {step.target}"
        case Content():
            return f"mount {len(step.data)} bytes on {step.target}"
        case Link():
            return f"link {step.target} to {step.points_to}"
        case Folder():
            return f"make folder {step.target}"
        case Replace():
            return f"bind {step.source} in the place of {step.target}"


def standard() -> list[Step]:
    """What every session gets: /proc, a minimal /dev, /sys read-only, /tmp."""
    steps: list[Step] = [
        New("proc", "/proc", {}, _SAFE | linux.MOUNT_ATTR_NOEXEC),
        # Never devtmpfs: it is one instance for the whole kernel, and deleting in it deletes the host's devices.
        New("tmpfs", "/dev", {"mode": "0755", "size": "1m"}, linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC),
        *(Bind(f"/dev/{name}", f"/dev/{name}") for name in _DEVICES),
        Link("/proc/self/fd", "/dev/fd"),
        Link("/proc/self/fd/0", "/dev/stdin"),
        Link("/proc/self/fd/1", "/dev/stdout"),
        Link("/proc/self/fd/2", "/dev/stderr"),
        Folder("/dev/pts"),
        New(
            "devpts",
            "/dev/pts",
            {"newinstance": "", "ptmxmode": "0666", "mode": "0620"},
            linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NOEXEC,
        ),
        Link("pts/ptmx", "/dev/ptmx"),
        Folder("/dev/shm"),
        New("tmpfs", "/dev/shm", {"mode": "1777"}),
        New("tmpfs", "/tmp", {"mode": "1777"}),
    ]
    if os.path.isdir("/sys/kernel"):
        steps.append(Bind("/sys", "/sys", readonly=True))
    return steps


class Prepared(Record):
    """A step and the descriptor of its detached mount, if it has one."""

    step: Step
    tree: int | None


def prepare(steps: Sequence[Step], *, say: Callable[[str], None]) -> list[Prepared]:
    """Make the mounts of `steps`, detached. Raises CrossrootError that says which one failed and why.

    say: called with what the user should know, when something had to be done differently.
    """
    return [Prepared(step, _make(step, say)) for step in steps]


def _make(step: Step, say: Callable[[str], None]) -> int | None:
    try:
        match step:
            case Bind():
                if step.overlay:
                    from crossroot import overlay  # hardly any session needs it

                    return overlay.over(step.source, step.overlay)
                tree = linux.open_tree(step.source)
                if step.readonly:
                    # Recursive, unlike the flags of a classic bind mount.
                    linux.set_mount_attributes(tree, linux.MOUNT_ATTR_RDONLY)
                return tree
            case New():
                return _new(step, say)
            case Content():
                return _file(step.data)
            case Link() | Folder():
                return None
            case Replace():
                tree = linux.open_tree(step.source)
                linux.set_mount_attributes(tree, linux.MOUNT_ATTR_RDONLY)
                return tree
    except OSError as error:
        raise CrossrootError(f"cannot {describe(step)}: {error.strerror}") from error


def _new(step: New, say: Callable[[str], None]) -> int:
    try:
        return linux.new_filesystem(step.fstype, step.options, step.attributes)
    except PermissionError:
        if step.fstype != "proc":
            raise
        # In a container with a masked /proc the kernel allows no fresh one (mount_too_revealing in fs/namespace.c).
        say("this container masks parts of /proc, so the session sees the container's processes in /proc")
        return linux.open_tree("/proc")


def _file(data: bytes) -> int:
    folder = linux.new_filesystem("tmpfs", {"mode": "0755", "size": "1m"}, _SAFE | linux.MOUNT_ATTR_NOEXEC)
    file = os.open("file", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
    os.fchmod(file, 0o644)
    os.write(file, data)
    os.close(file)
    tree = linux.open_tree("file", folder=folder, recursive=False)
    os.close(folder)
    return tree


def attach(prepared: Sequence[Prepared]) -> None:
    """Put prepared mounts in their places below the current root, making folders and files to mount on."""
    for item in prepared:
        try:
            _attach(item)
        except OSError as error:
            where = os.fsdecode(error.filename) if error.filename else item.step.target
            raise CrossrootError(
                f"cannot {describe(item.step)} inside the root: {error.strerror}",
                hint=f"look at {where} in the root",
            ) from error


def _attach(item: Prepared) -> None:
    target = item.step.target
    match item.step:
        case Link(points_to):
            os.symlink(points_to, target)
        case Folder():
            os.mkdir(target, 0o755)
        case Replace():
            assert item.tree is not None
            if _is_file(target):
                linux.move_mount(item.tree, target)
            os.close(item.tree)
        case _:
            assert item.tree is not None
            if stat.S_ISDIR(os.fstat(item.tree).st_mode):
                target = os.path.realpath(target)  # a folder can't be mounted on a link
                os.makedirs(target, exist_ok=True)
            else:
                _ensure_file(target)
            linux.move_mount(item.tree, target)
            os.close(item.tree)


def _is_file(path: str) -> bool:
    """Whether there is a file, itself and not by a link."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _ensure_file(path: str) -> None:
    """Make an empty file to mount on, unless something is there already, be it a dangling link."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.lexists(path):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
