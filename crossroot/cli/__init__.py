"""The command line: parse, call, print. The only place that catches errors and decides on the exit status."""

from __future__ import annotations

import os
import sys

from crossroot import ui
from crossroot.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SESSION_FAILED,
    EXIT_SIGNAL_BASE,
    CrossrootError,
    is_out_of_memory,
    shortage_cure,
)
from crossroot.linux import signal
from crossroot.namespaces import describe_os_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from sys import UnraisableHookArgs
    from types import FrameType

_SOON = 0.001  # seconds; a callback has ended by then
_INSIDE = ("run", "shell", "matrix")  # which keep the statuses 1 and 2 for the command's own use


def main(arguments: list[str]) -> int:
    """Run the command line `arguments` and return the exit status; every error ends here as a line on stderr."""
    inside = bool(arguments) and arguments[0] in _INSIDE
    return _guarded(lambda: _run(arguments), inside=inside)


def enter(folder: str, arguments: list[str]) -> int:
    """What the launcher in the folder of a root does, see `crossroot.launcher`; as `main`."""
    name = os.path.basename(folder)
    os.environ["CROSSROOT_STORE"] = os.path.dirname(os.path.dirname(folder))

    def run() -> int:
        from crossroot.cli import sessions

        status = sessions.launch(name, arguments)
        if status is None:
            # It started Python without site, and typer may be in a folder that only site knows.
            os.execv(sys.executable, [sys.executable, "-m", "crossroot", "run", name, *arguments])
        return status

    return _guarded(run, inside=True)


def _guarded(run: Callable[[], int], *, inside: bool) -> int:
    """The status that `run` gives, or that of the error it ends with, which is printed.

    inside: of `_INSIDE`.
    """
    _open_closed_streams()
    # A caller that ignores it has passed that on, and then children cannot be waited for (wait(2), NOTES).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    sys.unraisablehook = _leave_soon
    try:
        status = run()
        sys.stdout.flush()
        return status
    except CrossrootError as error:
        ui.error(error.message, shortage_cure(error) or error.hint)
        return _status(error.exit_code, inside=inside)
    except KeyboardInterrupt:
        ui.note("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough. Python would complain again when it flushes at exit.
        sys.stdout = None
        return EXIT_FAILED
    except OSError as error:
        ui.error(describe_os_error(error), shortage_cure(error) or "check the path and its permissions")
        return _status(EXIT_FAILED, inside=inside)
    except (MemoryError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        ui.error("there is not enough memory", shortage_cure(error))
        return _status(EXIT_FAILED, inside=inside)


def _run(arguments: list[str]) -> int:
    """Do what the arguments say, by way of typer only where that is needed: its import takes some 40 ms."""
    status = _without_typer(*arguments) if arguments else None
    if status is not None:
        return status
    from crossroot.cli import app

    return app.run(arguments)


def _without_typer(verb: str, *arguments: str) -> int | None:
    """The status of a command; None, and nothing is done, for other commands and where something has to be explained.

    Each module is imported by its command alone.
    """
    match verb:
        case "run" | "shell":
            from crossroot.cli import sessions

            return sessions.start(verb, arguments)
        case "create":
            from crossroot.cli import creation

            return creation.start(arguments)
        case "clone" | "snapshot" | "restore":
            from crossroot.cli import copies

            return copies.start(verb, arguments)
    return None


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


def _leave_soon(ignored: UnraisableHookArgs) -> None:
    """Unwind a moment later where a signal came in a callback, as imports have them, whose errors Python ignores."""
    error = ignored.exc_value
    if not isinstance(error, SystemExit | KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return

    def leave(*_: object) -> None:
        raise error

    signal.signal(signal.SIGALRM, leave)
    signal.setitimer(signal.ITIMER_REAL, _SOON)


def _status(code: int, *, inside: bool) -> int:
    return EXIT_SESSION_FAILED if inside and code < EXIT_SESSION_FAILED else code
