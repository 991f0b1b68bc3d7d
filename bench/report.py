"""The results as a page in Markdown, with an image for each curve beside it."""

import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from bench import plot
from bench.measure import Ratio, Result, Series, host
from crossroot import __version__

# How each tells its version: Debian's package, or our own.
_PEERS = ("arch-install-scripts", "bubblewrap", "systemd-container", "qemu-user-static", "coreutils", "tar")


def write(file: Path, results: Mapping[str, Result | str], took: float) -> None:
    """Write the page and the images. results: by the title of the measurement, or why there is none. took: seconds."""
    ratios = [each for result in results.values() if isinstance(result, Result) for each in result.ratios]
    lines = [
        "# Results",
        "",
        f"`make bench` on {time.strftime('%Y-%m-%d')}, in {took / 60:.0f} minutes: {host()}.",
        "Ratios are of medians; the machine is a virtual one and noisy, so read ratios, not seconds.",
        "",
        f"Versions: {', '.join(f'{name} {version}' for name, version in _versions().items())}.",
        "",
        "## Goals",
        "",
        "| | goal | measured | |",
        "| --- | --- | --- | --- |",
        *(_goal(each) for each in ratios if each.at_most is not None or each.at_least is not None),
        *(f"| {title} | | not measured here | {reason} |" for title, reason in _missing(results).items()),
    ]
    for title, result in results.items():
        lines += ["", f"## {title}", ""]
        if isinstance(result, Result):
            lines += _section(result, file.parent)
        else:
            lines.append(f"Not measured here: {result}")
    file.write_text("\n".join(lines) + "\n")


def _missing(results: Mapping[str, Result | str]) -> dict[str, str]:
    return {title: _cell(result) for title, result in results.items() if isinstance(result, str)}


def _section(result: Result, folder: Path) -> list[str]:
    lines = []
    if result.series:
        lines += ["| way | median | least | most | rounds |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(each) for each in result.series]
    if result.ratios:
        lines += ["", "| ratio | |", "| --- | --- |"]
        lines += [f"| {each.what} | {each.value:.2f} |" for each in result.ratios]
    for curve in result.curves:
        (folder / f"{curve.name}.svg").write_text(plot.svg(curve))
        lines += ["", f"![{curve.title}]({curve.name}.svg)"]
    for note in result.notes:
        lines += ["", _cell(note)]
    return lines


def _row(series: Series) -> str:
    numbers = (series.median, min(series.values), max(series.values))
    return f"| {series.way} | {' | '.join(_shown(number, series.unit) for number in numbers)} | {len(series.values)} |"


def _shown(value: float, unit: str) -> str:
    return f"{value * 1000:.1f} ms" if unit == "s" and value < 1 else f"{value:.2f} {unit}"


def _goal(ratio: Ratio) -> str:
    goal = f"≤ {ratio.at_most:g}" if ratio.at_most is not None else f"≥ {ratio.at_least:g}"
    if ratio.reached:
        verdict = "reached"
    else:
        wanted = ratio.at_least if ratio.at_most is None else ratio.at_most
        by = f" by a factor of {max(ratio.value / wanted, wanted / ratio.value):.2f}" if wanted else ""
        verdict = f"missed{by}" + (f", because {ratio.because}" if ratio.because else "")
    return f"| {ratio.what} | {goal} | {ratio.value:.2f} | {verdict} |"


def _cell(words: str) -> str:
    """Text that fits into a cell of a table."""
    return " ".join(words.split()).replace("|", "\\|")


def _versions() -> dict[str, str]:
    found = {
        "crossroot": __version__,
        "Linux": platform.release(),
        "Python": platform.python_version(),
    }
    if shutil.which("dpkg-query"):
        command = ["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *_PEERS]
        said = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # without what is not there
        found |= dict(line.split() for line in said.splitlines() if len(line.split()) == 2)
    return found
