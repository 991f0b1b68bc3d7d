"""Make two creations of one root the same: remove or settle what depends on the time, the host or the way.

Called with the root as "/", by a child that is confined to it. docs/lock.md lists what this covers, and what not.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from crossroot import guest

# Emptied folders: logs, caches, lists of packages.
_FOLDERS = ("/var/log", "/var/cache/apk", "/var/cache/apt", "/var/cache/ldconfig", "/var/lib/apt/lists")

# Copies of what was before a package added an account, and what hooks typed.
_FILES = (
    *("/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"),
    "/root/.ash_history",
)

# The host's; a session has its own in their place, or makes one.
_EMPTY = ("/etc/resolv.conf", "/etc/machine-id")

_SHADOW = "/etc/shadow"
_CHANGED = 2  # the field of shadow(5) with the day of the last change


def settle(day: int) -> None:
    """Settle all that is known to differ. day: since the epoch; passwords are not younger than that."""
    for folder in _FOLDERS:
        for path in _files_below(folder):
            os.unlink(path)
    for file in _FILES:
        if os.path.lexists(file):
            os.unlink(file)
    for file in _EMPTY:
        if os.path.lexists(file):
            guest.write(file, b"")
    _settle_shadow(day)


def _files_below(folder: str) -> Iterator[Path]:
    """All but folders, which have owners and modes that programs count on."""
    if os.path.islink(folder):
        return
    for where, _, names in os.walk(folder):
        yield from (Path(where, name) for name in names)
        # os.walk takes a link to a folder for a folder.
        yield from (path for path in Path(where).iterdir() if path.is_symlink())


def _settle_shadow(day: int) -> None:
    """An account that a package made was changed on the day of the installation."""
    if not (before := guest.read(_SHADOW)):
        return
    lines = [_settled(line.split(b":"), day) for line in before.splitlines()]
    after = b"".join(line + b"\n" for line in lines)
    if after != before:
        status = os.stat(_SHADOW)
        guest.write(_SHADOW, after)
        shutil.chown(_SHADOW, status.st_uid, status.st_gid)
        os.chmod(_SHADOW, stat.S_IMODE(status.st_mode))


def _settled(fields: list[bytes], day: int) -> bytes:
    if len(fields) > _CHANGED and fields[_CHANGED].isdigit():
        fields[_CHANGED] = b"%d" % min(int(fields[_CHANGED]), day)
    return b":".join(fields)
