"""The options of the commands that start without typer, in tables: typer shows and explains them, `parse` reads them
without its import, which takes longer than what most of these commands do."""

from __future__ import annotations

from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    Value = str | bool | list[str] | None


class Option(Record):
    """kind: "text"; "list", which may be given several times; or "flag", without a value. metavar, help: for help.

    called: its key, if not as the option. nullable: a text that is None, not "", when it is not given.
    """

    name: str
    kind: str
    metavar: str
    help: str
    called: str = ""
    nullable: bool = False

    @property
    def key(self) -> str:
        """What its value is called."""
        return self.called or self.name.removeprefix("--").replace("-", "_")

    @property
    def default(self) -> Value:
        """What it is when it is not given."""
        if self.kind == "list":
            return []
        if self.kind == "text":
            return None if self.nullable else ""
        return False


BINFMT = Option("--binfmt", "text", "auto|host|private", "Which handlers may be used.")
QEMU = Option("--qemu", "text", "PATH|URL", "The static qemu-user to use.")
QEMU_SHA256 = Option("--qemu-sha256", "text", "H", "What a --qemu URL must give.")
QEMU_VERSION = Option("--qemu-version", "text", "V", "Which qemu will do: 10, 8.2, '>=8'.")

# Each table is in the order of the help.

# Of `create`. An option that is given but empty, by an unset variable of a script for instance, is not one left out.
CREATE = (
    Option("--name", "text", "N", "Name of the root. Default: that of the profile.", nullable=True),
    Option("--branch", "text", "B", "Branch of Alpine, or suite of Debian or Ubuntu.", nullable=True),
    Option("--mirror", "text", "URL", "Mirror to use instead of the profile's.", nullable=True),
    Option("--package", "list", "P", "Install this package, too. Repeatable."),
    Option(
        "--from",
        "text",
        "FILE|URL",
        "Unpack this: a rootfs as tar, also gz, xz, bz2, zst; a container image.",
        called="archive",
        nullable=True,
    ),
    Option("--sha256", "text", "H", "What the archive must have.", nullable=True),
    Option("--sha512", "text", "H", "What the archive must have.", nullable=True),
    Option("--locked", "text", "FILE", "Instead of PROFILE: make the root of `crossroot lock` again.", nullable=True),
    BINFMT,
    QEMU,
    QEMU_SHA256,
    QEMU_VERSION,
    Option("--force", "flag", "", "Replace a root of that name."),
    Option("--allow-downgrade", "flag", "", "Take an older release than the mirror has had before."),
)

# Of `run` and `shell`.
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


def parse(arguments: Sequence[str], table: Sequence[Option], *, leading: bool = False) -> Parsed | None:
    """The options and words among arguments; None for anything but the plainly right, which typer is to explain.

    As typer does, it takes options among the words up to `--`, values after a space or `=`, and the last of several.
    leading: with the first word there are no more options.
    """
    values = {option.key: option.default for option in table}
    by_name = {option.name: option for option in table}
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
