"""The loader and libraries of a tool root: let all its programs find them at `wrappers.PLACE`, in any foreign root.

Paths that must not be made in the foreign root, such as /lib64 or the root's own /etc, are then not needed in it.
Called with the tool root as "/".
"""

import os
from collections.abc import Iterator
from pathlib import Path

from crossroot import elf, guest
from crossroot.errors import CrossrootError
from crossroot.wrappers import PLACE


def move(triplet: str) -> None:
    """Let the programs ask for a loader in PLACE, and that one look for libraries there.

    triplet: GNU's, of the host. Raises CrossrootError if there is no loader, or its path does not fit into programs.
    """
    try:
        if musl := next(Path("lib").glob("ld-musl-*.so.1"), None):
            _move_musl(musl)
        else:
            _move_glibc(triplet)
    except ValueError as error:
        raise CrossrootError(f"the native tools can't run in another root: {error}") from error


def _move_glibc(triplet: str) -> None:
    """What stands in the place of paths in the loader is not longer than they are."""
    folders = {f"/lib/{triplet}/": f"{PLACE}/l", f"/usr/lib/{triplet}/": f"{PLACE}/u"}
    places = {**folders, "/etc/ld.so.cache": f"{PLACE}/c", "/etc/ld.so.preload": f"{PLACE}/pre"}
    libraries = [folder for folder in folders if os.path.isdir(folder)]
    for name in "lu":
        os.symlink(libraries[0 if name == "l" else -1].strip("/"), name)
    loaders = [path for folder in libraries for path in Path(folder).glob("ld-linux*") if not path.is_symlink()]
    code = loaders[0].read_bytes()
    for old, new in places.items():
        filler = "/" if old.endswith("/") else "\0"  # at the end of a folder, more slashes are as good as one
        code = code.replace(f"\0{old}\0".encode(), f"\0{new.ljust(len(old), filler)}\0".encode())
    _write_program("ld.so", code)
    for path in _files("usr/bin", "bin", "usr/libexec"):
        elf.set_interpreter(path, f"{PLACE}/ld.so")


def _move_musl(loader: Path) -> None:
    """musl's loader finds the list of its folders by its own path (dynlink.c): for PREFIX/lib/ld.so it is
    PREFIX/etc/ld-musl-ARCH.path.

    It would map libraries of another arch as well, so it must neither know the variables that name such, nor look into
    the folders of programs themselves before its own.
    """
    code = loader.read_bytes()
    for name in (b"LD_PRELOAD", b"LD_LIBRARY_PATH"):
        code = code.replace(b"\0%b\0" % name, b"\0%b\0" % name.replace(b"LD", b"  "))
    _write_program("lib/ld.so", code)
    folders = ["/lib", "/usr/lib"]
    for path in _files("bin", "sbin", "lib", "usr"):
        folders += elf.take_search_path(path)
        elf.set_interpreter(path, f"{PLACE}/lib/ld.so")
    lines = "".join(f"{PLACE}{os.path.normpath(folder)}\n" for folder in dict.fromkeys(folders))
    guest.write(f"/etc/{loader.name.removesuffix('.so.1')}.path", lines.encode())


def _files(*folders: str) -> Iterator[Path]:
    """The regular files below folders, those by links left out."""
    for folder in folders:
        if not os.path.islink(folder):
            yield from (path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink())


def _write_program(path: str, code: bytes) -> None:
    Path(path).write_bytes(code)
    os.chmod(path, 0o755)
