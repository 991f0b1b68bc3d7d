"""Options: what crossroot reads by itself is what typer makes of the same command line."""

from collections.abc import Sequence
from typing import Any

import pytest

from crossroot.cli import app, copies, creation, options, sessions
from crossroot.session import Options

RIGHT = [
    ["riscv64", "--", "true"],
    ["riscv64", "true"],
    ["riscv64", "--bind", "/a", "--bind=/b:/c:ro", "--", "cmd", "--bind", "x"],
    ["--env", "A=B=C", "riscv64", "--env=", "--user", "me:you", "--", "cmd"],
    ["--no-network", "--no-cwd", "riscv64", "--workdir=/w", "--", "--", "x"],
    ["riscv64", "--user", "one", "--user", "two", "cmd", "-"],
    ["riscv64", "--user", "--", "--", "cmd"],
    ["riscv64", "--ephemeral", "--size", "5m", "--qemu-version", ">=8", "--", "sh", "-c", "exit 3"],
    ["riscv64", "--binfmt", "private", "--qemu", "/q", "--qemu-sha256", "0", "--", ""],
]
NOT_PLAIN = [
    ["riscv64", "--help"],
    ["riscv64", "-h"],
    ["riscv64", "ls", "-l"],
    ["riscv64", "--no-such", "--", "true"],
    ["riscv64", "--no-cwd=yes", "--", "true"],
    ["riscv64", "--bin", "/a", "--", "true"],
    ["riscv64", "--bind"],
    ["riscv64"],
    ["riscv64", "--"],
    [],
]


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `enter_root` was called with."""
    calls: list[Any] = []

    def enter_root(name: str, chosen: Options, command: Sequence[str]) -> int:
        calls.append((name, chosen, list(command)))
        return 7

    monkeypatch.setattr(sessions, "enter_root", enter_root)
    return calls


@pytest.mark.parametrize("arguments", RIGHT, ids=" ".join)
def test_both_read_the_same(arguments: list[str], entered: list[Any]) -> None:
    assert sessions.start("run", arguments) == 7
    assert app.run(["run", *arguments]) == 7
    assert entered[0] == entered[1]


@pytest.mark.parametrize("arguments", NOT_PLAIN, ids=" ".join)
def test_what_is_not_plainly_right_is_left_to_typer(arguments: list[str], entered: list[Any]) -> None:
    assert sessions.start("run", arguments) is None
    assert entered == []


def test_a_shell_takes_a_name_alone(entered: list[Any]) -> None:
    assert sessions.start("shell", ["riscv64", "--user", "me"]) == 7
    assert app.run(["shell", "riscv64", "--user", "me"]) == 7
    assert entered[0] == entered[1]
    assert sessions.start("shell", ["riscv64", "true"]) is None


def test_every_option_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "shell", "matrix"):
        app.run([command, "--help"])
        text = capsys.readouterr().out
        assert all(f"{option.name} " in text and option.metavar in text for option in options.SESSION)


@pytest.mark.parametrize(
    "arguments",
    [
        ["riscv64"],
        ["riscv64", "--name", "other", "aarch64", "--package", "a", "--package=b"],
        ["riscv64", "--from=x.tar", "--sha256", "", "--force", "--branch=edge", "--mirror", "http://m/a"],
        ["--locked", "a.lock", "--allow-downgrade", "--sha512", "0"],
        ["--qemu-version", "8", "--binfmt=private", "--", "riscv64"],
        [],
    ],
    ids=" ".join,
)
def test_create_is_read_the_same(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def create(names: Sequence[str], values: dict[str, Any]) -> int:
        calls.append((list(names), values))
        return 7

    monkeypatch.setattr(creation, "create", create)
    assert creation.start(arguments) == 7
    assert app.run(["create", *arguments]) == 7
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["clone", "a", "b"],
        ["clone", "a@x", "--", "b"],
        ["snapshot", "a"],
        ["snapshot", "a", "x"],
        ["restore", "a", "x"],
    ],
    ids=" ".join,
)
def test_copies_are_read_the_same(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    for verb in ("clone", "snapshot", "restore"):
        monkeypatch.setattr(copies, verb, lambda *words, verb=verb: calls.append([verb, *filter(None, words)]))
    assert copies.start(arguments[0], arguments[1:]) == 0
    assert app.run(arguments) == 0
    assert calls[0] == calls[1]


@pytest.mark.parametrize(
    "arguments",
    [["clone", "a"], ["clone", "a", "b", "c"], ["snapshot"], ["restore", "a"], ["restore", "-h"]],
    ids=" ".join,
)
def test_what_no_copy_is_asked_for_by_is_left_to_typer(arguments: list[str]) -> None:
    assert copies.start(arguments[0], arguments[1:]) is None


def test_every_option_of_create_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    app.run(["create", "--help"])
    text = capsys.readouterr().out
    assert all(f"{option.name} " in text and option.metavar in text for option in options.CREATE)
