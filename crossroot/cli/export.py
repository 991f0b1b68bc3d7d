"""`crossroot export`."""

from typing import Annotated

import typer

from crossroot import locking, metadata, paths
from crossroot.cli import complete, sessions
from crossroot.errors import UsageError


def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the root.", autocompletion=complete.roots)],
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="Where to write; - is stdout. The suffix compresses."),
    ] = "-",
    format: Annotated[str, typer.Option(metavar="tar|oci", help="An archive, or a container image.")] = "tar",
) -> None:
    """Write a root as a tar or as an OCI image, the same bytes each time.

    \b
    Examples:
      crossroot export riscv64 -o riscv64.tar.zst
      crossroot export riscv64 --format oci -o riscv64.tar && podman load -i riscv64.tar
      crossroot export riscv64 | ssh board 'tar -x -C /srv/riscv64'
    """
    from crossroot import export

    write = {"tar": export.to_tar, "oci": export.to_oci}.get(format)
    if write is None:
        raise UsageError(f"unknown format '{format}'", hint="--format tar or --format oci")
    folder = paths.store()
    with locking.lock_root(sessions.meant(name), folder, exclusive=False, wait=False):
        write(metadata.open_root(sessions.meant(name), folder), output)
