"""How much faster a native apk installs a package in a foreign root than the same apk of the root, emulated.

A signed package of about 24 MB in 2,000 files is installed into a new root, natively and emulated in turn. Downloads
are not measured: both take the package from one folder.
"""

import random
import time
from collections.abc import Sequence

from bench.measure import Result, Series, Setting, cpu_seconds, ratio
from crossroot import arch, bootstrap, enter, profiles, session
from crossroot.distros import apk_native
from crossroot.metadata import Root
from crossroot.request import Request
from tests.support import apk_repository

TITLE = "Packages: a native apk against the emulated one"
_ARCH = "riscv64"
_FILES = 2000
_SIZE = 12_000  # bytes of a file
_WORDS = 4096  # different words in the files: about as compressible as programs are


def measure(setting: Setting) -> Result:
    key = apk_repository.new_key()
    folder = setting.folder
    apk_repository.write(folder / "repository", [large_package(_ARCH)], key)
    (folder / key.name).write_bytes(key.public)
    keys = (str(folder / key.name),)
    profile = profiles.Profile(name="bench", arch=arch.find(_ARCH), mirrors=(setting.mirror,), keys=keys)
    times: dict[str, list[float]] = {"native apk": [], "emulated apk": []}
    spent: dict[str, list[float]] = {"native apk, on a CPU": [], "emulated apk, on a CPU": []}
    for each in range(max(3, setting.rounds // 2)):
        for kind, measured in times.items():
            # A new one, as files come new to it. None is removed before the end: to find an inode, ext4 passes by
            # each that was freed in the last seconds (recently_deleted in fs/ext4/ialloc.c).
            request = Request(name=f"{kind.split()[0]}{each}", profile=profile)
            root = bootstrap.create(request, folder / "store", folder / "cache")
            seconds, on_cpu = install(root, setting, native=kind == "native apk")
            measured.append(seconds)
            spent[f"{kind}, on a CPU"].append(on_cpu)
    series = {way: Series(way, tuple(values)) for way, values in {**times, **spent}.items()}
    because = "both write the same files, which a slow disk takes most of the time for"
    emulated, native = series["emulated apk"], series["native apk"]
    ratios = [ratio("emulated against native package installation", emulated, native, at_least=3, because=because)]
    return Result(list(series.values()), ratios)


def install(root: Root, setting: Setting, *, native: bool) -> tuple[float, float]:
    """Install the package; the seconds that it took, and those of them on a CPU."""
    folder = setting.folder
    tool = apk_native.find([setting.mirror], root.branch, folder / "cache", {})
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
