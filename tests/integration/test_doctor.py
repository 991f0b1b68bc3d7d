"""`crossroot doctor`: what is missing is told with its cause and a cure, and the exit status is honest."""

import json
import os
import platform
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crossroot import arch as arches
from crossroot import doctor, emulator
from tests.support import http
from tests.support.identity import Crossroot, Identity
from tests.support.mirror import Mirror
from tests.support.space import TABLE, Space, space

pytestmark = [
    pytest.mark.root,
    pytest.mark.emulation,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

Findings = dict[str, dict[str, Any]]


@pytest.fixture
def host_space(tmp_path: Path) -> Iterator[Space]:
    """A mount namespace in which the host can be damaged."""
    with space(tmp_path, private=False) as made:
        yield made


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Space]:
    """A mount and a user namespace."""
    with space(tmp_path, private=True) as made:
        yield made


def findings(where: Space, mirror: Mirror, *arguments: str, status: int = 0) -> Findings:
    """What doctor finds in there, by id; its exit status has to be `status`."""
    done = where.crossroot("doctor", "--json", "--mirror", mirror.url, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    return {finding["id"]: finding for finding in json.loads(done.stdout)}


def bad(found: Findings) -> Findings:
    return {name: finding for name, finding in found.items() if finding["level"] != "ok"}


def test_where_all_is_well_it_says_so(crossroot: Crossroot) -> None:
    done = crossroot.run("doctor", "riscv64", "--json", "--mirror", crossroot.mirror.url)
    assert done.returncode == 0, done.stdout
    found = {finding["id"]: finding for finding in json.loads(done.stdout)}
    assert set(bad(found)) <= {"binfmt"}, "a user cannot list the host's handlers"
    assert {"kernel", "user-namespaces", "namespaces", "proc", "overlay", "store", "cache", "mirror"} <= set(found)
    assert "arch-riscv64" in found
    assert ("id-ranges" in found) == (crossroot.kind == "user")
    assert all(finding["cause"] == finding["cure"] == "" for finding in found.values() if finding["level"] == "ok")


def test_what_it_promises_holds(crossroot: Crossroot) -> None:
    assert crossroot.run("doctor", "armv7", "--mirror", crossroot.mirror.url).returncode == 0
    crossroot.create("armv7")
    assert crossroot.run("run", "armv7", "--", "true").returncode == 0


def test_it_prints_for_people(host_space: Space, mirror: Mirror) -> None:
    done = host_space.crossroot("doctor", "riscv64", "--mirror", f"{mirror.url}/nothing")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("problem  "))
    assert lines[at] == f"problem  {mirror.url}/nothing cannot be used"
    assert lines[at + 1].strip().startswith("cause: ")
    assert lines[at + 2].strip().startswith("cure: ")


def test_without_arches_alpines_are_looked_at(host_space: Space, mirror: Mirror) -> None:
    found = findings(host_space, mirror)
    assert [name for name in found if name.startswith("arch-")] == [f"arch-{arch.name}" for arch in arches.ALPINE]
    assert f"arch-{platform.machine()}" not in bad(found)


def test_a_missing_emulator_is_a_warning_as_it_can_be_fetched(host_space: Space, mirror: Mirror) -> None:
    host_space.hide_emulators()
    finding = findings(host_space, mirror, "riscv64")["arch-riscv64"]
    assert finding["level"] == "warning"
    assert "will fetch one" in finding["what"]
    assert finding["cause"] == "no emulator for riscv64 on this host"
    assert "crossroot emulator fetch riscv64" in finding["cure"]


def test_a_missing_emulator_is_a_problem_where_nothing_can_be_fetched(host_space: Space, mirror: Mirror) -> None:
    host_space.hide_emulators()
    host_space.sh("rm /usr/bin/apt-get")  # so that Debian's archive is no source
    unreachable = Mirror(f"{mirror.url}/nothing", "", is_alpine=True, arches=())
    found = findings(host_space, unreachable, "riscv64", status=1)
    assert {name: finding["level"] for name, finding in bad(found).items()} == {
        "mirror": "problem",
        "arch-riscv64": "problem",
    }


def test_an_emulator_that_does_not_work_is_a_problem(host_space: Space, mirror: Mirror) -> None:
    host_space.sh(f"mount --bind {emulator.find(arches.find('s390x'))} /usr/bin/qemu-riscv64-static")
    finding = findings(host_space, mirror, "riscv64", status=1)["arch-riscv64"]
    assert (finding["level"], finding["cure"]) == ("problem", "crossroot emulator fetch riscv64")
    assert "does not run riscv64" in finding["what"]
    assert "exited with" in finding["cause"]
    assert findings(host_space, mirror)["arch-riscv64"]["level"] == "warning", "nobody asked for it"


def test_a_broken_handler_of_the_host_is_named_though_sessions_do_without(host_space: Space, mirror: Mirror) -> None:
    host_space.add("test-ppc", "ppc", emulator.find(arches.find("ppc")), "OP")
    finding = findings(host_space, mirror, "ppc")["arch-ppc"]
    assert finding["level"] == "warning"
    assert finding["cause"] == "it runs, but not inside a root, as its entry lacks flag F"
    assert finding["cure"] == "crossroot binfmt register ppc"


def test_a_disabled_binfmt_misc_is_told(private: Space, mirror: Mirror) -> None:
    private.sh(f"echo 0 > {TABLE}/status")
    finding = findings(private, mirror, "riscv64")["binfmt"]
    assert (finding["level"], finding["cause"]) == ("warning", "binfmt_misc is disabled")
    private.sh(finding["cure"])
    assert "binfmt" not in bad(findings(private, mirror, "riscv64"))


def test_refused_user_namespaces_are_told_with_the_setting_that_refuses_them(private: Space, mirror: Mirror) -> None:
    private.sh("echo 0 > /proc/sys/user/max_user_namespaces")  # of this user namespace only
    found = bad(findings(private, mirror, "riscv64"))
    assert found["user-namespaces"]["level"] == "warning", "root does without"
    assert found["user-namespaces"]["cure"] == "sudo sysctl -w user.max_user_namespaces=15000"
    assert found["private-handlers"]["level"] == "warning"


def test_a_masked_proc_is_told(host_space: Space, user: Identity, mirror: Mirror) -> None:
    host_space.sh("mount -t tmpfs -o ro tmpfs /proc/irq")  # as container engines do
    as_user = ("setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", user.python)
    done = host_space.run(*as_user, "-m", "crossroot", "doctor", "--json", "--mirror", mirror.url, "riscv64")
    found = {finding["id"]: finding for finding in json.loads(done.stdout)}["proc"]
    assert found["level"] == "warning"
    assert "masked" in found["cause"]


@pytest.mark.parametrize(
    ("options", "level", "cause"),
    [
        ("size=4g", "ok", ""),
        ("size=4g,ro", "problem", "mounted read-only"),
        ("size=4g,noexec", "problem", "mounted noexec"),
        ("size=4g,nosuid", "warning", "mounted nosuid"),
        ("size=500m", "warning", "space for a small root only"),
        ("size=20m", "problem", "too little space"),
    ],
)
def test_the_stores_file_system(
    host_space: Space, mirror: Mirror, tmp_path: Path, options: str, level: str, cause: str
) -> None:
    host_space.sh(f"mkdir {tmp_path}/store; mount -t tmpfs -o {options} tmpfs {tmp_path}/store")
    finding = findings(host_space, mirror, "x86_64", status=1 if level == "problem" else 0)["store"]
    assert (finding["level"], cause in finding["cause"]) == (level, True), finding
    assert ("CROSSROOT_STORE" in finding["cure"]) == (level != "ok")
    assert f"{tmp_path}/store: tmpfs" in finding["what"]


@pytest.mark.parametrize("store", ["/var/lib/crossroot-of-root/store", "/root/below/store"])
def test_a_store_that_is_not_ours_to_write(user: Identity, mirror: Mirror, store: str) -> None:
    command: list[str | Path] = [user.python, "-m", "crossroot", "doctor", "--json", "--mirror", mirror.url, "riscv64"]
    done = user.run(command, env={"CROSSROOT_STORE": store})
    found = {finding["id"]: finding for finding in json.loads(done.stdout)}
    assert (done.returncode, found["store"]["level"]) == (1, "problem")
    assert "is not writable for you" in found["store"]["cause"]


def test_a_user_without_the_map_helpers_is_warned(user: Identity, mirror: Mirror) -> None:
    command: list[str | Path] = [user.python, "-m", "crossroot", "doctor", "--json", "--mirror", mirror.url, "riscv64"]
    done = user.run(command, env={"PATH": "/nowhere"})
    found = {finding["id"]: finding for finding in json.loads(done.stdout)}
    assert (done.returncode, found["id-ranges"]["level"]) == (0, "warning"), found
    assert found["id-ranges"]["cause"] == "newuidmap and newgidmap are not installed"
    assert "uidmap" in found["id-ranges"]["cure"]


def test_a_mirror_that_is_silent_costs_no_more_than_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, http.serve() as server:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        both = doctor._mirrors([url, server.url], [])
        assert time.monotonic() - began < 3
        assert [finding.level for finding in both] == ["problem", "problem"], "neither has Alpine"
        assert "does not answer" in both[0].cause
        server.answers["/latest-stable/releases/aarch64/latest-releases.yaml"] = [http.Answer(b"---\n")]
        monkeypatch.setattr(doctor, "_PATIENCE", 2.0)
        one = doctor._mirrors([server.url, url], [])
        assert [finding.level for finding in one] == ["ok", "warning"], "one that answers is enough"
