"""`crossroot create` as a typer command: its help, completion and usage errors."""

from typing import Annotated, Any

import typer

from crossroot.cli import complete, creation, options
from crossroot.cli.typed import with_options


@with_options(options.CREATE)
def create(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROFILE...]",
            help="Profiles, or architectures by any of their names.",
            autocompletion=complete.profiles,
        ),
    ] = None,
    **values: Any,
) -> int:
    """Bootstrap roots: download, verify, unpack, configure.

    Several are made side by side. One that fails leaves the others alone, and is told by the exit status.

    \b
    Examples:
      crossroot create riscv64
      crossroot create riscv64 aarch64 armv7 --package build-base
      crossroot create aarch64 --name arm-edge --branch edge
      crossroot create debian-riscv64 --package gcc --package make
      crossroot create armv7 --from rootfs.tar.xz --sha256 9f86d0…
      crossroot create --locked riscv64.lock
    """
    return creation.create(names or (), values)
