"""Entering a root: `crossroot run NAME -- true` against arch-chroot, other peers, and plain chroot, on the same root.

All others need a handler of the whole host, so one is registered meanwhile, and taken back at the end.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bench.measure import Crossroot, Curve, Result, Setting, Unavailable, in_turn, quiet, ratio

TITLE = "Entering a root"
_BINDS = (1, 10, 100)


def measure(setting: Setting) -> Result:
    if os.geteuid() != 0:
        raise Unavailable("arch-chroot and systemd-nspawn work as root only")
    crossroot = Crossroot(setting)
    rootfs = crossroot.create("riscv64")
    crossroot.run("binfmt", "register", "riscv64")
    try:
        ways, notes = _ways(crossroot, rootfs)
        series = in_turn(ways, 2 * setting.rounds)
    finally:
        crossroot.run("binfmt", "unregister", "riscv64")
    points = _with_binds(crossroot)
    own, arch_chroot = series["crossroot run"], series.get("arch-chroot")
    ratios = []
    if arch_chroot:
        because = "Python itself starts in some 10 to 20 ms"
        ratios.append(ratio("`run NAME -- true` against arch-chroot", own, arch_chroot, at_most=1, because=because))
        if launcher := series.get("the root's enter launcher"):
            ratios.append(ratio("the `enter` launcher against arch-chroot", launcher, arch_chroot, because=""))
    ratios.append(ratio("`run NAME -- true` against plain chroot", own, series["chroot"], because=""))
    curve = Curve("binds", "crossroot run with --bind", "binds", "seconds", {"crossroot run": points})
    return Result(list(series.values()), ratios, [curve], notes)


def _ways(crossroot: Crossroot, rootfs: Path) -> tuple[dict[str, Callable[[], object]], list[str]]:
    """The ways that work here, and what is wrong with the others."""
    private = crossroot.command("run", "riscv64", "--binfmt", "private", "--", "true")
    commands: dict[str, list[str | Path]] = {
        "chroot": ["chroot", rootfs, "/bin/true"],
        "unshare and chroot": ["unshare", "-mpf", "chroot", rootfs, "/bin/true"],
        "bubblewrap": ["bwrap", "--bind", rootfs, "/", "--dev", "/dev", "--proc", "/proc", "/bin/true"],
        "arch-chroot": ["arch-chroot", rootfs, "/bin/true"],
        "systemd-nspawn": ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "-D", rootfs, "/bin/true"],
        "crossroot run": [*crossroot.command("run", "riscv64", "--", "true")],
        "crossroot run, private handler": [*private],
        "the root's enter launcher": [rootfs.parent / "enter", "true"],
    }
    ways: dict[str, Callable[[], object]] = {}
    notes = []
    for name, command in commands.items():
        if shutil.which(command[0]) is None:
            notes.append(f"{name} is not here.")
            continue

        def enter(command: list[str | Path] = command) -> None:
            quiet(command, crossroot.environment)

        try:
            enter()
        except Unavailable as error:
            notes.append(f"{name} does not work here: {error}.")
        else:
            ways[name] = enter
    return ways, notes


def _with_binds(crossroot: Crossroot) -> list[tuple[float, float]]:
    """The median seconds of a session with so many binds."""
    source = crossroot.setting.folder / "bound"
    source.mkdir()
    points = []
    for count in _BINDS:
        binds = [word for number in range(count) for word in ("--bind", f"{source}:/mnt/{number}")]

        def run(binds: list[str] = binds) -> None:
            crossroot.run("run", "riscv64", *binds, "--", "true")

        points.append((float(count), in_turn({"run": run}, crossroot.setting.rounds)["run"].median))
    return points
