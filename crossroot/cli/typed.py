"""The tables of `options` as typer is to see them: for help, completion and usage errors."""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from crossroot.cli.options import Option

_TYPES = {"text": str, "list": list[str] | None, "flag": bool}


def typed(option: Option) -> Any:
    """What typer is to know of an option."""
    return typer.Option(option.name, metavar=option.metavar or None, help=option.help)


def with_options(table: Sequence[Option]) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Let typer see the options of a table in the place of a function's keyword arguments `**values`."""

    def decorate(function: Callable[..., int]) -> Callable[..., int]:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind != inspect.Parameter.VAR_KEYWORD]

        def command(**given: Any) -> int:
            lists = {option.key: list(given[option.key] or ()) for option in table if option.kind == "list"}
            return function(**{**given, **lists})

        command.__doc__ = function.__doc__
        command.__signature__ = signature.replace(parameters=[*own, *map(_parameter, table)])  # type: ignore[attr-defined]
        command.__annotations__ = {}
        return command

    return decorate


def _parameter(option: Option) -> inspect.Parameter:
    return inspect.Parameter(
        option.key,
        inspect.Parameter.KEYWORD_ONLY,
        default=None if option.kind == "list" else option.default,
        annotation=Annotated[str | None if option.nullable else _TYPES[option.kind], typed(option)],
    )
