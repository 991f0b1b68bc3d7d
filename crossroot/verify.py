"""`run --verify`: a build with native tools, and the same build emulated, in the same starting state; what differs.

The emulated build comes first, with everything that it could change under overlays: the root, the current folder and
all folders that are bound. So the accelerated build finds all as it was, and its files are the ones that stay.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from crossroot import namespaces, ui
from crossroot.errors import CrossrootError
from crossroot.metadata import Root
from crossroot.mounts import Bind, Step
from crossroot.session import Session

_OUTPUTS = "/dev/crossroot-outputs"
_MOST_NAMED = 10  # files in one message
_THERE = 243  # status of _SCRIPT for an output that is there at the start
_MISSING = 244  # and for one that is not there at the end

# Runs a command, "$@" after the outputs and "--", and copies the outputs by their numbers. $1: "first" if none of them
# may be there yet.
_SCRIPT = f"""\
when=$1
shift
count=0
while [ "$1" != -- ]; do
    count=$((count + 1))
    eval "output_$count=\\$1"
    [ "$when" = first ] && [ -e "$1" ] && exit {_THERE}
    shift
done
shift
"$@" || exit
while [ "$count" -gt 0 ]; do
    eval "output=\\$output_$count"
    [ -e "$output" ] || exit {_MISSING}
    cp -RpP -- "$output" {_OUTPUTS}/$count || exit {_MISSING}
    count=$((count - 1))
done
"""


def verify(
    root: Root,
    emulated: Session,
    accelerated: Session,
    outputs: Sequence[str],
    size: str,
    enter: Callable[[Session], int],
) -> int:
    """Run both builds and compare what they leave at `outputs`, paths inside, relative to where the command works.

    size: of what the emulated build may change. enter: runs a session. The status of a build that fails is given back;
    raises CrossrootError where the outputs differ.
    """
    folder = Path(tempfile.mkdtemp(prefix="crossroot-verify-"))
    try:
        plans = {"emulated": _scratch(emulated, size), "accelerated": accelerated}
        for name, plan in plans.items():
            (folder / name).mkdir()
            (folder / name).chmod(0o1777)  # below a folder that is the caller's alone
            ui.note(f"the {name} build")
            status = enter(_copying(plan, folder / name, outputs, first=name == "emulated"))
            if status in (_THERE, _MISSING):
                raise _wrong_outputs(status, name)
            if status != 0:
                ui.note(f"the {name} build ended with status {status}, so there is nothing to compare")
                return status
        found = namespaces.call(lambda _: _compared(folder / "emulated", folder / "accelerated"), id_map=root.id_map)
    finally:
        namespaces.call(lambda _: shutil.rmtree(folder), id_map=root.id_map)
    if found["different"]:
        raise _different(found["different"], outputs)
    ui.note(f"the outputs of both builds are the same, byte for byte ({found['files']} files)")
    return 0


def _scratch(plan: Session, size: str) -> Session:
    """The session with all that it could change under overlays, and without ccache, which would build nothing again."""

    def scratch(step: Step) -> Step:
        if isinstance(step, Bind) and not step.readonly and os.path.isdir(step.source):
            return step.but(overlay=size)
        return step

    env = {**plan.env, "CCACHE_DISABLE": "1"}
    return plan.but(overlay=size, mounts=tuple(map(scratch, plan.mounts)), env=env)


def _copying(plan: Session, folder: Path, outputs: Sequence[str], *, first: bool) -> Session:
    command = ("/bin/sh", "-c", _SCRIPT, "sh", "first" if first else "then", *outputs, "--", *plan.command)
    return plan.but(command=command, mounts=(*plan.mounts, Bind(str(folder), _OUTPUTS)))


def _wrong_outputs(status: int, name: str) -> CrossrootError:
    if status == _THERE:
        return CrossrootError(
            "an output is there already, so the build would not make it again",
            hint="start from a clean tree: remove the outputs and what they are made from (make clean)",
        )
    return CrossrootError(f"the {name} build made no such output", hint="check the paths after --output")


def _compared(one: Path, other: Path) -> dict[str, object]:
    """How many files there are, and the paths below the folders of those that differ; by a child that owns them."""
    found, second = _contents(one), _contents(other)
    different = sorted(name for name in {*found, *second} if found.get(name) != second.get(name))
    return {"files": len(found), "different": different}


def _contents(folder: Path) -> dict[str, str]:
    """What each file is: its kind and mode, and its digest or where it points to."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        kind = f"{status.st_mode:o}"
        if stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                kind += hashlib.file_digest(file, "sha256").hexdigest()
        elif stat.S_ISLNK(status.st_mode):
            kind += os.readlink(path)
        found[str(path.relative_to(folder))] = kind
    return found


def _different(paths: Sequence[str], outputs: Sequence[str]) -> CrossrootError:
    """paths: the number of an output and what is below it."""
    names = []
    for path in paths:
        number, _, below = path.partition("/")
        names.append(os.path.join(outputs[int(number) - 1], below) if below else outputs[int(number) - 1])
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return CrossrootError(
        f"the builds differ in {', '.join(names[:_MOST_NAMED])}{more}",
        hint="see whether two builds at level 0 differ as well (times, random numbers); if not, use --accelerate 0",
    )
