"""Profiles: what to bootstrap for a target and how to enter it, read from TOML files.

A profile is spread over files of one name in several folders, and over what these extend; `load` merges them
key by key. KEYS declares every key; docs/profiles.md explains them.
"""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossroot import arch
from crossroot.arch import Arch
from crossroot.distros import debian
from crossroot.distros.alpine import DEFAULT_BRANCH, DEFAULT_MIRROR
from crossroot.emulator import check_request
from crossroot.errors import UsageError
from crossroot.handlers import POLICIES
from crossroot.record import Record

DISTROS = ("alpine", *debian.DISTROS)
LEVELS = range(4)  # of acceleration, see `accelerate`


class Profile(Record):
    """One target: what to bootstrap and how to enter it. KEYS says what each field means.

    Fields that belong to another distribution than its own are empty. sources: the files it was read from, lowest
    priority first.
    """

    name: str
    arch: Arch
    description: str = ""
    distro: str = "alpine"
    branch: str = DEFAULT_BRANCH
    suite: str = ""
    components: tuple[str, ...] = ()
    variant: str = ""
    mirrors: tuple[str, ...] = (DEFAULT_MIRROR,)
    sha512: str = ""
    keyring: str = ""
    source: str = "archive"
    repositories: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    user: str = "root"
    shell: str = ""
    binds: tuple[str, ...] = ()
    qemu_cpu: str = ""
    qemu_version: str = ""
    binfmt: str = "auto"
    accelerate: int = 0
    ccache: bool = False
    distcc: tuple[str, ...] = ()
    env: dict[str, str] = {}  # noqa: RUF012  (nobody changes it)
    sources: tuple[Path, ...] = ()


# The parsers of single values: each takes the string in the file and gives the one to use, or raises UsageError;
# the caller adds the file and line.


def _anything(value: str) -> str:
    return value


def _pattern(pattern: str, wanted: str) -> Callable[[str], str]:
    """A parser of strings that match `pattern` as a whole; `wanted` describes them."""
    compiled = re.compile(pattern)

    def parse(value: str) -> str:
        if not compiled.fullmatch(value):
            raise UsageError(f"{value!r} is not {wanted}")
        return value

    return parse


def _choice(choices: Iterable[str]) -> Callable[[str], str]:
    """A parser of strings that are one of `choices`."""
    known = tuple(choices)

    def parse(value: str) -> str:
        if value not in known:
            raise UsageError(f"{value!r} is not one of {', '.join(known)}", hint=_meant(value, known))
        return value

    return parse


def _parse_arch(value: str) -> str:
    return arch.find(value).name


def _parse_sha512(value: str) -> str:
    digits = value.lower()
    if not re.fullmatch(r"([0-9a-f]{128})?", digits):
        raise UsageError(f"{value!r} is not a SHA-512 hash", hint="it has 128 hexadecimal digits, as sha512sum prints")
    return digits


def _parse_path(value: str) -> str:
    """An absolute path on the host; `~` is the home directory. Relative ones would depend on where one stands."""
    path = os.path.expanduser(value)
    if not path.startswith("/"):
        raise UsageError(f"{value!r} is not an absolute path", hint="start it with / or ~/")
    return path


def _parse_qemu_version(value: str) -> str:
    check_request(value)
    return value


def _parse_optional_path(value: str) -> str:
    return _parse_path(value) if value else ""


def _parse_bind(value: str) -> str:
    """SRC[:DST[:ro]]; gives it back with `~` in SRC replaced."""
    source, *rest = value.split(":")
    if not re.fullmatch(r"(:/[^:]*(:ro)?)?", "".join(f":{part}" for part in rest)):
        raise UsageError(
            f"{value!r} is not a bind of the form SRC[:DST[:ro]]",
            hint='DST is an absolute path and only "ro" may follow it, as in "/srv/src:/src:ro"',
        )
    return ":".join([_parse_path(source), *rest])


_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_USER = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"


class Key(Record):
    """One key that a profile file may hold.

    kind: str, int, bool, list (of strings) or dict (of strings by name). doc: its meaning in a line. example: as one
    would type it. parse: takes one string of its value and gives the one to use, or raises UsageError. distros: which
    of them know it. largest: of numbers, which start at 0.
    """

    kind: type[Any]
    doc: str
    example: str
    parse: Callable[[str], str] = _anything
    distros: tuple[str, ...] = DISTROS
    largest: int = 0


KEYS: dict[str, Key] = {
    "extends": Key(str, "another profile to build on", 'extends = "riscv64"'),
    "arch": Key(str, "the CPU architecture, in anybody's words", 'arch = "riscv64"', _parse_arch),
    "description": Key(str, "a line for `crossroot profile list`", 'description = "riscv64 with a compiler"'),
    "distro": Key(str, "the distribution", 'distro = "alpine"', _choice(DISTROS)),
    "branch": Key(
        str,
        "Alpine's branch",
        'branch = "v3.20"',
        _pattern(rf"(?!\d){_NAME}", "a branch such as latest-stable, edge or v3.20"),
        ("alpine",),
    ),
    "suite": Key(
        str,
        "the suite of Debian or Ubuntu",
        'suite = "trixie"',
        _pattern(r"[a-z][a-z0-9.-]*", "a suite such as trixie, sid or noble"),
        debian.DISTROS,
    ),
    "components": Key(
        list,
        "components of the archive",
        'components = ["main", "contrib"]',
        _pattern(r"[a-z][a-z0-9/-]*", "a component such as main or universe"),
        debian.DISTROS,
    ),
    "variant": Key(str, "what is installed at first", 'variant = "minbase"', _choice(debian.VARIANTS), debian.DISTROS),
    "mirrors": Key(
        list,
        "mirrors, tried in order",
        'mirrors = ["https://mirror.example.org/alpine"]',
        _pattern(r"(?i:https?)://[^\s/]\S*", "an http:// or https:// URL"),
    ),
    "sha512": Key(
        str, "hash that the rootfs archive must have", 'sha512 = "cf83e1357eefb8bd…"', _parse_sha512, ("alpine",)
    ),
    "keyring": Key(
        str, "keyring to check the archive's signature with", 'keyring = "~/alpine.gpg"', _parse_optional_path
    ),
    "source": Key(
        str,
        "what the root is made from",
        'source = "packages"',
        _choice(("archive", "packages")),
        ("alpine",),
    ),
    "repositories": Key(
        list,
        "repositories besides main and community",
        'repositories = ["https://pkgs.example.org/alpine"]',
        _pattern(r"(@\S+ )?((?i:https?)://[^\s/]\S*|/\S+)", "an http:// or https:// URL, or a path inside the root"),
        ("alpine",),
    ),
    "keys": Key(
        list, "public keys to trust for packages", 'keys = ["~/me@example.org-1.rsa.pub"]', _parse_path, ("alpine",)
    ),
    "packages": Key(
        list, "packages to install", 'packages = ["build-base", "git"]', _pattern(r"[^\s-]\S*", "a package name")
    ),
    "hooks": Key(
        list,
        "shell commands to run in the new root",
        'hooks = ["adduser -D builder"]',
        _pattern(r"(?s).*\S.*", "a shell command"),
    ),
    "user": Key(
        str, "USER[:GROUP] of sessions", 'user = "builder"', _pattern(rf"{_USER}(:{_USER})?", "a USER[:GROUP]")
    ),
    "shell": Key(str, "the shell of `crossroot shell`", 'shell = "/bin/ash"', _pattern(r"(/\S+)?", "an absolute path")),
    "binds": Key(list, "host paths in sessions", 'binds = ["~/.cache/ccache:/ccache"]', _parse_bind),
    "qemu_cpu": Key(
        str, "CPU model for the emulator", 'qemu_cpu = "cortex-a7"', _pattern(r"\S*", "a CPU model of qemu")
    ),
    "qemu_version": Key(str, "which emulators will do", 'qemu_version = ">=8"', _parse_qemu_version),
    "binfmt": Key(str, "which handler may serve", 'binfmt = "private"', _choice(POLICIES)),
    "accelerate": Key(int, "the level of native tools", "accelerate = 1", largest=LEVELS[-1]),
    "ccache": Key(bool, "whether compilers go through ccache", "ccache = true"),
    "distcc": Key(
        list, "hosts that compile for it", 'distcc = ["build1/4", "localhost/2"]', _pattern(r"\S+", "a host of distcc")
    ),
    "env": Key(dict, "environment variables of sessions", 'env = { LANG = "C.UTF-8" }'),
}


def load(name: str, folders: Sequence[Path]) -> Profile:
    """The profile called `name`, merged from its files in `folders`, lowest priority first.

    `name` may be any name of an arch; a file called so comes first. Raises UsageError for an unknown profile, and
    for anything wrong in a file, with the file and, where it can be had, the line.
    """
    name, files = find(name, folders)
    values, sources = _collect(name, files, folders, ())
    return _finished(name, values, sources)


def embedded(name: str, table: dict[str, Any], path: Path, text: str) -> Profile:
    """The profile that `to_toml` has put into the table of another file. path, text: of that file.

    Raises UsageError as `load`.
    """
    return _finished(name, _check(table, path, text), [path])


def _finished(name: str, values: dict[str, Any], files: Sequence[Path]) -> Profile:
    if "arch" not in values:
        raise _lacking("arch", files[-1])
    distro = values.setdefault("distro", "alpine")
    _refuse_foreign(values, distro, files[-1])
    if distro != "alpine":
        values = _debian_defaults(distro) | values
    if distro == "alpine" and values.get("mirrors") == ():
        raise _lacking("mirrors", files[-1])
    values["arch"] = arch.ALL[values["arch"]]
    for tool in ("ccache", "distcc"):
        if values.get(tool):
            values["packages"] = tuple(dict.fromkeys([*values.get("packages", ()), tool]))
    return Profile(name=name, sources=tuple(files), **values)


def _debian_defaults(distro: str) -> dict[str, Any]:
    """The values that are not those of Alpine, as in `Profile`."""
    return {
        "branch": "",
        "mirrors": (),
        "suite": debian.DEFAULT_SUITE[distro],
        "components": debian.DEFAULT_COMPONENTS[distro],
        "variant": debian.DEFAULT_VARIANT,
    }


def _refuse_foreign(values: dict[str, Any], distro: str, path: Path) -> None:
    """Raise UsageError for a key of another distribution; it may come from a file that `path` extends."""
    for name in values:
        if distro not in KEYS[name].distros:
            own = [own for own, key in KEYS.items() if distro in key.distros != DISTROS]
            raise UsageError(
                f"{path}: {name!r} is a key for {' and '.join(KEYS[name].distros)}, and the distro is {distro}",
                hint=f"leave it out; {distro} has {', '.join(own)}",
            )


def on_branch(profile: Profile, branch: str | None) -> Profile:
    """The profile with another branch, which for Debian and Ubuntu is the suite. Raises UsageError for a bad one."""
    if branch is None:
        return profile
    if profile.distro == "alpine":
        return profile.but(branch=branch)
    return profile.but(suite=_parse_string("suite", branch))


def with_packages(profile: Profile, packages: Iterable[str]) -> tuple[str, ...]:
    """The packages of the profile and these, each once. Raises UsageError for what can't be the name of one."""
    return tuple(dict.fromkeys([*profile.packages, *(_parse_string("packages", name) for name in packages)]))


def find(name: str, folders: Sequence[Path]) -> tuple[str, list[Path]]:
    """The profile's own name (`aarch64` for `arm64`) and its files in `folders`, at least one, in their order.

    Raises UsageError if there is none. The files are not read.
    """
    if files := _files(name, folders):
        return name, files
    try:
        translated = arch.find(name).name
    except UsageError:
        raise _unknown(name, folders) from None
    if files := _files(translated, folders):
        return translated, files
    raise _unknown(translated, folders)


def names(folders: Sequence[Path]) -> list[tuple[str, Path]]:
    """All profiles, sorted by name, each with its file of the highest priority.

    Raises UsageError if a folder cannot be read; one that does not exist is empty.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in _entries(folder):
            if path.suffix == ".toml" and _is_name(path.stem):
                found[path.stem] = path
    return sorted(found.items())


def to_toml(profile: Profile, table: str = "") -> str:
    """The profile as the text of one profile file: every key with its effective value and its meaning.

    table: the name of a table to put it into, in another file.
    """
    lines = [f"# profile {profile.name}, read from:", *(f"#   {path}" for path in profile.sources)]
    lines = [f"[{table}]"] if table else lines
    for name, key in KEYS.items():
        if profile.distro not in key.distros:
            continue
        if key.kind is dict:
            values: dict[str, str] = getattr(profile, name)
            where = f"{table}.{name}" if table else name
            lines += ["", f"[{where}]  # {key.doc}", *(f"{entry} = {toml_value(values[entry])}" for entry in values)]
        elif name != "extends":
            lines.append(f"{name} = {toml_value(getattr(profile, name))}  # {key.doc}")
    return "\n".join(lines) + "\n"


def toml_value(value: str | int | tuple[str, ...] | Arch) -> str:
    """The value as TOML writes it."""
    if isinstance(value, int):
        return str(value).lower()  # True is an int
    if isinstance(value, Arch):
        return toml_value(value.name)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    # A JSON string is a TOML basic string, except that TOML wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lacking(key: str, path: Path) -> UsageError:
    return UsageError(f"{path}: the profile has no {key}", hint=f"give it one, as in {KEYS[key].example}")


# Finding files


def _is_name(name: str) -> bool:
    return re.fullmatch(_NAME, name) is not None and ".." not in name


def _files(name: str, folders: Sequence[Path]) -> list[Path]:
    """The files of exactly this name; none if it cannot be the name of a profile, with a `/` for instance."""
    if not _is_name(name):
        return []
    return [path for folder in folders if _exists(path := folder / f"{name}.toml")]


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    return True


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from error


def _unknown(name: str, folders: Sequence[Path]) -> UsageError:
    if not _is_name(name):
        return UsageError(
            f"{name!r} cannot be the name of a profile",
            hint="a name is letters, digits, '.', '_' and '-'; `crossroot profile list` shows all",
        )
    known = [known for known, _ in names(folders)]
    return UsageError(
        f"there is no profile {name!r}", hint=f"{_meant(name, known)}; `crossroot profile list` shows all"
    )


def _meant(word: str, known: Sequence[str]) -> str:
    """The hint for a word that is none of those known."""
    close = difflib.get_close_matches(word.lower(), known, n=1)
    return f"perhaps you meant {close[0]!r}" if close else f"known are {', '.join(known)}"


# Reading and merging files


def _collect(
    name: str, files: Sequence[Path], folders: Sequence[Path], above: tuple[str, ...]
) -> tuple[dict[str, Any], list[Path]]:
    """The values of profile `name`, with those of what it extends below them, and all files that were read.

    above: the profiles on whose behalf it is read, each extending the next.
    """
    values: dict[str, Any] = {}
    base: tuple[str, list[Path]] | None = None
    for path in files:
        text = _read(path)
        own = _parse(path, text)
        if "extends" in own:
            with _located(path, text, "extends"):
                extended = find(own.pop("extends"), folders)
            # A file that extends its own name means the files of that name below it, which it overrides anyway.
            if extended[0] != name or path == files[0]:
                base, extending = extended, (path, text)
        values = _merge(values, own)
    if base is None:
        return values, list(files)
    chain = (*above, name)
    with _located(*extending, "extends"):
        _refuse_circle((*chain, base[0]))
    below, sources = _collect(*base, folders, chain)
    return _merge(below, values), [*sources, *files]


def _refuse_circle(chain: tuple[str, ...]) -> None:
    if chain[-1] in chain[:-1]:
        raise UsageError(f"circular extends: {' -> '.join(chain)}", hint="remove `extends` from one of them")


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Key by key, `above` wins; only env is merged variable by variable."""
    merged = below | above
    if "env" in merged:
        merged["env"] = below.get("env", {}) | above.get("env", {})
    return merged


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8 text: {error.reason} at byte {error.start}") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    """The checked values of one file: strings, tuples of strings, and for env a dict of strings."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(path, str(error)) from error
    except RecursionError as error:
        raise _syntax_error(path, "nested too deeply") from error
    return _check(document, path, text)


def _check(document: dict[str, Any], path: Path, text: str) -> dict[str, Any]:
    """The values of a profile, each parsed."""
    values: dict[str, Any] = {}
    for name, value in document.items():
        with _located(path, text, name):
            key = _key(name)
            if type(value) is not key.kind:
                raise _wrong_type(name, key.kind, value, key.example)
            if key.kind is str:
                values[name] = _parse_string(name, value)
            elif key.kind is int:
                values[name] = _parse_number(name, value)
            elif key.kind is bool:
                values[name] = value
            elif key.kind is list:
                values[name] = tuple(_parse_string(name, entry) for entry in value)
        if key.kind is dict:
            values[name] = dict(_parse_variables(path, text, name, value))
    return values


def _parse_variables(path: Path, text: str, name: str, table: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for variable, value in table.items():
        with _located(path, text, name, variable):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
                raise UsageError(f"{variable!r} is not the name of an environment variable")
            yield variable, _parse_string(name, value, variable)


def _parse_string(name: str, value: object, variable: str = "") -> str:
    """One string of the value of key `name`, parsed; `variable` names it within a table."""
    key = KEYS[name]
    if not isinstance(value, str):
        where = f"{name}.{variable}" if variable else f"an entry of {name}"
        raise _wrong_type(where, str, value, key.example)
    if "\0" in value:
        raise UsageError(f"{name} holds a NUL character")
    try:
        return key.parse(value)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint or f"write it as in {key.example}") from None


def _parse_number(name: str, value: int) -> int:
    key = KEYS[name]
    if not 0 <= value <= key.largest:
        raise UsageError(
            f"{name}: {value} is not a number from 0 to {key.largest}", hint=f"write it as in {key.example}"
        )
    return value


def _key(name: str) -> Key:
    if name not in KEYS:
        raise UsageError(f"unknown key {name!r}", hint=_meant(name, tuple(KEYS)))
    return KEYS[name]


_WANTED: dict[type[Any], str] = {
    str: "a string",
    int: "a number",
    bool: "true or false",
    list: "a list of strings",
    dict: "a table of strings",
}
_GIVEN: dict[type[Any], str] = {
    **_WANTED,
    list: "a list",
    dict: "a table",
    bool: "a boolean",
    int: "an integer",
    float: "a float",
}


def _wrong_type(where: str, wanted: type, value: object, example: str) -> UsageError:
    given = _GIVEN.get(type(value), "a date or time")
    return UsageError(f"{where} must be {_WANTED[wanted]}, not {given}", hint=f"write it as in {example}")


def _syntax_error(path: Path, message: str) -> UsageError:
    """tomllib's "Invalid value (at line 2, column 4)" as FILE:2:4; there is no line at the end of the document."""
    place = re.search(r" \(at line (\d+), column (\d+)\)", message)
    where = f"{path}:{place[1]}:{place[2]}" if place else str(path)
    what = message.replace(place[0], "") if place else message
    return UsageError(f"{where}: not valid TOML: {what[:1].lower()}{what[1:]}", hint="see https://toml.io")


@contextmanager
def _located(path: Path, text: str, key: str, variable: str = "") -> Iterator[None]:
    """Put the file, and the line that sets the key (or the variable in its table), before what goes wrong inside."""
    try:
        yield
    except UsageError as error:
        line = _line(text, key, variable)
        where = f"{path}:{line}" if line else str(path)
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None


def _line(text: str, key: str, variable: str) -> int:
    """The line, from 1, where the text sets the key; 0 if none is seen to: tomllib keeps no positions."""

    def search(pattern: str, start: int) -> int:
        match = re.compile(pattern, re.MULTILINE).search(text, start)
        return match.start() if match else -1

    position = search(rf"^[ \t]*\[?[ \t]*[\"']?{re.escape(key)}[\"']?[ \t]*[\].=]", 0)
    if position >= 0 and variable:
        position = max(
            position, search(rf"^[ \t]*({key}[ \t]*\.[ \t]*)?[\"']?{re.escape(variable)}[\"']?[ \t]*=", position)
        )
    return text.count("\n", 0, position) + 1 if position >= 0 else 0
