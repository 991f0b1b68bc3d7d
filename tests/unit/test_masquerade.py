"""Compilers by way of ccache and distcc, decided on the files of a root that is not run."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from crossroot import accelerate, arch, masquerade, wrappers
from crossroot.errors import CrossrootError
from crossroot.handlers import Handler
from crossroot.masquerade import CACHE, PLACE
from crossroot.metadata import Root
from crossroot.mounts import Bind, Content, Replace, Script
from crossroot.session import Session
from tests.support.roots import root_in

GCC = "/usr/bin/riscv64-linux-gnu-gcc-14"
PATH = "/usr/local/bin:/usr/bin"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root as Debian's: gcc by links, one of them absolute, clang, and what only looks like a compiler."""
    root = root_in(tmp_path, "riscv64")
    binaries = root.rootfs / "usr/bin"
    for folder in (binaries, root.rootfs / "etc/alternatives"):
        folder.mkdir(parents=True)
    for name in (os.path.basename(GCC), "clang-19", "ccache", "distcc", "gcc-ar-14", "gccgo", "c++filt"):
        (binaries / name).write_text("#!/bin/sh\n")
        (binaries / name).chmod(0o755)
    links = {"gcc-14": GCC, "gcc": "gcc-14", "cc": "/etc/alternatives/cc", "g++": "nothing", "c++": "/bin/../../bin/sh"}
    for name, points_to in links.items():
        (binaries / name).symlink_to(points_to)
    (root.rootfs / "etc/alternatives/cc").symlink_to("/usr/bin/gcc")
    (root.rootfs / "etc/profile").write_text("PATH=/usr/bin\n")
    return root


def plan(root: Root, **changes: object) -> Session:
    values = (root.rootfs_folder, "riscv64", arch.find("riscv64"), Handler("host"), None, ())
    return Session(*values, True, "root", "", "", (), {"PATH": PATH}).but(**changes)


def scripts(session: Session) -> dict[str, str]:
    """The scripts of a session, by their names."""
    return {os.path.basename(step.target): step.text for step in session.mounts if isinstance(step, Script)}


def lines(text: str) -> list[str]:
    """What a script says after it has set PATH."""
    return text.rpartition("esac\n")[2].splitlines()


def applied(root: Root, tmp_path: Path, *, ccache: bool = True, **changes: object) -> Session:
    return masquerade.applied(root, plan(root, **changes), ccache=ccache, cache=str(tmp_path / "cache"))


def test_each_compiler_of_the_root_gets_a_script_that_starts_ccache(root: Root, tmp_path: Path) -> None:
    session = applied(root, tmp_path)
    found = scripts(session)
    assert set(found) == {"gcc", "gcc-14", "cc", "clang-19", os.path.basename(GCC)}
    assert lines(found["cc"]) == ['exec /usr/bin/ccache /usr/bin/cc "$@"']
    assert all(text.startswith("#!/bin/sh\n") for text in found.values())
    assert session.env["PATH"] == f"{PLACE}:{PATH}"
    assert session.env["CCACHE_DIR"] == CACHE


def test_the_first_compiler_on_the_path_is_meant(root: Root, tmp_path: Path) -> None:
    own = root.rootfs / "usr/local/bin/gcc"
    own.parent.mkdir(parents=True)
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert lines(scripts(applied(root, tmp_path))["gcc"]) == ['exec /usr/bin/ccache /usr/local/bin/gcc "$@"']


def test_the_cache_is_shared_by_an_arch_and_out_of_reach_of_others(root: Root, tmp_path: Path) -> None:
    folder = tmp_path / "cache/ccache/riscv64"
    for _ in range(2):
        assert Bind(str(folder), CACHE) in applied(root, tmp_path).mounts
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700


def test_a_cache_that_cannot_be_made_is_an_error(root: Root, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/ccache").write_text("in the way")
    with pytest.raises(CrossrootError, match=r"cannot make .*/ccache/riscv64 for ccache"):
        applied(root, tmp_path)


def test_login_shells_find_the_scripts_too(root: Root, tmp_path: Path) -> None:
    (profile,) = (step for step in applied(root, tmp_path).mounts if isinstance(step, Content))
    assert profile.data.decode() == f"PATH=/usr/bin\n\nPATH={PLACE}:$PATH\n"
    assert (root.rootfs / "etc/profile").read_text() == "PATH=/usr/bin\n"


def test_what_the_user_sets_wins(root: Root, tmp_path: Path) -> None:
    session = applied(root, tmp_path, env={"PATH": "/usr/bin", "CCACHE_DIR": "/elsewhere"})
    assert session.env["CCACHE_DIR"] == "/elsewhere"
    assert session.env["PATH"] == f"{PLACE}:/usr/bin"


def test_a_native_compiler_is_known_to_ccache_by_the_roots_own_file(root: Root, tmp_path: Path) -> None:
    mounts = (Bind("/tools", wrappers.PLACE), Replace("/tools/wrappers/gcc", GCC))
    found = scripts(applied(root, tmp_path, mounts=mounts))
    status = (root.rootfs / GCC.lstrip("/")).stat()
    check = f"{os.path.basename(GCC)}-{status.st_size}-{status.st_mtime_ns}"
    assert lines(found["gcc"])[0] == f"export CCACHE_COMPILERCHECK=string:{check}"
    assert "COMPILERCHECK" not in found["clang-19"]
    assert all(text.startswith(f"#!{wrappers.PLACE}/sh\n") for text in found.values())


def test_distcc_gets_the_name_of_a_cross_compiler(root: Root, tmp_path: Path) -> None:
    remote = root.but(distcc=("build1/4", "localhost/2"))
    session = applied(remote, tmp_path, ccache=False)
    assert lines(scripts(session)["cc"]) == ['exec /usr/bin/distcc riscv64-linux-gnu-gcc-14 "$@"']
    assert lines(scripts(session)["clang-19"]) == ['exec /usr/bin/clang-19 "$@"']
    assert session.env["DISTCC_HOSTS"] == "build1/4 localhost/2"
    both = scripts(applied(remote, tmp_path))
    assert lines(both["cc"]) == [f"export CCACHE_PREFIX={PLACE}/by-distcc", f'exec /usr/bin/ccache {GCC} "$@"']
    assert lines(both["clang-19"]) == ['exec /usr/bin/ccache /usr/bin/clang-19 "$@"']


def test_distcc_without_a_network_is_left_out(root: Root, tmp_path: Path) -> None:
    session = applied(root.but(distcc=("build1",)), tmp_path, ccache=False, network=False)
    assert session.mounts == ()


def test_a_triplet_that_is_another_file_is_used_where_it_is() -> None:
    """As in Alpine, where gcc is no link."""
    names = {"gcc", "cc", "riscv64-alpine-linux-musl-gcc"}
    triplets = {"riscv64-alpine-linux-musl"}
    assert masquerade.remote("/usr/bin/gcc", triplets, names) == "riscv64-alpine-linux-musl-gcc"
    assert masquerade.remote("/usr/bin/tcc", triplets, names) == ""


def test_what_is_not_installed_is_left_out_with_a_note(
    root: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root.rootfs / "usr/bin/ccache").unlink()
    session = applied(root, tmp_path)
    assert session == plan(root)
    assert "crossroot install riscv64 ccache" in capsys.readouterr().err


def test_a_root_without_compilers_is_as_it_was(root: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (root.rootfs / "usr/bin").iterdir():
        if file.name not in ("ccache", "distcc"):
            file.unlink()
    assert applied(root, tmp_path) == plan(root)
    assert "has no compiler" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{PLACE}:/usr/bin:/bin", "/usr/bin:/bin"),
        (f"/opt:{PLACE}:/bin", "/opt:/bin"),
        (f"/opt:{PLACE}", "/opt"),
        ("/usr/bin:/bin", "/usr/bin:/bin"),
        (PLACE, ""),
    ],
)
def test_what_a_script_starts_does_not_find_the_scripts(before: str, after: str) -> None:
    compiler = masquerade.Compiler("gcc", "/usr/bin/printenv", "/usr/bin/printenv", "", "")
    text = masquerade.script(compiler, "/bin/sh", "", "")
    result = subprocess.run(
        ["/bin/sh", "-c", text, "gcc", "PATH"], env={"PATH": before}, capture_output=True, text=True, check=True
    )
    assert result.stdout == f"{after}\n"


def test_native_ccache_and_distcc_take_the_places_of_the_roots_own() -> None:
    from tests.unit.test_accelerate import NATIVE, PACKAGES, plan

    packages = {**PACKAGES, "ccache": "4.11-1", "distcc": "3.4-7"}
    native = {**NATIVE, "ccache": "4.11-1", "distcc": "3.4-8"}
    files = {program.file for program in accelerate.usable(plan(packages), native, 1)}
    assert "/usr/bin/ccache" in files
    assert "/usr/bin/distcc" not in files
