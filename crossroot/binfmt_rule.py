"""The rule that registers a handler with binfmt_misc, and the table of a session's own user namespace.

Kernel: Documentation/admin-guide/binfmt-misc.rst. `crossroot.binfmt` has what there is to the host's table.
"""

from __future__ import annotations

import os

from crossroot import linux
from crossroot.errors import CrossrootError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from crossroot.arch import Arch

OWN_PREFIX = "crossroot-"  # names of the entries crossroot registers
LONGEST_INTERPRETER = 127  # bytes, BINPRM_BUF_SIZE - 1

# P, O and F as for the host (binfmt.HOST_FLAGS). C, credentials of the program, makes setuid programs work. Registered
# for the whole host it would let any local user run a foreign setuid file; in a session's own user namespace it reaches
# no further than the session.
PRIVATE_FLAGS = "POCF"

_DELIMITERS = ":,;|%"  # any byte may separate the fields of a rule that does not occur in them


def own_name(arch: Arch) -> str:
    """The name of crossroot's entry for `arch`."""
    return OWN_PREFIX + arch.name


def rule(arch: Arch, interpreter: str, flags: str, name: str = "") -> bytes:
    """The line that registers `interpreter` for `arch`. name: of the entry, `own_name` if not given.

    Raises CrossrootError if the path holds what a rule cannot.
    """

    def escaped(hexadecimal: str) -> str:
        return "".join(f"\\x{hexadecimal[at : at + 2]}" for at in range(0, len(hexadecimal), 2))

    delimiter = next((byte for byte in _DELIMITERS if byte not in interpreter), "")
    if not delimiter or "\n" in interpreter:
        raise CrossrootError(
            f"the path {interpreter!r} cannot be written into a binfmt_misc rule", hint="copy it to a plainer path"
        )
    magic, mask = escaped(arch.elf.magic), escaped(arch.elf.mask)
    fields = ("", name or own_name(arch), "M", "0", magic, mask, interpreter, flags)
    return os.fsencode(delimiter.join(fields))


def new_private_table(arch: Arch, interpreter: str) -> int:
    """A detached binfmt_misc of the current user namespace with one handler, for `arch`.

    Call it with the host's root still in place, as the interpreter is opened now. The handlers live as long as
    the mount, so attach it somewhere. Raises CrossrootError if the kernel refuses the rule.
    """
    table = linux.new_filesystem("binfmt_misc", {}, linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV)
    path = interpreter
    opened = None
    if len(os.fsencode(path)) > LONGEST_INTERPRETER:
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
