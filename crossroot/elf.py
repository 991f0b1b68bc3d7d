"""ELF: what a file's header says, and the probe program for an arch (System V ABI, chapter 4 and 5)."""

from __future__ import annotations

import os
import struct

from crossroot import arch as arches
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from crossroot.arch import Arch

_PT_LOAD = 1
_PT_DYNAMIC = 2
_PT_INTERP = 3
_DT_STRTAB = 5
_DT_RPATH = 15
_DT_RUNPATH = 29
_DT_IGNORED = 0x6000000D  # DT_LOOS, which no loader knows
_LONGEST_TEXT = 4096  # bytes
_MAX_PROGRAM_HEADERS = 256
_LOAD_ADDRESS = 0x10000
_ENTRY_ALIGNMENT = 16


class Header(Record):
    """arches: those that run such a file. static: no PT_INTERP, so that it runs in a chroot without libraries."""

    arches: tuple[Arch, ...]
    static: bool


def read(path: Path) -> Header | None:
    """The header of an ELF file, or None if it is none. Raises OSError if it can't be read."""
    with open(path, "rb") as file:
        start = file.read(64)
        if len(start) < 52 or not start.startswith(b"\x7fELF"):
            return None
        wide, order = start[4] == 2, "<" if start[5] == 1 else ">"
        if wide and len(start) < 64:
            return None
        offset = struct.unpack_from(order + ("Q" if wide else "I"), start, 32 if wide else 28)[0]
        size, count = struct.unpack_from(order + "HH", start, 54 if wide else 42)
        table = b""
        if offset < os.fstat(file.fileno()).st_size:
            file.seek(offset)
            table = file.read(size * min(count, _MAX_PROGRAM_HEADERS))
    types = (struct.unpack_from(order + "I", table, at)[0] for at in range(0, len(table) - 3, size or 1))
    return Header(tuple(arches.of_elf(start)), _PT_INTERP not in types)


def set_interpreter(path: Path, interpreter: str) -> bool:
    """Let the kernel start a dynamic executable by another ELF interpreter, in place; False if it is none.

    Raises ValueError where the new path is longer than the old one. The old one must be absolute, and the file of the
    host's byte order and word size.
    """
    with path.open("r+b") as file:
        for kind, place, room in _segments(file):
            if kind == _PT_INTERP:
                if len(interpreter) >= room:
                    raise ValueError(f"{interpreter} is too long for {path}")
                file.seek(place)
                file.write(interpreter.encode().ljust(room, b"\0"))
                return True
    return False


def take_search_path(path: Path) -> list[str]:
    """Take away the folders in which a dynamic executable or library has its own libraries sought, in place, and give
    them; nothing is changed where none is absolute. For files as in `set_interpreter`."""
    with path.open("r+b") as file:
        segments = list(_segments(file))
        where = next(((place, size) for kind, place, size in segments if kind == _PT_DYNAMIC), None)
        if where is None:
            return []
        file.seek(where[0])
        entries = list(struct.iter_unpack("QQ", file.read(where[1] // 16 * 16)))
        strings = dict(entries).get(_DT_STRTAB, 0)
        found = []
        for number, (tag, value) in enumerate(entries):
            if tag in (_DT_RPATH, _DT_RUNPATH):
                folders = _text_at(file, _offset_of(file, strings) + value).split(":")
                if any(folder.startswith("/") for folder in folders):
                    file.seek(where[0] + number * 16)
                    file.write(struct.pack("Q", _DT_IGNORED))
                    found += [folder for folder in folders if folder.startswith("/")]
        return found


def _segments(file: BinaryIO) -> Iterator[tuple[int, int, int]]:
    """The type, offset and size in the file of each program header; none if it is no ELF file."""
    for header in _program_headers(file):
        yield header[0], header[2], header[5]


def _program_headers(file: BinaryIO) -> list[tuple[int, ...]]:
    """type, flags, offset, virtual and physical address, size in the file and in memory, alignment"""
    file.seek(0)
    start = file.read(64)
    if len(start) < 64 or not start.startswith(b"\x7fELF"):
        return []
    offset, size, count = struct.unpack_from("Q", start, 32)[0], *struct.unpack_from("HH", start, 54)
    file.seek(offset)
    table = file.read(size * count)
    return [struct.unpack_from("IIQQQQQQ", table, at) for at in range(0, len(table) - 55, size or 1)]


def _offset_of(file: BinaryIO, address: int) -> int:
    """Where in the file what is loaded at `address` lies."""
    for kind, _, offset, start, _, size, *_ in _program_headers(file):
        if kind == _PT_LOAD and start <= address < start + size:
            return offset + address - start
    return address


def _text_at(file: BinaryIO, offset: int) -> str:
    file.seek(offset)
    return file.read(_LONGEST_TEXT).partition(b"\0")[0].decode(errors="surrogateescape")


def probe_program(arch: Arch) -> bytes:
    """A complete static executable for `arch` that exits with the first byte of its argv[0] as status."""
    ident = bytes.fromhex(arch.elf.magic)[:16].ljust(16, b"\0")
    code = bytes.fromhex(arch.elf.code)
    wide, order = ident[4] == 2, "<" if ident[5] == 1 else ">"
    header_size, segment_size = (64, 56) if wide else (52, 32)
    start = -(-(header_size + segment_size) // _ENTRY_ALIGNMENT) * _ENTRY_ALIGNMENT
    end = start + len(code)
    address = _LOAD_ADDRESS + start
    # On ppc64 with ABI version 1 the entry would be a descriptor; e_flags say version 2, where it is the code.
    word = "Q" if wide else "I"
    header = ident + struct.pack(
        f"{order}HHI{word}{word}{word}IHHHHHH",
        *(2, arch.elf.machine, 1, address, header_size, 0, arch.elf.flags),
        *(header_size, segment_size, 1, 0, 0, 0),
    )
    readable_executable = 5
    page = 0x10000
    if wide:
        fields = (_PT_LOAD, readable_executable, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, end, end, page)
        segment = struct.pack(f"{order}IIQQQQQQ", *fields)
    else:
        fields = (_PT_LOAD, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, end, end, readable_executable, page)
        segment = struct.pack(f"{order}IIIIIIII", *fields)
    return (header + segment).ljust(start, b"\0") + code
