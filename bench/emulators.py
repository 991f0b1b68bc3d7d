"""Which version of qemu, and which CPU model of it, is fastest for each arch, with the tools of busybox.

The versions are those that `crossroot emulator fetch` gets, and that of the host. Work is measured in seconds on a CPU,
of which other programs of a busy machine take nothing away. crossroot.emulator has what came of it.
"""

import statistics
from collections.abc import Mapping
from pathlib import Path

from bench.measure import Crossroot, Ratio, Result, Series, Setting, Unavailable, cpu_seconds
from crossroot import arch as arches
from crossroot import emulator

TITLE = "Emulators"
_ARCHES = ("riscv64", "aarch64", "armv7")
_VERSIONS = ("10", "11")
# By the versions that know them; the first is qemu's default.
_CPUS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "riscv64": {">=10": ("max", "max,ztso=off", "rva22u64"), "7": ("any",)},
    "aarch64": {"": ("max", "max,pauth-impdef=on")},
    "armv7": {"": ("cortex-a15",)},
}
WORK = {
    "shell": "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done",
    "processes": "i=0; while [ $i -lt 25 ]; do /bin/true; i=$((i+1)); done",
    "sha256sum": "head -c 4000000 /dev/zero | sha256sum",
    "gzip": "seq 100000 | gzip -9",
    "sort": "seq 12000 | awk '{print ($1*7919)%12000}' | sort -n",
    "awk": "awk 'BEGIN{for(i=0;i<20000;i++){x[i%1000]=x[(i*7)%1000]+i; s+=length(x[i%1000])} print s}'",
}


def measure(setting: Setting) -> Result:
    crossroot = Crossroot(setting)
    series: list[Series] = []
    ratios: list[Ratio] = []
    notes: list[str] = []
    for name in _ARCHES:
        try:
            crossroot.create(name)
        except Unavailable as error:
            notes.append(f"{name}: {error}")
            continue
        found = _measure(crossroot, name, _emulators(crossroot, name, notes), max(3, setting.rounds // 3))
        series += [Series(f"{name}, {what}, all work", times) for what, times in found.items()]
        best = min(found, key=lambda what: statistics.median(found[what]))
        for what, times in found.items():
            value = statistics.median(times) / statistics.median(found[best])
            ratios.append(Ratio(f"{name}: {what} against {best}", value))
    return Result(series, ratios, (), [*notes, "Seconds on a CPU for one round of all work: " + ", ".join(WORK) + "."])


def _emulators(crossroot: Crossroot, name: str, notes: list[str]) -> dict[str, Path]:
    """The emulators by their versions: the host's and what can be fetched."""
    arch = arches.find(name)
    for version in _VERSIONS:
        try:
            crossroot.run("emulator", "fetch", name, "--qemu-version", version)
        except Unavailable as error:
            notes.append(f"{name}, qemu {version}: {error}")
    found = {each.version: each.path for each in emulator.fetched(arch, crossroot.cache)}
    hosts = (path for path in emulator.on_host(arch) if not emulator.why_unusable(path))
    for path in hosts:
        found.setdefault(emulator.version_of(path), path)
    return dict(sorted(found.items(), key=lambda item: emulator.numbers(item[0])))


def _measure(
    crossroot: Crossroot, name: str, emulators: Mapping[str, Path], rounds: int
) -> dict[str, tuple[float, ...]]:
    """Seconds on a CPU that all work took in each round, by emulator and CPU model."""
    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for version, path in emulators.items():
            known = (cpus for wanted, cpus in _CPUS[name].items() if emulator.satisfies(version, wanted))
            for cpu in next(known, ()):
                before = cpu_seconds()
                for script in WORK.values():
                    options = ("--qemu", path, "--env", f"QEMU_CPU={cpu}")
                    crossroot.run("run", name, *options, "--", "sh", "-c", script)
                times.setdefault(f"qemu {version}, {cpu}", []).append(cpu_seconds() - before)
    return {what: tuple(values) for what, values in times.items()}
