"""The options of a session, in one table: typer shows and explains them, `parse` reads them without its import."""

from __future__ import annotations

from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Value = str | bool | list[str]


class Option(Record):
    """kind: "text"; "list", which may be given several times; or "flag", without a value. metavar, help: for help."""

    name: str
    kind: str
    metavar: str
    help: str

    @property
    def key(self) -> str:
        """What its value is called."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def default(self) -> Value:
        """What it is when it is not given."""
        if self.kind == "list":
            return []
        return "" if self.kind == "text" else False


BINFMT = Option("--binfmt", "text", "auto|host|private", "Which handlers may be used.")
QEMU = Option("--qemu", "text", "PATH|URL", "The static qemu-user to use.")
QEMU_SHA256 = Option("--qemu-sha256", "text", "H", "What a --qemu URL must give.")
QEMU_VERSION = Option("--qemu-version", "text", "V", "Which qemu will do: 10, 8.2, '>=8'.")

# Of `run` and `shell`, in the order of their help.
SESSION = (
    Option("--bind", "list", "SRC[:DST[:ro]]", "Show a host folder or file inside."),
    Option("--env", "list", "K[=V]", "Set a variable, or pass one on."),
    Option("--user", "text", "USER[:GROUP]", "Who to be, by the root's /etc/passwd."),
    Option("--workdir", "text", "D", "Folder inside the root to work in."),
    Option("--no-network", "flag", "", "Nothing but a loopback interface."),
    Option("--no-cwd", "flag", "", "Do not show the current folder inside."),
    BINFMT,
    QEMU,
    QEMU_SHA256,
    QEMU_VERSION,
    Option("--accelerate", "text", "0|1|2|3", "Native tools: 1 compilers, 2 shell too, 3 all."),
    Option("--ccache", "flag", "", "Let compilers go through ccache, as `ccache = true` in the profile."),
    Option("--ephemeral", "flag", "", "Leave the root as it is: changes are lost at the end."),
    Option("--size", "text", "N[k|m|g|%]", "How much --ephemeral may change, in memory."),
    Option("--keep", "text", "NEW", "Make a root of what --ephemeral leaves."),
    Option("--nesting", "flag", "", "Allow mounts and namespaces inside, for bwrap or mmdebstrap."),
    Option("--no-new-privileges", "flag", "", "Let setuid programs gain nothing."),
)


class Parsed(Record):
    """values: by `Option.key`, all of them. words: what is no option, such as the name of a root and a command."""

    values: dict[str, Value]
    words: list[str]


def parse(arguments: Sequence[str], *, leading: bool = False) -> Parsed | None:
    """The options and words among arguments; None for anything but the plainly right, which typer is to explain.

    As typer does, it takes options among the words up to `--`, values after a space or `=`, and the last of several.
    leading: with the first word there are no more options.
    """
    values = {option.key: option.default for option in SESSION}
    by_name = {option.name: option for option in SESSION}
    words: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            words += rest
        elif not argument.startswith("-") or argument == "-":
            words.append(argument)
            if leading:
                words += rest
        else:
            name, equals, value = argument.partition("=")
            option = by_name.get(name)
            if option is None or (option.kind == "flag" and equals):
                return None
            if option.kind == "flag":
                values[option.key] = True
                continue
            if not equals:
                following = next(rest, None)
                if following is None:
                    return None
                value = following
            given = values[option.key]
            values[option.key] = [*given, value] if isinstance(given, list) else value
    return Parsed(values, words)
