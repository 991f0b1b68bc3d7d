"""bench: what is measured in turn, and the page and images that it becomes."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench import plot, report
from bench.__main__ import MEASUREMENTS
from bench.measure import Curve, Ratio, Result, Series, in_turn, ratio


def test_the_ways_are_measured_in_turn_after_a_round_that_is_not_counted() -> None:
    done: list[str] = []
    ways = {"a": lambda: done.append("a"), "b": lambda: done.append("b")}
    series = in_turn(ways, 2, after=lambda: done.append("-"))
    assert "".join(done) == "a-b-" * 3
    assert {way: len(each.values) for way, each in series.items()} == {"a": 2, "b": 2}


def test_a_ratio_is_that_of_the_medians() -> None:
    one, other = Series("one", (9.0, 2.0, 3.0)), Series("other", (1.0, 8.0, 2.0))
    assert ratio("x", one, other, because="").value == 1.5


@pytest.mark.parametrize(
    ("value", "at_most", "at_least", "verdict"),
    [
        (0.6, 0.6, None, "reached"),
        (1.2, 0.6, None, "missed by a factor of 2.00, because of noise"),
        (3.0, None, 3.0, "reached"),
        (1.5, None, 3.0, "missed by a factor of 2.00, because of noise"),
        (1.0, 0.0, None, "missed, because of noise"),
    ],
)
def test_a_goal_is_reached_or_missed(
    tmp_path: Path, value: float, at_most: float | None, at_least: float | None, verdict: str
) -> None:
    result = Result(ratios=[Ratio("what", value, at_most, at_least, because="of noise")])
    report.write(tmp_path / "R.md", {"Title": result}, 60.0)
    [line] = [
        line for line in (tmp_path / "R.md").read_text().splitlines() if line.startswith("| what | ≤") or "≥" in line
    ]
    assert line.endswith(f"| {verdict} |")


def test_what_could_not_be_measured_is_on_the_page_with_the_reason(tmp_path: Path) -> None:
    report.write(tmp_path / "R.md", {"Good": Result(notes=["a | b"]), "Bad": "no mirror\nanswers | here"}, 60.0)
    page = (tmp_path / "R.md").read_text()
    assert "| Bad | | not measured here | no mirror answers \\| here |" in page
    assert "## Good" in page


def test_a_curve_becomes_an_image_beside_the_page(tmp_path: Path) -> None:
    curve = Curve("grows", "A < B", "roots", "seconds", {"list": [(1, 0.1), (1000, 0.5)], "info": [(1, 0.1)]})
    report.write(tmp_path / "R.md", {"Title": Result(curves=[curve])}, 60.0)
    assert "![A < B](grows.svg)" in (tmp_path / "R.md").read_text()
    image = ElementTree.fromstring((tmp_path / "grows.svg").read_text())
    lines = [line.attrib["points"] for line in image.iter() if line.tag.endswith("polyline")]
    assert [len(line.split()) for line in lines] == [2, 1]
    start, end = (tuple(map(float, point.split(","))) for point in lines[0].split())
    assert end[0] > start[0]  # more roots: further right
    assert end[1] < start[1]  # more seconds: further up
    assert plot.svg(curve).count("<circle") == 3


def test_every_measurement_is_a_module_of_the_folder_and_in_its_readme() -> None:
    folder = Path(report.__file__).parent
    assert [name for name in MEASUREMENTS if not (folder / f"{name}.py").is_file()] == []
    assert set(re.findall(r"^\| `(\w+)` \|", (folder / "README.md").read_text(), re.MULTILINE)) == set(MEASUREMENTS)
