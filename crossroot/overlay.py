"""The `/` of an ephemeral session: an overlay over the rootfs, whose changes are in a tmpfs of the session's own.

Nothing of it is on a disk or in the host's mount table, so whatever ends the session ends it as well.
"""

import errno
import os
import stat

from crossroot import linux
from crossroot.errors import CrossrootError, UsageError

DEFAULT_SIZE = "50%"  # of the memory, as for any tmpfs
_MOST_DIGITS = 15

# What a mount keeps of the one its files come from. The numbers of statvfs(3) are those of mount_setattr(2).
_KEPT = linux.MOUNT_ATTR_NOSUID | linux.MOUNT_ATTR_NODEV | linux.MOUNT_ATTR_NOEXEC


def check_size(text: str) -> str:
    """A size as tmpfs(5) writes it, if it is one: 500m, 2g, 30%. Raises UsageError."""

    number = text[:-1] if text[-1:] in tuple("kmgKMG%") else text
    if not (number.isascii() and number.isdecimal() and number[0] != "0" and len(number) <= _MOST_DIGITS):
        raise UsageError(f"'{text}' is no size", hint="write --size 500m, 2g, or 30% of the memory")
    return text


def over(rootfs: str, size: str) -> int:
    """A detached overlay over the folder `rootfs`, which is never written. size: of what may be changed, see tmpfs(5).

    For a private mount namespace. Raises CrossrootError.
    """
    lower = os.open(rootfs, os.O_PATH | os.O_DIRECTORY)
    changes = linux.new_filesystem("tmpfs", {"size": size, "mode": "0700"})
    # Before Linux 6.15 the layers of an overlay have to be mounted somewhere; it keeps them then.
    linux.move_mount(changes, rootfs)
    os.mkdir("work", 0o700, dir_fd=changes)
    upper = _twin(lower, "upper", changes)
    options = {
        # By descriptor, so that no character of a path has to be escaped.
        "lowerdir": f"/proc/self/fd/{lower}",
        "upperdir": f"/proc/self/fd/{upper}",
        "workdir": f"/proc/self/fd/{changes}/work",
    }
    if not _takes_trusted(upper):
        options["userxattr"] = ""
    try:
        return linux.new_filesystem("overlay", options, os.fstatvfs(lower).f_flag & _KEPT)
    except OSError as error:
        raise _refused(rootfs, error) from error
    finally:
        linux.detach(rootfs)
        for descriptor in (lower, changes, upper):
            os.close(descriptor)


def _twin(folder: int, name: str, parent: int) -> int:
    """Make a folder that has the mode and owner of another one: `/` of an overlay is that of its upper layer."""
    status = os.fstat(folder)
    os.mkdir(name, dir_fd=parent)
    twin = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent)
    os.fchown(twin, status.st_uid, status.st_gid)
    os.fchmod(twin, stat.S_IMODE(status.st_mode))
    os.utime(twin, ns=(status.st_atime_ns, status.st_mtime_ns))
    return twin


def _takes_trusted(folder: int) -> bool:
    """Whether trusted.* xattrs can be set, as overlayfs wants to; in a user namespace they can't (xattr(7))."""
    try:
        os.setxattr(folder, "trusted.crossroot", b"")
        os.removexattr(folder, "trusted.crossroot")
    except PermissionError:
        return False
    return True


def _refused(rootfs: str, error: OSError) -> CrossrootError:
    hints = {
        errno.ENODEV: "as root: modprobe overlay",
        errno.EINVAL: "`dmesg` says why; an overlay on overlays is too deep, so set CROSSROOT_STORE to another disk",
    }
    return CrossrootError(
        f"cannot lay an overlay over {rootfs}: {error.strerror}",
        hint=hints.get(error.errno or 0, "leave out --ephemeral, and work on a copy of the root"),
    )
