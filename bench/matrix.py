"""How much sooner four arches are created and tested at once than one after the other, and what that takes of memory.

    python -m bench.matrix [--mirror URL|FOLDER] [--arches riscv64,aarch64,armv7,x86_64] [--rounds 3] [--folder FOLDER]
        [--results FILE]

Both ways begin with an empty store and a warm cache of downloads, and end with the same command run in a new root of
each arch: `crossroot matrix` for all, against `crossroot create` and `crossroot run` for each in turn. Two commands
are measured: one that mostly computes, and one that also waits for a second, as tests do that start a server. The goal
is a ratio of 0.6 or less for both on two cores. Exit status 1 if missed. What the machine itself gives is measured with
native processes: 0.5 where two cores are two, more where they are two threads of one core, or others use them.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.packages import host, served, shown
from crossroot import capacity
from crossroot.distros import alpine

GOAL = 0.6
ARCHES = ("riscv64", "aarch64", "armv7", "x86_64")

# Files are made, packed, unpacked, hashed and sorted: what builds and tests do, with the tools that every root has.
_COMPUTES = """
set -e
cd "$(mktemp -d)"
for number in $(seq 25); do seq 1500 > "file$number"; done
tar -cf - file* | gzip > all.tar.gz
mkdir out
tar -xzf all.tar.gz -C out
cat out/* | sort -rn | awk '{ sum += $1 * $1 } END { print sum }'
sha512sum out/* > sums && sha512sum -c sums > /dev/null
"""
_BURN = "sum(number * number % 7 for number in range(10_000_000))"
COMMANDS = {"computes": _COMPUTES, "computes and waits": f"{_COMPUTES}\nsleep 1\n"}


@dataclass(frozen=True)
class Times:
    """Seconds, one for each round."""

    in_turn: list[float]
    at_once: list[float]

    @property
    def ratio(self) -> float:
        """How long it takes at once, of how long it takes in turn; by the medians."""
        return statistics.median(self.at_once) / statistics.median(self.in_turn)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.matrix", description=__doc__.partition("\n")[0])
    parser.add_argument("--mirror", default=alpine.DEFAULT_MIRROR, help="of Alpine: URL, or a folder")
    parser.add_argument("--arches", default=",".join(ARCHES))
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--folder", default="/dev/shm", help="where to work; in memory, the disk hides nothing")
    parser.add_argument("--results", type=Path, help="append the result to this file, in Markdown")
    options = parser.parse_args()
    arches = options.arches.split(",")
    lines = []
    with (
        tempfile.TemporaryDirectory(prefix="crossroot-bench-", dir=options.folder) as folder,
        served(options.mirror) as mirror,
    ):
        found = {name: measure(Path(folder), mirror, arches, name, options.rounds) for name in COMMANDS}
        limit = machine_limit(options.rounds)
        memory = {count: supervisor_memory(Path(folder), mirror, count) for count in (1, 8)}
    for name, times in found.items():
        words = f"in turn {shown(times.in_turn)}, at once {shown(times.at_once)}"
        lines.append(f"a command that {name}: {words}: {times.ratio:.2f} of the time (goal {GOAL})")
    words = f"in turn {shown(limit.in_turn)}, at once {shown(limit.at_once)}"
    lines.append(f"the machine's limit, by native processes: {words}: {limit.ratio:.2f}")
    lines += [f"memory of `matrix` itself with {count} at once: {size >> 20} MiB" for count, size in memory.items()]
    print("\n".join(lines))
    if options.results:
        listed = "\n".join(f"- {line}" for line in lines)
        with options.results.open("a") as file:
            file.write(f"\n## matrix, {time.strftime('%Y-%m-%d')}\n\n{', '.join(arches)} on {host()}:\n\n{listed}\n")
    return 0 if all(times.ratio <= GOAL for times in found.values()) else 1


def measure(folder: Path, mirror: str, arches: Sequence[str], name: str, rounds: int) -> Times:
    """Both ways in turn for the command of that name in COMMANDS."""
    crossroot = _Crossroot(folder, mirror, arches)
    crossroot.warm_up()
    times = Times([], [])
    for each in range(rounds):
        for way, measured in ((crossroot.in_turn, times.in_turn), (crossroot.at_once, times.at_once)):
            start = time.monotonic()
            way(COMMANDS[name])
            measured.append(time.monotonic() - start)
            crossroot.clear()
            print(f"round {each + 1}, {name}, {way.__name__}: {measured[-1]:.2f} s", flush=True)
    return times


def machine_limit(rounds: int) -> Times:
    """How native processes that compute do in turn, and as many at once as there are cores."""
    count = capacity.cores()
    times = Times([], [])
    for _ in range(rounds):
        for at_once, measured in ((1, times.in_turn), (count, times.at_once)):
            start = time.monotonic()
            for _ in range(count // at_once):
                burning = [subprocess.Popen([sys.executable, "-c", _BURN]) for _ in range(at_once)]
                assert all(process.wait() == 0 for process in burning)
            measured.append(time.monotonic() - start)
    return times


def supervisor_memory(folder: Path, mirror: str, count: int) -> int:
    """The most memory, in resident bytes, that `matrix` itself has while a command runs in so many roots at once."""
    names = [f"root-{number}" for number in range(count)]
    crossroot = _Crossroot(folder, mirror, names)
    for name in names:
        crossroot.run("create", "riscv64", "--name", name, "--mirror", mirror)
    words = crossroot.command("matrix", ",".join(names), "-j", str(count), "--logs", str(folder), "--", "sleep", "1")
    with subprocess.Popen(
        words, env=crossroot.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak_memory(process.pid))
            time.sleep(0.05)
    assert process.returncode == 0
    crossroot.clear()
    return peak


def _peak_memory(pid: int) -> int:
    """VmHWM of /proc/PID/status, in bytes; 0 for a process that has just ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


@dataclass(frozen=True)
class _Crossroot:
    """crossroot with a store, a cache and profiles of its own, and roots or profiles of these names."""

    folder: Path
    mirror: str
    names: Sequence[str]

    def in_turn(self, script: str) -> None:
        for name in self.names:
            self.run("create", name)
            self.run("run", name, "--", "sh", "-c", script)

    def at_once(self, script: str) -> None:
        self.run("matrix", ",".join(self.names), "--logs", str(self.folder / "logs"), "--", "sh", "-c", script)

    def warm_up(self) -> None:
        """Write the profiles and fill the cache."""
        profiles = self.folder / "config/crossroot/profiles"
        profiles.mkdir(parents=True, exist_ok=True)
        for name in self.names:
            (profiles / f"{name}.toml").write_text(f'mirrors = ["{self.mirror}"]\n')
            self.run("create", name)
        self.clear()

    def clear(self) -> None:
        self.run("remove", *self.names)

    def run(self, *arguments: str) -> None:
        subprocess.run(
            self.command(*arguments),
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "crossroot", *arguments]

    def environment(self) -> dict[str, str]:
        own = {"CROSSROOT_STORE": "store", "CROSSROOT_CACHE": "cache", "XDG_CONFIG_HOME": "config"}
        return {**os.environ, **{key: str(self.folder / name) for key, name in own.items()}}


if __name__ == "__main__":
    sys.exit(main())
