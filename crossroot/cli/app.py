"""The command line as typer has it: every command but the plain `run` and `shell`, help, completion, usage errors."""

import importlib
import sys
from typing import Annotated

import typer

from crossroot import __version__
from crossroot.errors import CrossrootError

# Command to the module below crossroot.cli and the function or group of commands in it, in the order of the help.
COMMANDS = {
    "create": ("create", "create"),
    "shell": ("session_commands", "shell"),
    "run": ("session_commands", "run"),
    "matrix": ("matrix", "matrix"),
    "list": ("roots", "list_"),
    "info": ("roots", "info"),
    "remove": ("roots", "remove"),
    "rm": ("roots", "remove"),
    "clone": ("snapshots", "clone"),
    "snapshot": ("snapshots", "snapshot"),
    "snapshots": ("snapshots", "snapshots"),
    "restore": ("snapshots", "restore"),
    "install": ("packages", "install"),
    "upgrade": ("packages", "upgrade"),
    "lock": ("lock", "lock"),
    "export": ("export", "export"),
    "profile": ("profile", "app"),
    "doctor": ("doctor", "doctor"),
    "binfmt": ("binfmt", "app"),
    "emulator": ("emulator", "app"),
    "ci": ("ci", "ci"),
}
HIDDEN = ("rm",)


def new_app(arguments: list[str]) -> typer.Typer:
    """The command line, with all commands, or with the one alone that `arguments` call: importing the modules of all
    would take longer than most commands do."""
    app = typer.Typer(
        name="crossroot",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(epilog="Example: crossroot create riscv64, then: crossroot run riscv64 -- uname -m")(_crossroot)
    for name in arguments[:1] if arguments[:1] and arguments[0] in COMMANDS else COMMANDS:
        module, attribute = COMMANDS[name]
        command = getattr(importlib.import_module(f"crossroot.cli.{module}"), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, hidden=name in HIDDEN)(command)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"crossroot {__version__}")
        raise typer.Exit


def _crossroot(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A working userland of another CPU architecture, in one command."""


def run(arguments: list[str]) -> int:
    """Run the command line `arguments` and return the exit status. Raises CrossrootError, for usage errors too."""
    try:
        result = typer.main.get_command(new_app(arguments)).main(
            arguments, prog_name="crossroot", standalone_mode=False
        )
    except typer.TyperException as error:  # what is wrong with the command line itself
        message = error.format_message()
        if message.startswith("Usage:"):  # a command group without a command: its help
            print(message, file=sys.stderr)
            return error.exit_code
        raise CrossrootError(message, hint=_usage_hint(arguments), exit_code=error.exit_code) from error
    except typer.Abort as error:
        raise KeyboardInterrupt from error
    return result if isinstance(result, int) else 0


def _usage_hint(arguments: list[str]) -> str:
    known = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    return " ".join(word for word in ("crossroot", known, "--help") if word)
