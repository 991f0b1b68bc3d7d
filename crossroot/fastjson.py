"""JSON for the modules that every session imports: the C half of the standard library's json, without its import
of `re` and `enum`, which takes as long as a session's whole set-up. On a Python without that half, json itself.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

try:
    import _json
except ImportError:
    _json = None  # type: ignore[assignment]


class _Context:
    """What json.JSONDecoder is for its scanner."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  (the scanner clears it after each use)


def loads(data: bytes) -> Any:
    """The value of a JSON document in UTF-8. Raises ValueError if it is none."""
    text = data.decode().strip()
    if _json is None:
        import json

        return json.loads(text)
    try:
        value, end = _json.make_scanner(_Context())(text, 0)  # type: ignore[arg-type]
    except StopIteration:
        raise ValueError("it is not JSON") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if end != len(text):
        raise ValueError(f"it goes on after its end, at character {end}")
    return value


def dumps(value: Any) -> bytes:
    """A value of dicts, lists, tuples, strings, numbers, True, False and None as a JSON document in one line."""
    return _dumped(value).encode()


def _dumped(value: Any) -> str:
    if _json is None:
        import json

        return json.dumps(value)
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return str(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_dumped, value))}]"
    return f"{{{', '.join(f'{_dumped(str(key))}: {_dumped(item)}' for key, item in value.items())}}}"
