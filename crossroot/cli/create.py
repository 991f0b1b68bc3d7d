"""`crossroot create`."""

import dataclasses
import re
from typing import Annotated

import typer

from crossroot import paths, profiles, store, ui
from crossroot.cli import complete
from crossroot.cli.sessions import Binfmt, Qemu, QemuSha256, QemuVersion, check_policy, wanted_emulator
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
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the root. Default: that of the profile.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option(metavar="B", help="Branch of Alpine, or suite of Debian or Ubuntu.")
    ] = None,
    mirror: Annotated[str | None, typer.Option(metavar="URL", help="Mirror to use instead of the profile's.")] = None,
    package: Annotated[
        list[str] | None, typer.Option(metavar="P", help="Install this package, too. Repeatable.")
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE|URL", help="Unpack this: a rootfs as tar, also gz, xz, bz2, zst; a container image."
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(metavar="H", help="What the archive must have.")] = None,
    sha512: Annotated[str | None, typer.Option(metavar="H", help="What the archive must have.")] = None,
    binfmt: Binfmt = "",
    qemu: Qemu = "",
    qemu_sha256: QemuSha256 = "",
    qemu_version: QemuVersion = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a root of that name.")] = False,
) -> None:
    """Bootstrap a root: download, verify, unpack, configure.

    \b
    Examples:
      crossroot create riscv64
      crossroot create aarch64 --name arm-edge --branch edge
      crossroot create debian-riscv64 --package gcc --package make
      crossroot create armv7 --from rootfs.tar.xz --sha256 9f86d0…
    """
    from crossroot import bootstrap
    from crossroot.fetch import Digest

    # An option that is given but empty, by an unset variable of a script for instance, is not one left out.
    hashes = [
        Digest(algorithm, value) for algorithm, value in (("sha256", sha256), ("sha512", sha512)) if value is not None
    ]
    if len(hashes) > 1:
        raise UsageError("both --sha256 and --sha512 are given", hint="give one of them")
    loaded = profiles.load(profile, paths.profile_folders())
    chosen = dataclasses.replace(
        profiles.on_branch(loaded, branch),
        mirrors=loaded.mirrors if mirror is None else (_check_mirror(mirror),),
        packages=profiles.with_packages(loaded, package or ()),
        binfmt=check_policy(binfmt) or loaded.binfmt,
    )
    request = bootstrap.Request(
        name=store.check_name(loaded.name if name is None else name),
        profile=chosen,
        archive=archive,
        digest=hashes[0] if hashes else None,
        replace=force,
        qemu=wanted_emulator(qemu, qemu_sha256, qemu_version),
    )
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
    root = bootstrap.create(request, paths.store(), paths.cache())
    system = f"{root.distro} {root.version}".strip()
    ui.note(f"created {root.name}: {system} for {root.arch} in {root.rootfs}")
    ui.note(f"enter it with: crossroot shell {root.name}")


def _check_mirror(url: str) -> str:
    if not re.match("https?://[^/]", url):
        raise UsageError(f"'{url}' is not an http or https URL", hint="give a mirror that starts with https://")
    return url
