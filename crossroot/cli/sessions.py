"""`crossroot run` and `crossroot shell`."""

import contextlib
from collections.abc import Sequence
from typing import Annotated

import typer

from crossroot import enter, handlers, locking, metadata, paths, session
from crossroot.cli import complete, roots
from crossroot.errors import UsageError
from crossroot.wanted import Wanted

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the root.", autocompletion=complete.roots)]
Bind = Annotated[
    list[str] | None, typer.Option("--bind", metavar="SRC[:DST[:ro]]", help="Show a host folder or file inside.")
]
Env = Annotated[list[str] | None, typer.Option("--env", metavar="K[=V]", help="Set a variable, or pass one on.")]
User = Annotated[str, typer.Option("--user", metavar="USER[:GROUP]", help="Who to be, by the root's /etc/passwd.")]
Workdir = Annotated[str, typer.Option("--workdir", metavar="D", help="Folder inside the root to work in.")]
NoNetwork = Annotated[bool, typer.Option("--no-network", help="Nothing but a loopback interface.")]
NoCwd = Annotated[bool, typer.Option("--no-cwd", help="Do not show the current folder inside.")]
Binfmt = Annotated[str, typer.Option("--binfmt", metavar="auto|host|private", help="Which handlers may be used.")]
Qemu = Annotated[str, typer.Option("--qemu", metavar="PATH|URL", help="The static qemu-user to use.")]
QemuSha256 = Annotated[str, typer.Option("--qemu-sha256", metavar="H", help="What a --qemu URL must give.")]
Accelerate = Annotated[
    int | None, typer.Option("--accelerate", metavar="0|1|2|3", help="Native tools: 1 compilers, 2 shell too, 3 all.")
]
QemuVersion = Annotated[str, typer.Option("--qemu-version", metavar="V", help="Which qemu will do: 10, 8.2, '>=8'.")]
Ephemeral = Annotated[bool, typer.Option("--ephemeral", help="Leave the root as it is: changes are lost at the end.")]
Size = Annotated[str, typer.Option("--size", metavar="N[k|m|g|%]", help="How much --ephemeral may change, in memory.")]


def run(
    name: Name,
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
    bind: Bind = None,
    env: Env = None,
    user: User = "",
    workdir: Workdir = "",
    no_network: NoNetwork = False,
    no_cwd: NoCwd = False,
    binfmt: Binfmt = "",
    qemu: Qemu = "",
    qemu_sha256: QemuSha256 = "",
    qemu_version: QemuVersion = "",
    ephemeral: Ephemeral = False,
    size: Size = "",
    accelerate: Accelerate = None,
) -> int:
    """Run a command in a root and exit with its status.

    The current folder is there at the same path, unless it is a home directory itself or a system folder.

    \b
    Examples:
      crossroot run riscv64 -- make check
      crossroot run riscv64 --env CFLAGS=-O2 --bind ~/data:/data:ro -- ./test.sh
      crossroot run riscv64 --ephemeral -- apk add gcc
    """
    wanted = wanted_emulator(qemu, qemu_sha256, qemu_version)
    overlay = overlay_size(ephemeral, size)
    chosen = options(bind, env, user, workdir, no_network, no_cwd, binfmt, wanted, overlay, accelerate)
    return enter_root(roots.meant(name), chosen, command)


def shell(
    name: Name,
    bind: Bind = None,
    env: Env = None,
    user: User = "",
    workdir: Workdir = "",
    no_network: NoNetwork = False,
    no_cwd: NoCwd = False,
    binfmt: Binfmt = "",
    qemu: Qemu = "",
    qemu_sha256: QemuSha256 = "",
    qemu_version: QemuVersion = "",
    ephemeral: Ephemeral = False,
    size: Size = "",
    accelerate: Accelerate = None,
) -> int:
    """Open a login shell in a root.

    It reads commands from stdin when that is no terminal.

    \b
    Examples:
      crossroot shell riscv64
      echo 'uname -m' | crossroot shell riscv64 --user nobody
    """
    wanted = wanted_emulator(qemu, qemu_sha256, qemu_version)
    overlay = overlay_size(ephemeral, size)
    chosen = options(bind, env, user, workdir, no_network, no_cwd, binfmt, wanted, overlay, accelerate)
    return enter_root(roots.meant(name), chosen, ())


def options(
    bind: list[str] | None,
    env: list[str] | None,
    user: str,
    workdir: str,
    no_network: bool,
    no_cwd: bool,
    binfmt: str,
    qemu: Wanted,
    ephemeral: str,
    accelerate: int | None = None,
) -> session.Options:
    """What `run`, `shell` and `matrix` are asked for. Raises UsageError."""
    return session.Options(
        binds=tuple(bind or ()),
        env=tuple(env or ()),
        user=user,
        workdir=workdir,
        network=not no_network,
        cwd=not no_cwd,
        binfmt=check_policy(binfmt),
        qemu=qemu,
        ephemeral=ephemeral,
        accelerate=check_level(accelerate),
    )


def overlay_size(ephemeral: bool, size: str) -> str:
    """The size of an ephemeral session's overlay, "" for none."""
    if not ephemeral:
        if size:
            raise UsageError("--size is for ephemeral sessions only", hint="add --ephemeral")
        return ""
    from crossroot import overlay  # only ephemeral sessions need it

    return overlay.check_size(size or overlay.DEFAULT_SIZE)


def wanted_emulator(source: str, sha256: str, version: str) -> Wanted:
    """The emulator that --qemu, --qemu-sha256 and --qemu-version ask for. Raises UsageError."""
    if source and version:
        raise UsageError("both --qemu and --qemu-version are given", hint="give one of them")
    if "://" in source and not sha256:
        raise UsageError(f"nothing says what {source} must give", hint="add --qemu-sha256 H")
    return Wanted(source, sha256, version)


def check_policy(policy: str) -> str:
    """A --binfmt value as it is, if it is one or empty. Raises UsageError."""
    if policy not in ("", *handlers.POLICIES):
        raise UsageError(f"'{policy}' is no binfmt policy", hint=f"give {', '.join(handlers.POLICIES)}")
    return policy


def check_level(accelerate: int | None) -> int | None:
    """An --accelerate value as it is, if it is a level or left out. Raises UsageError."""
    if accelerate is not None and not 0 <= accelerate <= 3:
        raise UsageError(f"{accelerate} is no level of acceleration", hint="give 0, 1, 2 or 3; see docs/speed.md")
    return accelerate


def enter_root(name: str, options: session.Options, command: Sequence[str]) -> int:
    """Hold the root against removal, run the session, and give back its status."""
    folder = paths.store()
    with contextlib.ExitStack() as held:
        held.enter_context(locking.lock_root(name, folder, exclusive=False, wait=False))
        root = metadata.open_root(name, folder)
        plan = session.plan(root, options, command)
        level = root.accelerate if options.accelerate is None else options.accelerate
        if level and plan.handler.scope != "native":
            from crossroot import accelerate  # only sessions with native tools need it

            steps = held.enter_context(accelerate.mounts(root, level, folder, paths.cache()))
            plan = plan.but(mounts=(*plan.mounts, *steps))

        def record(pid: int) -> None:
            held.enter_context(locking.start_session_record(root, pid, command or ["shell"]))

        return enter.run(plan, started=record)
