"""How near a build with native tools in a foreign root comes to a native cross build, and how far from emulation it is.

    python -m bench.accelerate [--arch riscv64] [--rounds 3] [--folder FOLDER] [--results FILE]

Makes two roots of Debian in a folder of its own, one of the foreign arch and one of the host's with cross compilers,
and builds Lua (some 30,000 lines of C, the source package lua5.4) and examples/hare in them: cross, with native tools,
and emulated. Prints the times, the ratios of their medians, and whether the files are the same. The goals: at most 1.15
times the cross build, at least 10 times faster than emulation. Exit status 1 if one is missed.
"""

import argparse
import hashlib
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crossroot import arch
from crossroot.arch import Arch
from crossroot.distros import debian_tools

GOAL_CROSS, GOAL_EMULATED = 1.15, 10.0
_SOURCE = "lua5.4"
_PROFILES = {"riscv64": "debian-hare-riscv64", "aarch64": "debian-hare-arm64"}
_EXAMPLE = Path(__file__).parents[1] / "examples/hare"

# In the folder of the sources; CC and AR are for the cross build. Without -j: a ratio of two cores is no other.
_LUA = "make -s -C lua/src clean && make -s -C lua/src generic CC='{cc} -std=gnu99' AR='{ar} rcu' RANLIB={ranlib}"
_HARE = "export HARECACHE=/tmp/cache; hare build {option} -o hare/tally hare/cmd/tally"


@dataclass(frozen=True)
class Work:
    """A thing to build. cross, foreign: the shell commands in the two roots. outputs: what they write."""

    name: str
    cross: str
    foreign: str
    level: int
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """Seconds of each round, by the way: cross, accelerated, emulated. same: whether accelerated and emulated outputs
    are the same, byte for byte."""

    seconds: Mapping[str, Sequence[float]]
    same: bool

    def median(self, way: str) -> float:
        return statistics.median(self.seconds[way])

    @property
    def to_cross(self) -> float:
        """How many times as long as the cross build the accelerated one takes."""
        return self.median("accelerated") / self.median("cross")

    @property
    def to_emulated(self) -> float:
        """How many times as long as the accelerated build the emulated one takes."""
        return self.median("emulated") / self.median("accelerated")

    @property
    def reached(self) -> bool:
        return self.same and self.to_cross <= GOAL_CROSS and self.to_emulated >= GOAL_EMULATED


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.accelerate", description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="riscv64", choices=_PROFILES, help="of the foreign root")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--folder", default="/var/tmp", help="where to work, with 3 GB free")
    parser.add_argument("--results", type=Path, help="append the result to this file, in Markdown")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crossroot-bench-", dir=options.folder) as folder:
        results = measure(Path(folder), arch.find(options.arch), options.rounds)
    report = [line for name, result in results.items() for line in shown(name, result)]
    print("\n".join(report))
    if options.results:
        where = f"{options.arch} on {platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
        with options.results.open("a") as file:
            file.write(f"\n## accelerate, {time.strftime('%Y-%m-%d')}\n\n{where}:\n\n" + "\n".join(report) + "\n")
    return 0 if all(result.reached for result in results.values()) else 1


def measure(folder: Path, target: Arch, rounds: int) -> dict[str, Result]:
    """The results for C and Hare. folder: an empty one; what is made in it is removed but for files."""
    bench = Bench(folder)
    try:
        bench.make_roots(target)
        bench.fetch_sources()
        return {work.name: bench.compare(work, target, rounds) for work in works(target)}
    finally:
        bench.run("remove", "foreign", "native", check=False)


def works(target: Arch) -> list[Work]:
    triplet = debian_tools.triplet(target)
    cross = {name: f"{triplet}-{name}" for name in ("ar", "ranlib")} | {"cc": f"{triplet}-gcc-14"}
    own = {"cc": "gcc", "ar": "ar", "ranlib": "ranlib"}
    outputs = ("lua/src/liblua.a", "lua/src/lua", "lua/src/luac")
    return [
        Work("C", _LUA.format(**cross), _LUA.format(**own), 2, outputs),
        Work("Hare", _HARE.format(option=f"-a {target.name}"), _HARE.format(option=""), 3, ("hare/tally",)),
    ]


class Bench:
    """Runs crossroot with a store in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()

    def run(self, *arguments: str, check: bool = True) -> None:
        # The cache is the user's own, so that an emulator is fetched once.
        environment = {**os.environ, "CROSSROOT_STORE": str(self.folder / "store")}
        command = [sys.executable, "-m", "crossroot", *arguments]
        subprocess.run(command, env=environment, cwd=self.work, check=check, stdin=subprocess.DEVNULL)

    def make_roots(self, target: Arch) -> None:
        host, names = arch.find(platform.machine()), debian_tools.triplet(target).replace("_", "-")
        cross = [f"gcc-14-{names}", f"binutils-{names}", f"libc6-dev-{target.debian}-cross", "make", "hare"]
        own = ["gcc", "libc6-dev", "make"]
        self.create("native", f"debian-{host.debian}", [*cross, "dpkg-dev", "ca-certificates"])
        self.create("foreign", _PROFILES[target.name], own)
        self.run("run", "foreign", "--accelerate", "3", "--", "true")

    def create(self, name: str, profile: str, packages: Sequence[str]) -> None:
        options = [word for package in packages for word in ("--package", package)]
        self.run("create", profile, "--name", name, *options)

    def fetch_sources(self) -> None:
        """The sources of Lua, verified by the native root's apt, and a copy of the example."""
        script = (
            "sed 's/^deb /deb-src /' /etc/apt/sources.list > /etc/apt/sources.list.d/src.list && apt-get -q update && "
            f"apt-get -q source --download-only {_SOURCE} && mkdir lua && tar xf {_SOURCE}_*.orig.tar.* -C lua "
            "--strip-components=1"
        )
        self.run("run", "native", "--", "sh", "-c", script)
        shutil.copytree(_EXAMPLE, self.work / "hare")

    def compare(self, work: Work, target: Arch, rounds: int) -> Result:
        """Build in all ways in turn."""
        ways = {
            "cross": ("native", "0", work.cross),
            "accelerated": ("foreign", str(work.level), work.foreign),
            "emulated": ("foreign", "0", work.foreign),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        digests: dict[str, set[str]] = {way: set() for way in ways}
        for each in range(rounds):
            for way, (root, level, script) in ways.items():
                start = time.monotonic()
                self.run("run", root, "--accelerate", level, "--", "sh", "-c", script)
                seconds[way].append(time.monotonic() - start)
                digests[way].add(digest(self.work / name for name in work.outputs))
                print(f"round {each + 1}, {work.name} for {target.name}, {way}: {seconds[way][-1]:.2f} s", flush=True)
        return Result(seconds, len(digests["accelerated"] | digests["emulated"]) == 1)


def digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def shown(name: str, result: Result) -> list[str]:
    """The result in words."""
    times = ", ".join(
        f"{way} {result.median(way):.2f} s ({min(each):.2f} to {max(each):.2f})" for way, each in result.seconds.items()
    )
    return [
        f"- {name}: {times}",
        f"  - {result.to_cross:.2f} times the cross build (goal {GOAL_CROSS}), {result.to_emulated:.1f} times faster "
        f"than emulated (goal {GOAL_EMULATED:g}), the same files: {'yes' if result.same else 'NO'}",
    ]


if __name__ == "__main__":
    sys.exit(main())
