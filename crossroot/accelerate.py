"""Native tools in a foreign root: what takes the place of which program in a session, by level.

    0  nothing
    1  the toolchain: compilers, assembler, linker
    2  also the shell, make, coreutils and compressors
    3  also the drivers of languages that cross-compile by themselves

A native tool is used where the tool root has it in the version that the root has, else the root's own is emulated. The
root itself is not changed: all is mounted in the session alone.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from crossroot import apt, guest, store, toolroot, ui, wrappers
from crossroot import arch as arches
from crossroot.distros import alpine
from crossroot.errors import CrossrootError
from crossroot.metadata import Root
from crossroot.mounts import Bind, Folder, Replace, Step
from crossroot.toolroot import Plan, Tools
from crossroot.wrappers import Program


@contextmanager
def mounts(root: Root, level: int, folder: Path, cache: Path) -> Iterator[tuple[Step, ...]]:
    """The mounts that accelerate a session in `root`, which go after all others; the block must last as long as it.

    folder: of the store. Makes the tool root if it is not there yet. What can't be accelerated is emulated as ever; why
    is said when the tool root is made, or can't be.
    """
    plan = _plan_of(root)
    if plan is None:
        ui.note(f"{root.name} has no programs that native tools could replace; see docs/speed.md for what they can")
        yield ()
        return
    try:
        tools, made = toolroot.opened(plan, folder, cache)
    except CrossrootError as error:
        ui.note(f"{root.name} is emulated without native tools: {error.message}")
        yield ()
        return
    with tools.lock:
        if made:
            for sentence in differences(root.name, plan, tools.versions):
                ui.note(sentence)
            remove_unused(folder)
        yield steps(root, tools, usable(plan, tools.versions, level))


def remove_unused(folder: Path) -> None:
    """Delete the tool roots that fit no root of the store any more, unless a session uses them."""
    plans = map(_plan_of, store.list_roots(folder))
    toolroot.remove_others(folder, {plan.key for plan in plans if plan})


def _plan_of(root: Root) -> Plan | None:
    """What can replace programs of the root; None where nothing can."""
    host, target = arches.find(os.uname().machine), arches.find(root.arch)
    facts = toolroot.FACTS.get(root.distro)
    if facts is None or not facts.triplet(target):
        return None
    texts = (guest.read_below(root.rootfs_folder, file) for file in facts.DATABASES)
    packages = facts.installed(next(filter(None, texts), ""))
    found = tuple(facts.programs(target, packages))
    if not found:
        return None
    mirror, branch = _mirror(root), root.branch
    if root.distro == "alpine":
        branch = branch or alpine.branch_of(root.version, "edge")
    return Plan(root.distro, branch, mirror, host, target, packages, found, root.public_keys, root.repositories)


def _mirror(root: Root) -> str:
    """Where the packages of the tool root come from, "" for what the host itself uses."""
    if root.distro == "alpine":
        return root.mirror or alpine.DEFAULT_MIRROR
    usual = {uri for source in apt.read_sources() for uri in source.uris.split()}
    # Ubuntu has other mirrors for other arches.
    return "" if root.distro == "ubuntu" or root.mirror in usual else root.mirror


def usable(plan: Plan, versions: Mapping[str, str], level: int) -> list[Program]:
    """The programs that native ones replace at that level. versions: of the packages of the tool root."""
    return [program for program in plan.programs if program.level <= level and _fits(program, plan, versions)]


def _fits(program: Program, plan: Plan, versions: Mapping[str, str]) -> bool:
    pairs = [(program.package, program.native_package), *((name, name) for name in program.needs)]
    return all(
        plan.facts.same(plan.packages.get(own, ""), versions[native]) if native in versions else False
        for own, native in pairs
    )


def differences(name: str, plan: Plan, versions: Mapping[str, str]) -> list[str]:
    """A sentence for each package whose native version is another one, or which has none. name: of the root."""
    found = []
    for own, native in sorted({(program.package, program.native_package) for program in plan.programs}):
        if native not in versions:
            found.append(f"{own} has no native tools, so it is emulated")
        elif not plan.facts.same(plan.packages[own], versions[native]):
            found.append(
                f"{own} has version {plan.packages[own]}, and its native tools have {versions[native]}, "
                f"so it is emulated; to bring the root up to date: crossroot upgrade {name}"
            )
    return found


def steps(root: Root, tools: Tools, programs: list[Program]) -> tuple[Step, ...]:
    """The mounts that put programs of the tool root into a session."""
    if not programs:
        return ()
    return (
        Folder(wrappers.PLACE),
        Bind(str(tools.rootfs), wrappers.PLACE, readonly=True),
        Bind(str(root.rootfs), f"{wrappers.PLACE}/{wrappers.EMULATED}", readonly=True),
        *(Replace(str(file), program.file) for program in programs if (file := tools.replacement(program)).exists()),
    )
