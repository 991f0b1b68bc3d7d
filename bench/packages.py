"""How much faster a native apk installs a package in a foreign root than the same apk of the root, emulated.

    python -m bench.packages [--mirror URL|FOLDER] [--arch riscv64] [--rounds 5] [--folder FOLDER] [--results FILE]

Makes a signed package of about 24 MB in 2,000 files, and a root in a folder of its own; installs the package natively
and emulated in turn, and prints each time and the ratio of the medians. The goal is a ratio of 3 or more. Downloads are
not measured: both take the package from one folder. Exit status 1 if the goal is missed.
"""

import argparse
import contextlib
import functools
import http.server
import os
import platform
import random
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from crossroot import arch, bootstrap, enter, namespaces, profiles, session, store
from crossroot.distros import alpine, apk_native
from crossroot.metadata import Root
from crossroot.request import Request
from tests.support import apk_repository

GOAL = 3.0
_FILES = 2000
_SIZE = 12_000  # bytes of a file
_WORDS = 4096  # different words in the files: about as compressible as programs are


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.packages", description=__doc__.partition("\n")[0])
    parser.add_argument("--mirror", default=alpine.DEFAULT_MIRROR, help="of Alpine: URL, or a folder")
    parser.add_argument("--arch", default="riscv64", help="of the root")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured")
    parser.add_argument("--folder", default="/dev/shm", help="where to work; in memory, the disk hides nothing")
    parser.add_argument("--results", type=Path, help="append the result to this file, in Markdown")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="crossroot-bench-", dir=options.folder) as folder,
        served(options.mirror) as mirror,
    ):
        native, emulated = measure(Path(folder), mirror, options.arch, options.rounds)
    ratio = statistics.median(emulated) / statistics.median(native)
    report = f"native {shown(native)}, emulated {shown(emulated)}: {ratio:.1f} times faster (goal {GOAL})"
    print(report)
    if options.results:
        with options.results.open("a") as file:
            file.write(f"\n## packages, {time.strftime('%Y-%m-%d')}\n\n{options.arch} on {host()}: {report}\n")
    return 0 if ratio >= GOAL else 1


def measure(folder: Path, mirror: str, name: str, rounds: int) -> tuple[list[float], list[float]]:
    """The seconds that each installation took: native ones, emulated ones."""
    key = apk_repository.new_key()
    apk_repository.write(folder / "repository", [large_package(name)], key)
    (folder / key.name).write_bytes(key.public)
    profile = profiles.Profile(name="bench", arch=arch.find(name), mirrors=(mirror,), keys=(str(folder / key.name),))
    times: dict[str, list[float]] = {"native": [], "emulated": []}
    names = []
    try:
        for each in range(rounds):
            for kind, measured in times.items():
                # A new one, as files come new to it. None is removed before the end: to find an inode, ext4 passes by
                # each that was freed in the last seconds (recently_deleted in fs/ext4/ialloc.c).
                names.append(f"{kind}{each}")
                request = Request(name=names[-1], profile=profile)
                root = bootstrap.create(request, folder / "store", folder / "cache")
                seconds, spent = install(root, folder, mirror, native=kind == "native")
                measured.append(seconds)
                print(f"round {each + 1}, {kind}: {seconds:.2f} s, {spent:.2f} s of them on a CPU", flush=True)
    finally:
        for root_name in names:
            store.remove(root_name, folder / "store", force=False)
    return times["native"], times["emulated"]


def install(root: Root, folder: Path, mirror: str, *, native: bool) -> tuple[float, float]:
    """Install the package; the seconds that it took, and those of them on a CPU."""
    tool = apk_native.find([mirror], root.branch, folder / "cache")
    binds = (f"{folder / 'repository'}:/dev/repository:ro", f"{tool.folder}:/dev/tool:ro")
    apk = tool.command("/dev/tool") if native else ["apk"]
    start, before = time.monotonic(), cpu_seconds()
    run(root, [*apk, *ARGUMENTS, "add", "large"], binds)
    return time.monotonic() - start, cpu_seconds() - before


# Only the repository of our own, and nothing cached.
ARGUMENTS = ["--quiet", "--no-cache", "--repositories-file", "/dev/null", "--repository", "/dev/repository"]


def run(root: Root, command: Sequence[str], binds: tuple[str, ...]) -> None:
    """Run a command in a session, as `crossroot install` does."""
    plan = session.plan(root, session.Options(user="0", cwd=False, binds=binds), command)
    status = enter.run(plan, terminal=False)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed with status {status}")


def large_package(name: str) -> apk_repository.Package:
    """A package `large` of _FILES files of _SIZE bytes, always the same."""
    numbers = random.Random(0)
    words = [numbers.randbytes(12) for _ in range(_WORDS)]
    files = {
        f"usr/lib/large/{number // 50}/{number}": b"".join(numbers.choices(words, k=_SIZE // 12))
        for number in range(_FILES)
    }
    return apk_repository.Package("large", "1.0-r0", name, files)


@contextlib.contextmanager
def served(mirror: str) -> Iterator[str]:
    """The URL of a mirror; a folder is served on loopback."""
    if "://" in mirror:
        yield mirror
        return
    handler = functools.partial(_Quiet, directory=os.path.abspath(mirror))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def cpu_seconds() -> float:
    """What all ended children have used: a busy machine, or a slow disk, shows as a difference to the time."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def shown(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.2f} s ({min(times):.2f} to {max(times):.2f})"


def host() -> str:
    """The machine in words."""
    who = "root" if namespaces.own_id_map() is None else "an ordinary user"
    return f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, as {who}"


if __name__ == "__main__":
    sys.exit(main())
