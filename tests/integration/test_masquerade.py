"""ccache and distcc in a root of Debian: what is compiled once, and where; the same objects; nothing in the root."""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.workshop import Workshop

pytestmark = [pytest.mark.network, pytest.mark.long, pytest.mark.emulation, pytest.mark.timeout(1800)]

SOURCE = '#include <stdio.h>\nint say(const char *word) { return printf("%s %s\\n", __FILE__, word); }\n'
COUNTS = "ccache --print-stats | grep -E '^(direct_cache_hit|preprocessed_cache_hit|cache_miss)'"


@pytest.fixture(scope="module")
def source(workshop: Workshop) -> Path:
    """A file in C that all users may write beside."""
    folder = workshop.folder / "cached"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "say.c").write_text(SOURCE)
    return folder


def sh(workshop: Workshop, script: str, *options: str, level: int = 1) -> str:
    """The output of a script in the folder of the source, in a session of the root."""
    words = ["run", workshop.target.name, "--accelerate", str(level), *options, "--", "sh", "-ec", script]
    return workshop.crossroot.run(*words, cwd=workshop.folder / "cached", timeout=900, check=True).stdout


def hits_and_misses(workshop: Workshop, script: str, *options: str, level: int = 1) -> tuple[int, int]:
    """What ccache counts while a script runs."""
    said = sh(workshop, f"ccache -z >&2\n{script}\n{COUNTS}", "--ccache", *options, level=level)
    counts = {name: int(count) for name, count in re.findall(r"^(\w+)\t(\d+)$", said, re.MULTILINE)}
    return counts["direct_cache_hit"] + counts["preprocessed_cache_hit"], counts["cache_miss"]


@pytest.mark.parametrize("level", [0, 1])
def test_what_was_compiled_once_comes_from_the_cache(workshop: Workshop, source: Path, level: int) -> None:
    script = f"gcc -g -O{level + 1} -c say.c"
    sh(workshop, f'{script} -o plain.o; test -z "$(ls /dev | grep crossroot-)"', level=level)
    assert hits_and_misses(workshop, f"{script} -o first.o", level=level) == (0, 1)
    again = f"cc -g -O{level + 1} -c say.c -o again.o"
    assert hits_and_misses(workshop, f"{script} -o second.o; {again}; {again}", "--ephemeral", level=level)[0] >= 2
    assert len({(source / name).read_bytes() for name in ("plain.o", "first.o", "second.o", "again.o")}) == 1


def test_every_user_of_a_root_shares_the_cache_and_login_shells_use_it(workshop: Workshop, source: Path) -> None:
    compile_it = "gcc -O3 -c say.c -o {}.o"
    assert hits_and_misses(workshop, compile_it.format("nobody"), "--user", "nobody") == (0, 1)
    assert hits_and_misses(workshop, f"sh -lc '{compile_it.format('root')}'") == (1, 0)
    assert (source / "nobody.o").stat().st_mode & 0o777 == 0o644
    cache = workshop.crossroot.cache / "ccache"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert cache.stat().st_uid == workshop.crossroot.identity.uid


def test_nothing_of_it_stays_in_the_root(workshop: Workshop, source: Path) -> None:
    name = workshop.target.name
    digests = []
    for _ in range(2):
        facts = workshop.crossroot.run("info", name, "--json", "--digest", check=True).stdout
        digests.append(json.loads(facts)["digest"])
        sh(workshop, "gcc -Og -c say.c -o own.o", "--ccache")
    assert digests[0] == digests[1]
    assert (source / "own.o").exists()


def test_distcc_compiles_by_a_native_cross_compiler_the_same_objects(workshop: Workshop, source: Path) -> None:
    compile_it = "gcc -g -O2 -D FAR=1 -c say.c"
    sh(workshop, f"{compile_it} -o near.o")
    with server(workshop) as (host, log), distributed(workshop, host):
        sh(workshop, f"{compile_it} -o far0.o", level=0)
        sh(workshop, f"{compile_it} -o far1.o")
        assert hits_and_misses(workshop, f"{compile_it} -o far2.o; {compile_it} -o far3.o") == (1, 1)
        said = log.read_text()
    compiler = f"{workshop.target.qemu}-linux-gnu-gcc-14"
    assert len(re.findall(rf"COMPILE_OK exit:0 .*{compiler} say\.c", said)) == 3
    assert {(source / f"far{number}.o").read_bytes() for number in range(4)} == {(source / "near.o").read_bytes()}


def test_a_host_that_is_not_there_leaves_the_work_to_the_session(workshop: Workshop, source: Path) -> None:
    with distributed(workshop, f"127.0.0.1:{free_port()}"):
        sh(workshop, "gcc -O2 -D ALONE -c say.c -o alone.o")
    assert (source / "alone.o").exists()


@contextmanager
def distributed(workshop: Workshop, host: str) -> Iterator[None]:
    """The root as if its profile had this host for distcc; one of its own would take minutes to make."""
    file = workshop.crossroot.store / "roots" / workshop.target.name / "root.json"
    before = file.read_text()
    file.write_text(json.dumps({**json.loads(before), "distcc": [host]}))
    try:
        yield
    finally:
        file.write_text(before)


@contextmanager
def server(workshop: Workshop) -> Iterator[tuple[str, Path]]:
    """A real distccd, of Debian for this machine's arch with the cross compiler; its address and its log."""
    crossroot, target = workshop.crossroot, workshop.target
    profile = {"x86_64": "debian-amd64", "aarch64": "debian-arm64"}[os.uname().machine]
    packages = ["--package", "distcc", "--package", f"gcc-14-{target.qemu}-linux-gnu"]
    crossroot.run("create", profile, "--name", "server", *packages, timeout=900, check=True)
    port, log = free_port(), crossroot.tmp / "distccd.log"
    words = ["--no-detach", "--daemon", "--allow", "127.0.0.1", "--listen", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as stream:
        process = crossroot.popen(
            *("run", "server", "--", "distccd", *words, "--jobs", "2", "--log-stderr", "--verbose"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
        )
    try:
        await_listening(process, port, log)
        yield f"127.0.0.1:{port}/2", log
    finally:
        process.terminate()
        process.wait(timeout=30)
        crossroot.run("remove", "server", timeout=120, check=True)


def await_listening(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
