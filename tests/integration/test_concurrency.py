"""Several crossroots at once: each gets an answer, and nobody ever sees half a root."""

import dataclasses
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.support import archives, expect, http
from tests.support.identity import Crossroot

Process = subprocess.Popen[bytes]
SLOW = 1.0  # seconds a server takes so that others have time to come in between


@pytest.fixture
def server() -> Iterator[http.Server]:
    with http.serve() as found:
        yield found


def result_of(process: Process) -> "subprocess.CompletedProcess[str]":
    """Wait for a process that was started with pipes."""
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout.decode(), stderr.decode())


@pytest.fixture
def session(crossroot: Crossroot) -> Iterator[Process]:
    """A session that runs in the root riscv64 until its stdin is closed."""
    crossroot.create("riscv64")
    with crossroot.popen("run", "riscv64", "--", "sh", "-c", "echo ready; exec cat") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.communicate(timeout=10)


def listed(crossroot: Crossroot) -> list[str]:
    return [root["name"] for root in json.loads(crossroot.run("list", "--json", check=True).stdout)]


def test_of_two_creations_of_one_name_at_once_one_wins(crossroot: Crossroot) -> None:
    path = crossroot.tmp / "archive"
    path.write_bytes(archives.rootfs("riscv64", {f"etc/{number}": b"x" for number in range(100)}))
    both = [crossroot.popen("create", "riscv64", "--from", path) for _ in range(2)]
    results = sorted(map(result_of, both), key=lambda result: result.returncode)
    assert results[0].returncode == 0, results[0].stderr
    late = "the root riscv64 exists already" in results[1].stderr
    expect.error(results[1], "exists already" if late else "another crossroot is creating riscv64")
    expect.roots(crossroot.store, "riscv64")


def test_whoever_comes_during_a_creation_is_told_at_once(crossroot: Crossroot) -> None:
    content = archives.rootfs("riscv64")
    archive = crossroot.tmp / "archive"
    archive.write_bytes(content)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/rootfs"
        first = crossroot.popen("create", "riscv64", "--from", url)
        connection, _ = listener.accept()
    with connection:  # the first creation goes on when it gets its answer
        busy = "another crossroot is creating riscv64"
        assert "try again" in expect.error(crossroot.run("create", "riscv64", "--from", archive), busy)
        expect.error(crossroot.run("create", "riscv64", "--from", archive, "--force"), busy)
        expect.error(crossroot.run("rm", "riscv64"), "there is no root riscv64")
        expect.error(crossroot.run("run", "riscv64", "--", "true"), "there is no root riscv64", 125)
        result = crossroot.run("list", "--json", check=True)
        assert (json.loads(result.stdout), result.stderr) == ([], "")
        connection.recv(1 << 16)
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode() + content)
        done = result_of(first)
    assert done.returncode == 0, done.stderr
    assert listed(crossroot) == ["riscv64"]


def test_five_creations_from_a_cold_cache_download_once(crossroot: Crossroot, server: http.Server) -> None:
    content = archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64"))
    archives.serve_release(server, content)
    server.answers[archives.ARCHIVE] = [http.Answer(content, delay=SLOW)]
    cold = dataclasses.replace(crossroot, cache=crossroot.tmp / "cache")
    names = [f"root-{number}" for number in range(5)]
    started = [cold.popen("create", "riscv64", "--name", name, "--mirror", server.url) for name in names]
    results = [result_of(process) for process in started]
    assert [result.returncode for result in results] == [0] * 5, "\n".join(result.stderr for result in results)
    assert server.paths().count(archives.ARCHIVE) == 1
    assert listed(cold) == names
    assert os.listdir(cold.cache / "partial") == []


def test_a_list_during_creations_shows_whole_roots_only(crossroot: Crossroot) -> None:
    content = archives.rootfs("riscv64", {f"etc/{number}": b"x" for number in range(2000)} | {"last": b""})
    (crossroot.tmp / "archive").write_bytes(content)
    before: list[bool] = []
    with crossroot.popen("create", "riscv64", "--from", "archive") as process:
        while process.poll() is None:
            for name in listed(crossroot):
                assert name == "riscv64"
                assert (crossroot.store / "roots/riscv64/rootfs/last").exists()
            before.append(process.poll() is None)
        assert process.returncode == 0
    assert before
    assert listed(crossroot) == ["riscv64"]


def test_a_root_that_is_replaced_is_there_all_the_time(crossroot: Crossroot) -> None:
    archive, last = crossroot.tmp / "archive", crossroot.store / "roots/riscv64/rootfs/last"
    files = {f"etc/{number}": b"x" for number in range(500)}
    archive.write_bytes(archives.rootfs("riscv64", {**files, "last": b"old"}))
    crossroot.run("create", "riscv64", "--from", archive, check=True)
    archive.write_bytes(archives.rootfs("riscv64", {**files, "last": b"new"}))
    seen = []
    with crossroot.popen("create", "riscv64", "--from", archive, "--force") as process:
        while process.poll() is None:
            seen.append(last.read_text())
            time.sleep(0.001)
        assert process.returncode == 0
    assert (seen[0], last.read_text()) == ("old", "new")
    assert sorted(seen, reverse=True) == seen  # old, then new, and nothing else ever
    expect.roots(crossroot.store, "riscv64")


@pytest.mark.emulation
def test_a_root_in_use_is_neither_removed_nor_replaced(session: Process, crossroot: Crossroot) -> None:
    assert session.stdin is not None
    sessions = json.loads(crossroot.run("info", "riscv64", "--json", check=True).stdout)["sessions"]
    (pid,) = [session["pid"] for session in sessions]
    in_use = f"riscv64 is in use by pid {pid} ('sh -c echo ready; exec cat', since "
    assert "crossroot remove --force riscv64" in expect.error(crossroot.run("rm", "riscv64"), in_use)
    result = crossroot.run("create", "riscv64", "--mirror", crossroot.mirror.url, "--force")
    expect.error(result, in_use)
    expect.error(crossroot.run("create", "riscv64", "--mirror", crossroot.mirror.url), "exists already")
    assert listed(crossroot) == ["riscv64"]
    assert crossroot.run("run", "riscv64", "--", "echo", "another").stdout == "another\n"
    assert session.poll() is None
    session.stdin.close()
    assert session.wait(10) == 0
    session.stdin = None
    assert json.loads(crossroot.run("info", "riscv64", "--json", check=True).stdout)["sessions"] == []
    crossroot.run("rm", "riscv64", check=True)
    expect.roots(crossroot.store)


@pytest.mark.emulation
def test_a_forced_removal_ends_the_sessions(session: Process, crossroot: Crossroot) -> None:
    crossroot.run("rm", "--force", "riscv64", check=True)
    assert session.wait(10) == 128 + 9
    expect.roots(crossroot.store)


def test_of_two_removals_at_once_one_wins(crossroot: Crossroot) -> None:
    archive = crossroot.tmp / "archive"
    archive.write_bytes(archives.rootfs("riscv64", {f"etc/{number}": b"x" for number in range(500)}))
    crossroot.run("create", "riscv64", "--from", archive, check=True)
    both = [crossroot.popen("rm", "riscv64") for _ in range(2)]
    results = sorted(map(result_of, both), key=lambda result: result.returncode)
    assert results[0].returncode == 0, results[0].stderr
    gone = "there is no root riscv64" in results[1].stderr
    # It is "using" the root until it has set it aside.
    busy = "another crossroot is removing riscv64" if "removing" in results[1].stderr else "another crossroot is using"
    expect.error(results[1], "no root riscv64" if gone else busy)
    expect.roots(crossroot.store)
