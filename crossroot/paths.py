"""Where crossroot keeps things, for root and for an ordinary user (XDG Base Directory Specification 0.8).

CROSSROOT_STORE and CROSSROOT_CACHE override the first two, for CI jobs that cache a folder of the workspace.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path


def _xdg(variable: str, default: str) -> str:
    """The XDG folder named by `variable`; relative values are ignored, as the specification demands."""
    value = os.environ.get(variable, "")
    return value if value.startswith("/") else os.path.join(os.path.expanduser("~"), default)


def store_folder() -> str:
    """The folder of all roots."""
    if value := os.environ.get("CROSSROOT_STORE"):
        return value if value.startswith("/") else os.path.abspath(value)
    if os.geteuid() == 0:
        return "/var/lib/crossroot"
    return os.path.join(_xdg("XDG_DATA_HOME", ".local/share"), "crossroot")


def cache_folder() -> str:
    """The folder of downloads; everything in it can be fetched again."""
    if value := os.environ.get("CROSSROOT_CACHE"):
        return value if value.startswith("/") else os.path.abspath(value)
    if os.geteuid() == 0:
        return "/var/cache/crossroot"
    return os.path.join(_xdg("XDG_CACHE_HOME", ".cache"), "crossroot")


def store() -> Path:
    """`store_folder` as a Path, whose import takes a tenth of a session's set-up."""
    from pathlib import Path

    return Path(store_folder())


def cache() -> Path:
    """`cache_folder` as a Path."""
    from pathlib import Path

    return Path(cache_folder())


def profile_folders() -> list[Path]:
    """Folders of profiles, lowest priority first: built in, /etc, the user's own."""
    from pathlib import Path

    return [
        builtin_profiles(),
        Path("/etc/crossroot/profiles"),
        Path(_xdg("XDG_CONFIG_HOME", ".config"), "crossroot/profiles"),
    ]


def builtin_profiles() -> Path:
    """The profiles shipped with crossroot: in the wheel, or beside the package in a source tree."""
    from pathlib import Path

    package = Path(__file__).parent
    shipped = package / "builtin_profiles"
    return shipped if shipped.is_dir() else package.parent / "profiles"
