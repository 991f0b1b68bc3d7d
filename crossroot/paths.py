"""Where crossroot keeps things, for root and for an ordinary user (XDG Base Directory Specification 0.8).

CROSSROOT_STORE and CROSSROOT_CACHE override the first two, for CI jobs that cache a folder of the workspace.
"""

import os
from pathlib import Path


def _xdg(variable: str, default: str) -> Path:
    """The XDG folder named by `variable`; relative values are ignored, as the specification demands."""
    value = os.environ.get(variable, "")
    if value.startswith("/"):
        return Path(value)
    return Path(os.path.expanduser("~")) / default


def store() -> Path:
    """The folder of all roots."""
    if value := os.environ.get("CROSSROOT_STORE"):
        return Path(value).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/crossroot")
    return _xdg("XDG_DATA_HOME", ".local/share") / "crossroot"


def cache() -> Path:
    """The folder of downloads; everything in it can be fetched again."""
    if value := os.environ.get("CROSSROOT_CACHE"):
        return Path(value).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/crossroot")
    return _xdg("XDG_CACHE_HOME", ".cache") / "crossroot"


def profile_folders() -> list[Path]:
    """Folders of profiles, lowest priority first: built in, /etc, the user's own."""
    return [
        builtin_profiles(),
        Path("/etc/crossroot/profiles"),
        _xdg("XDG_CONFIG_HOME", ".config") / "crossroot/profiles",
    ]


def builtin_profiles() -> Path:
    """The profiles shipped with crossroot: in the wheel, or beside the package in a source tree."""
    package = Path(__file__).parent
    shipped = package / "builtin_profiles"
    return shipped if shipped.is_dir() else package.parent / "profiles"
