"""`crossroot run` and `crossroot shell` as typer commands: their help, completion and usage errors."""

from typing import Annotated, Any

import typer

from crossroot.cli import complete, options, sessions
from crossroot.cli.typed import typed, with_options

Binfmt = Annotated[str, typed(options.BINFMT)]
Qemu = Annotated[str, typed(options.QEMU)]
QemuSha256 = Annotated[str, typed(options.QEMU_SHA256)]
QemuVersion = Annotated[str, typed(options.QEMU_VERSION)]

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the root.", autocompletion=complete.roots)]


@with_options(options.SESSION)
def run(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Run it emulated first, and compare what --output names.")
    ] = False,
    output: Annotated[
        list[str] | None, typer.Option("--output", metavar="PATH", help="A file or folder that --verify compares.")
    ] = None,
    **values: Any,
) -> int:
    """Run a command in a root and exit with its status.

    The current folder is there at the same path, unless it is a home directory itself or a system folder.

    \b
    Examples:
      crossroot run riscv64 -- make check
      crossroot run riscv64 --env CFLAGS=-O2 --bind ~/data:/data:ro -- ./test.sh
      crossroot run riscv64 --ephemeral -- apk add gcc
      crossroot run debian-riscv64 --accelerate 2 --verify --output hello -- make hello
    """
    if verify or output:
        from crossroot.cli import verification

        chosen = sessions.session_options(values)
        return verification.run(sessions.meant(name), chosen, command, verification.outputs(verify, output))
    return sessions.enter_root(sessions.meant(name), sessions.session_options(values), command)


@with_options(options.SESSION)
def shell(name: Name, **values: Any) -> int:
    """Open a login shell in a root.

    It reads commands from stdin when that is no terminal.

    \b
    Examples:
      crossroot shell riscv64
      echo 'uname -m' | crossroot shell riscv64 --user nobody
    """
    return sessions.enter_root(sessions.meant(name), sessions.session_options(values), ())
