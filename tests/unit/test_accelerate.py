"""Which native tools take whose places, decided on plain data."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from crossroot import accelerate, arch, elf, wrappers
from crossroot.distros import alpine_tools, debian_tools
from crossroot.toolroot import Plan

RISCV64, HOST = arch.find("riscv64"), arch.find("x86_64")

PACKAGES = {
    "gcc-14": "14.2.0-19",
    "g++-14": "14.2.0-19",
    "binutils-riscv64-linux-gnu": "2.44-3",
    "dash": "0.5.12-12",
    "coreutils": "9.7-3",
    "hare": "0.24.2-4",
    "harec": "0.24.2-5",
    "qbe": "1.2-3+b1",
    "python3.13": "3.13.5-2",
}
NATIVE = {
    "gcc-14-riscv64-linux-gnu": "14.2.0-19cross1",
    "g++-14-riscv64-linux-gnu": "14.2.0-19cross1",
    **{name: PACKAGES[name] for name in ("binutils-riscv64-linux-gnu", "dash", "coreutils", "hare", "harec")},
    "qbe": "1.2-3",
}

# What says what the root is, what loads modules of its arch, and what looks at its libraries.
NEVER = {"uname", "arch", "dpkg", "apk", "bash", "python3", "perl", "ldd", "ldconfig", "nproc"}


def plan(packages: dict[str, str] = PACKAGES) -> Plan:
    programs = tuple(debian_tools.programs(RISCV64, packages))
    return Plan("debian", "trixie", "", HOST, RISCV64, packages, programs)


ALPINE = {
    "binutils": "2.42-r0",
    "busybox": "1.36.1-r29",
    "clang15": "15.0.7-r20",
    "clang17": "17.0.6-r1",
    "coreutils": "9.5-r1",
    "gcc": "13.2.1-r0",
    "hare": "0.24.0-r0",
    "harec": "0.24.0-r0",
    "lld": "17.0.5-r0",
    "llvm17": "17.0.6-r1",
    "make": "4.4.1-r2",
    "qbe": "1.2-r0",
}


def alpine(packages: dict[str, str] = ALPINE, **keys: bytes) -> Plan:
    programs = tuple(alpine_tools.programs(RISCV64, packages))
    mirror = "https://mirror.example/alpine"
    return Plan("alpine", "v3.20", mirror, HOST, RISCV64, packages, programs, keys)


def files(level: int, native: dict[str, str] = ALPINE) -> set[str]:
    """The programs of a root of Alpine that native ones replace."""
    return {program.file for program in accelerate.usable(alpine(), native, level)}


def names(level: int, native: dict[str, str] = NATIVE, packages: dict[str, str] = PACKAGES) -> set[str]:
    """The programs that native ones replace, by the ends of their names."""
    files = (program.file for program in accelerate.usable(plan(packages), native, level))
    return {os.path.basename(file).removeprefix("riscv64-linux-gnu-") for file in files}


def test_level_1_is_the_toolchain() -> None:
    assert {"gcc-14", "g++-14", "as", "ld.bfd", "ar", "strip", "harec", "qbe"} <= names(1)
    assert not {"dash", "cp", "hare"} & names(1)


def test_level_2_adds_the_shell_and_level_3_the_driver() -> None:
    assert {"dash", "cp", "["} <= names(2) - names(1)
    assert names(3) - names(2) == {"hare"}
    assert names(0) == set()


def test_what_the_root_lacks_is_not_replaced() -> None:
    assert "make" not in names(3)


def test_some_programs_are_never_replaced() -> None:
    everything = dict.fromkeys([*PACKAGES, *debian_tools.SHELL_TOOLS], "1")
    programs = debian_tools.programs(RISCV64, everything)
    assert not NEVER & {os.path.basename(program.file) for program in programs}


@pytest.mark.parametrize(
    ("package", "lost"),
    [("gcc-14-riscv64-linux-gnu", {"gcc-14"}), ("qbe", {"qbe", "hare"}), ("dash", {"dash"})],
)
def test_a_tool_of_another_version_is_emulated_and_that_is_said(package: str, lost: set[str]) -> None:
    native = {**NATIVE, package: "9.9-9"}
    assert names(3) - names(3, native) == lost
    (sentence,) = accelerate.differences("root", plan(), native)
    assert "9.9-9" in sentence
    assert package.removesuffix("-riscv64-linux-gnu") in sentence


def test_a_compiler_needs_its_assembler_in_the_same_version() -> None:
    native = {**NATIVE, "binutils-riscv64-linux-gnu": "2.45-1"}
    assert not {"gcc-14", "g++-14", "as"} & names(3, native)


def test_a_package_that_the_tool_root_lacks_is_emulated() -> None:
    assert names(1) - names(1, {name: NATIVE[name] for name in NATIVE if name != "harec"}) == {"harec"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("14.2.0-19", "14.2.0-19cross1", True),
        ("1.2-3+b1", "1.2-3", True),
        ("14.2.0-19", "14.2.0-20cross1", False),
        ("4.9-2", "4.9-2+deb13u1", False),
    ],
)
def test_versions_are_those_of_the_source(one: str, other: str, same: bool) -> None:
    assert debian_tools.same(one, other) == same


def test_the_key_changes_with_a_version_that_matters_and_no_other() -> None:
    assert plan().key == plan({**PACKAGES, "python3.13": "3.13.9"}).key
    assert plan().key != plan({**PACKAGES, "gcc-14": "14.3.0-1"}).key
    assert plan().key != plan({**PACKAGES, "cpp-14": "14.2.0-19"}).key


def test_installed_packages_are_read_from_dpkgs_status() -> None:
    status = (
        "Package: gcc-14\nStatus: install ok installed\nArchitecture: riscv64\nVersion: 14.2.0-19\n\n"
        "Package: make\nStatus: deinstall ok config-files\nVersion: 4.4\n\nPackage: broken\n"
    )
    assert debian_tools.installed(status) == {"gcc-14": "14.2.0-19"}


def test_versions_are_read_from_the_names_of_archives() -> None:
    found = debian_tools.from_archives(["gzip_1.13-1_amd64.deb", "busybox_1%3a1.37.0-6_amd64.deb", "partial"])
    assert found == {"gzip": "1.13-1", "busybox": "1:1.37.0-6"}


def test_the_levels_of_alpine() -> None:
    clang = "/usr/lib/llvm17/bin/clang-17"
    assert {clang, "/usr/bin/lld", "/usr/bin/harec", "/usr/bin/qbe", "/usr/lib/llvm17/bin/llvm-ar"} <= files(1)
    assert not {"/bin/busybox", "/usr/bin/make", "/usr/bin/hare"} & files(1)
    assert {"/bin/busybox", "/bin/coreutils", "/usr/bin/make"} <= files(2) - files(1)
    assert files(3) - files(2) == {"/usr/bin/hare"}
    assert not [file for file in files(3) if "gcc" in file or "llvm15" in file]


def test_binutils_of_alpine_are_native_where_a_repository_has_them() -> None:
    assert not {"/usr/bin/as", "/usr/riscv64-alpine-linux-musl/bin/ld"} & files(1)
    assert {"/usr/bin/as", "/usr/riscv64-alpine-linux-musl/bin/ld"} <= files(
        1, {**ALPINE, "binutils-riscv64": "2.42-r0"}
    )
    assert accelerate.differences("root", alpine(), ALPINE) == ["binutils has no native tools, so it is emulated"]
    (program,) = (each for each in alpine().programs if each.file == "/usr/bin/as")
    assert program.native == "/usr/bin/riscv64-alpine-linux-musl-as"


def test_clang_needs_the_linker_that_it_may_start_in_the_same_version() -> None:
    lost = files(1) - files(1, {**ALPINE, "lld": "17.0.6-r0"})
    assert lost == {"/usr/lib/llvm17/bin/clang-17", "/usr/bin/lld"}


def test_an_alpine_package_of_another_build_is_emulated() -> None:
    assert files(1) - files(1, {**ALPINE, "qbe": "1.2-r1"}) == {"/usr/bin/qbe"}


def test_some_names_of_busybox_are_never_native() -> None:
    (program,) = (each for each in alpine().programs if each.file == "/bin/busybox")
    assert not (NEVER | {"apk", "mount", "su", "ps", "id", "chown", "passwd"}) & set(program.option)


def test_a_root_with_other_keys_has_another_tool_root() -> None:
    keys = [alpine().key, alpine(mine=b"one").key, alpine(mine=b"two").key, alpine(other=b"one").key]
    assert len(set(keys)) == 4
    assert alpine(mine=b"one").key == keys[1]


def test_installed_packages_are_read_from_apks_database() -> None:
    text = "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nF:lib\nR:ld.so\n\nC:Q1y=\nP:qbe\nV:1.2-r0\n\n"
    assert alpine_tools.installed(text) == {"musl": "1.2.5-r0", "qbe": "1.2-r0"}


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (["busybox", "ls", "/"], "native busybox ls /"),
        (["ls", "/"], "native ls /"),
        (["[", "x", "]"], "native [ x ]"),
        (["uname", "-m"], "emulated uname -m"),
        (["busybox", "uname", "-m"], "emulated busybox uname -m"),
        (["busybox"], "emulated busybox"),
        (["LD_PRELOAD=x", "ls"], "emulated ls"),
    ],
)
def test_the_wrapper_of_busybox_decides_by_the_name(words: list[str], runs: str, tmp_path: Path) -> None:
    (program,) = (each for each in alpine().programs if each.file == "/bin/busybox")
    assert ran(program, words, tmp_path) == runs


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        (
            ["-c", "x.c"],
            "native clang --target=riscv64-alpine-linux-musl -resource-dir=/usr/lib/llvm17/lib/clang/17 -c x.c",
        ),
        (["-v"], "emulated clang -resource-dir=/usr/lib/llvm17/lib/clang/17 -v"),
        (["-cc1", "x.c"], "emulated clang -cc1 x.c"),
        (["@words"], "emulated clang -resource-dir=/usr/lib/llvm17/lib/clang/17 @words"),
    ],
)
def test_the_wrapper_of_clang_adds_what_the_native_one_does_not_know(
    words: list[str], runs: str, tmp_path: Path
) -> None:
    (program,) = (each for each in alpine().programs if each.kind == "clang")
    assert ran(program, ["clang", *words], tmp_path) == runs


def ran(program: wrappers.Program, words: list[str], folder: Path) -> str:
    """What a wrapper runs, called by the first word that sets no variable: bash stands for the tool root's shell."""
    text = wrappers.script(program, alpine().triplet)
    place = f"{wrappers.PLACE}/{wrappers.EMULATED}{program.file}"
    text = text.replace(place, "emulated_program").replace(wrappers.PLACE + program.native, "native_program")
    text = text.replace('exec -a "${0##*/}" ', 'ran "${0##*/}" ').replace('exec -a "$0" ', 'ran "${0##*/}" ')
    script = folder / next(word for word in words if "=" not in word)
    script.write_text('ran() { name=$1 kind=${2%_program}; shift 2; echo "$kind $name $*"; exit; }\n' + text)
    variables = dict(word.split("=") for word in words if "=" in word)
    arguments = words[len(variables) + 1 :]
    env = {"PATH": os.environ["PATH"], **variables}
    command = ["bash", str(script), *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=env).stdout.strip()


@pytest.mark.parametrize(("made", "triplet"), [(plan(), "riscv64-linux-gnu"), (alpine(), "riscv64-alpine-linux-musl")])
def test_every_wrapper_is_a_sound_script(made: Plan, triplet: str, tmp_path: Path) -> None:
    shell = shutil.which("bash")
    assert shell
    for program in made.programs:
        if program.kind != wrappers.ITSELF:
            text = wrappers.script(program, triplet)
            assert text.startswith(f"#!{wrappers.PLACE}/{wrappers.SHELL}\n")
            script = tmp_path / "script"
            script.write_text(text)
            subprocess.run([shell, "-O", "extglob", "-n", script], check=True)


def test_a_program_runs_by_another_interpreter(tmp_path: Path) -> None:
    program, loader = tmp_path / "true", Path("/tmp") / f"ld{os.getpid()}"
    shutil.copy("/bin/true", program)
    found = subprocess.run(["/bin/sh", "-c", "ls /lib*/ld-linux*"], capture_output=True, text=True, check=True)
    loader.symlink_to(found.stdout.split()[0])
    try:
        assert elf.set_interpreter(program, str(loader))
        subprocess.run([program], check=True)
    finally:
        loader.unlink()
    with pytest.raises(FileNotFoundError):
        subprocess.run([program], check=False)


def test_the_search_path_of_a_program_is_taken_away(tmp_path: Path) -> None:
    source, library, program = tmp_path / "x.c", tmp_path / "lib/libx.so", tmp_path / "program"
    library.parent.mkdir()
    source.write_text("int x(void) { return 7; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    source.write_text("int x(void);\nint main(void) { return x(); }\n")
    options = [f"-L{library.parent}", "-lx", f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["gcc", "-o", program, source, *options], check=True)
    assert subprocess.run([program], check=False).returncode == 7
    assert elf.take_search_path(program) == [str(library.parent)]
    assert elf.take_search_path(program) == []
    assert subprocess.run([program], capture_output=True, check=False).returncode == 127
    env = {"LD_LIBRARY_PATH": str(library.parent)}
    assert subprocess.run([program], env=env, check=False).returncode == 7


def test_an_interpreter_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "true"
    shutil.copy("/bin/true", program)
    before = program.read_bytes()
    with pytest.raises(ValueError, match="too long"):
        elf.set_interpreter(program, "/" + "x" * 40)
    assert program.read_bytes() == before
    text = tmp_path / "text"
    text.write_text("no program, but long enough for a header" * 9)
    assert not elf.set_interpreter(text, "/ld")
