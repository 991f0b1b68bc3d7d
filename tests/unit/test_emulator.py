"""Which emulator is used: versions, those fetched, those of the host, one that is named."""

import json
import os
import re
from pathlib import Path

import pytest

from crossroot import arch, elf, emulator
from crossroot.errors import CrossrootError, UsageError

RISCV64 = arch.find("riscv64")
HOST = arch.find(os.uname().machine)


def executable(path: Path, content: bytes | None = None) -> Path:
    """A file that could be an emulator: static, and for this host."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(elf.probe_program(HOST) if content is None else content)
    path.chmod(0o755)
    return path


def put_fetched(cache: Path, version: str, name: str = "riscv64") -> Path:
    return executable(cache / "emulators" / name / version / f"qemu-{name}")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, empty; distributions put nothing anywhere."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(emulator, "_FOLDERS", ())
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_a_folder_on_path_that_cannot_be_looked_into_is_passed_over(
    host: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = host.parent / "closed"
    closed.mkdir(mode=0)  # no obstacle for root, unlike a name that is too long
    monkeypatch.setenv("PATH", f"{closed}/bin:/{'x' * 300}:{host}")
    path = executable(host / "qemu-riscv64-static")
    assert emulator.find(RISCV64, cache=cache) == path


# --- versions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "request_"),
    [
        ("10.0.2", ""),
        ("10.0.2", "10"),
        ("10.0.2", "10.0"),
        ("10.0.2", "10.0.2"),
        ("10.0.2", ">=8"),
        ("10.0.2", ">=10"),
        ("10.0.2", ">=10.0.2"),
        ("7.2", ">=7.2.0"),
        ("", ""),
    ],
)
def test_a_version_that_will_do(version: str, request_: str) -> None:
    assert emulator.satisfies(version, request_)


@pytest.mark.parametrize(
    ("version", "request_"),
    [
        ("10.0.2", "1"),
        ("10.0.2", "10.1"),
        ("7.2.22", "10"),
        ("7.2.22", ">=8"),
        ("9.2.4", ">=10"),
        ("7.2.22", ">=7.2.23"),
        ("", "10"),
        ("", ">=0"),
    ],
)
def test_a_version_that_will_not(version: str, request_: str) -> None:
    assert not emulator.satisfies(version, request_)


@pytest.mark.parametrize("request_", ["v10", "10.x", "<8", ">= 8", "../10", "10.", "1:7.2", "1.2.3.4.5", "\uff19"])
def test_what_is_no_version_is_refused(request_: str) -> None:
    with pytest.raises(UsageError, match=re.escape(f"'{request_}' is not a version of qemu")):
        emulator.check_request(request_)


def test_the_version_is_what_the_emulator_says(tmp_path: Path) -> None:
    says = executable(tmp_path / "a", b"#!/bin/sh\necho 'qemu-riscv64 version 9.1.2 (Debian 1:9.1.2+ds-1)'\n")
    silent = executable(tmp_path / "b", b"#!/bin/sh\nexit 1\n")
    broken = executable(tmp_path / "c", b"\x7fELF")
    assert [emulator.version_of(each) for each in (says, silent, broken)] == ["9.1.2", "", ""]


@pytest.mark.parametrize(
    ("name", "version", "cpu"),
    [
        ("riscv64", "11.1.2", "max,ztso=off"),
        ("riscv64", "10.0.2", "max,ztso=off"),
        ("riscv64", "7.2.22", ""),
        ("riscv64", "", ""),
        ("aarch64", "7.2.22", "max,pauth-impdef=on"),
        ("aarch64", "5.2", ""),
        ("armhf", "11.1.2", ""),
    ],
)
def test_the_fastest_cpu_depends_on_the_version(name: str, version: str, cpu: str) -> None:
    assert emulator.fastest_cpu(arch.find(name), version) == cpu


# --- what is found ------------------------------------------------------------------------------------------


def test_a_fetched_emulator_comes_before_that_of_the_host(cache: Path, host: Path) -> None:
    mine = executable(host / "qemu-riscv64-static")
    assert emulator.find(RISCV64, cache=cache) == mine
    fetched = put_fetched(cache, "9.1.2")
    assert emulator.find(RISCV64, cache=cache) == fetched


def test_the_named_one_comes_before_all(cache: Path, host: Path) -> None:
    put_fetched(cache, "9.1.2")
    named = executable(host / "mine")
    assert emulator.find(RISCV64, named, cache=cache) == named


def test_the_fastest_is_used_until_another_is_chosen(cache: Path) -> None:
    old, new, other = put_fetched(cache, "7.2.22"), put_fetched(cache, "11.1.2"), put_fetched(cache, "10.0.2")
    assert emulator.find(RISCV64, cache=cache) == old
    assert emulator.choose(RISCV64, "11", cache).path == new
    assert emulator.find(RISCV64, cache=cache) == new
    assert emulator.find(RISCV64, version=">=8", cache=cache) == other
    assert emulator.choose(RISCV64, "", cache).path == old
    assert emulator.find(RISCV64, cache=cache) == old


def test_the_newest_is_used_of_those_that_are_as_fast(cache: Path) -> None:
    for version in ("7.2.22", "9.1.2", "9.1.1"):
        put_fetched(cache, version)
    assert [each.version for each in emulator.fetched(RISCV64, cache)] == ["9.1.2", "9.1.1", "7.2.22"]


@pytest.mark.parametrize(("version", "found"), [("9", "9.1.2"), ("9.1", "9.1.2"), (">=8", "9.1.2"), ("7.2", "7.2.22")])
def test_a_wanted_version_is_found_among_the_fetched(cache: Path, host: Path, version: str, found: str) -> None:
    executable(host / "qemu-riscv64-static")
    for each in ("9.1.2", "7.2.22", "10.0.2"):
        put_fetched(cache, each)
    path = emulator.find(RISCV64, version=version, cache=cache)
    assert path.parent.name == found


def test_a_choice_whose_version_is_gone_is_forgotten(cache: Path) -> None:
    put_fetched(cache, "7.2.22"), put_fetched(cache, "10.0.2")
    emulator.choose(RISCV64, "7.2", cache)
    assert [each.version for each in emulator.remove(RISCV64, "7", cache)] == ["7.2.22"]
    assert emulator.chosen(RISCV64, cache) == ""
    assert [each.version for each in emulator.fetched(RISCV64, cache)] == ["10.0.2"]
    assert [each.version for each in emulator.remove(RISCV64, "", cache)] == ["10.0.2"]
    assert emulator.fetched(RISCV64, cache) == []


def test_an_unusable_fetched_one_is_passed_over(cache: Path, host: Path) -> None:
    mine = executable(host / "qemu-riscv64")
    put_fetched(cache, "9.1.2").write_bytes(b"")
    assert emulator.find(RISCV64, cache=cache) == mine


def test_arches_that_share_an_emulator_share_the_fetched_one(cache: Path) -> None:
    path = put_fetched(cache, "9.1.2", "arm")
    assert emulator.find(arch.find("armhf"), cache=cache) == emulator.find(arch.find("armv7"), cache=cache) == path


def test_other_files_in_the_cache_are_no_versions(cache: Path) -> None:
    path = put_fetched(cache, "9.1.2")
    for name in (".new-123", "default", "newest", "..", "9.1.2.old"):
        (cache / "emulators/riscv64" / name).mkdir(exist_ok=True)
    assert emulator.fetched(RISCV64, cache) == [emulator.Emulator("9.1.2", path)]


def test_none_is_an_error_that_says_how_to_get_one(cache: Path, host: Path) -> None:  # noqa: ARG001
    with pytest.raises(CrossrootError) as caught:
        emulator.find(RISCV64, cache=cache)
    assert caught.value.message == "no emulator for riscv64 on this host"
    assert caught.value.hint.startswith("crossroot emulator fetch riscv64, or ")
    with pytest.raises(CrossrootError) as caught:
        emulator.find(RISCV64, version=">=8", cache=cache)
    assert caught.value.message == "no emulator for riscv64 of version >=8 on this host"
    assert caught.value.hint.startswith("crossroot emulator fetch riscv64 --qemu-version '>=8', or ")


def test_what_was_found_and_will_not_do_is_named(cache: Path, host: Path) -> None:
    wrong = executable(host / "qemu-riscv64", elf.probe_program(RISCV64))
    with pytest.raises(
        CrossrootError, match=rf"no usable emulator for riscv64: {wrong} is for riscv64, not for this host"
    ):
        emulator.find(RISCV64, cache=cache)
    put_fetched(cache, "9.1.2")
    with pytest.raises(CrossrootError, match=r"no usable emulator for riscv64 of version 10: .* has version 9\.1\.2"):
        emulator.find(RISCV64, version="10", cache=cache)


def test_files_that_cannot_be_handlers_say_why(tmp_path: Path) -> None:
    assert emulator.why_unusable(executable(tmp_path / "good")) == ""
    plain = executable(tmp_path / "plain")
    plain.chmod(0o644)
    assert emulator.why_unusable(plain) == "is not executable"
    assert emulator.why_unusable(executable(tmp_path / "script", b"#!/bin/sh\n")) == "is not an ELF executable"
    assert emulator.why_unusable(tmp_path / "none").startswith("cannot be read")
    assert "dynamically linked" in emulator.why_unusable(Path("/bin/ls"))


# --- choosing and removing ----------------------------------------------------------------------------------


def test_only_what_was_fetched_can_be_chosen_or_removed(cache: Path) -> None:
    put_fetched(cache, "9.1.2")
    for change in (emulator.choose, emulator.remove):
        with pytest.raises(CrossrootError) as caught:
            change(RISCV64, "10", cache)
        assert (caught.value.message, caught.value.hint) == (
            "no emulator 10 for riscv64 was fetched",
            "there are 9.1.2",
        )
        with pytest.raises(CrossrootError, match="no emulator for s390x was fetched"):
            change(arch.find("s390x"), "", cache)


def test_what_is_known_of_one_survives_a_damaged_file(cache: Path) -> None:
    path = put_fetched(cache, "9.1.2")
    one = emulator.Emulator("9.1.2", path)
    assert emulator.info(one) == {}
    file = path.parent / "info.json"
    file.write_text("{")
    assert emulator.info(one) == {}
    file.write_text(json.dumps({"source": "apt"}))
    assert emulator.info(one) == {"source": "apt"}
