"""The launcher in the folder of a root: `enter`."""

import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support import expect
from tests.support.identity import Crossroot

pytestmark = [pytest.mark.userns, pytest.mark.emulation]


def launcher(crossroot: Crossroot) -> Path:
    return crossroot.store / "roots/riscv64/enter"


def launch(crossroot: Crossroot, enter: Path, *arguments: str | Path, input: str = "") -> CompletedProcess[str]:
    """Run a launcher with what it does not say itself, the cache."""
    cache = {"CROSSROOT_CACHE": str(crossroot.cache)}
    return crossroot.identity.run([enter, *arguments], input, cwd="/", env=cache)


def test_it_runs_a_command(shared_root: Crossroot) -> None:
    enter = launcher(shared_root)
    assert launch(shared_root, enter, "uname", "-m").stdout == "riscv64\n"
    assert launch(shared_root, enter, "sh", "-c", "cat; exit 37", input="in").returncode == 37
    result = launch(shared_root, enter, "--env", "A=1", "--user=nobody", "--", "sh", "-c", 'echo "$A $(whoami)"')
    assert result.stdout == "1 nobody\n"
    assert launch(shared_root, enter, "no-such-command").returncode == 127


def test_it_opens_a_shell(shared_root: Crossroot) -> None:
    assert launch(shared_root, launcher(shared_root), input="uname -m; pwd").stdout == "riscv64\n/root\n"


def test_what_it_cannot_read_is_explained(shared_root: Crossroot) -> None:
    result = launch(shared_root, launcher(shared_root), "--no-such", "true")
    assert result.returncode == 125
    assert "crossroot: error: No such option: --no-such" in result.stderr
    assert "Usage: crossroot run" in launch(shared_root, launcher(shared_root), "--help").stdout


def test_a_link_to_it_and_a_script_that_starts_with_it(shared_root: Crossroot) -> None:
    link = shared_root.tmp / "rv"
    shared_root.identity.run(["ln", "-s", launcher(shared_root), link], check=True)
    assert launch(shared_root, link, "uname", "-m").stdout == "riscv64\n"
    script = shared_root.tmp / "script"
    script.write_text('uname -m\necho "$1"\nexit 3\n')
    bind = ["--bind", str(shared_root.tmp)]
    result = launch(shared_root, launcher(shared_root), *bind, "sh", "-e", script, "x")
    assert (result.returncode, result.stdout) == (3, "riscv64\nx\n")


def test_it_serves_the_root_it_lies_with(crossroot: Crossroot) -> None:
    crossroot.create("riscv64", "--name", "one")
    moved = crossroot.store / "roots/other"
    crossroot.identity.run(["mv", crossroot.store / "roots/one", moved], check=True)
    assert launch(crossroot, moved / "enter", "hostname").stdout == "other\n"


def test_it_says_when_its_crossroot_is_gone(shared_root: Crossroot) -> None:
    copy = shared_root.tmp / "copy"
    text = launcher(shared_root).read_text().replace("from crossroot import", "from crossroot_that_is_gone import")
    copy.write_text(text)
    shutil.copymode(launcher(shared_root), copy)
    result = launch(shared_root, copy, "true")
    expect.error(result, "the crossroot that made this launcher is gone", status=125)
