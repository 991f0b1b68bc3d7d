"""crossroot.seccomp: what the filters decide, by interpreting them; the kernel's own verdict is in test_hostile.py."""

import errno
import struct

import pytest

from crossroot import seccomp
from crossroot.linux import CLONE_NEWNS, CLONE_NEWUSER
from crossroot.seccomp import Abi

ALLOW = 0x7FFF0000
KILL = 0x80000000
EPERM = 0x00050000 | errno.EPERM
ENOSYS = 0x00050000 | errno.ENOSYS

ABIS = [(machine, abi) for machine, abis in seccomp.ABIS.items() for abi in abis]


def decide(program: bytes, audit: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """Interpret a filter (Documentation/networking/filter.rst), for the few instructions that it may have."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    code = list(struct.iter_unpack("=HBBI", program))
    at, accumulator = 0, 0
    while True:
        operation, yes, no, operand = code[at]
        at += 1
        match operation:
            case 0x20:
                accumulator = struct.unpack_from("=I", data, operand)[0]
            case 0x06:
                return int(operand)
            case 0x15:
                at += yes if accumulator == operand else no
            case 0x25:
                at += yes if accumulator > operand else no
            case 0x35:
                at += yes if accumulator >= operand else no
            case 0x45:
                at += yes if accumulator & operand else no
            case _:
                raise AssertionError(f"instruction {operation:#x}")


def verdicts(machine: str, abi: Abi, strict: bool) -> dict[int, int]:
    """What a filter says to every number there is, with arguments that are 0."""
    program = seccomp.program(machine, strict=strict)
    return {number: decide(program, abi.audit, number) for number in range(seccomp.NEWEST + 1)}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("machine", "abi"), ABIS)
def test_the_calls_in_the_tables_are_refused_and_no_others(machine: str, abi: Abi, strict: bool) -> None:
    missing = set(seccomp.numbers(abi, seccomp.MISSING).values())
    if strict:
        missing.add(435)  # clone3
    forbidden = set(seccomp.numbers(abi, seccomp.FORBIDDEN).values())
    said = verdicts(machine, abi, strict)
    assert {number for number, verdict in said.items() if verdict == ENOSYS} == missing
    assert {number for number, verdict in said.items() if verdict == EPERM} == forbidden
    assert set(said.values()) == {ALLOW, EPERM, ENOSYS}


@pytest.mark.parametrize(("machine", "abi"), ABIS)
def test_calls_that_were_never_looked_at_are_missing(machine: str, abi: Abi) -> None:
    program = seccomp.program(machine, strict=True)
    for number in (seccomp.NEWEST + 1, 1000, 0x40000000, 0x40000000 | 250, 0xFFFFFFFF):
        expected = ALLOW if abi.name == "arm" and number >= 0xF0000 else ENOSYS
        assert decide(program, abi.audit, number) == expected


@pytest.mark.parametrize("machine", seccomp.ABIS)
def test_an_unknown_abi_is_killed(machine: str) -> None:
    assert decide(seccomp.program(machine, strict=False), 0x4000002B, 1) == KILL


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("machine", "abi"), ABIS)
def test_a_terminal_is_not_typed_into_whatever_the_upper_half_says(machine: str, abi: Abi, strict: bool) -> None:
    program = seccomp.program(machine, strict=strict)
    ioctl = seccomp.numbers(abi, seccomp.OTHERS)["ioctl"]
    for request, verdict in ((0x5412, EPERM), (0x541C, EPERM), (1 << 32 | 0x5412, EPERM), (0x5413, ALLOW)):
        assert decide(program, abi.audit, ioctl, (0, request)) == verdict


@pytest.mark.parametrize(("machine", "abi"), ABIS)
def test_user_namespaces_are_for_nesting_only(machine: str, abi: Abi) -> None:
    call = seccomp.numbers(abi, seccomp.OTHERS)
    for strict, verdict in ((True, EPERM), (False, ALLOW)):
        program = seccomp.program(machine, strict=strict)
        flags = (CLONE_NEWUSER | CLONE_NEWNS, 0) if abi.clone == 0 else (0, CLONE_NEWUSER | CLONE_NEWNS)
        assert decide(program, abi.audit, call["clone"], flags) == verdict
        assert decide(program, abi.audit, call["clone"], (17, 0)) == ALLOW
        assert decide(program, abi.audit, call["unshare"], (CLONE_NEWUSER,)) == verdict
        assert decide(program, abi.audit, call["unshare"], (CLONE_NEWNS,)) == ALLOW


def test_a_program_of_a_32_bit_kernel_is_judged_by_its_own_numbers() -> None:
    assert {abi.name for abi in seccomp.ABIS["x86_64"]} == {"x86_64", "x86"}
    assert {abi.name for abi in seccomp.ABIS["aarch64"]} == {"aarch64", "arm"}
