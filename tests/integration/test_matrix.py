"""One command in many roots side by side, and the creation of many roots, as root and as an ordinary user."""

import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.integration.test_terminal import PROMPT, terminal_of
from tests.support import archives, expect, http
from tests.support.host import read_of, wait_until
from tests.support.identity import Crossroot

pytestmark = pytest.mark.emulation

Process = subprocess.Popen[bytes]


@pytest.fixture
def arches(crossroot: Crossroot) -> list[str]:
    """Two arches that the mirror has."""
    return ["riscv64", next(name for name in crossroot.mirror.arches if name != "riscv64")]


@pytest.fixture
def logs(crossroot: Crossroot) -> Path:
    return crossroot.tmp / "logs"


def environment(crossroot: Crossroot) -> dict[str, str]:
    """The environment in which the built-in profiles use the mirror of the tests."""
    folder = crossroot.tmp / "config/crossroot/profiles"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*crossroot.mirror.arches, "s390x"):
        (folder / f"{name}.toml").write_text(f'mirrors = ["{crossroot.mirror.url}"]\n')
    return {"XDG_CONFIG_HOME": str(crossroot.tmp / "config"), "TMPDIR": str(crossroot.tmp)}


def results(text: str) -> dict[str, dict[str, Any]]:
    return {result["name"]: result for result in json.loads(text)}


def test_what_is_missing_is_created_and_the_command_runs_in_all(
    crossroot: Crossroot, arches: list[str], logs: Path
) -> None:
    crossroot.create("riscv64")
    command = ("matrix", ",".join(arches), "--logs", logs, "--json", "--env", "WORD=hello", "--", "sh", "-c")
    script = 'echo "$WORD" from $(uname -m); pwd'
    result = crossroot.run(*command, script, env=environment(crossroot), check=True)
    found = results(result.stdout)
    assert list(found) == arches
    assert [found[name]["created"] for name in arches] == [False, True]
    assert {(each["result"], each["status"], each["error"]) for each in found.values()} == {("done", 0, "")}
    for name in arches:
        text = Path(found[name]["log"]).read_text()
        assert found[name]["log"] == str(logs / f"{name}.log")
        assert text.splitlines()[-2:] == [f"hello from {machine(crossroot, name)}", str(crossroot.tmp)]
    assert f"crossroot: logs are in {logs}" in result.stderr
    assert f"crossroot: 2 done ({', '.join(arches)})" in result.stderr
    expect.roots(crossroot.store, *sorted(arches))


def machine(crossroot: Crossroot, name: str) -> str:
    return crossroot.run("run", name, "--", "uname", "-m", check=True).stdout.strip()


def test_plain_lines_bear_names_and_the_worst_status_comes_back(
    crossroot: Crossroot, arches: list[str], logs: Path
) -> None:
    for name in arches:
        crossroot.create(name)
    script = f"echo out; echo error >&2; test $(hostname) = {arches[0]} || exit 37"
    result = crossroot.run("matrix", ",".join(arches), "--logs", logs, "--", "sh", "-c", script)
    assert result.returncode == 37
    width = max(map(len, arches))
    expected = [f"{name:{width}} | {word}" for name in arches for word in ("error", "out")]
    assert sorted(result.stdout.splitlines()) == sorted(expected)
    assert f"crossroot: error: {arches[1]}: the command ended with status 37" in result.stderr
    assert f"crossroot: 1 done ({arches[0]}), 1 failed ({arches[1]})" in result.stderr


def test_a_creation_that_fails_is_told_with_its_cause_and_stops_no_other(crossroot: Crossroot, logs: Path) -> None:
    file = crossroot.tmp / "results.xml"
    names = "riscv64,s390x"  # which the mirror does not have
    command = ("matrix", names, "--logs", logs, "--json", "--junit", file, "--", "true")
    result = crossroot.run(*command, env=environment(crossroot))
    assert result.returncode == 125
    found = results(result.stdout)
    assert [(each["result"], each["status"]) for each in found.values()] == [("done", 0), ("error", 125)]
    assert found["s390x"]["error"].startswith("no Alpine latest-stable for s390x: ")
    assert "mirror" in found["s390x"]["hint"]
    assert f"crossroot: error: s390x: {found['s390x']['error']}\n  hint: {found['s390x']['hint']}\n" in result.stderr
    cases = {case.attrib["name"]: case for case in ElementTree.parse(file).iter("testcase")}
    assert [child.tag for child in cases["riscv64"]] == ["system-out"]
    (error,) = cases["s390x"].iter("error")
    assert error.attrib["message"] == found["s390x"]["error"]
    expect.roots(crossroot.store, "riscv64")


def test_a_command_that_is_not_there_is_an_error_of_each_root(shared_root: Crossroot) -> None:
    result = shared_root.run("matrix", "riscv64", "--logs", shared_root.tmp / "logs", "--json", "--", "no-such-command")
    assert result.returncode == 127
    (found,) = json.loads(result.stdout)
    assert (found["result"], found["status"]) == ("error", 127)
    assert found["error"] == "the root has no command 'no-such-command'"


def test_fail_fast(crossroot: Crossroot, arches: list[str], logs: Path) -> None:
    for name in arches:
        crossroot.create(name)
    script = f"test $(hostname) = {arches[0]} && exit 3; sleep 60"
    command = ("matrix", ",".join(arches), "-j", "2", "--fail-fast", "--logs", logs, "--json", "--", "sh", "-c", script)
    result = crossroot.run(*command, timeout=30)
    assert result.returncode == 3
    assert [(each["result"], each["status"]) for each in json.loads(result.stdout)] == [
        ("failed", 3),
        ("cancelled", None),
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("riscv64,riscv64",), "riscv64 is named twice"),
        (("no-such-profile",), "no-such-profile"),
        (("riscv64,",), "'' "),
        (("riscv64", "--size", "1g"), "--size is for ephemeral sessions only"),
        (("riscv64", "--junit", "no/such/folder/file"), "cannot write no/such/folder/file: No such file"),
        (("riscv64", "--binfmt", "nonsense"), "'nonsense' is no binfmt policy"),
        (("riscv64", "-j", "0"), "0"),
    ],
)
def test_wrong_usage_runs_nothing(arguments: tuple[str, ...], text: str, shared_root: Crossroot) -> None:
    expect.error(shared_root.run("matrix", *arguments, "--", "true"), text, 125)


def test_ephemeral_leaves_the_roots_as_they_are(shared_root: Crossroot) -> None:
    logs = shared_root.tmp / "logs"
    script = "touch /etc/new && ls /etc/new"
    shared_root.run("matrix", "riscv64", "--ephemeral", "--logs", logs, "--", "sh", "-c", script, check=True)
    assert (logs / "riscv64.log").read_text() == "/etc/new\n"
    assert shared_root.run("run", "riscv64", "--", "ls", "/etc/new").returncode == 1


def test_without_a_folder_for_the_logs_a_new_one_is_made_and_told(shared_root: Crossroot) -> None:
    result = shared_root.run("matrix", "riscv64", "--", "echo", "hello", env={"TMPDIR": str(shared_root.tmp)})
    assert (result.returncode, result.stdout) == (0, "riscv64 | hello\n")
    (line,) = [line for line in result.stderr.splitlines() if "logs are in" in line]
    folder = Path(line.removeprefix("crossroot: logs are in "))
    assert folder.parent == shared_root.tmp
    assert (folder / "riscv64.log").read_text() == "hello\n"


# Interruption


@pytest.fixture
def running(crossroot: Crossroot, arches: list[str], logs: Path) -> Iterator[Process]:
    """A matrix whose commands run, in two roots that are there, and a third that is being made."""
    for name in arches:
        crossroot.create(name)
    env = environment(crossroot)
    profile = crossroot.tmp / "config/crossroot/profiles/slow.toml"
    profile.write_text(f'extends = "riscv64"\nmirrors = ["{crossroot.mirror.url}"]\nhooks = ["echo hook; sleep 60"]\n')
    names = ",".join([*arches, "slow"])
    command = ("matrix", names, "-j", "3", "--logs", logs, "--json", "--", "sh", "-c", "echo ready; sleep 60")
    process = crossroot.popen(*command, env=env, stderr=subprocess.DEVNULL)
    said = {**dict.fromkeys(arches, "ready"), "slow": "hook"}

    def all_run() -> bool:
        files = {name: logs / f"{name}.log" for name in said}
        return all(
            file.exists() and word in file.read_text().splitlines()
            for file, word in zip(files.values(), said.values(), strict=True)
        )

    wait_until(all_run, timeout=30)
    yield process
    process.communicate(timeout=30)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_and_leaves_nothing(
    number: signal.Signals, running: Process, crossroot: Crossroot, arches: list[str]
) -> None:
    running.send_signal(number)
    stdout, _ = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert {each["result"] for each in json.loads(stdout)} == {"cancelled"}
    expect.roots(crossroot.store, *sorted(arches))
    for name in arches:
        assert json.loads(crossroot.run("info", name, "--json", check=True).stdout)["sessions"] == []


def test_a_killed_crossroot_takes_all_with_it(running: Process, crossroot: Crossroot, arches: list[str]) -> None:
    running.kill()
    running.communicate(timeout=30)

    def clean() -> bool:  # the fixture `host` looks for processes and mounts
        listed = crossroot.run("list", "--json", check=True)
        return not os.listdir(crossroot.store / "unfinished") and len(json.loads(listed.stdout)) == 2

    wait_until(clean)
    expect.roots(crossroot.store, *sorted(arches))
    for name in arches:
        assert json.loads(crossroot.run("info", name, "--json", check=True).stdout)["sessions"] == []


# On a terminal


def test_a_table_on_a_terminal(crossroot: Crossroot, arches: list[str], logs: Path) -> None:
    for name in arches:
        crossroot.create(name)
    script = "echo working; while test ! -e go; do sleep 0.1; done; echo finished; test $(hostname) = riscv64"
    with terminal_of(crossroot) as terminal:
        terminal.type("stty -g > before")
        terminal.run("matrix", ",".join(arches), "-j", "2", "--logs", str(logs), "--", "sh", "-c", script)

        def row(name: str) -> list[str]:
            rows = [line.split() for line in terminal.lines() if line.startswith(f"{name} ") and " | " not in line]
            return rows[-1] if rows else []

        def working() -> bool:
            return all(row(name)[1:2] == ["running"] and row(name)[3:] == ["working"] for name in arches)

        wait_until(working)
        assert any(line.split() == ["NAME", "STATE", "TIME", "LAST", "LINE"] for line in terminal.lines())
        assert all(len([line for line in terminal.lines() if line.startswith(f"{name} ")]) == 1 for name in arches)
        (crossroot.tmp / "go").touch()
        terminal.wait_for_prompt(PROMPT)
        assert row("riscv64")[1:2] == ["done"]
        assert row(arches[1])[1:3] == ["failed", "1"]
        terminal.wait_for(f"{arches[1]} | finished")
        terminal.wait_for(f"crossroot: error: {arches[1]}: the command ended with status 1")
        terminal.type("echo status $?; stty -g | cmp - before && echo unchanged")
        terminal.wait_for("status 1")
        terminal.wait_for("unchanged")


def test_ctrl_c_on_a_terminal_ends_all(crossroot: Crossroot, arches: list[str], logs: Path) -> None:
    for name in arches:
        crossroot.create(name)
    with terminal_of(crossroot) as terminal:
        script = "echo ready; sleep 60"
        terminal.run("matrix", ",".join(arches), "-j", "2", "--logs", str(logs), "--", "sh", "-c", script)
        wait_until(
            lambda: all((logs / f"{name}.log").exists() and (logs / f"{name}.log").read_text() for name in arches)
        )
        terminal.press("C-c")
        terminal.wait_for_prompt(PROMPT)
        terminal.type("echo status $?")
        terminal.wait_for("status 130")
        assert sum("cancelled" in line for line in terminal.lines()) == 2


def test_ctrl_z_stops_all_until_it_is_continued(crossroot: Crossroot, logs: Path) -> None:
    crossroot.create("riscv64")
    log = logs / "riscv64.log"
    with terminal_of(crossroot) as terminal:
        script = "while test ! -e end; do echo x; sleep 0.05; done"
        terminal.run("matrix", "riscv64", "--logs", str(logs), "--", "sh", "-c", script)
        wait_until(lambda: log.exists() and log.stat().st_size > 0)
        terminal.press("C-z")
        terminal.wait_for_prompt(PROMPT)

        def stopped() -> int:
            """How many processes of the matrix are stopped, itself and its jobs."""
            pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
            states = [read_of(pid, "stat") for pid in pids if str(logs) in read_of(pid, "cmdline")]
            return sum(state.rpartition(")")[2].split()[:1] == ["T"] for state in states)

        wait_until(lambda: stopped() == 2)
        (crossroot.tmp / "end").touch()
        terminal.type("fg; echo status $?")
        terminal.wait_for("status 0")


def test_creations_on_a_terminal(crossroot: Crossroot, arches: list[str]) -> None:
    with terminal_of(crossroot) as terminal:
        terminal.run("create", *arches, "s390x", "--mirror", crossroot.mirror.url)
        terminal.wait_for_prompt(PROMPT)
        rows = {line.split()[0]: line.split()[1] for line in terminal.lines() if line.startswith((*arches, "s390x "))}
        assert rows == {**dict.fromkeys(arches, "done"), "s390x": "error"}
        assert any(line.startswith("crossroot: error: s390x: no Alpine") for line in terminal.lines())
        terminal.type("echo status $?")
        terminal.wait_for("status 1")
    expect.roots(crossroot.store, *sorted(arches))


# Creation of several


def test_several_are_created_and_a_failure_undoes_none(crossroot: Crossroot, arches: list[str]) -> None:
    result = crossroot.run("create", *arches, "s390x", "--mirror", crossroot.mirror.url, timeout=120)
    assert (result.returncode, result.stdout) == (1, "")
    for name in arches:
        assert f"crossroot: created {name}: " in result.stderr
    assert "crossroot: error: s390x: no Alpine" in result.stderr
    expect.roots(crossroot.store, *sorted(arches))
    again = crossroot.run("create", *arches, "--mirror", crossroot.mirror.url)
    assert again.returncode == 1
    assert all(f"crossroot: error: {name}: the root {name} exists already" in again.stderr for name in arches)
    crossroot.run("create", *arches, "--mirror", crossroot.mirror.url, "--force", timeout=120, check=True)
    expect.roots(crossroot.store, *sorted(arches))


@pytest.mark.parametrize(
    "option", [("--name", "x"), ("--from", "x"), ("--sha256", "0" * 64), ("--sha512", "0" * 128), ("--locked", "x")]
)
def test_options_that_are_about_one_root(option: tuple[str, str], crossroot: Crossroot) -> None:
    result = crossroot.run("create", "riscv64", "aarch64", *option)
    expect.error(result, option[0], 2)
    assert not crossroot.store.exists()


def test_one_archive_for_several_profiles_is_downloaded_once(crossroot: Crossroot) -> None:
    cold = dataclasses.replace(crossroot, cache=crossroot.tmp / "cache")
    content = archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64"))
    environment(cold)
    folder = crossroot.tmp / "config/crossroot/profiles"
    names = ["one", "two", "three"]
    for name in names:
        (folder / f"{name}.toml").write_text('extends = "riscv64"\n')
    with http.serve() as server:
        archives.serve_release(server, content)
        server.answers[archives.ARCHIVE] = [http.Answer(content, delay=0.5)]
        env = {"XDG_CONFIG_HOME": str(crossroot.tmp / "config")}
        cold.run("create", *names, "--mirror", server.url, env=env, check=True)
        assert server.paths().count(archives.ARCHIVE) == 1
    expect.roots(crossroot.store, *sorted(names))
    assert os.listdir(cold.cache / "partial") == []


def test_who_waits_for_a_download_holds_up_no_other_and_can_be_interrupted(crossroot: Crossroot) -> None:
    env = environment(crossroot)
    folder = crossroot.tmp / "config/crossroot/profiles"
    with http.serve() as server:
        server.answers[archives.INDEX] = [http.Answer(b"---", stall=0)]
        (folder / "stalled.toml").write_text(f'extends = "riscv64"\nmirrors = ["{server.url}"]\n')
        process = crossroot.popen("create", "stalled", "riscv64", env=env)
        wait_until(lambda: server.seen and (crossroot.store / "roots/riscv64").exists(), timeout=30)
        assert process.poll() is None
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"Traceback" not in said
    expect.roots(crossroot.store, "riscv64")
