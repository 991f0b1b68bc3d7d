"""The launcher in the folder of a root: `enter`."""

import shutil
from pathlib import Path

import pytest

from tests.support import expect
from tests.support.identity import Crossroot

pytestmark = [pytest.mark.userns, pytest.mark.emulation]


def launcher(crossroot: Crossroot) -> Path:
    return crossroot.store / "roots/riscv64/enter"


def test_it_runs_a_command(shared_root: Crossroot) -> None:
    identity, enter = shared_root.identity, launcher(shared_root)
    assert identity.run([enter, "uname", "-m"], cwd="/").stdout == "riscv64\n"
    assert identity.run([enter, "sh", "-c", "cat; exit 37"], "in", cwd="/").returncode == 37
    result = identity.run([enter, "--env", "A=1", "--user=nobody", "--", "sh", "-c", 'echo "$A $(whoami)"'], cwd="/")
    assert result.stdout == "1 nobody\n"
    assert identity.run([enter, "no-such-command"], cwd="/").returncode == 127


def test_it_opens_a_shell(shared_root: Crossroot) -> None:
    assert shared_root.identity.run([launcher(shared_root)], "uname -m; pwd", cwd="/").stdout == "riscv64\n/root\n"


def test_what_it_cannot_read_is_explained(shared_root: Crossroot) -> None:
    result = shared_root.identity.run([launcher(shared_root), "--no-such", "true"], cwd="/")
    assert result.returncode == 125
    assert "crossroot: error: No such option: --no-such" in result.stderr
    assert "Usage: crossroot run" in shared_root.identity.run([launcher(shared_root), "--help"], cwd="/").stdout


def test_a_link_to_it_and_a_script_that_starts_with_it(shared_root: Crossroot) -> None:
    link = shared_root.tmp / "rv"
    shared_root.identity.run(["ln", "-s", launcher(shared_root), link], check=True)
    assert shared_root.identity.run([link, "uname", "-m"], cwd="/").stdout == "riscv64\n"
    script = shared_root.tmp / "script"
    script.write_text('uname -m\necho "$1"\nexit 3\n')
    bind = ["--bind", str(shared_root.tmp)]
    result = shared_root.identity.run([launcher(shared_root), *bind, "sh", "-e", script, "x"], cwd="/")
    assert (result.returncode, result.stdout) == (3, "riscv64\nx\n")


def test_it_serves_the_root_it_lies_with(crossroot: Crossroot) -> None:
    crossroot.create("riscv64", "--name", "one")
    moved = crossroot.store / "roots/other"
    crossroot.identity.run(["mv", crossroot.store / "roots/one", moved], check=True)
    assert crossroot.identity.run([moved / "enter", "hostname"], cwd="/").stdout == "other\n"


def test_it_says_when_its_crossroot_is_gone(shared_root: Crossroot) -> None:
    copy = shared_root.tmp / "copy"
    text = launcher(shared_root).read_text().replace("from crossroot import", "from crossroot_that_is_gone import")
    copy.write_text(text)
    shutil.copymode(launcher(shared_root), copy)
    result = shared_root.identity.run([copy, "true"], cwd="/")
    expect.error(result, "the crossroot that made this launcher is gone", status=125)
