"""What every measurement takes and gives, and how it measures: plain data, and the ways in turn."""

import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class Unavailable(Exception):
    """A measurement cannot be made here; says why."""


@dataclass(frozen=True)
class Setting:
    """Where to measure. folder: an empty one of the measurement's own. mirror: URL of an Alpine mirror.
    rounds: how often each way is measured; a slow measurement may do fewer."""

    folder: Path
    mirror: str
    rounds: int = 9


@dataclass(frozen=True)
class Series:
    """What one way took, a number for each round. unit: "s" or "MiB"."""

    way: str
    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Ratio:
    """The medians of two ways, compared. at_most, at_least: the goal, if there is one. because: why it is missed."""

    what: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    because: str = ""

    @property
    def reached(self) -> bool:
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )


@dataclass(frozen=True)
class Curve:
    """How a cost grows. lines: points (x, y) of each way; both axes are logarithmic. name: of the file."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Result:
    """What a measurement found. notes: sentences for the reader, as on what could not be measured."""

    series: Sequence[Series] = ()
    ratios: Sequence[Ratio] = ()
    curves: Sequence[Curve] = ()
    notes: Sequence[str] = ()


def in_turn(
    ways: Mapping[str, Callable[[], object]], rounds: int, after: Callable[[], object] = lambda: None
) -> dict[str, Series]:
    """The seconds that each way takes. One round goes through all, so that a noisy moment hits none alone; a first
    round that is not counted fills the caches. after: what is done after each, not measured."""
    values: dict[str, list[float]] = {way: [] for way in ways}
    for each in range(rounds + 1):
        for way, do in ways.items():
            start = time.perf_counter()
            do()
            if each > 0:
                values[way].append(time.perf_counter() - start)
            after()
    return {way: Series(way, tuple(times)) for way, times in values.items()}


def ratio(
    what: str, one: Series, other: Series, *, at_most: float | None = None, at_least: float | None = None, because: str
) -> Ratio:
    """How much `one` is of `other`."""
    return Ratio(what, one.median / other.median, at_most, at_least, because)


def quiet(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
    """Run a command with nothing on stdin and its output thrown away. Raises Unavailable with its last words if it
    fails."""
    result = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip()
        said = said.rpartition("crossroot: error: ")[2]  # without what others said before
        words = [Path(command[0]).name, *map(str, command[1:6])]
        raise Unavailable(
            f"`{' '.join(words)}` failed with status {result.returncode}: {' '.join(said[-600:].split())}"
        )


@dataclass(frozen=True)
class Crossroot:
    """crossroot as its user calls it, with a store, a cache and profiles of its own."""

    setting: Setting

    @property
    def store(self) -> Path:
        return self.setting.folder / "store"

    @property
    def cache(self) -> Path:
        return self.setting.folder / "cache"

    @property
    def environment(self) -> dict[str, str]:
        folders = {"CROSSROOT_STORE": self.store, "CROSSROOT_CACHE": self.cache}
        folders["XDG_CONFIG_HOME"] = self.setting.folder / "config"  # for profiles, and without those of the user
        return {**os.environ, **{name: str(folder) for name, folder in folders.items()}}

    def command(self, *arguments: str | Path) -> list[str]:
        return [str(Path(sys.executable).with_name("crossroot")), *map(str, arguments)]

    def run(self, *arguments: str | Path) -> None:
        """Run a command of crossroot. Raises Unavailable if it fails."""
        quiet(self.command(*arguments), self.environment)

    def clear(self) -> None:
        """Remove all roots, by crossroot, as the ids in them may be none of ours."""
        roots = self.store / "roots"
        if roots.is_dir() and (names := os.listdir(roots)):
            self.run("remove", "--force", *names)

    def create(self, profile: str, *arguments: str | Path) -> Path:
        """Create an Alpine root; gives its rootfs."""
        self.run("create", profile, "--mirror", self.setting.mirror, *arguments)
        name = str(arguments[arguments.index("--name") + 1]) if "--name" in arguments else profile
        return self.store / "roots" / name / "rootfs"


def cpu_seconds() -> float:
    """What all children that have ended used."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def host() -> str:
    """The machine in words."""
    who = "root" if os.geteuid() == 0 else "an ordinary user"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}"
    return f"{machine}, Python {platform.python_version()}, as {who}"
