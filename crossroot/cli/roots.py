"""`crossroot list`, `info` and `remove`."""

import json
import os
from typing import Annotated, Any

import typer

from crossroot import arch, layout, locking, metadata, paths, snapshots, store, ui
from crossroot.cli import complete, sessions
from crossroot.cli.recovery import recover
from crossroot.errors import CrossrootError
from crossroot.metadata import Root

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for machines.")]


def list_(as_json: Json = False) -> None:
    """List the roots.

    \b
    Examples:
      crossroot list
      crossroot list --json | jq -r '.[].name'
    """
    recover()
    folder = paths.store()
    roots = store.list_roots(folder)
    if as_json:
        print(json.dumps([_facts(root) for root in roots], indent=2))
        return
    if not roots:
        ui.note("there are no roots yet; make one with: crossroot create riscv64")
        return
    have_snapshots = set(layout.names(folder, "snapshots"))
    ui.print_table(
        ["NAME", "ARCH", "SYSTEM", "CREATED", "SNAPSHOTS", "ROOTFS"],
        [
            [
                root.name,
                root.arch,
                f"{root.distro} {root.version}".strip(),
                root.created,
                str(len(layout.snapshot_tags(root.name, folder)) or "-") if root.name in have_snapshots else "-",
                root.rootfs_folder,
            ]
            for root in roots
        ],
    )


def info(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the root.", autocompletion=complete.roots)],
    as_json: Json = False,
    digest: Annotated[bool, typer.Option("--digest", help="Read all files, and tell their digest.")] = False,
) -> None:
    """Tell all about a root and its sessions.

    \b
    Examples:
      crossroot info riscv64 --json
      crossroot info riscv64 --json --digest | jq -r .digest
    """
    recover()
    root = metadata.open_root(sessions.meant(name), paths.store())
    running = [record.as_dict() for record in locking.running_sessions(root)]
    facts = {**_facts(root), "sessions": running, **_emulation(root), **(_digest(root.name) if digest else {})}
    if as_json:
        print(json.dumps(facts, indent=2, default=os.fspath))
        return
    for key, value in facts.items():
        print(f"{key + ':':18} {_shown(value)}".rstrip())


def remove(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME[@TAG]...", help="Roots.", autocompletion=complete.removable)
    ],
    force: Annotated[bool, typer.Option("--force", help="End the sessions that run in them.")] = False,
) -> None:
    """Remove roots and their snapshots, or by NAME@TAG a snapshot alone.

    Refused while sessions run in a root or something is mounted below.

    \b
    Examples:
      crossroot remove riscv64
      crossroot rm riscv64 aarch64 --force
      crossroot rm riscv64@before-upgrade
    """
    recover()
    for name, tag in map(sessions.with_tag, names):
        if tag:
            snapshots.remove(name, tag, paths.store())
        else:
            store.remove(name, paths.store(), force=force)
        ui.note(f"removed {name}@{tag}" if tag else f"removed {name}")
    if os.path.isdir(paths.store() / "tools"):
        from crossroot import accelerate  # only stores with tool roots need it

        accelerate.remove_unused(paths.store())


def _digest(name: str) -> dict[str, str]:
    from crossroot import export

    folder = paths.store()
    with locking.lock_root(name, folder, exclusive=False, wait=False):
        return {"digest": export.digest(metadata.open_root(name, folder))}


def _emulation(root: Root) -> dict[str, str]:
    """What will run the programs of sessions for which nothing else is asked."""
    from crossroot import handlers

    try:
        handler = handlers.expected(arch.find(root.arch), root.binfmt, root.qemu_version)
    except CrossrootError as error:
        ui.note(error.message + (f" (hint: {error.hint})" if error.hint else ""))
        handler = handlers.Handler("")
    return {
        "handler": handler.scope,
        "emulator": handler.emulator,
        "emulator_version": handler.version,
        "emulator_cpu": root.env.get("QEMU_CPU", handlers.cpu(handler, root.qemu_cpu)),
    }


def _facts(root: Root) -> dict[str, Any]:
    tags = layout.snapshot_tags(root.name, paths.store())
    return {
        "name": root.name,
        **root.to_json(),
        "keys": sorted(root.keys),
        "rootfs": str(root.rootfs),
        "snapshots": tags,
    }


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_shown(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value)
    return "" if value is None else str(value)
