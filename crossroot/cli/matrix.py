"""`crossroot matrix`."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from crossroot import capacity, job_display, jobs, junit, layout, output, paths, profiles, session, store, ui
from crossroot.cli import complete, sessions
from crossroot.cli.options import SESSION
from crossroot.cli.typed import with_options
from crossroot.errors import EXIT_SESSION_FAILED, EXIT_SIGNAL_BASE, UsageError
from crossroot.jobs import State
from crossroot.namespaces import Reporter

if TYPE_CHECKING:
    from crossroot.request import Request

_JUNIT_OUTPUT = 64 << 10  # bytes of the end of each log


@with_options(SESSION)
def matrix(
    names: Annotated[
        str,
        typer.Argument(
            metavar="PROFILE[,PROFILE...]",
            help="Roots, or profiles of roots to create first.",
            autocompletion=complete.several,
        ),
    ],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
    at_once: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            metavar="N",
            min=1,
            help="How many to run at a time. Default: one for each core that crossroot may use (by affinity and control"
            " group), but no more than there are 512 MiB of free memory for.",
        ),
    ] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Cancel the others when one fails.")] = False,
    logs: Annotated[
        Path | None, typer.Option("--logs", metavar="DIR", help="Where to write NAME.log. Default: a new folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON, and all else on stderr.")] = False,
    junit_file: Annotated[
        str | None, typer.Option("--junit", metavar="FILE", help="Write the results as JUnit XML, too.")
    ] = None,
    **values: Any,
) -> int:
    """Run a command in many roots side by side, and create those that are missing.

    On a terminal a table shows how each one does; elsewhere each line of output comes behind its root's name. The
    exit status is the worst of all.

    \b
    Examples:
      crossroot matrix riscv64,aarch64,armv7 -- make check
      crossroot matrix riscv64,s390x -j 2 --fail-fast --junit results.xml -- ./test.sh
      crossroot matrix riscv64,aarch64 --json -- uname -m | jq -r '.[] | select(.status != 0) | .name'
    """
    options = sessions.session_options(values)
    if options.keep:
        raise UsageError("--keep names one root, and matrix runs in several", hint="give it to: crossroot run")
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
    entries = _entries(names, options)
    if any(entry.request for entry in entries):
        from crossroot import bootstrap

        bootstrap.prepare()
    with ExitStack() as files:
        # The file first, so that one that cannot be written costs nobody the wait.
        report = files.enter_context(output.written(junit_file)) if junit_file else None
        folder = _log_folder(logs)
        opened = {entry.name: files.enter_context(_open_log(folder, entry.name)) for entry in entries}
        todo = [_job(entry, options, command, opened[entry.name]) for entry in entries]
        live = sys.stderr.isatty() and (as_json or sys.stdout.isatty())
        stream = sys.stderr.buffer if as_json else sys.stdout.buffer
        ui.note(f"logs are in {folder}")
        with job_display.display(list(opened), stream, live=live) as display:
            found, ended_by = jobs.run(todo, at_once or capacity.jobs_at_once(), display, fail_fast=fail_fast)
        states = [_as_of_a_session(state) for state in found]
        if not live:
            job_display.summarise(states)
        job_display.report(states, opened, shown=not live)
        if junit_file and report is not None:
            with output.writing(report, junit_file) as write:
                write(junit.render("crossroot", states, {name: _end(log) for name, log in opened.items()}))
    if as_json:
        print(json.dumps([_facts(*pair, folder) for pair in zip(entries, states, strict=True)], indent=2))
    for sentence in store.recover(paths.store()):  # of creations that did not end in time
        ui.note(sentence)
    return EXIT_SIGNAL_BASE + ended_by if ended_by else jobs.worst(states)


@dataclass(frozen=True)
class _Entry:
    """A root to run in. request: how to create it, None if it is there."""

    name: str
    request: "Request | None"


def _entries(names: str, options: session.Options) -> list[_Entry]:
    """The roots and profiles named, in their order. Raises UsageError for one that is neither, or named twice."""
    entries = [_entry(name, options) for name in names.split(",")]
    found = [entry.name for entry in entries]
    if twice := [name for name in found if found.count(name) > 1]:
        raise UsageError(f"{twice[0]} is named twice", hint="name each root once")
    return entries


def _entry(name: str, options: session.Options) -> _Entry:
    meant = sessions.meant(name)
    if store.root_path(meant, paths.store()).exists():
        return _Entry(meant, None)
    from crossroot.request import Request

    profile = profiles.load(name, paths.profile_folders())
    request = Request(name=layout.check_name(profile.name), profile=profile, qemu=options.qemu)
    return _Entry(request.name, request)


def _job(entry: _Entry, options: session.Options, command: Sequence[str], log: BinaryIO) -> jobs.Job:
    phase = jobs.CREATING if entry.request else jobs.RUNNING
    return jobs.Job(entry.name, partial(_work, entry, options, command), log, phase)


def _work(entry: _Entry, options: session.Options, command: Sequence[str], reporter: Reporter) -> int:
    """Create the root if it is missing, and run the command in it. In a process of its own."""
    if entry.request:
        from crossroot import bootstrap

        bootstrap.create(entry.request, paths.store(), paths.cache())
        reporter.send(phase=jobs.RUNNING)
    return sessions.enter_root(entry.name, options, command)


def _as_of_a_session(state: State) -> State:
    """With the status that `run` would give: crossroot's own errors are no command's."""
    if state.phase == jobs.ERROR and state.status is not None:
        return replace(state, status=max(state.status, EXIT_SESSION_FAILED))
    return state


def _log_folder(named: Path | None) -> Path:
    if named is None:
        return Path(tempfile.mkdtemp(prefix="crossroot-matrix-"))
    named.mkdir(parents=True, exist_ok=True)
    return named.absolute()


def _open_log(folder: Path, name: str) -> BinaryIO:
    return open(folder / f"{name}.log", "w+b", buffering=0)


def _end(log: BinaryIO) -> bytes:
    """The last of a log."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - _JUNIT_OUTPUT))
    return log.read()


def _facts(entry: _Entry, state: State, folder: Path) -> dict[str, Any]:
    return {
        "name": state.name,
        "result": state.phase,
        "status": state.status,
        "seconds": round(state.seconds, 3),
        "created": entry.request is not None and store.root_path(entry.name, paths.store()).exists(),
        "log": str(folder / f"{state.name}.log"),
        "error": state.message,
        "hint": state.hint,
    }
