"""Debian and Ubuntu without a network: where packages come from, how mmdebstrap is called, what its errors mean."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import apt, arch
from crossroot.apt import Source
from crossroot.distros import debian
from crossroot.distros.debian import Recipe
from crossroot.errors import CrossrootError, UsageError
from crossroot.handlers import Handler
from crossroot.namespaces import IdMap
from tests.support import http

RISCV64 = Recipe("debian", arch.find("riscv64"), "trixie", ("main",), "minbase", ())
UBUNTU = RISCV64.but(distro="ubuntu", suite="noble", components=("main", "universe"))
BOOKWORM = apt.Release("debian", frozenset({"bookworm"}))
SOURCES = [
    Source("http://a.example/debian", ("bookworm", "bookworm-updates"), ("main", "contrib")),
    Source("http://b.example/security", ("bookworm-security",), ("main",)),
    Source("http://c.example/ours", ("bookworm",), ("ours",)),
]


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    path = tmp_path / "archive.gpg"
    path.write_bytes(b"a keyring")
    return path


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[http.Server]:
    """A mirror that has trixie and nothing else."""
    index = tmp_path / "mirror/dists/trixie/InRelease"
    index.parent.mkdir(parents=True)
    index.write_text("Suite: stable\n")
    with http.serve(tmp_path / "mirror") as server:
        yield server


def pairs(sources: list[debian._Source]) -> list[tuple[str, str]]:
    return [(source.uri, source.suite) for source in sources]


# Where packages come from


def test_a_host_of_debian_lends_its_archives_for_another_suite() -> None:
    assert pairs(debian._of_host(RISCV64, BOOKWORM, SOURCES)) == [
        ("http://a.example/debian", "trixie"),
        ("http://a.example/debian", "trixie-updates"),
        ("http://b.example/security", "trixie-security"),
    ]


def test_a_suite_without_updates_has_one_source() -> None:
    sid = RISCV64.but(suite="sid")
    assert pairs(debian._of_host(sid, BOOKWORM, SOURCES)) == [("http://a.example/debian", "sid")]


def test_without_the_main_archive_the_host_lends_none() -> None:
    assert debian._of_host(RISCV64, BOOKWORM, SOURCES[1:]) == []


def test_archives_of_another_distribution_are_not_used() -> None:
    assert debian._of_host(UBUNTU, BOOKWORM, SOURCES) == []
    assert debian._of_host(RISCV64, apt.Release("ubuntu", frozenset({"bookworm"})), SOURCES) == []


def test_the_first_mirror_with_the_suite_is_used(mirror: http.Server) -> None:
    mirrors = (f"{mirror.url}/nothing", f"{mirror.url}/", "http://127.0.0.1:9")
    assert pairs(debian._sources(RISCV64.but(mirrors=mirrors))) == [(mirror.url, "trixie")]


def test_a_suite_that_no_mirror_has_is_refused(mirror: http.Server) -> None:
    with pytest.raises(CrossrootError) as caught:
        debian._sources(RISCV64.but(suite="trixi", mirrors=(mirror.url,)))
    assert caught.value.message == f"{mirror.url} has no suite trixi"
    assert "trixie" in caught.value.hint


# What cannot work


def test_an_arch_that_debian_has_not_is_refused() -> None:
    other = next(each for each in arch.ALL.values() if not each.debian)
    with pytest.raises(UsageError, match=f"Debian has no {other.name}"):
        debian._check(RISCV64.but(arch=other), None)


def test_a_single_id_is_refused_with_its_cure(keyring: Path) -> None:
    single = IdMap(((0, 1000, 1),), ((0, 1000, 1),))
    with pytest.raises(CrossrootError, match="you have a single id"):
        debian._check(RISCV64.but(keyring=str(keyring)), single)


def test_a_keyring_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrossrootError, match=f"there is no keyring {tmp_path}/no.gpg"):
        debian._check(RISCV64.but(keyring=f"{tmp_path}/no.gpg"), None)
    monkeypatch.setitem(debian._KEYRINGS, "ubuntu", tmp_path / "ubuntu.gpg")
    with pytest.raises(CrossrootError) as caught:
        debian._check(UBUNTU, None)
    assert caught.value.message == f"without {tmp_path}/ubuntu.gpg nothing of Ubuntu can be verified"
    assert caught.value.hint == "apt install ubuntu-keyring"


def test_without_mmdebstrap_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_PATH", str(tmp_path))
    with pytest.raises(CrossrootError) as caught:
        debian._command(RISCV64, tmp_path, [])
    assert "mmdebstrap" in caught.value.message
    assert caught.value.hint.startswith("apt install mmdebstrap")


@pytest.mark.parametrize(("uid", "program"), [(0, "debootstrap"), (1000, "")])
def test_debootstrap_serves_root_where_it_is_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, program: str
) -> None:
    (tmp_path / "debootstrap").touch(mode=0o755)
    monkeypatch.setattr(debian, "_PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: uid)
    if program:
        command = debian._command(RISCV64, Path("/r"), [debian._Source("http://m", "trixie")])
        assert command[0] == str(tmp_path / program)
        assert command[-3:] == ["trixie", "/r", "http://m"]
        assert "--arch=riscv64" in command
    else:
        with pytest.raises(CrossrootError, match="debootstrap is only of use to root"):
            debian._command(RISCV64, Path("/r"), [])


# How mmdebstrap is called


def test_mmdebstrap_gets_what_the_recipe_says() -> None:
    recipe = RISCV64.but(arch=arch.find("armv7"), packages=("gcc", "make"), components=("main", "contrib"))
    command = debian._mmdebstrap("mmdebstrap", recipe, Path("/r"), [debian._Source("http://m", "trixie")])
    assert command[0] == "mmdebstrap"
    assert {"--variant=minbase", "--architectures=armhf", "--include=apt,gcc,make"} < set(command)
    assert command[-3:] == ["trixie", "/r", f"deb [signed-by={recipe.trusted}] http://m trixie main contrib"]


def test_without_sources_mmdebstrap_takes_its_own_with_the_keyring() -> None:
    command = debian._mmdebstrap("mmdebstrap", UBUNTU, Path("/r"), [])
    assert command[-2:] == ["noble", "/r"]
    assert {"--components=main,universe", f"--keyring={UBUNTU.trusted}"} < set(command)


def test_hare_comes_with_the_assembler_it_calls() -> None:
    assert debian.with_companions(["hare", "git"]) == ["hare", "git", "binutils"]
    assert "--include=apt,hare,binutils" in debian._mmdebstrap("m", RISCV64.but(packages=("hare",)), Path("/r"), [])
    assert debian.install_command(["hare"])[-2:] == ["hare", "binutils"]


def test_only_proxies_of_the_environment_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("https_proxy", "http://proxy.example:1")
    environment = debian._environment(RISCV64.but(qemu_cpu="max"), Handler("private"))
    assert "SECRET" not in environment
    assert environment["https_proxy"] == "http://proxy.example:1"
    assert environment["QEMU_CPU"] == "max"
    assert "QEMU_CPU" not in debian._environment(RISCV64.but(qemu_cpu="max"), Handler("native"))


def test_the_proxy_of_the_hosts_apt_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "apt.conf").write_text(
        'Acquire::http::Proxy "http://apt.example:3142";\nAcquire::https::Proxy "DIRECT";'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    environment = debian._environment(RISCV64, Handler("native"))
    assert environment["http_proxy"] == "http://apt.example:3142"
    assert "https_proxy" not in environment


def test_its_output_is_passed_on_and_kept(capfd: pytest.CaptureFixture[str]) -> None:
    status, output = debian._run_aloud(["/bin/sh", "-c", "echo out; echo err >&2; exit 25"], {})
    assert (status, output) == (25, "out\nerr\n")
    assert capfd.readouterr() == ("", "out\nerr\n")


def test_of_long_output_the_end_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    command = ["/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done"]
    _, output = debian._run_aloud(command, {})
    assert output.endswith("\nline 19999\n")
    assert len(output) == debian._TAIL < len(capfd.readouterr().err)


# What its errors mean: lines that apt and mmdebstrap printed


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        (
            "Err:2 http://m nosuch Release\n  404  Not Found [IP: 192.0.2.1 80]\n"
            "E: The repository 'http://m nosuch Release' does not have a Release file.",
            "the mirror has no suite trixie",
            "check suite and mirrors",
        ),
        (
            "Err:1 http://127.0.0.1:9 trixie InRelease\n"
            "  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)\nE: Some index files",
            "a mirror of Debian cannot be reached: Could not connect to 127.0.0.1:9",
            "--mirror URL",
        ),
        (
            "Err:1 http://m trixie InRelease\n  Temporary failure resolving 'm'",
            "a mirror of Debian cannot be reached: Temporary failure resolving 'm'",
            "network",
        ),
        (
            "W: GPG error: http://m trixie InRelease: The following signatures couldn't be verified because the public "
            "key is not available: NO_PUBKEY 6ED0E7B82643E131\nE: The repository 'http://m trixie InRelease' is not "
            "signed.",
            "has no valid key for trixie, it may be too old for it",
            "apt install --only-upgrade debian-archive-keyring",
        ),
        (
            "W: apt-get indextargets output is empty\n"
            "E: apt-get update did not find any indices for architecture 'riscv64' in suite 'bookworm'",
            "Debian trixie has no riscv64",
            "riscv64 is there since trixie",
        ),
        (
            "E: Unable to locate package nosuch",
            "Debian trixie has no package nosuch for riscv64",
            "components main",
        ),
        ("E: Package 'vi' has no installation candidate", "Debian trixie has no package vi for riscv64", "components"),
        (
            "E: Failed to fetch http://m/x.xz  File has unexpected size (720 != 1108). Mirror sync in progress?",
            "the mirror is being updated",
            "try again later",
        ),
        (
            "E: Release file for http://m/dists/sid/InRelease is expired (invalid since 18d 5h 31min 43s).",
            "http://m/dists/sid/InRelease has expired",
            "--mirror URL",
        ),
        ("dpkg: error: cannot copy: No space left on device", "no space left", "CROSSROOT_STORE"),
        ("E: something else", "mmdebstrap failed with status 25", "its own output is above"),
    ],
)
def test_what_apt_says_becomes_a_cause_and_a_cure(said: str, message: str, hint: str) -> None:
    error = debian._explained(RISCV64, "mmdebstrap", 25, f"I: running apt-get update...\n{said}\nE: mmdebstrap failed")
    assert message in error.message
    assert hint in error.hint


def test_only_a_mirror_that_does_not_fit_together_is_tried_again() -> None:
    assert isinstance(debian._explained(RISCV64, "m", 1, "E: Hash Sum mismatch"), debian._OutOfSync)
    assert not isinstance(debian._explained(RISCV64, "m", 1, "E: NO_PUBKEY"), debian._OutOfSync)


# The finished root


def test_a_folder_is_emptied_without_following_links(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    folder = tmp_path / "dev"
    (folder / "shm/deep").mkdir(parents=True)
    (folder / "null").touch()
    (folder / "link").symlink_to(kept)
    debian._empty(folder)
    assert list(folder.iterdir()) == []
    assert (kept / "file").exists()


def test_services_are_not_started_in_a_root(tmp_path: Path) -> None:
    script = tmp_path / "policy-rc.d"
    script.write_bytes(debian._POLICY)
    script.chmod(0o755)
    assert subprocess.run([script, "ssh", "start"], check=False).returncode == 101
