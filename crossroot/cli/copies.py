"""What `crossroot clone`, `snapshot` and `restore` do, without typer."""

import time
from collections.abc import Sequence

from crossroot import clone as clones
from crossroot import layout, paths, ui
from crossroot.cli import options, sessions
from crossroot.cli.recovery import recover


def start(verb: str, arguments: Sequence[str]) -> int | None:
    """Do `crossroot VERB ARGUMENTS`; None, and nothing is done, unless they are plainly right (see `options.parse`)."""
    parsed = options.parse(arguments, ())
    match [verb, *parsed.words] if parsed else []:
        case ["clone", source, name]:
            clone(source, name)
        case ["snapshot", name, *tag] if len(tag) <= 1:
            snapshot(name, *tag)
        case ["restore", name, tag]:
            restore(name, tag)
        case _:
            return None
    return 0


def clone(source: str, name: str) -> None:
    """Make the root `name` as a copy of another one, or of its snapshot: NAME or NAME@TAG. Raises CrossrootError."""
    recover()
    root, tag = sessions.with_tag(source)
    shared = clones.clone(root, tag, layout.check_name(name), paths.store())
    ui.note(f"cloned {source} to {name}, {_how(shared)}")


def snapshot(name: str, tag: str = "") -> None:
    """Keep a copy of a root, and print its tag. tag: the time if it is empty. Raises CrossrootError."""
    recover()
    name = sessions.meant(name)
    tag = tag or time.strftime("%Y-%m-%dT%H.%M.%SZ", time.gmtime())
    shared = clones.snapshot(name, tag, paths.store())
    ui.note(f"{name}@{tag} is kept, {_how(shared)}")
    print(tag)


def restore(name: str, tag: str) -> None:
    """Let a root be again what it was at a snapshot. Raises CrossrootError."""
    recover()
    name = sessions.meant(name)
    shared = clones.restore(name, tag, paths.store())
    ui.note(f"restored {name} to {name}@{tag}, {_how(shared)}")


def _how(shared: bool) -> str:
    return "all content shared (reflink)" if shared else "all files copied (this file system shares none)"
