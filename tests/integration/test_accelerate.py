"""Native tools in a foreign root of Debian: the same output as emulated ones, and nothing of it on disk."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from tests.support.identity import Crossroot
from tests.support.workshop import Workshop

pytestmark = [pytest.mark.network, pytest.mark.long, pytest.mark.emulation, pytest.mark.timeout(1800)]

MAIN = """\
#include <assert.h>
#include <stddef.h>
#include <stdio.h>
int twice(int);
int main(int count, char **words) {
    assert(count > 0);
    printf("%d %s %zu\\n", twice(21), __FILE__, offsetof(struct { char a; long b; }, b));
}
"""
TWICE = "int twice(int x) { return x * 2; }\n"
MAKEFILE = """\
CFLAGS = -O2 -g -MD -Wall
OBJECTS = main.o twice.o
all: program program.static program.lto program.one listing
program: main.o libtwice.a
\t$(CC) -o $@ $^
program.static: $(OBJECTS)
\t$(CC) -static -o $@ $^
program.lto: main.c twice.c
\t$(CC) -O2 -g -flto -frandom-seed=1 -o $@ $^
program.one: main.c twice.c
\t$(CC) -g -o $@ $^ -lm
libtwice.a: twice.o
\tar rcs $@ $^
clean:
\trm -f *.o *.d *.a program* listing
listing: program
\tobjdump -d $< > $@ && readelf -aW $< >> $@ && nm $< >> $@
"""


@pytest.fixture(scope="module")
def project(workshop: Workshop) -> Path:
    """A project in C, in the folder of the workshop."""
    folder = workshop.folder / "c"
    folder.mkdir(exist_ok=True)
    for name, text in (("main.c", MAIN), ("twice.c", TWICE), ("Makefile", MAKEFILE)):
        (folder / name).write_text(text)
    shutil.chown(folder, workshop.crossroot.identity.uid, workshop.crossroot.identity.gid)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def is_native(workshop: Workshop, program: str, level: int) -> bool:
    """Whether a program of the root is one of crossroot's wrappers in a session."""
    return workshop.run("head", "-c", "17", program, level=level).startswith("#!/dev/crossroot/")


def files(crossroot: Crossroot, name: str) -> str:
    facts = crossroot.run("info", name, "--json", "--digest", check=True).stdout
    return str(json.loads(facts)["digest"])


def test_a_project_in_c_is_the_same_at_every_level(workshop: Workshop, project: Path) -> None:
    built = []
    for level in (0, 1, 2):
        workshop.run("make", "-B", "-C", "c", level=level)
        built.append(digests(project))
        assert workshop.run("./c/program").split() == ["42", "main.c", "8"]
        assert workshop.run("./c/program.lto").split()[0] == "42"
    assert built[0] == built[1] == built[2]
    assert len(built[0]) == 13


def test_the_tools_are_native_and_the_root_is_as_before(workshop: Workshop, project: Path) -> None:
    gcc = f"/usr/bin/{workshop.target.qemu}-linux-gnu-gcc-14"
    before = files(workshop.crossroot, workshop.target.name)
    assert not is_native(workshop, gcc, 0)
    assert is_native(workshop, gcc, 1)
    assert not is_native(workshop, "/usr/bin/dash", 1)
    assert is_native(workshop, "/usr/bin/dash", 2)
    script = "uname -m; touch /root/new; rm /root/new; cd c; gcc -c twice.c -o /tmp/x.o; ls -d /lib64 /dev/crossroot"
    result = workshop.run("sh", "-c", f"{script} || true", level=3).split()
    assert result == [workshop.target.uname, "/dev/crossroot"]
    assert files(workshop.crossroot, workshop.target.name) == before
    assert project.is_dir()


def test_what_a_native_tool_would_do_otherwise_is_emulated(workshop: Workshop, project: Path) -> None:
    script = """\
cd c
gcc -print-search-dirs
gcc -v 2>&1 | grep -v COLLECT
echo main.c > words; gcc -E @words | sha256sum
echo | gcc -E -v - 2>&1 | grep '^ /'
printf 'int main(void) { return 3; }' > exit.c
LIBRARY_PATH=/nowhere gcc exit.c -o /tmp/exit; /tmp/exit; echo $?
LD_LIBRARY_PATH=/usr/lib gcc exit.c -o /tmp/exit; /tmp/exit; echo $?
gcc -fuse-ld=bfd exit.c -o /tmp/exit; /tmp/exit; echo $?
gcc -march=native exit.c -o /tmp/exit; echo $?
gcc nothing.c
as nothing.s
echo 'export function w $main() { @a ret }' | qbe
rm words exit.c
true
"""
    said = [workshop.run("sh", "-c", f"exec 2>&1\n{script}", level=level) for level in (0, 1, 2)]
    assert said[1] == said[0]
    assert said[2] == said[0]
    assert f"/usr/lib/gcc/{workshop.target.qemu}-linux-gnu/14" in said[0]
    assert project.is_dir()


def test_verify_builds_again_and_compares(workshop: Workshop, project: Path) -> None:
    verify = ["run", workshop.target.name, "--accelerate", "2", "--verify"]

    def run(*words: str) -> tuple[int, str]:
        result = workshop.crossroot.run(*verify, *words, cwd=project, timeout=900)
        return result.returncode, result.stderr

    workshop.run("make", "-C", "c", "clean", level=2)
    make = ["--output", "program", "--output", "main.o", "--", "make", "program"]
    status, said = run(*make)
    assert (status, "the same, byte for byte (2 files)" in said) == (0, True), said
    assert (project / "program").exists()
    status, said = run(*make)
    assert (status, "an output is there already" in said) == (125, True), said
    status, said = run("--output", "now", "--output", "same", "--", "sh", "-c", "date +%N > now; echo x > same")
    assert (status, "the builds differ in now\n" in said) == (125, True), said
    status, said = run("--output", "never", "--", "true")
    assert (status, "made no such output" in said) == (125, True), said
    assert run("--output", "never", "--", "sh", "-c", "exit 7")[0] == 7
    assert run("--", "true")[0] == 125
    result = workshop.crossroot.run("run", workshop.target.name, "--verify", "--output", "x", "--", "true")
    assert (result.returncode, "no native tools to verify" in result.stderr) == (125, True), result.stderr
    assert {path.name for path in project.iterdir()} >= {"now", "same"}


def test_hare_is_the_same_at_every_level(workshop: Workshop) -> None:
    programs = []
    for level in (0, 1, 3):
        script = f"HARECACHE=/tmp/cache hare build -o built{level} cmd/tally"
        workshop.run("sh", "-c", script, level=level)
        programs.append((workshop.folder / f"built{level}").read_bytes())
    assert programs[0] == programs[1] == programs[2]
    assert workshop.run("./built3", input="two words\n").split()[:2] == ["1", "2"]
    assert "0 failed" in workshop.run("hare", "test", level=3)


def test_a_tool_that_got_another_version_is_emulated_and_that_is_said(workshop: Workshop) -> None:
    """The root says so by itself: dpkg's status file is all that counts."""
    name = workshop.target.name
    change = "sed -i '/^Package: qbe$/,/^$/s/^Version: .*/Version: {}/' /var/lib/dpkg/status"
    version = workshop.run("dpkg-query", "-W", "-f", "${Version}", "qbe")
    workshop.run("sh", "-c", change.format("0.1-1"))
    try:
        command = ["run", name, "--accelerate", "3", "--", "head", "-c", "13", "/usr/bin/qbe"]
        first, second = (
            workshop.crossroot.run(*command, cwd=workshop.folder, timeout=900, check=True) for _ in range(2)
        )
        assert "qbe has version 0.1-1, and its native tools have" in first.stderr
        assert f"crossroot upgrade {name}" in first.stderr
        assert "qbe has version" not in second.stderr
        assert "#!/dev" not in first.stdout + second.stdout
        assert is_native(workshop, "/usr/bin/make", 2)
    finally:
        workshop.run("sh", "-c", change.format(version))
    assert is_native(workshop, "/usr/bin/qbe", 1)


def test_the_tool_root_is_shared_and_hidden_and_goes_with_its_roots(workshop: Workshop) -> None:
    crossroot = workshop.crossroot
    tools = crossroot.store / "tools/roots"
    assert len(list(tools.iterdir())) == 1
    assert "tools" not in crossroot.run("list", check=True).stdout.split()
    result = crossroot.run("run", workshop.target.name, "--accelerate", "9", "--", "true")
    assert result.returncode == 125
    assert "no level of acceleration" in result.stderr
