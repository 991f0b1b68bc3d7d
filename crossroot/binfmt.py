"""binfmt_misc: which handler runs the programs of an arch on the host.

Kernel: Documentation/admin-guide/binfmt-misc.rst. Since Linux 6.7 a user namespace can have an instance of its
own. Looking up a handler then ends there: a private instance hides all handlers of the host.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossroot import elf, linux, namespaces, ui
from crossroot.arch import Arch
from crossroot.binfmt_rule import LONGEST_INTERPRETER
from crossroot.errors import CrossrootError
from crossroot.record import Record

TABLE = Path("/proc/sys/fs/binfmt_misc")

# P keeps argv[0]; O opens the program for the interpreter, so that execute-only files run; F opens the
# interpreter at once, so that it serves in every chroot.
HOST_FLAGS = "POF"

_START_OF_FILE = 256  # bytes of a file that the kernel compares with magics, BINPRM_BUF_SIZE
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # its inode on every kernel: include/uapi/linux/nsfs.h, USER_NS_INIT_INO


class Entry(Record):
    """A registered handler, as its file in binfmt_misc shows it. magic, mask: hex, as in `crossroot.arch`."""

    name: str
    enabled: bool
    interpreter: str
    flags: str
    offset: int
    magic: str
    mask: str

    def matches(self, start: bytes) -> bool:
        """Whether a file that starts so is one for this entry."""
        magic = bytes.fromhex(self.magic)
        mask = bytes.fromhex(self.mask) or b"\xff" * len(magic)
        # The kernel compares with a buffer of zeros into which it has read the start of the file.
        compared = start[:_START_OF_FILE].ljust(_START_OF_FILE, b"\0")[self.offset :]
        return bool(magic) and all(
            (byte ^ want) & bits == 0 for byte, want, bits in zip(compared, magic, mask, strict=False)
        )

    def serves(self, arch: Arch) -> bool:
        """Whether the kernel hands programs of `arch` to this entry, were it the only one and enabled."""
        return self.matches(elf.probe_program(arch))


@contextmanager
def visible_table() -> Iterator[Path | None]:
    """A folder that shows the binfmt_misc instance of this process; None if there is no way to see it.

    Where it is not mounted on its usual place, root of the initial user namespace gets a mount that is attached
    nowhere. Others don't: in a user namespace, mounting is what creates an instance and hides the host's.
    """
    if (TABLE / "register").exists():  # which also lets systemd's autofs mount it
        yield TABLE
        return
    if os.geteuid() != 0 or not in_initial_user_namespace():
        yield None
        return
    try:
        descriptor = linux.new_filesystem("binfmt_misc", {})
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENODEV, errno.ENOSYS):
            raise
        yield None  # a container, or a kernel without binfmt_misc
        return
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def in_initial_user_namespace() -> bool:
    """Whether this process is in the host's user namespace, so that its handlers are those of the whole host."""
    return os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE


def enabled(table: Path) -> bool:
    """Whether the instance is enabled as a whole, by its file `status`."""
    return (table / "status").read_text().strip() == "enabled"


def entries(table: Path = TABLE) -> list[Entry]:
    """The entries of a binfmt_misc instance, newest first; none where it is not mounted.

    The kernel takes the newest enabled entry that matches, and lists its files newest first, as every file system
    made of libfs does (found by experiment, held by a test). An empty listing proves nothing: a container's fresh
    /proc shows none while the host's handlers work.
    """
    if not (table / "register").exists():
        return []
    names = [path for path in table.iterdir() if path.name not in ("register", "status")]
    return [_parse(path.name, path.read_text(errors="surrogateescape")) for path in names]


def _parse(name: str, text: str) -> Entry:
    lines = text.splitlines()
    fields = dict(line.partition(" ")[::2] for line in lines[1:])
    offset = fields.get("offset", "")
    return Entry(
        name=name,
        enabled=lines[:1] == ["enabled"],
        interpreter=fields.get("interpreter", ""),
        flags=fields.get("flags:", ""),
        # The path of an interpreter may have newlines in it, and lines that look like these.
        offset=int(offset) if offset.isascii() and offset.isdecimal() and len(offset) < 10 else 0,
        magic=fields.get("magic", ""),
        mask=fields.get("mask", ""),
    )


def private_possible() -> bool:
    """Whether this system lets us have handlers in a user namespace of our own; tried in a child.

    Raises CrossrootError if an ordinary user is refused the user namespace, and whenever it cannot be told: a killed
    child for instance is no reason to register handlers for the whole host.
    """
    id_map = namespaces.own_single_map() or namespaces.identity_map()

    def mount(_: ui.Progress) -> bool:
        try:
            linux.new_filesystem("binfmt_misc", {})
        except OSError as error:
            # EPERM: before Linux 6.7, or denied by a security module or a container's seccomp filter.
            # ENODEV: a kernel without binfmt_misc.
            if error.errno in (errno.EPERM, errno.EACCES, errno.ENODEV, errno.ENOSYS):
                return False
            raise
        return True

    try:
        return bool(namespaces.call(mount, id_map=id_map))
    except namespaces.NamespaceRefused:
        if os.geteuid() != 0:
            raise  # nothing works without a user namespace then, and the error says how to get them
        return False


def mount_table() -> None:
    """Mount the binfmt_misc of this user namespace on its usual place, unless it is there already.

    The kernel loads the module itself (modprobe fs-binfmt_misc). It is left mounted: the last unmount removes all
    entries. Raises CrossrootError if the kernel has none or refuses it.
    """
    (TABLE / "register").exists()  # lets systemd's autofs mount it
    try:
        table = linux.new_filesystem("binfmt_misc", {}, linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
        try:
            # What a user namespace sees on that place may still be the host's.
            if os.fstat(table).st_dev != os.stat(TABLE).st_dev:
                linux.move_mount(table, str(TABLE))
        finally:
            os.close(table)
    except OSError as error:
        raise CrossrootError(f"binfmt_misc cannot be mounted: {error.strerror}", hint=_mount_cure(error)) from error


def _mount_cure(error: OSError) -> str:
    if error.errno in (errno.ENODEV, errno.ENOENT):
        return "this kernel has no binfmt_misc (CONFIG_BINFMT_MISC), or its module is not installed"
    return as_root("mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc") + ", outside of containers"


@contextmanager
def locked_table() -> Iterator[None]:
    """Keep other crossroot processes from changing the mounted table while the block runs."""
    descriptor = os.open(TABLE, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def add(line: bytes) -> None:
    """Register a rule in the mounted table. Raises CrossrootError with what the kernel's refusal means."""
    try:
        descriptor = os.open(TABLE / "register", os.O_WRONLY)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        meaning = _REFUSALS.get(error.errno or 0, str(error.strerror))
        shown = os.fsdecode(line[1:]).partition(os.fsdecode(line[:1]))[0]
        raise CrossrootError(f"the kernel refused the entry {shown}: {meaning}", hint=_REFUSED_HINT) from error


_REFUSED_HINT = "crossroot doctor"
_REFUSALS = {
    errno.EINVAL: f"the rule is malformed, or the interpreter's path is longer than {LONGEST_INTERPRETER} bytes",
    errno.EEXIST: "an entry of that name exists",
    errno.ENOENT: "its interpreter does not exist",
    errno.EACCES: "not permitted, or the interpreter's file system is mounted noexec",
    errno.EROFS: "binfmt_misc is mounted read-only here, as in most containers",
    errno.EPERM: "not permitted in this container",
}


def remove(name: str, table: Path = TABLE) -> None:
    """Remove one entry. Raises CrossrootError if the kernel refuses; it never touches `register` or `status`."""
    if name in ("register", "status", "", ".", "..") or "/" in name:
        raise CrossrootError(f"'{name}' is no entry of binfmt_misc")
    try:
        descriptor = os.open(table / name, os.O_WRONLY)
        try:
            os.write(descriptor, b"-1")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CrossrootError(f"the entry {name} cannot be removed: {error.strerror}", hint="be root") from error


def as_root(command: str) -> str:
    """A shell command for a hint, with what an ordinary user has to type to run it as root."""
    if os.geteuid() == 0:
        return command
    return f"sudo sh -c '{command}'" if ">" in command else f"sudo {command}"
