"""`crossroot lock`."""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from crossroot import paths, profiles, store, ui
from crossroot.cli import complete
from crossroot.cli.sessions import Qemu, QemuSha256, QemuVersion, wanted_emulator


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
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it, instead of stdout.")
    ] = None,
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
    """
    from crossroot import bootstrap
    from crossroot import lock as locks
    from crossroot.request import Request

    loaded = profiles.load(profile, paths.profile_folders())
    chosen = dataclasses.replace(loaded, packages=profiles.with_packages(loaded, package or ()))
    request = Request(
        name=f"{loaded.name[:50]}.lock",
        profile=chosen,
        qemu=wanted_emulator(qemu, qemu_sha256, qemu_version),
    )
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
    made = bootstrap.lock(request, paths.store(), paths.cache())
    text = locks.render(made)
    if output is None:
        print(text, end="")
    else:
        _write(output, text)
        ui.note(f"locked {len(made.packages)} packages in {output}")


def _write(path: Path, text: str) -> None:
    """Write the file in one step: an older lock stays as it is if anything goes wrong."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        try:
            file.write(text)
            file.flush()
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(file.fileno(), 0o666 & ~umask)
            os.rename(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
