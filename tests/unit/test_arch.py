"""crossroot.arch: names and magics."""

import itertools

import pytest

from crossroot import arch
from crossroot.arch import Arch
from crossroot.errors import UsageError

ALPINE = ["aarch64", "armhf", "armv7", "loongarch64", "ppc64le", "riscv64", "s390x", "x86", "x86_64"]
each_arch = pytest.mark.parametrize("known", arch.ALL.values(), ids=list(arch.ALL))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *((name, name) for name in ALPINE),
        ("arm64", "aarch64"),
        ("linux/arm64", "aarch64"),
        ("linux/arm64/v8", "aarch64"),
        ("linux/arm/v7", "armv7"),
        ("arm/v7", "armv7"),
        ("linux/arm/v6", "armhf"),
        ("linux/arm", "armv7"),
        ("arm", "armv7"),
        ("armv6l", "armhf"),
        ("i386", "x86"),
        ("i686", "x86"),
        ("linux/386", "x86"),
        ("amd64", "x86_64"),
        ("x86-64", "x86_64"),
        ("ppc64el", "ppc64le"),
        ("loong64", "loongarch64"),
        (" AMD64 ", "x86_64"),
    ],
)
def test_everybodys_names_are_understood(name: str, meant: str) -> None:
    assert arch.find(name).name == meant


def test_armhf_is_alpines_and_not_debians() -> None:
    assert (arch.find("armhf").uname, arch.find("armv7").debian) == ("armv6l", "armhf")


@pytest.mark.parametrize(("name", "meant"), [("riscv", "riscv64"), ("aarch46", "aarch64"), ("", ""), ("sparkle", "")])
def test_unknown_names_are_refused_with_a_suggestion(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match="unknown architecture") as caught:
        arch.find(name)
    assert (f"perhaps you meant {meant}" in caught.value.hint) == bool(meant)
    assert ", ".join(ALPINE) in caught.value.hint


@each_arch
def test_magic_and_mask_fit_together(known: Arch) -> None:
    magic, mask = bytes.fromhex(known.elf.magic), bytes.fromhex(known.elf.mask)
    assert len(magic) == len(mask) >= 20
    assert magic.startswith(b"\x7fELF")
    machine = int.from_bytes(magic[18:20], "little" if magic[5] == 1 else "big")
    assert machine == known.elf.machine
    assert mask[:4] == b"\xff" * 4


def test_no_file_is_of_two_arches_but_those_that_share_their_magic() -> None:
    for one, other in itertools.combinations(arch.ALL.values(), 2):
        pairs = zip(
            *(bytes.fromhex(text) for elf in (one.elf, other.elf) for text in (elf.magic, elf.mask)), strict=False
        )
        alike = all((magic ^ second) & mask & second_mask == 0 for magic, mask, second, second_mask in pairs)
        assert alike == (one.elf == other.elf)
        assert (one.elf == other.elf) == ({one.name, other.name} == {"armhf", "armv7"})


@each_arch
def test_the_type_of_a_file_counts_in_part(known: Arch) -> None:
    header = bytearray(bytes.fromhex(known.elf.magic))
    low = 16 if header[5] == 1 else 17
    for kind, runs in ((1, False), (2, True), (3, True), (4, False)):  # object, executable, position-independent, core
        header[low] = kind
        assert arch.matches(known, bytes(header)) is runs


def test_short_headers_match_nothing() -> None:
    assert arch.of_elf(b"") == []
    assert arch.of_elf(bytes.fromhex(arch.find("riscv64").elf.magic)[:-1]) == []


def test_armhf_and_armv7_share_their_files() -> None:
    header = bytes.fromhex(arch.find("armv7").elf.magic)
    assert [found.name for found in arch.of_elf(header)] == ["armhf", "armv7"]
