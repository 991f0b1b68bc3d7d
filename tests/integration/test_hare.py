"""The program in examples/hare, built and tested in real roots of Debian: riscv64 as root, aarch64 as an ordinary user;
and cross-built in a root of the host's own arch, which gives programs that say the same."""

import os
import shutil

import pytest

from crossroot import arch, elf
from tests.support.workshop import EXAMPLE, Workshop

pytestmark = [pytest.mark.network, pytest.mark.long, pytest.mark.emulation, pytest.mark.timeout(1800)]

HOST = arch.find(os.uname().machine)

# What wc(1) says of TEXT, in base 10 and 16.
TEXT = "größe 😀\n\n two\twords"
DECIMAL, HEXADECIMAL = "2 4 24 -\n", "2 4 18 -\n"


def test_its_tests_pass_in_the_root(workshop: Workshop) -> None:
    tests = sum(file.read_text().count("@test fn ") for file in EXAMPLE.rglob("*.ha"))
    assert tests > 10
    assert f"\n{tests} passed; 0 failed; {tests} completed" in workshop.run("hare", "test")


def test_a_failing_test_fails_the_session(workshop: Workshop) -> None:
    broken = workshop.folder / "broken"
    shutil.copytree(EXAMPLE, broken)
    source = broken / "count/count.ha"
    source.write_text(source.read_text().replace("totals.words += 1", "totals.words += 2"))
    crossroot = workshop.crossroot
    result = crossroot.run("run", workshop.target.name, "--", "hare", "test", "count", cwd=broken, timeout=900)
    assert result.returncode == 1
    assert "FAIL" in result.stdout
    shutil.rmtree(broken)


def test_the_program_is_for_the_arch_and_counts(workshop: Workshop) -> None:
    workshop.run("hare", "build", "-o", "tally", "cmd/tally")
    header = elf.read(workshop.folder / "tally")
    assert header is not None
    assert workshop.target in header.arches
    assert workshop.run("./tally", input=TEXT) == DECIMAL
    assert workshop.run("./tally", "-b", "16", input=TEXT) == HEXADECIMAL
    files = sorted(str(path.relative_to(EXAMPLE)) for path in EXAMPLE.rglob("*.ha"))
    assert workshop.run("./tally", *files) == workshop.run(
        "sh", "-c", 'wc "$@" | tr -s " " | sed "s/^ //"', "sh", *files
    )


def test_a_cross_build_at_native_speed_says_the_same(workshop: Workshop) -> None:
    binutils = f"binutils-{workshop.target.qemu}-linux-gnu"
    create = ["create", f"debian-{HOST.debian}", "--name", "host", "--package", "hare", "--package", binutils]
    workshop.crossroot.run(*create, timeout=900, check=True)
    workshop.run("hare", "build", "-o", "built-here", "cmd/tally")
    workshop.run("hare", "build", "-a", workshop.target.name, "-o", "cross-built", "cmd/tally", root="host")
    header = elf.read(workshop.folder / "cross-built")
    assert header is not None
    assert workshop.target in header.arches
    for options in ([], ["-b", "2"], ["count/count.ha", "radix/radix.ha"]):
        said = workshop.run("./cross-built", *options, input=TEXT)
        assert said == workshop.run("./built-here", *options, input=TEXT) != ""
