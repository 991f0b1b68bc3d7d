"""What a system says it is: os-release(5)."""

import shlex
from pathlib import Path

FILES = ("/etc/os-release", "/usr/lib/os-release")


_LONGEST_LINE = 4096  # characters; shlex takes quadratic time for a word


def parse(text: str) -> dict[str, str]:
    """The fields of an os-release file; a line that cannot be understood, or is of absurd length, is left out."""
    fields = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if not equals or key.startswith("#") or len(line) > _LONGEST_LINE:
            continue
        try:
            fields[key] = "".join(shlex.split(value)[:1])
        except ValueError:  # an open quote
            continue
    return fields


def host() -> dict[str, str]:
    """The fields of the host's os-release file; none where there is no such file."""
    for file in FILES:
        try:
            return parse(Path(file).read_text(errors="replace"))
        except FileNotFoundError:
            continue
    return {}
