"""`crossroot profile`: list, show, find and check profiles."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from crossroot import paths, profiles, ui
from crossroot.errors import EXIT_USAGE, CrossrootError, UsageError
from crossroot.profiles import Profile

app = typer.Typer(help="Profiles: what to bootstrap for a target and how to enter it.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A profile, or any name of an arch: arm64, linux/arm/v7.")]


@app.command("list", epilog="Example: crossroot profile list --json")
def list_profiles(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List all profiles, the built-in ones and your own."""
    folders = paths.profile_folders()
    loaded = [_load(name, folders) for name, _ in profiles.names(folders)]
    summaries = [_summary(profile) for profile in loaded if profile]
    if as_json:
        typer.echo(json.dumps(summaries, indent=2))
    else:
        _print_table(["name", "arch", "branch", "description"], summaries)
    if None in loaded:
        raise typer.Exit(EXIT_USAGE)


@app.command(epilog="Example: crossroot profile show riscv64")
def show(name: Name) -> None:
    """Print a profile as TOML, merged from all its files, with every key."""
    typer.echo(profiles.to_toml(profiles.load(name, paths.profile_folders())), nl=False)


@app.command(epilog='Example: less "$(crossroot profile path riscv64)"')
def path(name: Name) -> None:
    """Print the path of a profile's file; of several, the one that overrides the others."""
    _, files = profiles.find(name, paths.profile_folders())
    typer.echo(files[-1])


@app.command(epilog="Example: crossroot profile check riscv64 ./mine.toml")
def check(
    targets: Annotated[list[str], typer.Argument(metavar="NAME|FILE...", help="Profiles, or files that end in .toml.")],
) -> None:
    """Check profiles, and files as if they were in your profile folder."""
    right = [_check(target) for target in targets]
    if not all(right):
        raise typer.Exit(EXIT_USAGE)


def _load(name: str, folders: Sequence[Path]) -> Profile | None:
    """The profile; None after saying what is wrong with it, so that the others still get their turn."""
    try:
        return profiles.load(name, folders)
    except CrossrootError as error:
        ui.error(error.message, error.hint)
        return None


def _check(target: str) -> bool:
    """Say whether the profile or file loads; gives that, too."""
    try:
        name, folders = _name_and_folders(target)
        profiles.load(name, folders)
    except CrossrootError as error:
        ui.error(error.message, error.hint)
        return False
    typer.echo(f"{target}: ok")
    return True


def _name_and_folders(target: str) -> tuple[str, list[Path]]:
    """What to load in order to check `target`: a file as if its folder came after those of lower priority.

    Raises UsageError if `target` is called like a file and there is none.
    """
    folders = paths.profile_folders()
    if not target.endswith(".toml"):
        return target, folders
    file = Path(target).absolute()
    if not file.is_file():
        raise UsageError(f"there is no file {target}", hint="a file ends in .toml, a profile's name does not")
    below = folders[: folders.index(file.parent)] if file.parent in folders else folders
    return file.stem, [*below, file.parent]


def _summary(profile: Profile) -> dict[str, str]:
    return {
        "name": profile.name,
        "arch": profile.arch.name,
        "distro": profile.distro,
        "branch": profile.branch or profile.suite,
        "description": profile.description,
        "path": str(profile.sources[-1]),
    }


def _print_table(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    cells = [[column.upper() for column in columns], *([row[column] for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
