"""`crossroot emulator`: list, fetch, choose and remove static qemu-users."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from crossroot import arch as arches
from crossroot import emulator, paths, ui
from crossroot.arch import Arch
from crossroot.errors import CrossrootError, UsageError

app = typer.Typer(
    help="Emulators: the static qemu-users that run programs of other architectures.", no_args_is_help=True
)

ArchName = Annotated[str, typer.Argument(metavar="ARCH", help="An architecture by any of its names.")]


@dataclass(frozen=True)
class _Row:
    """One emulator. arches: served by it. used: where no version is asked for. problem: why it can't be used."""

    arches: list[str]
    version: str
    source: str
    package: str
    path: str
    used: bool
    problem: str


@app.command("list")
def list_emulators(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
) -> None:
    """List the emulators that were fetched and those of the host, and which one is used.

    \b
    Examples:
      crossroot emulator list
      crossroot emulator list --json | jq -r '.[] | select(.used) | .path'
    """
    rows = [row for served in _by_emulator() for row in _rows(served)]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    if not rows:
        ui.note("there are no emulators; get one with: crossroot emulator fetch riscv64")
        return
    cells = [
        [",".join(row.arches), row.version, row.source, "used" if row.used else "", f"{row.path} {row.problem}".strip()]
        for row in rows
    ]
    ui.print_table(["ARCH", "VERSION", "SOURCE", "USED", "PATH"], cells)


@app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="ARCH...", help="Architectures by any of their names.")],
    version: Annotated[
        str, typer.Option("--qemu-version", metavar="V", help="10 or 10.0 for any 10.0.x, '>=8' for a minimum.")
    ] = "",
    source: Annotated[str, typer.Option(metavar="apt|alpine", help="Where from. Default: what fits this host.")] = "",
    mirror: Annotated[str, typer.Option(metavar="URL", help="A mirror of Alpine.")] = "",
    branch: Annotated[str, typer.Option(help="Alpine branch: latest-stable, edge, v3.20 …")] = "",
    file: Annotated[str, typer.Option("--from", metavar="PATH|URL", help="Keep this file; a URL needs --sha256.")] = "",
    sha256: Annotated[str, typer.Option(metavar="HEX", help="What the file must have.")] = "",
) -> None:
    """Fetch emulators into the cache, without root: verified, tried, then used by create, run and shell.

    \b
    Examples:
      crossroot emulator fetch riscv64 aarch64
      crossroot emulator fetch riscv64 --qemu-version '>=8'
      crossroot emulator fetch armv7 --source alpine --mirror https://mirror.example.org/alpine
      crossroot emulator fetch s390x --from ./qemu-s390x
    """
    from crossroot import emulator_fetch

    wanted = [arches.find(name) for name in names]
    if file:
        if len(wanted) != 1 or version or source or mirror or branch:
            raise UsageError("--from names the one file for one architecture", hint="give one ARCH and no other source")
        emulator_fetch.add(wanted[0], file, sha256, cache=paths.cache())
        return
    if sha256:
        raise UsageError("--sha256 is the hash of a file", hint="name the file with --from PATH|URL")
    for arch in wanted:
        wish = emulator_fetch.Wish(arch, version, source, (mirror,) if mirror else (), branch)
        fetched = emulator_fetch.fetch_emulator(wish, cache=paths.cache())
        used = emulator.find(arch)
        if used != fetched.path.resolve():
            choose = f"crossroot emulator use {arch.name} {fetched.version}"
            ui.note(f"where no version is asked for, {used} goes on being used; to change that: {choose}")


@app.command()
def use(
    name: ArchName,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Of those fetched; 'fastest' undoes the choice.")],
) -> None:
    """Choose which of the fetched emulators is used where no version is asked for. Default: the fastest.

    \b
    Examples:
      crossroot emulator use riscv64 7.2
      crossroot emulator use riscv64 fastest
    """
    arch = arches.find(name)
    chosen = emulator.choose(arch, "" if version == "fastest" else version, paths.cache())
    ui.note(f"{arch.name} uses qemu {chosen.version}")


@app.command()
def remove(
    name: ArchName,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="Default: all that were fetched.")] = "",
) -> None:
    """Remove fetched emulators. Those of the host stay.

    \b
    Examples:
      crossroot emulator remove riscv64 7.2
      crossroot emulator remove riscv64
    """
    arch = arches.find(name)
    for gone in emulator.remove(arch, version, paths.cache()):
        ui.note(f"removed qemu {gone.version} for {arch.name}")


def _by_emulator() -> list[list[Arch]]:
    """The arches but the host's own, those that share an emulator together."""
    groups: dict[str, list[Arch]] = {}
    for arch in arches.ALL.values():
        if not emulator.runs_on_host(arch):
            groups.setdefault(arch.qemu, []).append(arch)
    return list(groups.values())


def _rows(served: list[Arch]) -> Iterator[_Row]:
    """The emulators of arches that share one; those fetched first."""
    arch, names = served[0], [each.name for each in served]
    used = _used(arch)
    for each in emulator.fetched(arch, paths.cache()):
        info, problem = emulator.info(each), emulator.why_unusable(each.path)
        source, package = info.get("source", "unknown"), info.get("package", "")
        yield _Row(names, each.version, source, package, str(each.path), each.path.resolve() == used, problem)
    for path in dict.fromkeys(path.resolve() for path in emulator.on_host(arch)):
        problem = emulator.why_unusable(path)
        yield _Row(names, emulator.version_of(path), "host", "", str(path), path == used, problem)


def _used(arch: Arch) -> Path | None:
    try:
        return emulator.find(arch)
    except CrossrootError:
        return None
