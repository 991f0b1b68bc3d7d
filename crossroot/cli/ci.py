"""`crossroot ci`."""

from typing import Annotated

import typer

from crossroot import paths, profiles, ui
from crossroot.cli import complete


def ci(
    service: Annotated[str, typer.Argument(metavar="github|gitlab|sourcehut", help="The service to print a job for.")],
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="PROFILE...", help="What to build for, each in a root.", autocompletion=complete.profiles
        ),
    ],
    run: Annotated[str, typer.Option(metavar="CMD", help="Shell commands to run in the root.")] = "make check",
    package: Annotated[
        list[str] | None, typer.Option(metavar="P", help="Install this package, too. Repeatable.")
    ] = None,
) -> None:
    """Print a job that builds in roots, for a CI service.

    The job has a lock file crossroot-PROFILE.lock of the repository bound what is in a root, if there is one.

    \b
    Examples:
      crossroot ci github riscv64 aarch64 --package gcc --package musl-dev --package make
      crossroot ci sourcehut hare-riscv64 --run 'hare test'
    """
    from crossroot import ci as ci_module

    loaded = {profile.name: profile for profile in (profiles.load(name, paths.profile_folders()) for name in names)}
    for profile in loaded.values():
        if any(source.parent != paths.builtin_profiles() for source in profile.sources):
            name = profile.name
            ui.note(f"the runner lacks your profile {name}; lock it: crossroot lock {name} -o crossroot-{name}.lock")
    print(ci_module.job(service, list(loaded.values()), run=run, packages=package or ()), end="")
