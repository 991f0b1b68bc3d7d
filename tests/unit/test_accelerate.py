"""Which native tools take whose places, decided on plain data."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from crossroot import accelerate, arch, elf, wrappers
from crossroot.distros import debian_tools
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
    (sentence,) = accelerate.differences(plan(), native)
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


def test_every_wrapper_is_a_sound_script(tmp_path: Path) -> None:
    shell = shutil.which("bash")
    assert shell
    for program in plan().programs:
        if program.kind != wrappers.ITSELF:
            text = wrappers.script(program, "riscv64-linux-gnu")
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
