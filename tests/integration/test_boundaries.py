"""Killed or interrupted at each system call that changes something, in each process of a command: whole roots or
none, nothing left outside of store and cache, and the next command repairs what is left and says so.

`make test` strikes at some of the calls, `make test-long` at all of them, or at many where they are thousands.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import apk_repository, archives, expect, http, inject, releases
from tests.support.apk_repository import Package
from tests.support.figures import Figures
from tests.support.identity import Crossroot
from tests.support.inject import Blow, Commands, Outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not inject.SUPPORTED, reason="needs root"),
]

MINE = "mine"
FILES = {"etc/a": b"x" * 5000, "etc/b/c": b"", "etc/d": b"x"}
# What the main process may come to when it was struck; 0 where it was done or the blow hit another one.
STATUSES = {
    inject.kill_main: (0, -signal.SIGKILL),
    inject.kill_caller: (0, -signal.SIGKILL, 1, 125, 128 + signal.SIGKILL),
    inject.terminate: (0, -signal.SIGTERM, 128 + signal.SIGTERM),
    inject.interrupt: (0, -signal.SIGINT, 128 + signal.SIGINT, 127),  # 127: what was typed is cut short
}
every_blow = pytest.mark.parametrize("blow", STATUSES, ids=lambda blow: blow.__name__)
at_some_or_all = pytest.mark.parametrize(
    "some", [True, pytest.param(False, marks=pytest.mark.exhaustive)], ids=["some", "all"]
)


@dataclass(frozen=True)
class Strikes:
    """most: at how many calls of a command to strike."""

    commands: Commands
    blow: Blow
    most: int
    chance: random.Random
    figures: Figures

    @property
    def crossroot(self) -> Crossroot:
        return self.commands.crossroot

    def at(self, *arguments: str | Path, before: Callable[[], None], terminal: bool = False) -> Iterator[Outcome]:
        """Run a command again and again, to its end first, then struck at one call after another.

        before: makes the store what it has to be. Sees to it that what is struck leaves nothing outside of the store
        and the cache, and what every command says and exits with.
        """
        before()
        whole = self._run(arguments, 0, terminal)
        assert whole.status == 0, whole.stderr
        assert whole.boundaries > 50
        calls = range(1, whole.boundaries + 1)
        for number in sorted(self.chance.sample(calls, min(self.most, len(calls)))):
            before()
            outside = self._outside()
            outcome = self._run(arguments, number, terminal)
            where = f"struck at call {number} of {whole.boundaries}, {outcome.struck}: {outcome}"
            assert outcome.status in STATUSES[self.blow], where
            assert "Traceback" not in outcome.stderr, where
            assert "internal error" not in outcome.stderr, where
            assert self._outside() == outside, where
            yield outcome
            self.figures.add("interruptions at system calls", bool(outcome.struck))

    def _run(self, arguments: Sequence[str | Path], number: int, terminal: bool) -> Outcome:
        env = {"TMPDIR": str(self.crossroot.tmp / "temporary"), "HOME": str(self.crossroot.tmp / "home")}
        if not terminal:
            return self.commands.run(*arguments, at=number, blow=self.blow, env=env)
        master, slave = os.openpty()
        try:
            settings = termios.tcgetattr(slave)
            outcome = self.commands.run(*arguments, at=number, blow=self.blow, env=env, terminal=(master, slave))
            if outcome.status >= 0:
                assert termios.tcgetattr(slave) == settings, "the terminal is not as it was"
            return outcome
        finally:
            os.close(master)
            os.close(slave)

    def _outside(self) -> list[str]:
        """All files of the test but those in store and cache, and the mounts."""
        tmp = self.crossroot.tmp
        files = [
            os.path.join(folder, name)
            for top in sorted(tmp.iterdir())
            if top not in (self.crossroot.store, self.crossroot.cache)
            for folder, folders, names in os.walk(top)
            for name in (*folders, *names)
        ]
        return sorted(files) + Path("/proc/self/mountinfo").read_text().splitlines()

    def listed(self) -> list[str]:
        """Names of the roots by the next command, which has to clean up and to say so; and all of them are whole."""
        expect.free(self.crossroot.store, MINE)
        unfinished = self.crossroot.store / "unfinished"
        left = sorted(os.listdir(unfinished)) if unfinished.exists() else []
        if self.blow in (inject.terminate, inject.interrupt):
            assert len(left) <= 1
        result = self.commands.run("list", "--json")
        verbs = {
            "create": "the unfinished creation",
            "change": "what was left of the change",
            "remove": "what was left of the removal",
        }
        expected = [f"crossroot: removed {verbs[entry.split('.')[1]]} of {MINE} (it was interrupted)" for entry in left]
        assert (result.status, result.stderr.splitlines()) == (0, expected)
        names = [root["name"] for root in json.loads(result.stdout)]
        if self.crossroot.store.exists():
            expect.roots(self.crossroot.store, *names)
        return names

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
        """A command that nobody disturbs; it has to succeed."""
        outcome = self.commands.run(*arguments, env=env)
        assert outcome.status == 0, outcome.stderr
        return outcome

    def remove_if_there(self) -> None:
        if (self.crossroot.store / "roots" / MINE).exists():
            self.run("rm", MINE)


@pytest.fixture
def strikes(
    crossroot: Crossroot, tmp_path: Path, blow: Blow, some: bool, chance: random.Random, figures: Figures
) -> Iterator[Strikes]:
    crossroot = dataclasses.replace(crossroot, cache=crossroot.tmp / "cache")
    crossroot.identity.run(["mkdir", crossroot.tmp / "temporary", crossroot.tmp / "home"], check=True)
    with inject.commands(crossroot, tmp_path) as commands:
        # Root's calls are the user's, but for the id map.
        most = 3 if some else 400 if (blow, crossroot.kind) == (inject.kill_main, "user") else 25
        yield Strikes(commands, blow, most, chance, figures)


def write_archive(crossroot: Crossroot) -> Path:
    path = crossroot.tmp / "archive"
    path.write_bytes(archives.rootfs("riscv64", FILES))
    return path


def is_whole(crossroot: Crossroot) -> bool:
    etc = crossroot.store / "roots" / MINE / "rootfs/etc"
    return {"a", "b", "d", "passwd", "os-release", "resolv.conf"} <= set(os.listdir(etc))


@every_blow
@at_some_or_all
def test_a_creation(strikes: Strikes) -> None:
    create = ("create", "riscv64", "--name", MINE, "--from", write_archive(strikes.crossroot))
    for outcome in strikes.at(*create, before=strikes.remove_if_there):
        names = strikes.listed()
        assert names == [MINE] or outcome.status != 0
        assert not names or is_whole(strikes.crossroot)


@every_blow
@at_some_or_all
def test_a_creation_with_a_download(strikes: Strikes) -> None:
    """What a killed download leaves in the cache is of use to the next one, or goes."""
    archive = archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64", FILES))
    cache = strikes.crossroot.cache

    def before() -> None:
        strikes.remove_if_there()
        shutil.rmtree(cache, ignore_errors=True)

    with http.serve() as server:
        archives.serve_release(server, archive)
        create = ("create", "riscv64", "--name", MINE, "--mirror", server.url)
        for outcome in strikes.at(*create, before=before):
            names = strikes.listed()
            assert names == [MINE] or outcome.status != 0
            strikes.remove_if_there()
            strikes.run(*create)
            assert is_whole(strikes.crossroot)
            assert os.listdir(cache / "partial") == []


@every_blow
@at_some_or_all
def test_a_replacement(strikes: Strikes) -> None:
    create = ("create", "riscv64", "--name", MINE, "--from", write_archive(strikes.crossroot))
    strikes.run(*create)
    for _ in strikes.at(*create, "--force", before=lambda: None):
        assert strikes.listed() == [MINE]
        assert is_whole(strikes.crossroot)


@every_blow
@at_some_or_all
def test_a_removal(strikes: Strikes) -> None:
    create = ("create", "riscv64", "--name", MINE, "--from", write_archive(strikes.crossroot))

    def before() -> None:
        if not (strikes.crossroot.store / "roots" / MINE).exists():
            strikes.run(*create)

    for outcome in strikes.at("rm", MINE, before=before):
        names = strikes.listed()
        assert names == [] or outcome.status != 0
        assert not names or is_whole(strikes.crossroot)


@pytest.mark.emulation
@every_blow
@at_some_or_all
@pytest.mark.parametrize("command", ["run", "shell"])
def test_a_session(command: str, strikes: Strikes) -> None:
    """A shell on a terminal, a command on pipes; their records go, and the root can be used and removed."""
    strikes.crossroot.create("riscv64", "--name", MINE)
    arguments = ("run", MINE, "--", "true") if command == "run" else ("shell", MINE)
    root = strikes.crossroot.store / "roots" / MINE
    for _ in strikes.at(*arguments, before=lambda: None, terminal=command == "shell"):
        assert strikes.listed() == [MINE]
        assert json.loads(strikes.run("info", MINE, "--json").stdout)["sessions"] == []
        assert os.listdir(root / "sessions") == []
    strikes.run("run", MINE, "--", "true")
    strikes.run("rm", MINE)


@pytest.mark.alpine
@pytest.mark.emulation
@every_blow
@at_some_or_all
def test_an_installation(strikes: Strikes, tmp_path: Path) -> None:
    """The root has the package, or is as it was."""
    crossroot = strikes.crossroot
    branch = releases.copy(crossroot.mirror, ["riscv64", releases.HOST], tmp_path)
    key = apk_repository.new_key()
    package = Package("hello", "1.0-r0", "riscv64", {"usr/bin/hello": b"#!/bin/sh\necho hello\n"})
    for repository in ("main", "community"):
        apk_repository.write(tmp_path / branch / repository, [package], key)
    (crossroot.tmp / key.name).write_bytes(key.public)
    profiles = crossroot.tmp / "config/crossroot/profiles"
    profiles.mkdir(parents=True)
    env = {"XDG_CONFIG_HOME": str(crossroot.tmp / "config")}
    rootfs = crossroot.store / "roots" / MINE / "rootfs"

    def before() -> None:
        if not rootfs.exists() or (rootfs / "usr/bin/hello").exists():
            strikes.run("create", MINE, "--force", env=env)

    with http.serve(tmp_path) as server:
        lines = ['extends = "riscv64"', f'mirrors = ["{server.url}"]', f'keys = ["{crossroot.tmp / key.name}"]']
        (profiles / f"{MINE}.toml").write_text("\n".join(lines))
        for outcome in strikes.at("install", MINE, "hello", before=before):
            assert strikes.listed() == [MINE]
            installed = (rootfs / "usr/bin/hello").exists()
            assert installed or outcome.status != 0
            assert installed == ("hello" in (rootfs / "etc/apk/world").read_text().split())
            strikes.run("run", MINE, "--", "true")
