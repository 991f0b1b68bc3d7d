"""Tool roots: the native tools for the programs of a foreign root, made once and shared by all roots that they fit.

    STORE/tools/                     a store of its own, so that the same code makes, locks and deletes what is in it
    STORE/tools/roots/KEY/rootfs/    packages of the host's arch, unpacked and made to run from `wrappers.PLACE`

The key stands for the distribution, its release and mirror, and for all that it serves: the packages of the root with
their versions. So a root that got another compiler asks for another tool root.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crossroot import bootstrap, elf, guest, layout, locking, metadata, namespaces, store, wrappers
from crossroot.arch import Arch
from crossroot.distros import debian, debian_tools
from crossroot.errors import CrossrootError
from crossroot.locking import Lock
from crossroot.metadata import Root
from crossroot.profiles import Profile
from crossroot.request import Request
from crossroot.ui import Progress
from crossroot.wrappers import Program

_MAKING = "making"  # a name in the store of tool roots, to lock
_VERSIONS = "versions"  # a file in a tool root


@dataclass(frozen=True)
class Plan:
    """The tool root that a root needs. packages: versions of the root's own, of which the programs are a part."""

    distro: str
    suite: str
    mirror: str
    host: Arch
    target: Arch
    packages: Mapping[str, str]
    programs: tuple[Program, ...]

    @property
    def key(self) -> str:
        """The name of the tool root."""
        triplet = debian_tools.triplet(self.target)
        scripts = (wrappers.script(each, triplet) for each in self.programs if each.kind != wrappers.ITSELF)
        versions = sorted(f"{name}={self.packages[name]}" for name in self._serving)
        parts = [self.mirror, *versions, *scripts]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
        return f"{self.distro}-{self.suite}-{self.host.name}-{self.target.name}-{digest}"

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
            return self.rootfs / program.file.lstrip("/")
        return self.rootfs / "wrappers" / os.path.basename(program.file)


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
    profile = Profile(
        name=plan.key,
        arch=plan.host,
        distro=plan.distro,
        suite=plan.suite,
        components=debian.DEFAULT_COMPONENTS[plan.distro],
        variant=debian.EXTRACT,
        mirrors=(plan.mirror,) if plan.mirror else (),
        packages=(*plan.native_packages, debian_tools.SHELL_PACKAGE),
    )
    with store.create(plan.key, tools, replace=False) as unfinished:
        root = bootstrap.make(Request(plan.key, profile), unfinished, cache)
        _prepare(root, plan)
        store.publish(unfinished, root)


def _prepare(root: Root, plan: Plan) -> None:
    """Let the programs of the new tool root run from their place in a session, by a child that is confined to it."""

    def work(_: Progress) -> None:
        os.chroot(root.rootfs)
        os.chdir("/")
        names = guest.read(debian.ARCHIVES).decode().split()
        versions = debian_tools.from_archives(names)
        guest.write(f"/{_VERSIONS}", "".join(f"{name} {version}\n" for name, version in versions.items()).encode())
        triplet, own = debian_tools.triplet(plan.target), debian_tools.triplet(plan.host)
        _remove_foreign(triplet)
        shell = next((name for name in debian_tools.SHELLS if os.path.exists(name)), "")
        if not shell:
            raise CrossrootError(f"{debian_tools.SHELL_PACKAGE} has no static shell any more")
        # Where its links end: one may be absolute, which in a session would lead into the foreign root.
        os.symlink(os.path.realpath(shell).lstrip("/"), wrappers.SHELL)
        os.mkdir(wrappers.EMULATED)
        _move_loader(own)
        os.mkdir("wrappers")
        for program in plan.programs:
            if path := _found(program.file):
                if path != program.file:
                    os.symlink(path, program.file)  # a release in which /bin is a folder of its own
                if program.kind == wrappers.ITSELF:
                    continue
                _write_script(f"wrappers/{os.path.basename(program.file)}", wrappers.script(program, triplet))

    namespaces.call(work, id_map=root.id_map)


def _remove_foreign(triplet: str) -> None:
    """Headers and libraries of the foreign arch, in whose places a session has the root's own, and documentation."""
    for folder in (f"usr/{triplet}/include", f"usr/{triplet}/lib", "usr/lib/gcc-cross", "usr/share", "var", "etc"):
        shutil.rmtree(folder, ignore_errors=True)
    for file in Path("usr/bin").glob("*-lto-dump-*"):
        file.unlink()


def _found(file: str) -> str:
    """Where the tool root has a program of /usr/bin, "" if it has none."""
    return next((path for path in (file, file.removeprefix("/usr")) if os.path.isfile(path)), "")


def _write_script(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, 0o755)


def _move_loader(triplet: str) -> None:
    """Let all programs ask for a loader in `wrappers.PLACE`, and this one look for libraries there.

    Paths that must not be made in the foreign root, such as /lib64, are then not needed in it. What stands in their
    place in the files is not longer than they are.
    """
    folders = {f"/lib/{triplet}/": f"{wrappers.PLACE}/l", f"/usr/lib/{triplet}/": f"{wrappers.PLACE}/u"}
    places = {
        **folders,
        "/etc/ld.so.cache": f"{wrappers.PLACE}/c",
        "/etc/ld.so.preload": f"{wrappers.PLACE}/pre",
    }
    libraries = [folder for folder in folders if os.path.isdir(folder)]
    for name in "lu":
        os.symlink(libraries[0 if name == "l" else -1].strip("/"), name)
    loaders = [path for folder in libraries for path in Path(folder).glob("ld-linux*") if not path.is_symlink()]
    code = loaders[0].read_bytes()
    for old, new in places.items():
        filler = "/" if old.endswith("/") else "\0"  # at the end of a folder, more slashes are as good as one
        code = code.replace(f"\0{old}\0".encode(), f"\0{new.ljust(len(old), filler)}\0".encode())
    Path("ld.so").write_bytes(code)
    os.chmod("ld.so", 0o755)
    for folder in ("usr/bin", "bin", "usr/libexec"):
        for path in Path(folder).rglob("*") if os.path.isdir(folder) else ():
            if path.is_file() and not path.is_symlink():
                elf.set_interpreter(path, f"{wrappers.PLACE}/ld.so")


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
