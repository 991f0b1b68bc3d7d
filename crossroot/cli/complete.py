"""Completion of names in the shell."""

import typer

from crossroot import layout, paths
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


def tags(context: typer.Context, incomplete: str) -> list[str]:
    """Tags of the snapshots of the root that was named before."""
    return [tag for tag in _tags(context.params.get("name") or "") if tag.startswith(incomplete)]


def removable(incomplete: str) -> list[str]:
    """Names of roots, and of snapshots once there is an @."""
    name, at, _ = incomplete.partition("@")
    if not at:
        return roots(incomplete)
    return [f"{name}@{tag}" for tag in _tags(name) if f"{name}@{tag}".startswith(incomplete)]


def _tags(name: str) -> list[str]:
    try:
        return layout.snapshot_tags(name, paths.store())
    except CrossrootError:
        return []
