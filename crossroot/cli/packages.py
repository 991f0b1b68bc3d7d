"""`crossroot install` and `crossroot upgrade`."""

from typing import Annotated

import typer

from crossroot import paths, store, ui
from crossroot.cli import sessions
from crossroot.cli.session_commands import Name, Qemu, QemuSha256, QemuVersion
from crossroot.cli.sessions import wanted_emulator


def install(
    name: Name,
    packages: Annotated[list[str], typer.Argument(metavar="PACKAGE...", help="Names of packages.")],
    qemu: Qemu = "",
    qemu_sha256: QemuSha256 = "",
    qemu_version: QemuVersion = "",
) -> None:
    """Install packages in a root that no session uses.

    On Alpine a native apk does it, and only package scripts are emulated. Whatever goes wrong, the root stays as it
    was.

    \b
    Examples:
      crossroot install riscv64 build-base git
      crossroot install debian-arm64 gcc make
    """
    from crossroot import packages as packages_module

    wanted = wanted_emulator(qemu, qemu_sha256, qemu_version)
    meant = _recovered(name)
    packages_module.install(meant, packages, paths.store(), paths.cache(), wanted)
    ui.note(f"installed {' '.join(packages)} in {meant}")


def upgrade(name: Name, qemu: Qemu = "", qemu_sha256: QemuSha256 = "", qemu_version: QemuVersion = "") -> None:
    """Bring all packages of a root up to date.

    The root stays on its branch or suite. Whatever goes wrong, it stays as it was.

    \b
    Example:
      crossroot upgrade riscv64
    """
    from crossroot import packages as packages_module

    wanted = wanted_emulator(qemu, qemu_sha256, qemu_version)
    meant = _recovered(name)
    packages_module.upgrade(meant, paths.store(), paths.cache(), wanted)
    ui.note(f"upgraded {meant}")


def _recovered(name: str) -> str:
    """The root that is meant, after clearing away what interrupted commands have left."""
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
    return sessions.meant(name)
