"""crossroot.elf: headers of files that may be anything, and the probe program."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from crossroot import arch, elf
from crossroot.arch import Arch

each_arch = pytest.mark.parametrize("known", arch.ALL.values(), ids=list(arch.ALL))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


@each_arch
def test_the_probe_program_is_a_static_executable_of_its_arch(known: Arch, file: Path) -> None:
    program = elf.probe_program(known)
    file.write_bytes(program)
    header = elf.read(file)
    assert header is not None
    assert known in header.arches
    assert header.static
    assert program.endswith(bytes.fromhex(known.elf.code))
    assert len(program) < 4096


@each_arch
def test_the_probe_program_starts_at_its_code(known: Arch) -> None:
    program = elf.probe_program(known)
    wide, order = program[4] == 2, "<" if program[5] == 1 else ">"
    word = "Q" if wide else "I"
    entry, offset, _, flags = struct.unpack_from(f"{order}{word}{word}{word}I", program, 24)
    fields = struct.unpack_from(f"{order}II{word * 6}" if wide else f"{order}8I", program, offset)
    kind, start, address, size = (fields[0], fields[2], fields[3], fields[5]) if wide else (*fields[:3], fields[4])
    assert (kind, start, flags, size) == (1, 0, known.elf.flags, len(program))
    assert program[entry - address :] == bytes.fromhex(known.elf.code)


def test_the_probe_program_exits_with_the_first_byte_of_argv0(file: Path) -> None:
    file.write_bytes(elf.probe_program(arch.find(os.uname().machine)))
    file.chmod(0o755)
    assert subprocess.run(["*"], executable=file, check=False).returncode == ord("*")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x7fELF", b"#!/bin/sh\n", b"\x7fELF" + b"\x02\x01" + b"\0" * 50, b"MZ" + b"\0" * 100],
)
def test_what_is_no_elf_file_is_none(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    assert elf.read(file) is None


def test_an_unreadable_file_is_an_oserror(file: Path) -> None:
    with pytest.raises(FileNotFoundError):
        elf.read(file)
    with pytest.raises(IsADirectoryError):
        elf.read(file.parent)


@each_arch
def test_a_loader_makes_it_dynamic(known: Arch, file: Path) -> None:
    program = bytearray(elf.probe_program(known))
    offset = 64 if program[4] == 2 else 52
    struct.pack_into("<I" if program[5] == 1 else ">I", program, offset, 3)  # PT_LOAD becomes PT_INTERP
    file.write_bytes(program)
    header = elf.read(file)
    assert header is not None
    assert not header.static


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (32, b"\xff" * 8),  # e_phoff
        (32, b"\0" * 8),
        (54, b"\0\0"),  # e_phentsize
        (54, b"\xff\xff"),
        (56, b"\xff\xff"),  # e_phnum
        (54, b"\xff\xff\xff\xff"),
    ],
)
def test_nonsense_in_a_header_is_survived(file: Path, at: int, value: bytes) -> None:
    program = bytearray(elf.probe_program(arch.find("riscv64")))
    program[at : at + len(value)] = value
    file.write_bytes(program)
    header = elf.read(file)
    assert header is None or [found.name for found in header.arches] == ["riscv64"]


def test_an_unknown_machine_has_no_arch(file: Path) -> None:
    program = bytearray(elf.probe_program(arch.find("riscv64")))
    program[18:20] = b"\xfe\xca"
    file.write_bytes(program)
    header = elf.read(file)
    assert header is not None
    assert header.arches == ()
