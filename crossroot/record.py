"""Plain frozen data for the modules that every session, creation or copy imports.

The standard library's dataclasses would do, but their import alone takes as long as a session's whole set-up (10 ms,
nearly all of it `inspect`), and each of them half a millisecond; the modules of other commands use them.

    class Bind(Record):
        source: str
        readonly: bool = False
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_):
        return lambda base: base


@dataclass_transform(frozen_default=True)
class Record:
    """A base of classes with annotated fields, which may have defaults: made, compared and shown by them, immutable."""

    _fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        cls._fields = (*cls._fields, *(name for name in cls.__annotations__ if not name.startswith("_")))
        cls.__match_args__ = cls._fields  # type: ignore[attr-defined, misc]

    def __init__(self, *values: Any, **named: Any) -> None:
        cls = type(self)
        if len(values) > len(cls._fields):
            raise TypeError(f"{cls.__name__} has {len(cls._fields)} fields, {len(values)} are given")
        given = dict(zip(cls._fields, values, strict=False))
        for name, value in named.items():
            if name in given or name not in cls._fields:
                raise TypeError(f"{cls.__name__} has no field {name}, or it is given twice")
            given[name] = value
        for name in cls._fields:
            if name not in given:
                try:
                    given[name] = getattr(cls, name)
                except AttributeError:
                    raise TypeError(f"{cls.__name__} lacks the field {name}") from None
        self.__dict__.update(given)

    def __setattr__(self, name: str, _: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable, so {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable, so {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__[name] for name in self._fields))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self._fields)
        return f"{type(self).__name__}({fields})"

    def but(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """The fields by their names; those that are records stay records."""
        return {name: self.__dict__[name] for name in self._fields}
