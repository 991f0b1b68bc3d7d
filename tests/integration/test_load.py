"""Many at once, many of them, and large ones: nothing lost, no deadlock, bounded memory."""

import dataclasses
import io
import json
import lzma
import os
import re
import resource
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import archives, expect, http
from tests.support.figures import Figures
from tests.support.identity import Crossroot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RUNS = 50
CREATIONS = 20
ROOTS = 1000
MEMORY = 300 << 20  # bytes of address space in which a process of crossroot has to do
RESIDENT = 100 << 20  # bytes of it that may be in memory, however many files a root has


def end_of(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout.decode(), stderr.decode()


@pytest.mark.long
@pytest.mark.emulation
def test_fifty_sessions_in_one_root(shared_root: Crossroot, figures: Figures) -> None:
    command = ("run", "riscv64", "--", "sh", "-c", "echo $0; cat; exit $0")
    started = [shared_root.popen(*command, str(number)) for number in range(RUNS)]
    for process in started:  # all are there before the first may end
        assert process.stdout
        process.stdout.readline()
    facts = json.loads(shared_root.run("info", "riscv64", "--json", check=True).stdout)
    assert len(facts["sessions"]) == RUNS
    assert [end_of(process)[0] for process in started] == list(range(RUNS))
    assert json.loads(shared_root.run("info", "riscv64", "--json", check=True).stdout)["sessions"] == []
    figures.add("concurrent sessions", RUNS)


@pytest.mark.long
def test_twenty_creations_from_a_cold_cache_download_once(crossroot: Crossroot, figures: Figures) -> None:
    content = archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64"))
    cold = dataclasses.replace(crossroot, cache=crossroot.tmp / "cache")
    names = [f"root-{number:02}" for number in range(CREATIONS)]
    with http.serve() as server:
        archives.serve_release(server, content)
        server.answers[archives.ARCHIVE] = [http.Answer(content, delay=1)]
        started = [cold.popen("create", "riscv64", "--name", name, "--mirror", server.url) for name in names]
        results = [end_of(process) for process in started]
    assert [status for status, _, _ in results] == [0] * CREATIONS, results
    assert server.paths().count(archives.ARCHIVE) == 1
    expect.roots(cold.store, *names)
    figures.add("concurrent creations", CREATIONS)


@pytest.mark.long
def test_creations_and_removals_of_one_name_at_once(crossroot: Crossroot) -> None:
    """Each says how it went, and in the end there is a whole root or none."""
    archive = crossroot.tmp / "archive"
    archive.write_bytes(archives.rootfs("riscv64", {f"etc/{number}": b"x" for number in range(300)}))
    commands = [("create", "riscv64", "--from", archive, "--force"), ("rm", "riscv64")] * 8
    results = [end_of(process) for process in [crossroot.popen(*command) for command in commands]]
    for status, _, said in results:
        assert status in (0, 1)
        assert "Traceback" not in said
        assert status == 0 or said.count("crossroot: error: ") == 1
    crossroot.run("list", check=True)
    names = os.listdir(crossroot.store / "roots")
    expect.roots(crossroot.store, *names)
    for name in names:
        assert len(os.listdir(crossroot.store / "roots" / name / "rootfs/etc")) == 303


@pytest.mark.long
def test_a_thousand_roots(crossroot: Crossroot, figures: Figures) -> None:
    archive = crossroot.tmp / "archive"
    archive.write_bytes(archives.rootfs("riscv64"))
    crossroot.run("create", "riscv64", "--from", archive, check=True)
    roots = crossroot.store / "roots"
    copy = 'for n in $(seq 2 "$1"); do cp -a "$0" "${0%/*}/r$n"; done'
    crossroot.identity.run(["sh", "-ec", copy, roots / "riscv64", str(ROOTS)], timeout=300, check=True)
    assert len(json.loads(crossroot.run("list", "--json", timeout=20, check=True).stdout)) == ROOTS
    names = sorted(os.listdir(roots))
    crossroot.run("rm", *names, timeout=300, check=True)
    expect.roots(crossroot.store)
    figures.add("roots in one store", ROOTS)


class Endless(io.RawIOBase):
    """A tar of empty files, made as it is read."""

    def __init__(self, count: int) -> None:
        self.headers = (self._header(number) for number in range(count))
        self.rest = b""

    def _header(self, number: int) -> bytes:
        return tarfile.TarInfo(f"d{number // 1000}/{number}").tobuf(tarfile.USTAR_FORMAT)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while len(self.rest) < len(buffer) and (header := next(self.headers, None)):
            self.rest += header
        count = min(len(buffer), len(self.rest))
        buffer[:count], self.rest = self.rest[:count], self.rest[count:]
        return count


def write_many(path: Path, count: int) -> None:
    """An archive of a rootfs with `count` empty files."""
    base = archives.rootfs("riscv64")
    with tarfile.open(fileobj=io.BytesIO(base)) as tar:
        ends = max(member.offset_data + -(-member.size // 512) * 512 for member in tar)
    with path.open("wb") as file:
        file.write(base[:ends])
        source = io.BufferedReader(Endless(count), 1 << 20)
        while block := source.read(1 << 20):
            file.write(block)
        file.write(bytes(1024))


def limited(crossroot: Crossroot, limit: str, *arguments: str | Path) -> "subprocess.Popen[bytes]":
    """Start crossroot under a limit, as ulimit of bash takes it."""
    words = ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", *crossroot.command(*arguments)]
    return crossroot.identity.popen(words, env=crossroot.environment(), cwd=crossroot.tmp)


# The child's share of getrusage(2) is the largest of all its descendants; this process is smaller than any crossroot.
MEASURE = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def peak(crossroot: Crossroot, *arguments: str | Path) -> int:
    """Bytes of memory that the largest process of a command had, which has to succeed under MEMORY."""
    command: list[str | Path] = ["bash", "-c", f'ulimit -v {MEMORY >> 10}; exec "$@"', "bash"]
    command += [crossroot.identity.python, "-ISc", MEASURE, *crossroot.command(*arguments)]
    process = crossroot.identity.popen(command, env=crossroot.environment(), cwd=crossroot.tmp)
    status, kibibytes, said = end_of(process)
    assert status == 0, said
    return int(kibibytes) << 10


@pytest.mark.parametrize(
    "count",
    [pytest.param(20_000, marks=pytest.mark.long), pytest.param(1_000_000, marks=pytest.mark.exhaustive)],
)
def test_a_root_of_many_files_in_bounded_memory(count: int, crossroot: Crossroot, figures: Figures) -> None:
    archive = crossroot.tmp / "archive"
    write_many(archive, count)
    exported = crossroot.tmp / "exported.tar"
    peaks = {}
    for command in (
        ("create", "riscv64", "--from", archive),
        ("list",),
        ("info", "riscv64"),
        ("clone", "riscv64", "copy"),
        ("export", "copy", "-o", exported),
        ("remove", "riscv64", "copy"),
    ):
        peaks[command[0]] = peak(crossroot, *command)
        print(command[0], peaks[command[0]] >> 20, "MiB")
        if command[0] == "clone":
            assert len(os.listdir(crossroot.store / "roots/copy/rootfs/d7")) == 1000
    with tarfile.open(exported) as tar:
        assert sum(1 for member in tar if re.fullmatch("(./)?d[0-9]+/[0-9]+", member.name)) == count
    expect.roots(crossroot.store)
    assert max(peaks.values()) < RESIDENT, peaks
    figures.add("files in one root", count)


@pytest.mark.exhaustive
def test_ten_million_entries_are_refused_in_bounded_memory(crossroot: Crossroot, figures: Figures) -> None:
    """All of one name, so that the disk is not what ends it; a megabyte of gzip holds them all."""
    header = tarfile.TarInfo("f").tobuf(tarfile.USTAR_FORMAT)
    entries = 10_000_000
    archive = crossroot.tmp / "archive"
    gzip = ["sh", "-c", 'exec gzip -1 >"$0"', str(archive)]
    with subprocess.Popen(gzip, stdin=subprocess.PIPE) as process:
        assert process.stdin
        block = header * 10_000
        for _ in range(entries // 10_000):
            process.stdin.write(block)
    status, _, said = end_of(limited(crossroot, f"-v {MEMORY >> 10}", "create", "riscv64", "--from", archive))
    assert status == 1
    assert "the archive has more than" in said, said
    expect.roots(crossroot.store)
    figures.add("entries of the largest archive", entries)


@pytest.mark.long
@pytest.mark.emulation
@pytest.mark.parametrize(
    ("flag", "values", "cure"),
    [("-n", range(8, 33, 2), "allow more open files"), ("-u", range(1, 8), "end some of your processes")],
)
def test_low_limits_are_enough_or_a_clear_error(flag: str, values: range, cure: str, crossroot: Crossroot) -> None:
    """Whatever is refused, the next command finds whole roots and nothing besides."""
    crossroot.create("riscv64")
    archive = crossroot.tmp / "archive"
    archive.write_bytes(archives.rootfs("riscv64"))
    refused = 0
    for value in values:
        for command in (
            ("run", "riscv64", "--", "true"),
            ("create", "riscv64", "--name", "new", "--from", archive, "--force"),
            ("export", "riscv64", "-o", "exported.tar"),
            ("rm", "new"),
        ):
            status, _, said = end_of(limited(crossroot, f"{flag} {value}", *command))
            where = f"{flag} {value}, {command[0]} gave {status}: {said}"
            assert "Traceback" not in said, where
            if status == 0 or said.startswith("qemu") or "there is no root new" in said:
                continue  # qemu-user starts a thread of its own, and says what it lacks
            assert said.count("crossroot: error: ") == 1, where
            assert f"hint: {cure}" in said, where
            refused += 1
        crossroot.run("list", check=True)
        expect.roots(crossroot.store, *os.listdir(crossroot.store / "roots"))
    assert status == 0, "the highest of the limits is enough"
    assert refused > 2 or (flag, crossroot.kind) == ("-u", "root")  # whom it does not hold


@pytest.mark.long
def test_too_little_memory_is_a_clear_error_that_leaves_nothing(crossroot: Crossroot) -> None:
    """xz takes as much memory as the archive says, here more than there is."""
    archive = crossroot.tmp / "archive.tar.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 384 << 20}]
    archive.write_bytes(lzma.compress(archives.rootfs("riscv64"), filters=filters))
    status, _, said = end_of(limited(crossroot, f"-v {MEMORY >> 10}", "create", "riscv64", "--from", archive))
    assert status == 1, said
    assert "crossroot: error: there is not enough memory\n  hint: free some memory" in said
    expect.roots(crossroot.store)
    crossroot.run("create", "riscv64", "--from", archive, check=True)


@pytest.fixture(autouse=True)
def no_core_files() -> Iterator[None]:
    """Nothing here is to dump hundreds of megabytes."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)
