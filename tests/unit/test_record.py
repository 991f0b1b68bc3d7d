"""Record and fastjson: what they share with dataclasses and json, and what they refuse."""

import json
from typing import Any

import pytest

from crossroot import fastjson
from crossroot.record import Record


class Point(Record):
    """Two fields, one with a default."""

    x: int
    y: tuple[int, ...] = ()


class Named(Point):
    """A further field."""

    name: str = "n"


def test_fields_by_place_and_by_name() -> None:
    assert Point(1, (2,)) == Point(x=1, y=(2,)) != Point(1)
    assert (Named(1).x, Named(1).y, Named(1).name) == (1, (), "n")
    assert len({Point(1), Point(1, ()), Point(2)}) == 2
    assert repr(Point(1)) == "Point(x=1, y=())"
    assert Point(1) != Named(1)


def test_a_copy_with_changes() -> None:
    point = Point(1)
    assert point.but(x=2) == Point(2)
    assert point.as_dict() == {"x": 1, "y": ()}


def test_patterns_match() -> None:
    match Point(1, (2,)):
        case Point(x, y):
            assert (x, y) == (1, (2,))


def test_wrong_fields_are_refused() -> None:
    make: type[Any] = Point
    for values, named in (((), {}), ((1, (), 3), {}), ((1,), {"x": 2}), ((1,), {"z": 2})):
        with pytest.raises(TypeError, match="Point"):
            make(*values, **named)


def test_it_is_immutable() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match="immutable"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        del point.x
    assert point == Point(1)


VALUES = ["", '\u00fc\n\ud800"', 0, -1, 1.5, True, None, [], {}, {"a": [1, {"b": None}], "": "x"}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_json_there_and_back(value: object) -> None:
    assert json.loads(fastjson.dumps(value)) == value
    assert fastjson.loads(json.dumps(value, indent=1).encode()) == value
    assert b"\n" not in fastjson.dumps(value)


@pytest.mark.parametrize("text", [b"", b" ", b"{", b"{} {}", b"{'a': 1}", b'{"a" 1}', b'{"a": "\n"}', b"\xff", b"nul"])
def test_what_is_not_json_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError):
        fastjson.loads(text)


def test_without_the_c_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastjson, "_json", None)
    assert fastjson.loads(fastjson.dumps({"a": [1]})) == {"a": [1]}
