"""`crossroot create`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from crossroot import paths, profiles, store, ui
from crossroot.cli import complete
from crossroot.cli.sessions import check_policy
from crossroot.errors import UsageError


def create(
    profile: Annotated[
        str,
        typer.Argument(
            metavar="PROFILE",
            help="A profile, or an architecture by any of its names.",
            autocompletion=complete.profiles,
        ),
    ],
    name: Annotated[str, typer.Option(metavar="N", help="Name of the root. Default: that of the profile.")] = "",
    branch: Annotated[str, typer.Option(metavar="B", help="Alpine branch: latest-stable, edge, v3.20 …")] = "",
    mirror: Annotated[str, typer.Option(metavar="URL", help="Mirror to use instead of the profile's.")] = "",
    archive: Annotated[
        str, typer.Option("--from", metavar="FILE|URL", help="Unpack this rootfs archive: tar, also gz, xz, bz2, zst.")
    ] = "",
    sha256: Annotated[str, typer.Option(metavar="H", help="What the archive must have.")] = "",
    sha512: Annotated[str, typer.Option(metavar="H", help="What the archive must have.")] = "",
    binfmt: Annotated[str, typer.Option(metavar="auto|host|private", help="Which handlers may be used.")] = "",
    qemu: Annotated[Path | None, typer.Option(metavar="PATH", help="The static qemu-user to use.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a root of that name.")] = False,
) -> None:
    """Bootstrap a root: download, verify, unpack, configure.

    \b
    Examples:
      crossroot create riscv64
      crossroot create aarch64 --name arm-edge --branch edge
      crossroot create armv7 --from rootfs.tar.xz --sha256 9f86d0…
    """
    from crossroot import bootstrap
    from crossroot.fetch import Digest

    if sha256 and sha512:
        raise UsageError("both --sha256 and --sha512 are given", hint="give one of them")
    digest = Digest("sha256", sha256) if sha256 else Digest("sha512", sha512) if sha512 else None
    loaded = profiles.load(profile, paths.profile_folders())
    chosen = dataclasses.replace(
        loaded,
        branch=branch or loaded.branch,
        mirrors=(mirror,) if mirror else loaded.mirrors,
        binfmt=check_policy(binfmt) or loaded.binfmt,
    )
    request = bootstrap.Request(
        name=store.check_name(name or loaded.name),
        profile=chosen,
        archive=archive,
        digest=digest,
        replace=force,
        qemu=qemu,
    )
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
    root = bootstrap.create(request, paths.store(), paths.cache())
    ui.note(f"created {root.name}: {root.distro} {root.version} for {root.arch} in {root.rootfs}")
    ui.note(f"enter it with: crossroot shell {root.name}")
