"""Tool roots: the native tools for the programs of a foreign root, made once and shared by all roots that they fit.

    STORE/tools/                     a store of its own, so that the same code makes, locks and deletes what is in it
    STORE/tools/roots/KEY/rootfs/    packages of the host's arch, unpacked and made to run from `wrappers.PLACE`

The key stands for the distribution, its release, mirror and keys, and for all that it serves: the packages of the root
with their versions. So a root that got another compiler asks for another tool root, and one with keys of its own shares
none with roots that do not trust them.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from crossroot import bootstrap, fetch, guest, layout, loader, locking, metadata, namespaces, store, wrappers
from crossroot.arch import Arch
from crossroot.distros import alpine, alpine_tools, debian, debian_tools
from crossroot.errors import CrossrootError
from crossroot.locking import Lock
from crossroot.metadata import Root
from crossroot.profiles import Profile
from crossroot.request import Request
from crossroot.ui import Progress
from crossroot.wrappers import Program

_MAKING = "making"  # a name in the store of tool roots, to lock
_VERSIONS = "versions"  # a file in a tool root
_WRAPPERS = "wrappers"  # a folder in it, with each wrapper by the path of what it replaces


class Facts(Protocol):
    """What is known of a distribution's tools: a module such as `debian_tools`."""

    DATABASES: tuple[str, ...]
    SHELL_PACKAGE: str
    SHELLS: tuple[str, ...]
    SUPERFLUOUS: tuple[str, ...]

    def triplet(self, arch: Arch) -> str:
        """The GNU triplet of the distribution's port, "" where there is none."""

    def installed(self, text: str) -> dict[str, str]:
        """The versions of the installed packages in the text of a database, by name."""

    def versions(self) -> dict[str, str]:
        """The versions of the packages of a new tool root, which is "/"."""

    def same(self, version: str, native: str) -> bool:
        """Whether two versions are builds of one source."""

    def programs(self, arch: Arch, packages: Mapping[str, str]) -> list[Program]:
        """The programs of a root with these packages that native ones could replace."""


FACTS: Mapping[str, Facts] = {"alpine": alpine_tools, "debian": debian_tools, "ubuntu": debian_tools}


@dataclass(frozen=True)
class Plan:
    """The tool root that a root needs. packages: versions of the root's own, of which the programs are a part.

    branch: of Alpine, or the suite. repositories: as in `Root`. keys: public ones of the root, by the names of their
    files; what is in the tool root is signed by one of these, or of the distribution's.
    """

    distro: str
    branch: str
    mirror: str
    host: Arch
    target: Arch
    packages: Mapping[str, str]
    programs: tuple[Program, ...]
    keys: Mapping[str, bytes] = field(default_factory=dict)
    repositories: tuple[str, ...] = ()

    @property
    def facts(self) -> Facts:
        """What is known of its distribution's tools."""
        return FACTS[self.distro]

    @property
    def triplet(self) -> str:
        """GNU's, of the foreign root."""
        return self.facts.triplet(self.target)

    @property
    def key(self) -> str:
        """The name of the tool root."""
        scripts = (wrappers.script(each, self.triplet) for each in self.programs if each.kind != wrappers.ITSELF)
        versions = sorted(f"{name}={self.packages[name]}" for name in self._serving)
        keys = sorted(f"{name} {hashlib.sha256(content).hexdigest()}" for name, content in self.keys.items())
        parts = [self.mirror, *self.repositories, *keys, *versions, *scripts]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        return f"{self.distro}-{self.branch}-{self.host.name}-{self.target.name}-{digest}"

    @property
    def _serving(self) -> set[str]:
        named = {name for program in self.programs for name in (program.package, *program.needs)}
        return named & self.packages.keys()

    @property
    def native_packages(self) -> tuple[str, ...]:
        return tuple(sorted({program.native_package for program in self.programs}))


@dataclass(frozen=True)
class Tools:
    """A tool root that is there. versions: of its packages, by name. lock: keeps it from being deleted."""

    rootfs: Path
    versions: Mapping[str, str]
    lock: Lock

    def replacement(self, program: Program) -> Path:
        """The file that takes the program's place; not there if the tool root lacks the program."""
        if program.kind == wrappers.ITSELF:
            return self.rootfs / program.native.lstrip("/")
        return self.rootfs / (_WRAPPERS + program.file)


def stores(folder: Path) -> Path:
    """The store of the tool roots that belong to the store `folder`."""
    return folder / "tools"


def opened(plan: Plan, folder: Path, cache: Path) -> tuple[Tools, bool]:
    """The tool root, locked, and whether it was made now. Raises CrossrootError if it can't be made."""
    tools = stores(folder)
    made = False
    if not os.path.lexists(layout.root_folder(plan.key, tools)):
        with locking.lock_root(_MAKING, tools, exclusive=True, wait=True):
            if not os.path.lexists(layout.root_folder(plan.key, tools)):
                store.recover(tools)
                _make(plan, tools, cache)
                made = True
    lock = locking.lock_root(plan.key, tools, exclusive=False, wait=True)
    root = metadata.open_root(plan.key, tools)
    lines = (root.rootfs / _VERSIONS).read_text().splitlines()
    return Tools(root.rootfs, dict(line.split() for line in lines), lock), made


def _make(plan: Plan, tools: Path, cache: Path) -> None:
    with store.create(plan.key, tools, replace=False) as unfinished:
        profile = _profile(plan, _write_keys(plan, unfinished / "keys"))
        root = bootstrap.make(Request(plan.key, profile), unfinished, cache)
        shutil.rmtree(unfinished / "keys")
        _prepare(root, plan)
        store.publish(unfinished, root)


def _write_keys(plan: Plan, folder: Path) -> tuple[str, ...]:
    """The keys as files, as profiles have them."""
    folder.mkdir()
    for name, content in plan.keys.items():
        (folder / name).write_bytes(content)
    return tuple(str(folder / name) for name in plan.keys)


def _profile(plan: Plan, keys: tuple[str, ...]) -> Profile:
    """Of the tool root: packages that are only unpacked. keys: files."""
    packages = (*plan.native_packages, plan.facts.SHELL_PACKAGE)
    common = Profile(plan.key, plan.host, distro=plan.distro, variant=debian.EXTRACT, packages=packages)
    if plan.distro in debian.DISTROS:
        return common.but(
            suite=plan.branch,
            components=debian.DEFAULT_COMPONENTS[plan.distro],
            mirrors=(plan.mirror,) if plan.mirror else (),
            keyring=keys[0] if keys else "",
        )
    there: set[str] = set()
    for line in alpine.repositories(plan.mirror, plan.branch).split():
        there |= alpine.packages(plan.host, line, plan.keys)
    remote = []
    for line in plan.repositories:
        if "://" in line and not line.startswith("@"):
            with contextlib.suppress(fetch.NotFound):  # it may be for other arches alone
                there |= alpine.packages(plan.host, line, plan.keys)
                remote.append(line)
    return common.but(
        branch=plan.branch,
        mirrors=(plan.mirror,),
        source="packages",
        repositories=tuple(remote),
        keys=keys,
        # apk installs all or none.
        packages=tuple(name for name in packages if name in there),
    )


def _prepare(root: Root, plan: Plan) -> None:
    """Let the programs of the new tool root run from their place in a session, by a child that is confined to it."""

    def work(_: Progress) -> None:
        os.chroot(root.rootfs)
        os.chdir("/")
        facts, triplet = plan.facts, plan.triplet
        versions = facts.versions()
        guest.write(f"/{_VERSIONS}", "".join(f"{name} {version}\n" for name, version in versions.items()).encode())
        for folder in facts.SUPERFLUOUS:
            shutil.rmtree(folder.format(triplet=triplet), ignore_errors=True)
        for file in Path("usr/bin").glob("*-lto-dump-*"):
            file.unlink()
        shell = next((name for name in facts.SHELLS if os.path.exists(name)), "")
        if not shell:
            raise CrossrootError(f"{facts.SHELL_PACKAGE} has no static shell any more")
        # Where its links end: one may be absolute, which in a session would lead into the foreign root.
        os.symlink(os.path.realpath(shell).lstrip("/"), wrappers.SHELL)
        os.mkdir(wrappers.EMULATED)
        loader.move(facts.triplet(plan.host))
        for program in plan.programs:
            if path := _found(program.native):
                if path != program.native:
                    os.symlink(path, program.native)  # a release in which /bin is a folder of its own
                if program.kind != wrappers.ITSELF:
                    _write_script(_WRAPPERS + program.file, wrappers.script(program, triplet))

    namespaces.call(work, id_map=root.id_map)


def _found(file: str) -> str:
    """Where the tool root has a program of /usr/bin, "" if it has none."""
    return next((path for path in (file, file.removeprefix("/usr")) if os.path.isfile(path)), "")


def _write_script(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)


def remove_others(folder: Path, keys: set[str]) -> None:
    """Delete all tool roots but these, and but those that a session uses."""
    tools = stores(folder)
    if not tools.is_dir():
        return
    for root in store.list_roots(tools):
        if root.name not in keys:
            try:
                store.remove(root.name, tools, force=False)
            except CrossrootError:
                continue  # a session uses it
