"""`crossroot binfmt`: status, register, unregister."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from crossroot import arch as arches
from crossroot import binfmt_register, binfmt_status, emulator, emulator_fetch, paths, probe, ui
from crossroot.arch import Arch
from crossroot.binfmt_status import Status
from crossroot.errors import EXIT_FAILED, CrossrootError, UsageError

app = typer.Typer(help="Handlers: let the kernel run programs of other architectures.", no_args_is_help=True)

_COLUMNS = ["ARCH", "VERDICT", "ENTRY", "FLAGS", "OWNER", "SCOPE", "VERSION", "INTERPRETER"]


def _complete(incomplete: str) -> list[str]:
    return [name for name in arches.ALL if name.startswith(incomplete)]


Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ARCH...]", help="Architectures, by any of their names.", autocompletion=_complete),
]


@app.command()
def status(
    names: Names = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """Tell how programs of each architecture run here, found by running one. Changes nothing.

    Exit status 1 if one of the named architectures does not run.

    \b
    Examples:
      crossroot binfmt status
      crossroot binfmt status riscv64 arm64
      crossroot binfmt status --json | jq -r '.[] | select(.verdict == "broken") | .arch'
    """
    wanted = _find(names) or list(arches.ALL.values())
    found = [binfmt_status.look(arch) for arch in wanted]
    if as_json:
        print(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        ui.print_table(_COLUMNS, [_row(one) for one in found])
        for one in found:
            if one.verdict != "none" or names:
                _remark(one)
    if names and not all(one.runs for one in found):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def register(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="All of Alpine's that an emulator can be had for.")] = False,
    persist: Annotated[bool, typer.Option("--persist", help="After a restart, too: /etc/binfmt.d.")] = False,
    setuid: Annotated[bool, typer.Option("--setuid", help="Let setuid programs work, for all users (flag C).")] = False,
    qemu: Annotated[Path | None, typer.Option(metavar="PATH", help="The static qemu-user to use.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Register anew what works already; overwrite a changed file.")
    ] = False,
) -> None:
    """Register qemu-user for architectures, for the whole host; needs root.

    Every handler is tried, inside an empty chroot and outside; one that fails is removed, and what was there before
    is left as it was.

    \b
    Examples:
      sudo crossroot binfmt register riscv64
      sudo crossroot binfmt register --all --persist
      sudo crossroot binfmt register --replace --qemu ./qemu-riscv64 riscv64
    """
    wanted = _wanted(names, everything) or _registrable()
    if qemu is not None and len({arch.qemu for arch in wanted}) > 1:
        raise UsageError("--qemu names the emulator of one architecture", hint="register the architectures one by one")

    def one(arch: Arch) -> list[str]:
        return binfmt_register.register(arch, qemu=qemu, setuid=setuid, persist=persist, replace=replace)

    _for_each(wanted, one)


@app.command()
def unregister(
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="All that crossroot registered.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also what others registered, and changed files.")] = False,
) -> None:
    """Remove the handlers that crossroot registered, and their files in /etc/binfmt.d; needs root.

    \b
    Examples:
      sudo crossroot binfmt unregister riscv64
      sudo crossroot binfmt unregister --all
    """
    if everything and force:
        raise UsageError("--all is about crossroot's own entries only", hint="name architectures with --force")
    wanted = _wanted(names, everything)
    if not everything:
        _for_each(wanted, lambda arch: binfmt_register.unregister(arch, force=force))
    elif own := binfmt_register.all_own():
        _for_each(own, binfmt_register.unregister)
    else:
        ui.note("crossroot registered nothing: nothing to do")


def _find(names: list[str] | None) -> list[Arch]:
    """The arches, each once, in the order of the command line."""
    return list(dict.fromkeys(arches.find(name) for name in names or []))


def _wanted(names: list[str] | None, everything: bool) -> list[Arch]:
    """The named arches; none with --all. Raises UsageError unless there is one or the other."""
    if bool(names) == everything:
        raise UsageError("give architectures, or --all", hint=f"known are {', '.join(arches.ALL)}")
    return _find(names)


def _registrable() -> list[Arch]:
    """Alpine's arches that the CPU does not run and an emulator is there or can be fetched for.

    Says which are left out. Raises CrossrootError if none remains.
    """
    found = []
    for arch in arches.ALPINE:
        if probe.run(arch).kind == "native":
            continue
        try:
            emulator_fetch.ensure(arch, cache=paths.cache())
            found.append(arch)
        except CrossrootError as error:
            ui.note(f"left out {arch.name}: {error.message}")
    if not found:
        raise CrossrootError("there is no emulator on this host", hint=emulator.install_hint(arches.find("riscv64")))
    return found


def _for_each(wanted: list[Arch], act: Callable[[Arch], list[str]]) -> None:
    """Act on each arch and say what was done; after all, exit with 1 if one failed."""
    failed = False
    for arch in wanted:
        try:
            for sentence in act(arch):
                ui.note(sentence)
        except CrossrootError as error:
            ui.error(error.message, error.hint)
            failed = True
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _row(one: Status) -> list[str]:
    version = re.search(r"version (\S+)", one.version)
    return [
        one.arch,
        one.verdict,
        one.entry or "-",
        one.flags or "-",
        one.owner or "-",
        one.scope or "-",
        version[1] if version else "-",
        one.interpreter or "-",
    ]


def _remark(one: Status) -> None:
    """What the table has no room for."""
    if one.problem:
        ui.note(f"{one.arch}: {one.problem}; cure: {one.cure}")
    for other in one.others:
        state = "a newer entry wins" if other.enabled else "disabled"
        ui.note(f"{one.arch}: also registered: {other.entry} (owner: {other.owner}), not used: {state}")
