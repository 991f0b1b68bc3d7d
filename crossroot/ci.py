"""Jobs for CI services, as the text of their configuration files.

`ci_templates` holds what is printed, with @WORDS@ to fill in: a file for each service and the scripts they share.
What follows a line @EACH@ is there once for each profile.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from crossroot import __version__
from crossroot.errors import UsageError
from crossroot.profiles import Profile

SERVICES = ("github", "gitlab", "sourcehut")
_TEMPLATES = Path(__file__).parent / "ci_templates"


def job(service: str, profiles: Sequence[Profile], *, run: str, packages: Sequence[str] = ()) -> str:
    """A job of `service` that runs the shell commands `run` in a root of each profile, with the checkout as current
    folder.

    packages: to install besides the profiles' own. Raises UsageError for an unknown service, and for what no YAML
    file can hold.
    """
    if service not in SERVICES:
        raise UsageError(f"there are no jobs for '{service}'", hint=f"give {', '.join(SERVICES)}")
    for text in (run, *packages):
        if not text.replace("\n", "").replace("\t", "").isprintable():
            raise UsageError(f"{text!r} holds unprintable characters", hint="put such a command into a script")
    added = "".join(f" --package {shlex.quote(package)}" for package in packages)
    words = {
        "VERSION": __version__,
        "PREPARE": _prepare(profiles),
        "PROFILES": ", ".join(f'"{profile.name}"' for profile in profiles),
        "CREATE": _fill(_read("create.sh"), {"PACKAGES": added}),
        "RUN": 'crossroot run "$PROFILE" -- sh -ec ' + shlex.quote(run.strip("\n")),
    }
    once, _, each = _read(f"{service}.yml").partition("@EACH@\n")
    return _fill(once, words) + "".join(
        _fill(each, {**words, "PROFILE": profile.name, "TASK": _task(profile.name)}) for profile in profiles if each
    )


def _prepare(profiles: Sequence[Profile]) -> str:
    """The script that sets up a runner, without mmdebstrap where all roots are Alpine's."""
    lines = _read("prepare.sh").splitlines(keepends=True)
    alpine = all(profile.distro == "alpine" for profile in profiles)
    return "".join(line for line in lines if not (alpine and "mmdebstrap" in line))


def _task(name: str) -> str:
    """A profile's name as that of a task of builds.sr.ht, which is made of lower-case letters, digits, _ and -."""
    return re.sub(r"[^a-z0-9_-]", "-", name.lower())


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text()


def _fill(text: str, words: dict[str, str]) -> str:
    """Replace each @WORD@; where one is alone on a line, all lines of its value get the indentation of that line."""

    def lines(match: re.Match[str]) -> str:
        return re.sub(r"^(?=.)", match["indent"], words[match["word"]].rstrip("\n"), flags=re.MULTILINE)

    def value(match: re.Match[str]) -> str:
        return lines(match) if match["word"] else words[match["inline"]]

    return re.sub(r"^(?P<indent> *)@(?P<word>[A-Z]+)@$|@(?P<inline>[A-Z]+)@", value, text, flags=re.MULTILINE)
