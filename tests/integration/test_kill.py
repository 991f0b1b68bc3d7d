"""Killed or interrupted at any moment, crossroot leaves a store that the next command understands, and a clean host.

The moments are random ones within the time that the command takes when nobody disturbs it: a few in `make test`, many
in `make test-long`. tests/integration/test_boundaries.py strikes at chosen system calls.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import archives, expect
from tests.support.figures import Figures
from tests.support.host import read_of, wait_until
from tests.support.identity import Crossroot

pytestmark = pytest.mark.slow

FILES = {f"etc/{number}": b"x" * 5000 for number in range(400)}

Process = subprocess.Popen[bytes]
Moments = Callable[[float], Iterator[float]]  # seconds a command takes to seconds after its start at which to strike


@pytest.fixture(params=[pytest.param(3, id="few"), pytest.param(15, id="many", marks=pytest.mark.long)])
def moments(request: pytest.FixtureRequest, chance: random.Random, figures: Figures) -> Moments:
    """Random moments, but one in each of as many equal parts of the time."""
    count = request.param
    figures.add("interruptions at random moments", count)
    return lambda whole: (whole * (number + chance.random()) / count for number in range(count))


def write_profile(crossroot: Crossroot) -> dict[str, str]:
    """A profile of a root from the mirror of the tests, with a hook; the environment in which it is found."""
    folder = crossroot.tmp / "config/crossroot/profiles"
    folder.mkdir(parents=True)
    lines = ['extends = "riscv64"', f'mirrors = ["{crossroot.mirror.url}"]', 'hooks = ["echo >/done; sleep 0.1"]']
    (folder / "mine.toml").write_text("\n".join(lines))
    return {"XDG_CONFIG_HOME": str(crossroot.tmp / "config")}


def write_archive(crossroot: Crossroot) -> Path:
    path = crossroot.tmp / "archive"
    path.write_bytes(archives.rootfs("riscv64", FILES))
    return path


def duration(process: Process) -> float:
    """Seconds until a process has ended; it has to succeed."""
    start = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said.decode()
    return time.monotonic() - start


def strike(process: Process, after: float, number: signal.Signals) -> tuple[int, str]:
    """Send a signal after some time; the status of the process as a shell tells it, and what it said.

    128 + number is also that of a process that was done and hit on its way out of Python, by the signal itself.
    """
    time.sleep(after)
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    return as_a_shell_tells_it(process.returncode), said.decode()


def as_a_shell_tells_it(status: int) -> int:
    return status if status >= 0 else 128 - status


def ready(process: Process) -> None:
    """Return when the process has installed its handler of SIGTERM: before that Python itself is interrupted."""

    def caught() -> bool:
        masks = [line for line in read_of(process.pid, "status").splitlines() if line.startswith("SigCgt:")]
        return bool(masks) and bool(int(masks[0].split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(lambda: caught() or process.poll() is not None)


def unfinished(crossroot: Crossroot) -> list[str]:
    folder = crossroot.store / "unfinished"
    return os.listdir(folder) if folder.exists() else []


def list_after_a_kill(crossroot: Crossroot, name: str) -> list[str]:
    """Names of the roots by `crossroot list`, which has to clean up and to say so."""
    expect.free(crossroot.store, name)
    left = unfinished(crossroot)
    result = crossroot.run("list", "--json", check=True)
    verbs = {"create": "the unfinished creation", "remove": "what was left of the removal"}
    expected = [f"crossroot: removed {verbs[entry.split('.')[1]]} of {name} (it was interrupted)" for entry in left]
    assert result.stderr.splitlines() == expected
    names = [root["name"] for root in json.loads(result.stdout)]
    if crossroot.store.exists():
        expect.roots(crossroot.store, *names)
    return names


@pytest.mark.emulation
def test_a_creation_can_be_killed_at_any_moment(crossroot: Crossroot, moments: Moments) -> None:
    env = write_profile(crossroot)
    whole = duration(crossroot.popen("create", "mine", env=env))
    crossroot.run("rm", "mine", check=True)
    outcomes = set()
    struck = list(moments(whole))
    for moment in struck:
        strike(crossroot.popen("create", "mine", env=env), moment, signal.SIGKILL)
        left = bool(unfinished(crossroot))
        names = list_after_a_kill(crossroot, "mine")
        outcomes.add((left, *names))
        if names:
            assert (crossroot.store / "roots/mine/rootfs/done").exists()
            crossroot.run("run", "mine", "--", "true", check=True)
            crossroot.run("rm", "mine", check=True)
    assert (True,) in outcomes or len(struck) < 10, "no kill was in time"
    crossroot.run("create", "mine", env=env, check=True)
    expect.roots(crossroot.store, "mine")


def test_a_replacement_can_be_killed_at_any_moment(crossroot: Crossroot, moments: Moments) -> None:
    archive = write_archive(crossroot)
    command = ("create", "riscv64", "--from", archive, "--force")
    crossroot.run(*command, check=True)
    for moment in moments(duration(crossroot.popen(*command))):
        strike(crossroot.popen(*command), moment, signal.SIGKILL)
        assert list_after_a_kill(crossroot, "riscv64") == ["riscv64"]
        assert len(os.listdir(crossroot.store / "roots/riscv64/rootfs/etc")) == len(FILES) + 3
    crossroot.run(*command, check=True)


@pytest.mark.emulation
def test_a_session_can_be_killed_at_any_moment(crossroot: Crossroot, moments: Moments) -> None:
    crossroot.create("riscv64", "--name", "mine")
    command = ("run", "mine", "--", "sh", "-c", "sleep 0.1 & setsid sleep 0.2 & sleep 0.1; wait")
    for moment in moments(duration(crossroot.popen(*command))):
        strike(crossroot.popen(*command), moment, signal.SIGKILL)
        expect.free(crossroot.store, "mine")
        assert json.loads(crossroot.run("info", "mine", "--json", check=True).stdout)["sessions"] == []
        assert os.listdir(crossroot.store / "roots/mine/sessions") == []
    crossroot.run("run", "mine", "--", "true", check=True)
    crossroot.run("rm", "mine", check=True)
    expect.roots(crossroot.store)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_removal_can_be_ended_at_any_moment(number: signal.Signals, crossroot: Crossroot, moments: Moments) -> None:
    create = ("create", "riscv64", "--from", write_archive(crossroot))
    crossroot.run(*create, check=True)
    whole = duration(crossroot.popen("rm", "riscv64"))
    outcomes = set()
    for moment in moments(whole):
        if not (crossroot.store / "roots/riscv64").exists():
            crossroot.run(*create, check=True)
        process = crossroot.popen("rm", "riscv64")
        if number != signal.SIGKILL:
            ready(process)
        status, said = strike(process, moment, number)
        outcomes.add(status)
        assert "Traceback" not in said
        if list_after_a_kill(crossroot, "riscv64"):
            assert len(os.listdir(crossroot.store / "roots/riscv64/rootfs/etc")) == len(FILES) + 3
    assert 128 + number in outcomes <= {0, 128 + number}


@pytest.mark.emulation
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_creation_cleans_up_by_itself(
    number: signal.Signals, crossroot: Crossroot, moments: Moments
) -> None:
    env = write_profile(crossroot)
    process = crossroot.popen("create", "mine", env=env)
    ready(process)
    whole = duration(process)
    crossroot.run("rm", "mine", check=True)
    outcomes = set()
    for moment in moments(whole):
        process = crossroot.popen("create", "mine", env=env)
        ready(process)
        status, said = strike(process, moment, number)
        outcomes.add(status)
        assert "Traceback" not in said
        if (crossroot.store / "roots/mine").exists():
            expect.roots(crossroot.store, "mine")
            crossroot.run("rm", "mine", check=True)
        elif crossroot.store.exists():
            expect.roots(crossroot.store)
    assert 128 + number in outcomes <= {0, 128 + number}
    crossroot.run("create", "mine", env=env, check=True)


@pytest.mark.emulation
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_session_ends_as_a_signal_ends_it(
    number: signal.Signals, crossroot: Crossroot, moments: Moments
) -> None:
    crossroot.create("riscv64", "--name", "mine")
    process = crossroot.popen("run", "mine", "--", "true")
    ready(process)
    for moment in moments(duration(process) * 1.5):
        process = crossroot.popen("run", "mine", "--", "sleep", "20")
        ready(process)
        status, said = strike(process, moment, number)
        assert status == 128 + number, said
        assert "Traceback" not in said
    assert json.loads(crossroot.run("info", "mine", "--json", check=True).stdout)["sessions"] == []
    crossroot.run("rm", "mine", check=True)


def test_everybody_in_the_foreground_is_interrupted_at_once_by_ctrl_c(crossroot: Crossroot, moments: Moments) -> None:
    """Ctrl-C at a terminal goes to the whole process group: to children too, if they are still in it."""
    archive = write_archive(crossroot)
    command = ("create", "riscv64", "--from", archive)
    process = crossroot.popen(*command)
    ready(process)
    whole = duration(process)
    crossroot.run("rm", "riscv64", check=True)
    for moment in moments(whole):
        process = crossroot.popen(*command, start_new_session=True)
        ready(process)
        time.sleep(moment)
        try:
            os.killpg(process.pid, signal.SIGINT)
        except ProcessLookupError:
            pass
        said = process.communicate(timeout=30)[1].decode()
        assert as_a_shell_tells_it(process.returncode) in (0, 130), said
        assert "Traceback" not in said
        if (crossroot.store / "roots/riscv64").exists():
            crossroot.run("rm", "riscv64", check=True)
        expect.roots(crossroot.store)
