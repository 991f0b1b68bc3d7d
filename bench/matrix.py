"""How much sooner four arches are created and tested at once than one after the other, and what that takes of memory.

Both ways begin with an empty store and a warm cache of downloads, and end with the same command run in a new root of
each arch: `crossroot matrix` for all, against `crossroot create` and `crossroot run` for each in turn. Two commands
are measured: one that mostly computes, and one that also waits for a second, as tests do that start a server. The goal
is a ratio of 0.6 or less for both on two cores. What the machine itself gives is measured with native processes: 0.5
where two cores are two, more where they are two threads of one core, or others use them.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measure import Crossroot, Curve, Result, Series, Setting, Unavailable, in_turn, ratio
from crossroot import capacity

TITLE = "Many arches at once"
ARCHES = ("riscv64", "aarch64", "armv7", "x86_64")
_COUNTS = (1, 2, 4, 8)

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


def measure(setting: Setting) -> Result:
    crossroot = Crossroot(setting)
    _warm_up(crossroot)
    limit = list(_machine_limit().values())
    series = list(limit)
    ratios = [ratio("the machine's own limit of the same", limit[1], limit[0], because="")]
    for kind, script in COMMANDS.items():
        shell = ("--", "sh", "-c", script)

        def one_by_one(shell: Sequence[str] = shell) -> None:
            for name in ARCHES:
                crossroot.run("create", name)
                crossroot.run("run", name, *shell)

        def at_once(shell: Sequence[str] = shell) -> None:
            crossroot.run("matrix", ",".join(ARCHES), "--logs", setting.folder / "logs", *shell)

        ways = {f"one after the other, {kind}": one_by_one, f"matrix, {kind}": at_once}
        turn, once = in_turn(ways, 3, after=lambda: crossroot.run("remove", *ARCHES)).values()
        series += [turn, once]
        because = f"native processes reached {ratios[0].value:.2f} meanwhile on this machine"
        ratios.append(
            ratio(f"four arches at once against one after the other: {kind}", once, turn, at_most=0.6, because=because)
        )
    points = [(float(count), _supervisor_memory(crossroot, count)) for count in _COUNTS]
    series += [Series(f"memory of matrix itself, {count:g} arches", (size,), "MiB") for count, size in points]
    curve = Curve("matrix-memory", "Memory of matrix itself", "arches at once", "MiB", {"matrix": points})
    return Result(series, ratios, [curve])


def _machine_limit() -> dict[str, Series]:
    """How native processes that compute do in turn, and as many at once as there are cores."""

    def burn(at_once: int) -> None:
        for _ in range(capacity.cores() // at_once):
            burning = [subprocess.Popen([sys.executable, "-c", _BURN]) for _ in range(at_once)]
            if sum(process.wait() for process in burning):
                raise Unavailable("a process that only computes failed")

    ways = {"native processes in turn": lambda: burn(1), "native processes at once": lambda: burn(capacity.cores())}
    return in_turn(ways, 3)


def _warm_up(crossroot: Crossroot) -> None:
    """Write the profiles and fill the cache."""
    profiles = crossroot.setting.folder / "config/crossroot/profiles"
    profiles.mkdir(parents=True, exist_ok=True)
    for name in ARCHES:
        (profiles / f"{name}.toml").write_text(f'mirrors = ["{crossroot.setting.mirror}"]\n')
        crossroot.run("create", name)
    crossroot.run("remove", *ARCHES)


def _supervisor_memory(crossroot: Crossroot, count: int) -> float:
    """The most memory, in resident MiB, that `matrix` itself has while a command runs in so many roots at once."""
    names = [f"root-{number}" for number in range(count)]
    for name in names:
        crossroot.create("riscv64", "--name", name)
    logs = crossroot.setting.folder / "logs"
    words = crossroot.command("matrix", ",".join(names), "-j", str(count), "--logs", logs, "--", "sleep", "1")
    with subprocess.Popen(
        words, env=crossroot.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak_memory(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise Unavailable(f"matrix failed with status {process.returncode}")
    crossroot.run("remove", *names)
    return peak / (1 << 20)


def _peak_memory(pid: int) -> int:
    """VmHWM of /proc/PID/status, in bytes; 0 for a process that has just ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)
