"""Tiny static programs that make system calls of one's choice, without a compiler: what a hostile root would run.

    (folder / "attack").write_bytes(program("x86_64", [(250, 0, 0)]))     # keyctl(0, 0)

A program makes its calls one after another and exits with the errno of the last one, 0 if that succeeded. ABIs: x86_64;
x86 (int 0x80) from within a 64-bit program; riscv64, which is emulated.
"""

import struct
from collections.abc import Sequence

from crossroot import arch, elf

Call = Sequence[int | bytes]  # its number and arguments; bytes: the address of such data

_LOAD_ADDRESS = 0x10000
_CODE = _LOAD_ADDRESS + 128  # where `elf.probe_program` puts the code of 64-bit programs


def program(abi: str, calls: Sequence[Call]) -> bytes:
    """An ELF executable that makes `calls`."""
    write = _riscv64 if abi == "riscv64" else lambda resolved: _x86(abi, resolved)
    size = len(write([_resolved(call, {}) for call in calls]))
    data = b""
    places: dict[bytes, int] = {}
    for argument in (argument for call in calls for argument in call if isinstance(argument, bytes)):
        places[argument] = _CODE + size + len(data)
        data += argument.ljust(-(-len(argument) // 16) * 16, b"\0")
    code = write([_resolved(call, places) for call in calls])
    name = "riscv64" if abi == "riscv64" else "x86_64"
    machine = arch.find(name)
    return elf.probe_program(machine.but(elf=machine.elf.but(code=(code + data).hex())))


def _resolved(call: Call, places: dict[bytes, int]) -> list[int]:
    return [places.get(value, _CODE) if isinstance(value, bytes) else value for value in call]


def _x86(abi: str, calls: list[list[int]]) -> bytes:
    """mov ARGUMENT; mov eax, NUMBER; syscall or int 0x80; and the end: exit(eax < 0 ? -eax : 0)."""
    registers: tuple[bytes, ...]
    if abi == "x86":
        registers, word, call = (b"\xbb", b"\xb9", b"\xba", b"\xbe", b"\xbf"), "<I", b"\xcd\x80"
    else:
        registers = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")
        word, call = "<Q", b"\x0f\x05"
    bits = 8 * struct.calcsize(word)
    code = b""
    for number, *arguments in calls:
        for register, value in zip(registers, (*arguments, 0, 0, 0, 0, 0, 0), strict=False):
            code += register + struct.pack(word, value & (1 << bits) - 1)
        code += b"\xb8" + struct.pack("<I", number) + call
    return code + bytes.fromhex("85c0 7804 31c0 eb02 f7d8 89c7 b83c000000 0f05")


def _riscv64(calls: list[list[int]]) -> bytes:
    """lui and addiw for each argument (a0 to a5) and the number (a7); ecall; and the end: exit(a0 < 0 ? -a0 : 0)."""

    def load(register: int, value: int) -> bytes:
        low = value & 0xFFF
        high = (value + (0x1000 if low & 0x800 else 0)) & 0xFFFFF000
        return struct.pack("<II", high | register << 7 | 0x37, low << 20 | register << 15 | register << 7 | 0x1B)

    code = b""
    for number, *arguments in calls:
        for register, value in zip(range(10, 16), (*arguments, 0, 0, 0, 0, 0, 0), strict=False):
            code += load(register, value)
        code += load(17, number) + struct.pack("<I", 0x73)
    # bgez a0, +12; neg a0, a0; j +8; li a0, 0; li a7, 93; ecall
    return code + struct.pack("<6I", 0x00055663, 0x40A00533, 0x0080006F, 0x00000513, 0x05D00893, 0x73)
