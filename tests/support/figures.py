"""The figures of docs/guarantees.md: what the tests have counted, written down by them and rendered as its table.

    def test_a_killed_creation_leaves_nothing(figures: Figures) -> None:
        for step in steps:
            ...
            figures.add("kills survived")

Each run of a test appends a JSON line to build/figures.jsonl for each figure, {"figure", "count", "test"}; the newest
one of each test counts. A test that fails appends nothing.
"""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]
RECORD = _REPOSITORY / "build" / "figures.jsonl"
DOCUMENT = _REPOSITORY / "docs" / "guarantees.md"
_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass
class Figures:
    """What one run of a test counts. test: its name with folder and parameters, as pytest's nodeid."""

    test: str
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, figure: str, count: int = 1) -> None:
        """Count `count` more of `figure`, which is said in the plural and becomes a row of the table."""
        self.counts[figure] += count

    def record(self, file: Path = RECORD) -> None:
        """Append what was counted to `file`, in one write for each figure, so that several runs may do it at once."""
        file.parent.mkdir(exist_ok=True)
        for figure, count in self.counts.items():
            line = json.dumps({"figure": figure, "count": count, "test": self.test}) + "\n"
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)


def table(record: str) -> str:
    """The table of what the lines of `record` count, in Markdown: sums over the newest line of each test."""
    newest: dict[tuple[str, str], int] = {}
    for line in record.splitlines():
        entry = json.loads(line)
        newest[entry["figure"], entry["test"]] = entry["count"]
    sums: Counter[str] = Counter()
    tests: dict[str, set[str]] = {}
    for (figure, test), count in newest.items():
        sums[figure] += count
        tests.setdefault(figure, set()).add(_short(test))
    rows = [f"| {figure} | {sums[figure]:,} | {', '.join(sorted(tests[figure]))} |" for figure in sorted(sums)]
    return "\n".join(["| figure | count | counted by |", "| --- | ---: | --- |", *rows])


def _short(test: str) -> str:
    """tests/unit/test_x.py::test_y[z] as `test_x.py::test_y`."""
    return f"`{test.rpartition('/')[2].partition('[')[0]}`"


def with_table(document: str, record: str) -> str:
    """`document` with the table of `record` in the place of the one that it has."""
    before, _, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    assert end, f"the document has no {_BEGIN} and {_END}"
    return f"{before}{_BEGIN}\n\n{table(record)}\n\n{_END}{after}"


def render() -> None:
    """Write what the tests have recorded into the document."""
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), RECORD.read_text()))
