"""What `crossroot run` and `crossroot shell` do, without typer, whose import takes longer than entering a root."""

from __future__ import annotations

import os

from crossroot import arch, enter, handlers, layout, locking, metadata, paths, session
from crossroot.cli import options
from crossroot.errors import UsageError
from crossroot.wanted import Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from crossroot.locking import Lock
    from crossroot.metadata import Root
    from crossroot.session import Session


def start(verb: str, arguments: Sequence[str]) -> int | None:
    """Do `crossroot VERB ARGUMENTS`; None, and nothing is done, unless they are plainly right (see `options.parse`)."""
    parsed = options.parse(arguments, options.SESSION)
    if parsed is None or (len(parsed.words) < 2 if verb == "run" else len(parsed.words) != 1):
        return None
    name, *command = parsed.words
    return enter_root(meant(name), session_options(parsed.values), command)


def launch(name: str, arguments: Sequence[str]) -> int | None:
    """`run` with options only before the command, or `shell` if there is none; None as for `start`."""
    parsed = options.parse(arguments, options.SESSION, leading=True)
    return enter_root(name, session_options(parsed.values), parsed.words) if parsed else None


def enter_root(name: str, chosen: session.Options, command: Sequence[str]) -> int:
    """Run a session in a root, held against removal meanwhile, and give back its status.

    command: none for a login shell. Raises CrossrootError.
    """
    folder = paths.store_folder()
    with locking.lock_root(name, folder, exclusive=False, wait=False):
        root = metadata.open_root(name, folder)
        plan = session.plan(root, chosen, command)
        if not chosen.keep:
            return _accelerated(root, plan, chosen)
        from crossroot import clone  # only --keep needs it

        with clone.keeping(chosen.keep, root, paths.store()) as left:
            return _accelerated(root, plan, chosen, left)


def _accelerated(root: Root, plan: Session, chosen: session.Options, left: Callable[[int], None] | None = None) -> int:
    """Run a planned session, with native tools where that is asked for. left: see `enter.run`."""
    level = root.accelerate if chosen.accelerate is None else chosen.accelerate
    if not level or plan.handler.scope == "native":
        return run_plan(root, _masquerade(root, plan, chosen), left)
    from crossroot import accelerate  # only sessions with native tools need it

    with accelerate.mounts(root, level, paths.store(), paths.cache()) as steps:
        return run_plan(root, _masquerade(root, plan.but(mounts=(*plan.mounts, *steps)), chosen), left)


def _masquerade(root: Root, plan: Session, chosen: session.Options) -> Session:
    """The session with its compilers by way of ccache and distcc, where that is asked for."""
    ccache = root.ccache or chosen.ccache
    if not ccache and not root.distcc:
        return plan
    from crossroot import masquerade  # only such sessions need it

    return masquerade.applied(root, plan, ccache=ccache, cache=paths.cache_folder())


def run_plan(root: Root, plan: Session, left: Callable[[int], None] | None = None) -> int:
    """Run a planned session, and let others know of it meanwhile."""
    record: Lock | None = None

    def started(pid: int) -> None:
        nonlocal record
        record = locking.start_session_record(root, pid, plan.command or ["shell"])

    try:
        return enter.run(plan, started=started, left=left)
    finally:
        if record:
            record.close()


def session_options(values: Mapping[str, Any]) -> session.Options:
    """What the values of `options.SESSION` ask for, of `run`, `shell` and `matrix`. Raises UsageError."""
    return session.Options(
        binds=tuple(values["bind"]),
        env=tuple(values["env"]),
        user=values["user"],
        workdir=values["workdir"],
        network=not values["no_network"],
        cwd=not values["no_cwd"],
        binfmt=check_policy(values["binfmt"]),
        qemu=wanted_emulator(values["qemu"], values["qemu_sha256"], values["qemu_version"]),
        ephemeral=overlay_size(values["ephemeral"], values["size"]),
        keep=kept_name(values["ephemeral"], values["keep"]),
        accelerate=check_level(values["accelerate"]),
        ccache=values["ccache"],
        nesting=values["nesting"],
        no_new_privileges=values["no_new_privileges"],
    )


def overlay_size(ephemeral: bool, size: str) -> str:
    """The size of an ephemeral session's overlay, "" for none."""
    if not ephemeral:
        if size:
            raise UsageError("--size is for ephemeral sessions only", hint="add --ephemeral")
        return ""
    from crossroot import overlay  # only ephemeral sessions need it

    return overlay.check_size(size or overlay.DEFAULT_SIZE)


def kept_name(ephemeral: bool, keep: str) -> str:
    """What --keep names, "" for nothing. Raises UsageError."""
    if keep and not ephemeral:
        raise UsageError("--keep is for ephemeral sessions only", hint="add --ephemeral")
    return layout.check_name(keep) if keep else ""


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


def check_level(text: str) -> int | None:
    """The level that an --accelerate value means, None if it is left out. Raises UsageError."""
    if text not in ("", "0", "1", "2", "3"):
        raise UsageError(f"'{text}' is no level of acceleration", hint="give 0, 1, 2 or 3; see docs/speed.md")
    return int(text) if text else None


def meant(name: str) -> str:
    """The root that `name` means: the one called so; if there is none, the one of the arch called so (arm64)."""
    if os.path.lexists(os.path.join(paths.store_folder(), "roots", name)):
        return name
    try:
        return arch.find(name).name
    except UsageError:
        return name


def with_tag(text: str) -> tuple[str, str]:
    """NAME or NAME@TAG as the root that is meant and the tag of its snapshot, "" for the root itself."""
    name, at, tag = text.partition("@")
    return meant(name), layout.check_name(tag) if at else ""
