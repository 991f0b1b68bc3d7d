"""`crossroot doctor`."""

import dataclasses
import json
from typing import Annotated

import typer

from crossroot import arch as arches
from crossroot import doctor as doctor_module
from crossroot import paths, profiles
from crossroot.arch import Arch
from crossroot.distros.alpine import DEFAULT_MIRROR
from crossroot.doctor import Finding
from crossroot.errors import EXIT_FAILED


def doctor(
    names: Annotated[list[str] | None, typer.Argument(metavar="[ARCH...]", help="Architectures that must run.")] = None,
    mirror: Annotated[str, typer.Option(metavar="URL", help="The mirror to try instead of the profiles' own.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, for machines.")] = False,
) -> None:
    """Look at all that create and run need on this machine; tell what is wrong, why, and the command that cures it.

    Changes nothing. Exit status 0 only if create and run will work.

    \b
    Examples:
      crossroot doctor riscv64
      crossroot doctor --json | jq '.[] | select(.level != "ok")'
    """
    wanted = list(dict.fromkeys(arches.find(name) for name in names or []))
    mirrors = [mirror] if mirror else _mirrors_of(wanted or list(arches.ALPINE))
    findings = doctor_module.examine(wanted, store=paths.store(), cache=paths.cache(), mirrors=mirrors)
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            _print(finding)
    if not doctor_module.works(findings):
        raise typer.Exit(EXIT_FAILED)


def _mirrors_of(wanted: list[Arch]) -> list[str]:
    """The mirrors of the profiles that are named like the arches; Alpine's own if there is no such profile."""
    folders = paths.profile_folders()
    known = {name for name, _ in profiles.names(folders)}
    loaded = [profiles.load(arch.name, folders) for arch in wanted if arch.name in known]
    return list(dict.fromkeys(mirror for profile in loaded for mirror in profile.mirrors)) or [DEFAULT_MIRROR]


def _print(finding: Finding) -> None:
    print(f"{finding.level:8} {finding.what}")
    if finding.cause:
        print(f"{'':8}   cause: {finding.cause}")
    if finding.cure:
        print(f"{'':8}   cure: {finding.cure}")
