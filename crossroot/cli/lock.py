"""`crossroot lock`."""

from typing import Annotated

import typer

from crossroot import paths, profiles, store, ui
from crossroot.cli import complete
from crossroot.cli.session_commands import Qemu, QemuSha256, QemuVersion
from crossroot.cli.sessions import wanted_emulator


def lock(
    profile: Annotated[
        str,
        typer.Argument(
            metavar="PROFILE",
            help="A profile, or an architecture by any of its names.",
            autocompletion=complete.profiles,
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - is stdout.")
    ] = "-",
    package: Annotated[list[str] | None, typer.Option(metavar="P", help="Lock this package, too. Repeatable.")] = None,
    qemu: Qemu = "",
    qemu_sha256: QemuSha256 = "",
    qemu_version: QemuVersion = "",
) -> None:
    """Pin a root down: the hash of its archive, and the version and digest of every package.

    For that a root of the profile is made, looked at, and deleted. `crossroot create --locked FILE` makes the same
    root again, here or elsewhere.

    \b
    Examples:
      crossroot lock riscv64 -o riscv64.lock
      crossroot lock riscv64 --package build-base -o riscv64.lock
      crossroot lock debian-riscv64 --package hare -o hare.lock
    """
    from crossroot import bootstrap
    from crossroot import lock as locks
    from crossroot.output import STDOUT, writing, written
    from crossroot.request import Request

    loaded = profiles.load(profile, paths.profile_folders())
    chosen = loaded.but(packages=profiles.with_packages(loaded, package or ()))
    request = Request(
        name=f"{loaded.name[:50]}.lock",
        profile=chosen,
        qemu=wanted_emulator(qemu, qemu_sha256, qemu_version),
    )
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
    # The file first, so that one that cannot be written costs nobody the wait.
    with written(output) as descriptor:
        made = bootstrap.lock(request, paths.store(), paths.cache())
        with writing(descriptor, output) as write:
            write(locks.render(made).encode())
    if output != STDOUT:
        ui.note(f"locked {len(made.packages)} packages in {output}")
