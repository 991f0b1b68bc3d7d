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
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
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


class Script(Record):
    """An executable file with this text, in a file system that the plan mounted before it."""

    text: str
    target: str


class Replace(Record):
    """A file of the host in the place of a file that the root has at `target`; nothing where it has none."""

    source: str
    target: str


class ReadOnly(Record):
    """What a file system that the plan mounted before it has at `target`, read-only; nothing where it has none."""

    target: str


class Mask(Record):
    """An empty folder or file over what a file system that the plan mounted before it has at `target`, if it has it."""

    target: str


Step = Bind | New | Content | Link | Folder | Script | Replace | ReadOnly | Mask


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
        case Script():
            return f"write the script {step.target}"
        case Replace():
            return f"bind {step.source} in the place of {step.target}"
        case ReadOnly():
            return f"make {step.target} read-only"
        case Mask():
            return f"mask {step.target}"


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


def masks() -> list[Step]:
    """What is the whole machine's in /proc and /sys: read-only or out of sight, as in Docker's containers."""
    return [*map(ReadOnly, _READ_ONLY), *map(Mask, _MASKED)]


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
            case Content() | Link() | Folder() | Script() | ReadOnly() | Mask():
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


def attach(prepared: Sequence[Prepared]) -> None:
    """Put prepared mounts in their places below the current root, making folders and files to mount on.

    What lies in a new file system is reached through its descriptor: other sessions may change the root's own folders
    meanwhile.
    """
    new: dict[str, int] = {}
    for item in prepared:
        try:
            _attach(item, new)
        except OSError as error:
            where = os.fsdecode(error.filename) if error.filename else item.step.target
            raise CrossrootError(
                f"cannot {describe(item.step)} inside the root: {error.strerror}",
                hint=f"look at {where} in the root",
            ) from error
    for tree in new.values():
        os.close(tree)


def _attach(item: Prepared, new: dict[str, int]) -> None:
    """new: the descriptors of the new file systems so far, by their targets; this one is added if it is one."""
    folder, target = _place(item.step.target, new)
    tree = item.tree
    match item.step:
        case Link(points_to):
            os.symlink(points_to, target, dir_fd=folder)
            return
        case Folder():
            os.mkdir(target, 0o755, dir_fd=folder)
            return
        case Script(text):
            _write(text.encode(), target, folder, mode=0o755)
            return
        case ReadOnly() | Mask():
            try:
                tree = _cover(item.step, folder, target, new)
            except FileNotFoundError:
                return
        case Replace():
            if not _is_file(target, folder):
                assert tree is not None
                os.close(tree)
                return
        case Content():
            tree = _file(item.step, new["/dev"])
    assert tree is not None
    if isinstance(item.step, Bind | New | Content):
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            if folder == linux.AT_FDCWD:
                target = os.path.realpath(target)  # a folder can't be mounted on a link
            _make_folders(target, folder)
        else:
            _ensure_file(target, folder)
    linux.move_mount(tree, target, folder=folder)
    if isinstance(item.step, New):
        new[item.step.target] = tree
    else:
        os.close(tree)


def _is_file(path: str, folder: int) -> bool:
    """Whether there is a file, itself and not by a link."""
    try:
        return stat.S_ISREG(os.stat(path, dir_fd=folder, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _place(target: str, new: dict[str, int]) -> tuple[int, str]:
    """A path as a descriptor and a path below it: of the innermost new file system that it lies in, or absolute."""
    mounted = max((place for place in new if target.startswith(place + "/")), key=len, default="")
    return (new[mounted], target[len(mounted) + 1 :]) if mounted else (linux.AT_FDCWD, target)


def _cover(step: ReadOnly | Mask, folder: int, target: str, new: dict[str, int]) -> int:
    """A detached mount to put over what is there. Raises FileNotFoundError if nothing is."""
    is_folder = stat.S_ISDIR(os.stat(target, dir_fd=folder, follow_symlinks=False).st_mode)
    if isinstance(step, ReadOnly):
        tree = linux.open_tree(target, folder=folder, recursive=False)
        linux.set_mount_attributes(tree, linux.MOUNT_ATTR_RDONLY)
        return tree
    if is_folder:
        return linux.new_filesystem("tmpfs", {"size": "4k"}, _SAFE | linux.MOUNT_ATTR_NOEXEC | linux.MOUNT_ATTR_RDONLY)
    return linux.open_tree("null", folder=new["/dev"], recursive=False)


def _file(step: Content, dev: int) -> int:
    """A detached mount of a new file, which lies in the session's own /dev with a dot before its name.

    Before Linux 6.15 nothing of a mount can be cloned that is not attached itself, and on a file without a name nothing
    could be mounted.
    """
    name = step.target.replace("/", ".")
    _write(step.data, name, dev, mode=0o644)
    return linux.open_tree(name, folder=dev, recursive=False)


def _write(data: bytes, path: str, folder: int, *, mode: int) -> None:
    """Make a new file of this mode below the descriptor `folder`."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=folder), "wb") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(data)


def _ensure_file(path: str, folder: int) -> None:
    """Make an empty file to mount on, unless something is there already, be it a dangling link."""
    _make_folders(os.path.dirname(path), folder)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder))
    except FileExistsError:
        return


def _make_folders(path: str, folder: int) -> None:
    """os.makedirs below the descriptor `folder`: make what is missing, follow links of the root."""
    try:
        if path:
            os.mkdir(path, 0o755, dir_fd=folder)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_folders(os.path.dirname(path), folder)
        os.mkdir(path, 0o755, dir_fd=folder)
