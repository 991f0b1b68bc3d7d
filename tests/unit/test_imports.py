"""What a start of crossroot must not load: each of these costs a tenth of a second and more."""

import subprocess
import sys

import pytest

NOT_AT_START = {"requests", "urllib3", "rich", "yaml", "zstandard", "pydantic", "cryptography"}


def loaded_by(module: str) -> set[str]:
    """The top-level modules a new interpreter has loaded after importing `module`."""
    # Without site, whose .pth files are those of an environment and not ours.
    path = f"import sys; sys.path[:0] = {sys.path!r}"
    code = f"{path}; import {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("module", ["crossroot.cli", "crossroot.session", "crossroot.enter"])
def test_start_loads_nothing_heavy(module: str) -> None:
    assert loaded_by(module) & NOT_AT_START == set()


def test_a_command_loads_no_other() -> None:
    code = "import sys; from crossroot.cli import app; app.new_app(['run']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "crossroot.cli.sessions" in loaded
    assert {"crossroot.cli.create", "crossroot.profiles", "crossroot.fetch"} & set(loaded) == set()


@pytest.mark.parametrize("module", ["crossroot.cli.creation", "crossroot.cli.copies"])
def test_creations_and_copies_start_without_typer_and_the_network(module: str) -> None:
    assert loaded_by(module) & {"typer", "click", *NOT_AT_START} == set()


@pytest.mark.parametrize("module", ["crossroot.session", "crossroot.enter"])
def test_sessions_know_nothing_of_the_command_line(module: str) -> None:
    assert loaded_by(module) & {"typer", "click"} == set()


# Each costs a session 2 to 15 ms; its whole set-up takes some 10.
NOT_IN_A_SESSION = {"typer", "click", "dataclasses", "pathlib", "re", "json", "enum", "contextlib", "typing"}


def test_copies_start_without_slow_modules() -> None:
    assert loaded_by("crossroot.cli.copies") & {"dataclasses", "inspect", "typing", "json", "hashlib"} == set()


def test_a_session_is_entered_without_slow_modules() -> None:
    assert loaded_by("crossroot.cli.sessions") & NOT_IN_A_SESSION == set()
