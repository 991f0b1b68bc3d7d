"""Creating a root from a warm cache against `tar x` of the same archive; an ephemeral session and a clone, which unpack
nothing, against a plain run."""

import shutil

from bench.measure import Crossroot, Result, Setting, in_turn, quiet, ratio

TITLE = "Creating, cloning and throwing away"


def measure(setting: Setting) -> Result:
    crossroot = Crossroot(setting)
    crossroot.create("riscv64")
    archive = max((path for path in crossroot.cache.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    unpacked, other = setting.folder / "unpacked", crossroot.store / "roots/other"

    def tar() -> None:
        unpacked.mkdir()
        quiet(["tar", "-C", unpacked, "-xzf", archive])

    def clear() -> None:
        shutil.rmtree(unpacked, ignore_errors=True)
        if other.exists():
            crossroot.run("remove", "other")

    series = in_turn(
        {
            "tar x": tar,
            "crossroot create": lambda: crossroot.create("riscv64", "--name", "other"),
            "crossroot clone": lambda: crossroot.run("clone", "riscv64", "other"),
            "crossroot run": lambda: crossroot.run("run", "riscv64", "--", "true"),
            "crossroot run --ephemeral": lambda: crossroot.run("run", "riscv64", "--ephemeral", "--", "true"),
        },
        setting.rounds,
        after=clear,
    )
    plain = series["crossroot run"]
    ratios = [
        ratio(
            "create from a warm cache against `tar x`",
            series["crossroot create"],
            series["tar x"],
            at_most=3,
            because="Python's imports are half of it, those of requests most of all",
        ),
        ratio(
            "an ephemeral run against a plain one",
            series["crossroot run --ephemeral"],
            plain,
            at_most=1.3,
            because="an overlay and its tmpfs are mounted in addition",
        ),
        ratio(
            "clone against a plain run",
            series["crossroot clone"],
            plain,
            at_most=1.3,
            because="all its files are copied one by one",
        ),
    ]
    return Result(list(series.values()), ratios)
