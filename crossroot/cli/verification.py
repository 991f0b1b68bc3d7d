"""`crossroot run --verify`."""

from collections.abc import Sequence

from crossroot import accelerate, locking, metadata, overlay, paths, session, verify
from crossroot.cli import sessions
from crossroot.errors import UsageError


def outputs(asked: bool, paths_given: list[str] | None) -> list[str]:
    """What --output names, if --verify is given as well. Raises UsageError."""
    if not asked or not paths_given:
        raise UsageError("--verify and --output belong together", hint="write --verify --output PATH")
    if bad := [path for path in paths_given if not path.strip("/") or path.startswith("-")]:
        raise UsageError(f"'{bad[0]}' is no output", hint="give a file or folder that the command makes")
    return paths_given


def run(name: str, chosen: session.Options, command: Sequence[str], compared: Sequence[str]) -> int:
    """Run a command emulated and with native tools, and compare its outputs; the status of the command."""
    if chosen.keep:
        raise UsageError("--verify and --keep exclude each other", hint="leave out one of them")
    with locking.lock_root(name, paths.store_folder(), exclusive=False, wait=False):
        root = metadata.open_root(name, paths.store_folder())
        emulated = session.plan(root, chosen, command)
        level = root.accelerate if chosen.accelerate is None else chosen.accelerate
        if not level or emulated.handler.scope == "native":
            raise UsageError(f"{name} has no native tools to verify at that level", hint="add --accelerate 1")
        with accelerate.mounts(root, level, paths.store(), paths.cache()) as steps:
            plan = emulated.but(mounts=(*emulated.mounts, *steps))
            size = chosen.ephemeral or overlay.DEFAULT_SIZE
            return verify.verify(root, emulated, plan, compared, size, lambda each: sessions.run_plan(root, each))
