"""docs/guarantees.md names tests that there are, and its table is what the tests have counted."""

import ast
import json
import re
from pathlib import Path

from tests.support import figures
from tests.support.figures import Figures

TESTS = Path(__file__).parents[1]
NAMED = re.compile(r"\b(test_\w+\.py)::(test_\w+)")


def named() -> list[tuple[str, str]]:
    """The tests that the document names, each with its file."""
    return NAMED.findall(figures.DOCUMENT.read_text())


def functions_of(file: str) -> set[str]:
    """The functions of the test modules of this name."""
    trees = [ast.parse(path.read_text()) for path in TESTS.glob(f"*/{file}")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    assert named()
    missing = [f"{file}::{name}" for file, name in named() if name not in functions_of(file)]
    assert not missing


def test_every_promise_names_a_test() -> None:
    sections = figures.DOCUMENT.read_text().split("\n## ")[1:]
    bare = [section.partition("\n")[0] for section in sections if section[0].isdigit() and not NAMED.search(section)]
    assert not bare


def test_counts_of_a_test_are_one_line_for_each_figure(tmp_path: Path) -> None:
    file = tmp_path / "build/figures.jsonl"
    for count in (2, 3):
        counted = Figures("tests/unit/test_x.py::test_y[root]")
        counted.add("kills survived", count)
        counted.add("kills survived")
        counted.add("archives tried")
        counted.record(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["figure"], line["count"]) for line in lines] == [
        ("kills survived", 3),
        ("archives tried", 1),
        ("kills survived", 4),
        ("archives tried", 1),
    ]


def test_the_table_sums_the_newest_line_of_each_test() -> None:
    record = "\n".join(
        json.dumps({"figure": "kills survived", "count": count, "test": f"tests/integration/{test}"})
        for test, count in (("test_a.py::test_b[root]", 7), ("test_a.py::test_b[user]", 1000), ("test_c.py::test_d", 1))
    )
    newer = json.dumps({"figure": "kills survived", "count": 8, "test": "tests/integration/test_a.py::test_b[root]"})
    assert figures.table(f"{record}\n{newer}").splitlines()[2:] == [
        "| kills survived | 1,009 | `test_a.py::test_b`, `test_c.py::test_d` |"
    ]


def test_only_the_table_of_the_document_changes() -> None:
    line = json.dumps({"figure": "archives tried", "count": 5, "test": "tests/unit/test_a.py::test_b"})
    document = figures.with_table("before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n", line)
    assert document.startswith("before\n<!-- figures -->\n\n| figure |")
    assert document.endswith("| 5 | `test_a.py::test_b` |\n\n<!-- end of figures -->\nafter\n")
    assert "old" not in document
    assert figures.with_table(document, line) == document
