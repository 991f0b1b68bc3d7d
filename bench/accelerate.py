"""How near a build with native tools in a foreign root comes to a native cross build, and how far from emulation.

For each arch, two roots of Debian are made, a foreign one and one of the host's arch with cross compilers. In both are
built: Lua (some 30,000 lines of C, the source package lua5.4), examples/hare, and the tests of Hare's standard library;
cross and with native tools in turn, and once emulated. Ratios are of seconds on a CPU, of which other programs of a
busy machine take nothing away. Whether the files are the same is looked at as well.
"""

import dataclasses
import hashlib
import platform
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Crossroot, Ratio, Result, Series, Setting, Unavailable, cpu_seconds, ratio
from crossroot import arch
from crossroot.arch import Arch
from crossroot.distros import debian_tools

TITLE = "Builds with native tools"
_ROUNDS = 3  # of the builds that are not emulated
_SOURCE = "lua5.4"
_PROFILES = {"riscv64": "debian-hare-riscv64", "aarch64": "debian-hare-arm64"}
_EXAMPLE = Path(__file__).parents[1] / "examples/hare"

# In the folder of the sources; CC and AR are for the cross build. Without -j: a ratio of two cores is no other.
_LUA = "make -s -C lua/src clean && make -s -C lua/src generic CC='{cc} -std=gnu99' AR='{ar} rcu' RANLIB={ranlib}"
_HARE = "cd hare && HARECACHE=/tmp/cache hare build {option} -o tally cmd/tally"
_LIBRARY = "cd /usr/share/hare/stdlib && HARECACHE=/tmp/cache hare test {option} -o /shared/library"


@dataclass(frozen=True)
class Work:
    """A thing to build. cross, foreign: the shell commands in the two roots. outputs: what they write. differs: why
    emulation writes something else, should it do so."""

    name: str
    cross: str
    foreign: str
    level: int
    outputs: tuple[str, ...]
    differs: str = "the outputs are not the same, byte for byte"


def measure(setting: Setting) -> Result:
    result = Result()
    for name in _PROFILES:
        folder = setting.folder / name
        folder.mkdir()
        try:
            found = _measure(dataclasses.replace(setting, folder=folder), arch.find(name))
        except Unavailable as error:
            found = Result(notes=[f"{name}: {error}"])
        result = Result(
            [*result.series, *found.series], [*result.ratios, *found.ratios], (), [*result.notes, *found.notes]
        )
    if not result.series:
        raise Unavailable("; ".join(result.notes))
    return result


def _measure(setting: Setting, target: Arch) -> Result:
    bench = Bench(setting)
    try:
        bench.make_roots(target)
        bench.fetch_sources()
        found = [bench.compare(work, target) for work in works(target)]
    finally:
        bench.crossroot.clear()
    return Result(
        [each for result in found for each in result.series],
        [each for result in found for each in result.ratios],
        (),
        [each for result in found for each in result.notes],
    )


def works(target: Arch) -> list[Work]:
    triplet = debian_tools.triplet(target)
    cross = {name: f"{triplet}-{name}" for name in ("ar", "ranlib")} | {"cc": f"{triplet}-gcc-14"}
    own = {"cc": "gcc", "ar": "ar", "ranlib": "ranlib"}
    outputs = ("lua/src/liblua.a", "lua/src/lua", "lua/src/luac")
    return [
        Work("C", _LUA.format(**cross), _LUA.format(**own), 2, outputs),
        Work("Hare", _HARE.format(option=f"-a {target.name}"), _HARE.format(option=""), 3, ("hare/tally",)),
        Work(
            "tests of Hare's library",
            _LIBRARY.format(option=f"-a {target.name}"),
            _LIBRARY.format(option=""),
            3,
            ("library",),
            "harec computes 0.0 / 0.0 on the CPU that it runs on, and x86's NaN has another sign",
        ),
    ]


class Bench:
    """Roots to build in, and the folder that they share."""

    def __init__(self, setting: Setting) -> None:
        self.crossroot = Crossroot(setting)
        self.work = setting.folder / "work"
        self.work.mkdir()

    def shell(self, root: str, script: str, level: int = 0) -> None:
        """Run a script in the shared folder, which may be where a session has its own, as in /dev/shm."""
        shared = ("--no-cwd", "--bind", f"{self.work}:/shared")
        self.crossroot.run(
            "run", root, "--accelerate", str(level), *shared, "--", "sh", "-c", f"cd /shared && {script}"
        )

    def make_roots(self, target: Arch) -> None:
        host, names = arch.find(platform.machine()), debian_tools.triplet(target).replace("_", "-")
        cross = [f"gcc-14-{names}", f"binutils-{names}", f"libc6-dev-{target.debian}-cross", "make", "hare"]
        own = ["gcc", "libc6-dev", "make"]
        self.create("native", f"debian-{host.debian}", [*cross, "dpkg-dev", "ca-certificates"])
        self.create("foreign", _PROFILES[target.name], own)
        self.shell("foreign", "true", 3)

    def create(self, name: str, profile: str, packages: Sequence[str]) -> None:
        options = [word for package in packages for word in ("--package", package)]
        self.crossroot.run("create", profile, "--name", name, *options)

    def fetch_sources(self) -> None:
        """The sources of Lua, verified by the native root's apt, and a copy of the example."""
        script = (
            "sed 's/^deb /deb-src /' /etc/apt/sources.list > /etc/apt/sources.list.d/src.list && apt-get -q update && "
            f"apt-get -q source --download-only {_SOURCE} && mkdir lua && tar xf {_SOURCE}_*.orig.tar.* -C lua "
            "--strip-components=1"
        )
        self.shell("native", script)
        shutil.copytree(_EXAMPLE, self.work / "hare")

    def compare(self, work: Work, target: Arch) -> Result:
        """Build in all ways in turn; emulated only once, as that takes minutes."""
        ways = {
            "cross": ("native", work.cross, 0),
            "native tools": ("foreign", work.foreign, work.level),
            "emulated": ("foreign", work.foreign, 0),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        on_cpu: dict[str, list[float]] = {way: [] for way in ways}
        digests: dict[str, set[str]] = {way: set() for way in ways}
        for each in range(_ROUNDS):
            for way, where in ways.items():
                if way == "emulated" and each > 0:
                    continue
                start, before = time.perf_counter(), cpu_seconds()
                self.shell(*where)
                seconds[way].append(time.perf_counter() - start)
                on_cpu[way].append(cpu_seconds() - before)
                digests[way].add(digest(self.work / name for name in work.outputs))
        what = f"{work.name} for {target.name}"
        whole = [Series(f"{what}, {way}", tuple(times)) for way, times in seconds.items()]
        cross, own, emulated = (Series(f"{what}, {way}, on a CPU", tuple(times)) for way, times in on_cpu.items())
        same = len(digests["native tools"] | digests["emulated"]) == 1
        ratios = [
            ratio(
                f"{what}: native tools against a native cross build",
                own,
                cross,
                at_most=1.15,
                because="what is not a tool, as make's shell of Debian or dpkg, stays emulated",
            ),
            ratio(
                f"{what}: emulated against native tools",
                emulated,
                own,
                at_least=10,
                because="a build this short mostly enters and starts",
            ),
            Ratio(
                f"{what}: builds whose files differ from the emulated ones",
                0.0 if same else 1.0,
                at_most=0,
                because=work.differs,
            ),
        ]
        return Result([*whole, cross, own, emulated], ratios)


def digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
