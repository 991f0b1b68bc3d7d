"""What `crossroot.fill` believes of an archive."""

from typing import Any

import pytest

from crossroot import arch, fill
from crossroot.errors import CrossrootError


def facts(apk_arch: str = "", **machines: int) -> dict[str, Any]:
    """What unpacking found out: apk's own record, and how many programs there are for each arch."""
    return {"machines": machines, "apk_arch": apk_arch}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("riscv64", facts(riscv64=1)),
        ("riscv64", facts("riscv64", riscv64=300)),
        ("armhf", facts("armhf", armhf=9, armv7=9)),
        ("armv7", facts("armv7", armhf=9, armv7=9)),
        ("armhf", facts(armhf=9, armv7=9)),
        ("x86", facts(x86=1, x86_64=200)),  # 32-bit userland with 64-bit tools, and the other way round
        ("riscv64", facts("nonsense", riscv64=1)),
        ("riscv64", facts("../x", riscv64=1)),
    ],
)
def test_an_archive_for_the_arch_is_taken(wanted: str, found: dict[str, Any]) -> None:
    fill._check_arch(arch.find(wanted), found, "rootfs.tar")


@pytest.mark.parametrize(
    ("wanted", "found", "held"),
    [
        ("riscv64", facts(aarch64=1), "aarch64"),
        ("riscv64", facts("riscv64", aarch64=1), "aarch64"),
        ("riscv64", facts("aarch64", riscv64=1), "aarch64"),
        ("armhf", facts("armv7", armhf=9, armv7=9), "armv7"),
        ("armv7", facts("armhf", armhf=9, armv7=9), "armhf"),
        ("riscv64", facts(x86=1, x86_64=200), "x86_64"),
    ],
)
def test_an_archive_for_another_arch_is_refused_and_named(wanted: str, found: dict[str, Any], held: str) -> None:
    with pytest.raises(CrossrootError, match=f"^rootfs.tar is a rootfs for {held}, not for {wanted}$") as caught:
        fill._check_arch(arch.find(wanted), found, "rootfs.tar")
    assert held in caught.value.hint


def test_an_archive_without_programs_is_no_rootfs_whatever_it_says() -> None:
    with pytest.raises(CrossrootError, match="is no rootfs"):
        fill._check_arch(arch.find("riscv64"), facts("riscv64"), "rootfs.tar")


@pytest.mark.parametrize("text", ["alpine", "3.20.3", "3.21_alpha", "12~beta+1", "opensuse-leap", "x" * 40])
def test_a_word_is_believed(text: str) -> None:
    assert fill._word(text) == text


@pytest.mark.parametrize("text", ["", "a b", "\x1b[2J", "a\n", "é", "-x", ".x", "x" * 41, "\u202e", "a\0"])
def test_what_is_no_word_is_not_shown(text: str) -> None:
    assert fill._word(text) == ""
