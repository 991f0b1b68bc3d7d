"""The command line: parse, call, print. The only place that catches errors and decides on the exit status."""

import importlib
import os
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from crossroot import __version__, ui
from crossroot.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SESSION_FAILED,
    EXIT_SIGNAL_BASE,
    CrossrootError,
)
from crossroot.namespaces import describe_os_error

# Command to the module below crossroot.cli and the function or group of commands in it, in the order of the help.
COMMANDS = {
    "create": ("create", "create"),
    "shell": ("sessions", "shell"),
    "run": ("sessions", "run"),
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


def main(arguments: list[str]) -> int:
    """Run the command line `arguments` and return the exit status; every error ends here as a line on stderr."""
    _open_closed_streams()
    # A caller that ignores it has passed that on, and then children cannot be waited for (wait(2), NOTES).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    try:
        result = typer.main.get_command(new_app(arguments)).main(
            arguments, prog_name="crossroot", standalone_mode=False
        )
        sys.stdout.flush()
    except CrossrootError as error:
        ui.error(error.message, error.hint)
        return _status(arguments, error.exit_code)
    except typer.TyperException as error:  # what is wrong with the command line itself
        message = error.format_message()
        if message.startswith("Usage:"):  # a command group without a command: its help
            print(message, file=sys.stderr)
        else:
            ui.error(message, _usage_hint(arguments))
        return _status(arguments, error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        ui.note("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough. Python would complain again when it flushes at exit.
        sys.stdout = None
        return EXIT_FAILED
    except OSError as error:
        ui.error(describe_os_error(error), "check the path and its permissions")
        return _status(arguments, EXIT_FAILED)
    return result if isinstance(result, int) else 0


def _open_closed_streams() -> None:
    """Open /dev/null in the place of a standard stream that the caller has closed (`2>&-`).

    Python has None there, and the next file to be opened would become the stream, also of a session's command.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, os.fdopen(descriptor, "r" if name == "stdin" else "w"))


def _leave(number: int, _: FrameType | None) -> None:
    """Unwind on a signal, so that everything under way is cleaned up as on an error."""
    raise SystemExit(EXIT_SIGNAL_BASE + number)


def _status(arguments: list[str], code: int) -> int:
    """The exit status for an error; `run`, `shell` and `matrix` keep 1 and 2 for the command's own use."""
    inside = arguments[:1] in (["run"], ["shell"], ["matrix"])
    return EXIT_SESSION_FAILED if inside and code < EXIT_SESSION_FAILED else code


def _usage_hint(arguments: list[str]) -> str:
    known = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    return " ".join(word for word in ("crossroot", known, "--help") if word)
