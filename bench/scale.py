"""Many roots: `list`, `info` and `remove` in stores with 1, 10, 100 and 1,000 of them."""

from bench.measure import Crossroot, Curve, Result, Series, Setting, in_turn, ratio
from crossroot import metadata, store

TITLE = "Many roots"
_COUNTS = (1, 10, 100, 1000)


def measure(setting: Setting) -> Result:
    crossroot = Crossroot(setting)
    crossroot.create("riscv64")
    found: dict[str, dict[int, Series]] = {"list": {}, "info": {}, "remove": {}}
    there = 1
    for count in _COUNTS:
        for number in range(there, count):
            _copy(crossroot, f"root-{number}")
        there = count
        series = in_turn(
            {
                "list": lambda: crossroot.run("list"),
                "info": lambda: crossroot.run("info", "riscv64"),
            },
            setting.rounds,
        )
        series |= _removal(crossroot, setting.rounds)
        for name, values in series.items():
            found[name][count] = Series(f"{name}, {count} roots", values.values)
    curve = Curve(
        "scale",
        "Commands in a store of so many roots",
        "roots",
        "seconds",
        {name: [(float(count), each.median) for count, each in points.items()] for name, points in found.items()},
    )
    because = "the metadata of each root is read"
    goals = {"list": 2.0, "info": None, "remove": None}
    ratios = [
        ratio(
            f"`{name}` with 1,000 roots against with one", points[1000], points[1], at_most=goals[name], because=because
        )
        for name, points in found.items()
    ]
    return Result([each for points in found.values() for each in points.values()], ratios, [curve])


def _removal(crossroot: Crossroot, rounds: int) -> dict[str, Series]:
    _copy(crossroot, "doomed")
    ways = {"remove": lambda: crossroot.run("remove", "doomed")}
    return in_turn(ways, rounds, after=lambda: _copy(crossroot, "doomed"))


def _copy(crossroot: Crossroot, name: str) -> None:
    """A root with the metadata of the real one, and nearly no files, if there is none of that name."""
    if (crossroot.store / "roots" / name).exists():
        return
    root = metadata.open_root("riscv64", crossroot.store)
    with store.create(name, crossroot.store, replace=False) as unfinished:
        (unfinished / "rootfs/etc").mkdir()
        store.publish(unfinished, root.but(name=name))
