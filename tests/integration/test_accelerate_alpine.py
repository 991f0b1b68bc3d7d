"""Native tools in a foreign root of Alpine: the same output as emulated ones, and nothing of it on disk."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crossroot import arch
from tests.support import apk_tools, releases
from tests.support.alpine import Alpine, serve
from tests.support.apk_repository import Package
from tests.support.apk_tools import of_minirootfs
from tests.support.identity import Crossroot, Identity, new_folder
from tests.support.mirror import Mirror

pytestmark = [
    *(pytest.mark.network, pytest.mark.long, pytest.mark.emulation, pytest.mark.alpine, pytest.mark.timeout(900))
]

TARGET = arch.find("aarch64" if releases.HOST == "x86_64" else "x86_64")
PACKAGES = ("clang19", "lld19", "llvm19", "binutils", "musl-dev", "hare")
CLANG = "/usr/lib/llvm19/bin/clang-19"

MAIN = """\
#include <assert.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include "generated.h"
int twice(int);
int main(int count, char **words) {
    assert(count > 0);
    printf("%d %s %zu %s\\n", twice(21), __FILE__, offsetof(struct { char a; long b; }, b), GENERATED);
}
"""
BUILD = """\
set -e
cd c
echo '#define GENERATED "@"' | sed "s/@/$(printf '%s' words | tr a-z A-Z)/" > generated.h
for name in main twice; do
    clang -O2 -g -MD -Wall -c $name.c -o $name.o
done
rm -f libtwice.a
ar rcs libtwice.a twice.o
clang -fuse-ld=lld -pie -nostdlib -o program /usr/lib/Scrt1.o /usr/lib/crti.o main.o libtwice.a -lc /usr/lib/crtn.o
find . -name '*.o' | sort | xargs sha256sum > sums
"""
HARE = """\
use rt;
export fn main() void = {
    const text = "forty-two\\n";
    rt::write(1, *(&text: *const *const u8), len(text))!;
};
"""


@dataclass(frozen=True)
class Forge:
    """A root of Alpine named after its arch, with clang, lld and Hare, and a folder for its owner to work in."""

    crossroot: Crossroot
    folder: Path

    def run(self, *command: str, level: int = 0) -> str:
        words = ["run", TARGET.name, "--accelerate", str(level), "--", *command]
        return self.crossroot.run(*words, cwd=self.folder, timeout=600, check=True).stdout

    def shell(self, script: str, level: int = 0) -> str:
        return self.run("sh", "-c", script, level=level)


@pytest.fixture(scope="module")
def alpine(mirror: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alpine]:
    """A mirror with tools for both arches."""
    work, folder = tmp_path_factory.mktemp("tools"), tmp_path_factory.mktemp("alpine")
    packages = apk_tools.packages(work, TARGET.name, releases.HOST)
    shutil.rmtree(work)
    others = [Package("other", "1.0-r0", name) for name in (TARGET.name, releases.HOST)]
    with serve(mirror, folder, others, others, TARGET.name) as found:
        (archive,) = folder.glob(f"v*/releases/{releases.HOST}/*.tar.gz")
        found.publish([*packages, *of_minirootfs(archive, releases.HOST, ["busybox", "musl"])])
        yield found


@pytest.fixture(scope="module")
def forge(alpine: Alpine, user: Identity, scratch: Path, mirror: Mirror) -> Forge:
    """As an ordinary user; root has the same in Debian."""
    tmp = new_folder(scratch, user)
    crossroot = Crossroot(user, mirror, tmp, tmp / "store", tmp / "cache")
    env = alpine.profile(crossroot, f"packages = {json.dumps(PACKAGES)}", extends=TARGET.name)
    crossroot.run("create", "mine", "--name", TARGET.name, env=env, timeout=600, check=True)
    folder = tmp / "work"
    files = {"main.c": MAIN, "twice.c": "int twice(int x) { return x * 2; }\n", "main.ha": HARE}
    for path in (folder, folder / "c"):
        path.mkdir()
        shutil.chown(path, user.uid, user.gid)
    for name, text in files.items():
        (folder / "c" / name).write_text(text)
    return Forge(crossroot, folder)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def files(forge: Forge) -> str:
    facts = forge.crossroot.run("info", TARGET.name, "--json", "--digest", check=True).stdout
    return str(json.loads(facts)["digest"])


def is_native(forge: Forge, program: str, level: int) -> bool:
    """Whether a program of the root is one of crossroot's wrappers in a session."""
    return forge.run("head", "-c", "17", program, level=level).startswith("#!/dev/crossroot/")


def test_a_project_in_c_is_the_same_at_every_level_and_the_root_is_as_before(forge: Forge) -> None:
    before = files(forge)
    built = []
    for level in (0, 1, 2):
        forge.shell(BUILD, level=level)
        built.append(digests(forge.folder / "c"))
        assert forge.run("./c/program").split() == ["42", "main.c", "8", "WORDS"]
    assert built[0] == built[1] == built[2]
    assert len(built[0]) == 11
    assert files(forge) == before


def test_the_levels_say_what_is_native(forge: Forge) -> None:
    programs = (CLANG, "/usr/lib/llvm19/bin/lld", "/usr/bin/qbe", "/usr/bin/as", "/bin/busybox", "/usr/bin/hare")
    native = [[is_native(forge, program, level) for program in programs] for level in range(4)]
    assert native == [
        [False, False, False, False, False, False],
        [True, True, True, True, False, False],
        [True, True, True, True, True, False],
        [True, True, True, True, True, True],
    ]


def test_the_root_says_that_it_is_foreign_at_every_level(forge: Forge) -> None:
    script = (
        "uname -m; busybox uname -m; arch; busybox sh -c 'echo $0; uname -m'; apk --print-arch; ls -d /dev/crossroot"
    )
    own = TARGET.uname
    assert forge.shell(script, level=3).split() == [own, own, own, "sh", own, TARGET.name, "/dev/crossroot"]


def test_what_a_native_tool_would_do_otherwise_is_emulated(forge: Forge) -> None:
    script = """\
exec 2>&1
cd c
clang --version
clang -print-resource-dir
clang
clang nothing.c
echo 'int x = 1;' > x.c
echo x.c > words
clang -c @words && sha256sum x.o
LD_PRELOAD=/usr/lib/libc.so clang -c x.c -o y.o && cmp x.o y.o
LD_LIBRARY_PATH=/usr/lib clang -c x.c -o y.o && cmp x.o y.o
LD_PRELOAD=/usr/lib/libc.so sh -c 'echo "$LD_PRELOAD"; ls -d /usr'
LD_PRELOAD=/usr/lib/libc.so harec /dev/null -o x.ssa; cat x.ssa
clang -c -march=native x.c; echo $?
echo 'export function w $main() { @a ret }' | qbe
ar -x nothing.a
rm words x.c x.o y.o x.ssa
true
"""
    said = [forge.shell(script, level=level) for level in (0, 1, 2)]
    place = "InstalledDir: /usr/lib/llvm19/bin\n"
    assert place in said[0]
    for native in said[1:]:
        # An emulated program sees that its file is at another place.
        assert native.replace("InstalledDir: /dev/crossroot/emulated/", "InstalledDir: /") == said[0]


def test_verify_builds_again_and_compares(forge: Forge) -> None:
    forge.shell("rm -f c/*.o c/*.d c/*.a c/program c/sums c/generated.h")
    words = ["run", TARGET.name, "--accelerate", "2", "--verify", "--output", "c/program", "--output", "c/main.o", "--"]
    result = forge.crossroot.run(*words, "sh", "-c", BUILD, cwd=forge.folder, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "the same, byte for byte (2 files)" in result.stderr


def test_hare_is_the_same_at_every_level_and_faster(forge: Forge) -> None:
    programs, seconds = [], []
    for level in (0, 1, 3):
        start = time.monotonic()
        forge.shell(f"HARECACHE=/tmp/cache hare build -R -o c/built{level} c/main.ha", level=level)
        seconds.append(time.monotonic() - start)
        programs.append((forge.folder / f"c/built{level}").read_bytes())
    assert programs[0] == programs[1] == programs[2]
    assert forge.run("./c/built3") == "forty-two\n"
    assert seconds[0] > 3 * seconds[2]


def test_a_tool_that_got_another_version_is_emulated_and_that_is_said(forge: Forge) -> None:
    """The root says so by itself: apk's database is all that counts."""
    change = "sed -i '/^P:qbe$/,/^$/s/^V:.*/V:{}/' /lib/apk/db/installed"
    forge.shell(change.format("0.1-r0"))
    try:
        words = ["run", TARGET.name, "--accelerate", "3", "--", "head", "-c", "13", "/usr/bin/qbe"]
        first, second = (forge.crossroot.run(*words, cwd=forge.folder, timeout=600, check=True) for _ in range(2))
        assert "qbe has version 0.1-r0, and its native tools have 1.2-r0" in first.stderr
        assert f"crossroot upgrade {TARGET.name}" in first.stderr
        assert "qbe has version" not in second.stderr
        assert "#!/dev" not in first.stdout + second.stdout
        assert is_native(forge, CLANG, 1)
    finally:
        forge.shell(change.format("1.2-r0"))
    assert is_native(forge, "/usr/bin/qbe", 1)


def test_a_tool_root_whose_key_the_root_does_not_have_is_not_made(forge: Forge) -> None:
    """Else a mirror could put into it what the root never trusted."""
    root = forge.crossroot.store / "roots" / TARGET.name / "root.json"
    before = root.read_text()
    root.write_text(json.dumps({**json.loads(before), "keys": {}}))
    try:
        result = forge.crossroot.run("run", TARGET.name, "--accelerate", "1", "--", "uname", "-m", cwd=forge.folder)
    finally:
        root.write_text(before)
    assert result.stdout.split() == [TARGET.uname]
    assert f"{TARGET.name} is emulated without native tools:" in result.stderr
    assert "is signed with an unknown key" in result.stderr
