"""Unpacks archives as `create` does, as root or an ordinary user, in a process that goes on to the next one.

    with unpacker.start(crossroot) as unpack:
        assert unpack(data) == {"tree": {...}}

It is a program, too: what the process runs, with nothing but crossroot to import.
"""

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossroot import namespaces, unpack
from crossroot.errors import CrossrootError
from crossroot.ui import no_progress

if TYPE_CHECKING:
    from tests.support.identity import Crossroot

MEMORY = 400 << 20  # bytes of address space for the process

_KINDS = {stat.S_IFREG: "0", stat.S_IFLNK: "2", stat.S_IFDIR: "5"}
_MOST = 1 << 20  # bytes of a file that are compared


@contextmanager
def start(crossroot: "Crossroot") -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """A function that unpacks an archive into a new folder and gives {"tree": what there is then}, or {"error":
    message of the CrossrootError}; what else is raised ends the process, and fails the test.
    """
    archive = crossroot.tmp / "archive"
    code = Path(__file__).read_text()
    words = ["bash", "-c", f'ulimit -v {MEMORY >> 10}; exec "$@"', "bash"]
    words += [str(crossroot.identity.python), "-c", code, str(archive), str(crossroot.tmp / "destination")]
    with crossroot.identity.popen(words, cwd=crossroot.tmp, stderr=sys.stderr) as process:
        assert process.stdin
        assert process.stdout

        def once(data: bytes) -> dict[str, Any]:
            assert process.stdin
            assert process.stdout
            archive.write_bytes(data)
            process.stdin.write(b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            assert answer, "the process that unpacks has ended"
            done: dict[str, Any] = json.loads(answer)
            return done

        yield once
        process.stdin.close()
        assert process.wait(60) == 0


def main(archive: str, destination: str) -> None:
    """Unpack `archive` anew for each line of stdin."""
    unpack.prepare()
    id_map = namespaces.own_id_map()
    keep_owners = id_map is None or not id_map.single
    for _ in sys.stdin:
        os.mkdir(destination, 0o755)

        def confined(_: object) -> dict[str, list[object]]:
            with open(archive, "rb") as file:
                os.chroot(destination)
                os.chdir("/")
                unpack.unpack(file, keep_owners=keep_owners, progress=no_progress)
            return describe()

        try:
            done: dict[str, Any] = {"tree": namespaces.call(confined, id_map=id_map)}
        except CrossrootError as error:
            done = {"error": error.message}
        namespaces.call(lambda _: shutil.rmtree(destination), id_map=id_map)
        print(json.dumps(done), flush=True)


def describe() -> dict[str, list[object]]:
    """Path below / to kind, mode, uid, gid, mtime in ns, the first name of the inode, content or target, xattrs."""
    found: dict[str, list[object]] = {}
    first: dict[int, str] = {}

    def visit(path: bytes) -> None:
        status = os.lstat(path or b"/")
        name, content = path.decode("latin-1"), b""
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            with open(path, "rb") as file:
                content = file.read(_MOST)
        folder = stat.S_ISDIR(status.st_mode)
        xattrs = {} if stat.S_ISLNK(status.st_mode) else _xattrs(path or b"/")
        found[name] = [
            _KINDS[stat.S_IFMT(status.st_mode)],
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            name if folder else first.setdefault(status.st_ino, name),
            content.decode("latin-1"),
            xattrs,
        ]
        for entry in sorted(os.listdir(path or b"/")) if folder else ():
            visit(path + b"/" + entry)

    visit(b"")
    return found


def _xattrs(path: bytes) -> dict[str, str]:
    names = [name for name in os.listxattr(path) if name.startswith("user.")]
    return {name.removeprefix("user."): os.getxattr(path, name).decode("latin-1") for name in names}


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
