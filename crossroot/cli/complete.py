"""Completion of names in the shell."""

from crossroot import paths
from crossroot import store as store_module
from crossroot.errors import CrossrootError


def roots(incomplete: str) -> list[str]:
    """Names of roots that start so; none if the store can't be read, as nothing can be said while completing."""
    try:
        names = [root.name for root in store_module.list_roots(paths.store())]
    except CrossrootError:
        return []
    return [name for name in names if name.startswith(incomplete)]


def profiles(incomplete: str) -> list[str]:
    """Names of profiles that start so."""
    from crossroot import profiles as profiles_module  # slow to import, and only wanted here

    names = [name for name, _ in profiles_module.names(paths.profile_folders())]
    return [name for name in names if name.startswith(incomplete)]


def several(incomplete: str) -> list[str]:
    """Roots and profiles for the last name of a list with commas."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in sorted({*roots(last), *profiles(last)}) if name not in before.split(",")]
