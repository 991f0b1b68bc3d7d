"""`crossroot clone`, `snapshot`, `snapshots` and `restore`."""

import json
from typing import Annotated

import typer

from crossroot import layout, metadata, paths, store, ui
from crossroot.cli import complete, copies, roots, sessions
from crossroot.cli.recovery import recover
from crossroot.snapshots import taken

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the root.", autocompletion=complete.roots)]


def clone(
    source: Annotated[
        str, typer.Argument(metavar="NAME[@TAG]", help="A root, or a snapshot.", autocompletion=complete.removable)
    ],
    name: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new root.")],
) -> None:
    """Make a new root as a copy of another one, or of a snapshot.

    Where the file system can share content (btrfs, xfs), this takes no space, else all is copied.

    \b
    Examples:
      crossroot clone riscv64 riscv64-gcc14
      crossroot clone riscv64@clean try
    """
    copies.clone(source, name)


def snapshot(
    name: Name,
    tag: Annotated[str, typer.Argument(metavar="[TAG]", help="Its name; the time if omitted.")] = "",
) -> None:
    """Keep what a root is now, to restore it later; the tag goes to stdout.

    \b
    Examples:
      crossroot snapshot riscv64 clean
      crossroot install riscv64 gcc; crossroot restore riscv64 clean
    """
    copies.snapshot(name, tag)


def snapshots(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A root.", autocompletion=complete.roots)] = "",
    as_json: roots.Json = False,
) -> None:
    """List the snapshots of a root, or of all.

    \b
    Examples:
      crossroot snapshots riscv64
      crossroot snapshots --json | jq -r '.[].tag'
    """
    recover()
    folder = paths.store()
    found = [metadata.open_root(sessions.meant(name), folder)] if name else store.list_roots(folder)
    facts = [
        {"root": root.name, "tag": tag, "taken": taken(root.name, tag, folder)}
        for root in found
        for tag in layout.snapshot_tags(root.name, folder)
    ]
    if as_json:
        print(json.dumps(facts, indent=2))
    elif facts:
        ui.print_table(["SNAPSHOT", "TAKEN"], [[f"{fact['root']}@{fact['tag']}", fact["taken"]] for fact in facts])
    else:
        ui.note(f"there are no snapshots; make one with: crossroot snapshot {found[0].name if found else 'NAME'}")


def restore(
    name: Name,
    tag: Annotated[str, typer.Argument(metavar="TAG", help="Of a snapshot.", autocompletion=complete.tags)],
) -> None:
    """Let a root be again what it was at a snapshot. What it is now is lost; the snapshot stays.

    \b
    Example: crossroot restore riscv64 clean
    """
    copies.restore(name, tag)
