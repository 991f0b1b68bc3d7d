"""The command line: help, usage errors and exit statuses. Every error is one line and a hint."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crossroot import __version__, cli
from crossroot.errors import CrossrootError, UsageError

COMMANDS = ["create", "shell", "run", "matrix", "list", "info", "remove", "profile"]


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CROSSROOT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("CROSSROOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("_signal.signal", lambda *_: None)  # main() arranges the process it runs in
    monkeypatch.setattr("sys.unraisablehook", sys.unraisablehook)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"crossroot {__version__}\n"


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)])
def test_help_has_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: crossroot" in text
    assert words == ["profile"] or "Example" in text
    assert cli.main([*words, "-h"]) == 0
    assert capsys.readouterr().out == text


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {command} " in text for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["no-such-command"], 2),
        (["--no-such-option"], 2),
        (["create"], 2),
        (["create", "no-such-profile"], 2),
        (["create", "riscv64", "--name", "../x"], 2),
        (["create", "riscv64", "aarch64", "--name", "x"], 2),
        (["create", "riscv64", "riscv64"], 2),
        (["create", "riscv64", "arm64", "aarch64"], 2),
        (["create", "riscv64", "--sha256", "0", "--sha512", "0"], 2),
        (["create", "riscv64", "--binfmt", "nonsense"], 2),
        (["info", "missing"], 1),
        (["remove", "missing"], 1),
        (["remove", "a/b"], 2),
        (["run", "missing", "--", "true"], 125),
        (["run"], 125),
        (["run", "missing", "--bind", "", "--", "true"], 125),
        (["run", "missing", "--binfmt", "nonsense", "--", "true"], 125),
        (["matrix", "missing", "--", "true"], 125),
        (["matrix", "riscv64,arm64,aarch64", "--", "true"], 125),
        (["matrix"], 125),
        (["shell", "missing"], 125),
        (["shell", "a/b"], 125),
        (["shell", "--no-such-option"], 125),
    ],
)
def test_errors_are_a_line_and_a_hint(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == status
    output, errors = capsys.readouterr()
    assert output == ""
    first, second = errors.splitlines()
    assert first.startswith("crossroot: error: ")
    assert second.startswith("  hint: ")


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (CrossrootError("m", hint="h"), 1, "crossroot: error: m\n  hint: h\n"),
        (CrossrootError("m"), 1, "crossroot: error: m\n"),
        (UsageError("m", hint="h"), 2, "crossroot: error: m\n  hint: h\n"),
        (CrossrootError("m", exit_code=127), 127, "crossroot: error: m\n"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (PermissionError(13, "Permission denied", "/x"), 1, "crossroot: error: /x: Permission denied\n"),
    ],
)
def test_what_a_command_raises_becomes_a_status(
    error: BaseException,
    status: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sys, "stdout", sys.stdout)  # given back, as main() lets go of a broken one
    monkeypatch.setattr("crossroot.store.list_roots", fail)
    assert cli.main(["list"]) == status
    assert capsys.readouterr().err.startswith(text)


def test_an_empty_list_says_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    output, errors = capsys.readouterr()
    assert (output, "crossroot create riscv64" in errors) == ("", True)
    assert cli.main(["list", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"


def test_a_reader_that_leaves_early_is_no_traceback() -> None:
    script = f"{sys.executable} -m crossroot profile list --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert (result.stdout, result.stderr) == ("[", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [("create ris", "riscv64"), ("create aarch64 ris", "riscv64"), ("matrix aarch64,ris", "aarch64,riscv64")],
)
def test_completion_names_roots_and_profiles(words: str, expected: str) -> None:
    environment = {
        **os.environ,
        "_CROSSROOT_COMPLETE": "complete_bash",
        "COMP_WORDS": f"crossroot {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'crossroot'; from crossroot.__main__ import main; main()",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert expected in result.stdout.split()


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 128 + 15), ("SIGHUP", 128 + 1), ("SIGINT", 130)])
def test_a_signal_in_a_callback_is_not_lost(name: str, status: int) -> None:
    """Python ignores what is raised in a callback of weakref, as imports have them, but for a message."""
    script = f"""
import os, signal, sys, time, weakref
from crossroot import cli

class Thing:
    pass

def work(arguments):
    thing = Thing()
    reference = weakref.ref(thing, lambda _: (os.kill(os.getpid(), signal.{name}), time.sleep(0)))
    del thing
    time.sleep(60)

cli._run = work
sys.exit(cli.main(["list"]))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)
    assert (result.returncode, "Traceback" in result.stderr) == (status, False)
