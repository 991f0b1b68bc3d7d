"""`crossroot create`."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossroot import layout, paths, profiles, store, ui
from crossroot.cli import complete
from crossroot.cli.sessions import Binfmt, Qemu, QemuSha256, QemuVersion, check_policy, wanted_emulator
from crossroot.errors import UsageError
from crossroot.profiles import Profile

if TYPE_CHECKING:
    from crossroot.lock import Lock


def create(
    profile: Annotated[
        str | None,
        typer.Argument(
            metavar="[PROFILE]",
            help="A profile, or an architecture by any of its names.",
            autocompletion=complete.profiles,
        ),
    ] = None,
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
    locked: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of PROFILE: make the root of `crossroot lock` again.")
    ] = None,
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
      crossroot create --locked riscv64.lock
    """
    from crossroot import bootstrap
    from crossroot.fetch import Digest
    from crossroot.request import Request

    # An option that is given but empty, by an unset variable of a script for instance, is not one left out.
    hashes = [
        Digest(algorithm, value) for algorithm, value in (("sha256", sha256), ("sha512", sha512)) if value is not None
    ]
    if len(hashes) > 1:
        raise UsageError("both --sha256 and --sha512 are given", hint="give one of them")
    lock = _read_lock(locked, (profile, branch, mirror, package, archive, *hashes)) if locked else None
    loaded = lock.profile if lock else _load(profile)
    chosen = dataclasses.replace(
        profiles.on_branch(loaded, branch),
        mirrors=loaded.mirrors if mirror is None else (_check_mirror(mirror),),
        packages=profiles.with_packages(loaded, package or ()),
        binfmt=check_policy(binfmt) or loaded.binfmt,
    )
    request = Request(
        name=layout.check_name(loaded.name if name is None else name),
        profile=chosen,
        archive=archive,
        digest=hashes[0] if hashes else None,
        replace=force,
        qemu=wanted_emulator(qemu, qemu_sha256, qemu_version),
        lock=lock,
    )
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
    root = bootstrap.create(request, paths.store(), paths.cache())
    system = f"{root.distro} {root.version}".strip()
    ui.note(f"created {root.name}: {system} for {root.arch} in {root.rootfs}")
    ui.note(f"enter it with: crossroot shell {root.name}")


def _load(profile: str | None) -> Profile:
    if profile is None:
        raise UsageError("no profile is named", hint="crossroot create riscv64, or: crossroot create --locked FILE")
    return profiles.load(profile, paths.profile_folders())


def _read_lock(file: Path, others: Sequence[object]) -> "Lock":
    """The lock; `others`, what else would say what to make, have to be left out."""
    from crossroot import lock

    if any(other is not None for other in others):
        raise UsageError(
            f"--locked {file} says all about the root",
            hint="leave out the profile, --branch, --mirror, --package, --from and the hashes",
        )
    return lock.read(file)


def _check_mirror(url: str) -> str:
    if not re.match("https?://[^/]", url):
        raise UsageError(f"'{url}' is not an http or https URL", hint="give a mirror that starts with https://")
    return url
