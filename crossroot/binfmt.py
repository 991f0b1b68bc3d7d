"""binfmt_misc: which handler runs the programs of an arch, on the host or in a session's own user namespace.

Kernel: Documentation/admin-guide/binfmt-misc.rst. Since Linux 6.7 a user namespace can have an instance of its
own. Looking up a handler then ends there: a private instance hides all handlers of the host.
"""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from crossroot import linux, namespaces, ui
from crossroot.arch import Arch
from crossroot.errors import CrossrootError

TABLE = Path("/proc/sys/fs/binfmt_misc")

# P keeps argv[0]; O opens the program for the interpreter, so that execute-only files run; F opens the
# interpreter at once, so that it serves in every chroot.
HOST_FLAGS = "POF"
# C, credentials of the program, makes setuid programs work. Registered for the whole host it would let any local
# user run a foreign setuid file; in a session's own user namespace it reaches no further than the session.
PRIVATE_FLAGS = "POCF"

_LONGEST_INTERPRETER = 127  # bytes, BINPRM_BUF_SIZE - 1


@dataclass(frozen=True)
class Entry:
    """A registered handler, as its file in binfmt_misc shows it. magic, mask: hex, as in `crossroot.arch`."""

    name: str
    enabled: bool
    interpreter: str
    flags: str
    offset: int
    magic: str
    mask: str

    def serves(self, arch: Arch) -> bool:
        """Whether the kernel hands programs of `arch` to this entry, were it the only one."""
        if not self.enabled or not self.magic:
            return False
        magic = bytes.fromhex(self.magic)
        mask = bytes.fromhex(self.mask) or b"\xff" * len(magic)
        program = bytes.fromhex(arch.elf.magic).ljust(self.offset + len(magic), b"\0")[self.offset :]
        return all((byte ^ want) & bits == 0 for byte, want, bits in zip(program, magic, mask, strict=False))


def rule(arch: Arch, interpreter: str, flags: str) -> bytes:
    """The line that registers `interpreter` for `arch`, named crossroot-ARCH."""

    def escaped(hexadecimal: str) -> str:
        return "".join(f"\\x{hexadecimal[at : at + 2]}" for at in range(0, len(hexadecimal), 2))

    magic, mask = escaped(arch.elf.magic), escaped(arch.elf.mask)
    return os.fsencode(f":crossroot-{arch.name}:M:0:{magic}:{mask}:{interpreter}:{flags}")


def entries(table: Path = TABLE) -> list[Entry]:
    """The entries of a binfmt_misc instance, in no order that matters; none where it is not mounted.

    An empty listing proves nothing: a container's fresh /proc shows none while the host's handlers work.
    """
    if not (table / "register").exists():
        return []
    names = [path for path in table.iterdir() if path.name not in ("register", "status")]
    return [_parse(path.name, path.read_text(errors="surrogateescape")) for path in names]


def _parse(name: str, text: str) -> Entry:
    lines = text.splitlines()
    fields = dict(line.partition(" ")[::2] for line in lines[1:])
    return Entry(
        name=name,
        enabled=lines[:1] == ["enabled"],
        interpreter=fields.get("interpreter", ""),
        flags=fields.get("flags:", ""),
        offset=int(fields.get("offset", "0")),
        magic=fields.get("magic", ""),
        mask=fields.get("mask", ""),
    )


def private_possible() -> bool:
    """Whether this system lets us have handlers in a user namespace of our own; tried in a child."""
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

    return bool(namespaces.call(mount, id_map=id_map))


def new_private_table(arch: Arch, interpreter: Path) -> int:
    """A detached binfmt_misc of the current user namespace with one handler, for `arch`.

    Call it with the host's root still in place, as the interpreter is opened now. The handlers live as long as
    the mount, so attach it somewhere. Raises CrossrootError if the kernel refuses the rule.
    """
    table = linux.new_filesystem("binfmt_misc", {}, linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
    path = str(interpreter)
    opened = None
    if len(os.fsencode(path)) > _LONGEST_INTERPRETER:
        opened = os.open(path, os.O_PATH)
        path = f"/proc/self/fd/{opened}"
    register_file = os.open("register", os.O_WRONLY, dir_fd=table)
    try:
        os.write(register_file, rule(arch, path, PRIVATE_FLAGS))
    except OSError as error:
        raise CrossrootError(
            f"the kernel refused a handler for {arch.name} with {interpreter}: {error.strerror}"
        ) from error
    finally:
        os.close(register_file)
        if opened is not None:
            os.close(opened)
    return table


def mount_table() -> None:
    """Mount binfmt_misc on its usual place unless it is there. Raises CrossrootError if the kernel has none."""
    if (TABLE / "register").exists():
        return
    try:
        table = linux.new_filesystem("binfmt_misc", {}, linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
        linux.move_mount(table, str(TABLE))
        os.close(table)
    except OSError as error:
        raise CrossrootError(f"binfmt_misc cannot be mounted: {error.strerror}", hint="modprobe binfmt_misc") from error
