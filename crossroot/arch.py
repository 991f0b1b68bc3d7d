"""The CPU architectures crossroot knows: one table of their names, ELF magic and mask.

An arch carries Alpine's name, or qemu's where Alpine has none. Debian's, Docker's and qemu's names are accepted
and translated. One clash: `armhf` is ARMv6 for Alpine and ARMv7 for Debian; crossroot follows Alpine.
"""

from __future__ import annotations

import os

from crossroot.errors import UsageError
from crossroot.record import Record

LE = "ffffffffffffff00fffffffffffffffffeffffff"
BE = "ffffffffffffff00fffffffffffffffffffeffff"


class Elf(Record):
    """How executables of an arch look, and the smallest program for it.

    machine: e_machine. magic, mask: hex, as /proc/sys/fs/binfmt_misc prints them; both start at offset 0.
    flags: e_flags. code: hex, a complete program that exits with the first byte of its argv[0].
    """

    machine: int
    magic: str
    mask: str
    flags: int
    code: str


class Arch(Record):
    """One architecture. name: Alpine's. qemu: as in `qemu-NAME`. debian, docker: "" where there is none.
    uname: what `uname -m` says on it. aliases: further names users know it by."""

    name: str
    elf: Elf
    qemu: str
    debian: str
    docker: str
    uname: str
    aliases: tuple[str, ...] = ()


_ELF = {
    "aarch64": Elf(183, "7f454c460201010000000000000000000200b700", LE, 0x0, "e00740f900004039a80b80d2010000d4"),
    "arm": Elf(40, "7f454c4601010100000000000000000002002800", LE, 0x5000000, "04009de50000d0e50170a0e3000000ef"),
    "loongarch64": Elf(
        258,
        "7f454c4602010100000000000000000002000201",
        "fffffffffffffffc00fffffffffffffffeffffff",
        0x43,
        "6420c0288400002a0b74810300002b00",
    ),
    "ppc64le": Elf(
        21,
        "7f454c4602010100000000000000000002001500",
        "ffffffffffffff00fffffffffffffffffeffff00",
        0x2,
        "080061e8000063880100003802000044",
    ),
    "riscv64": Elf(243, "7f454c460201010000000000000000000200f300", LE, 0x0, "03358100034505009308d00573000000"),
    "s390x": Elf(22, "7f454c4602020100000000000000000000020016", BE, 0x0, "e320f0080004e320200000900a01"),
    "i386": Elf(
        3,
        "7f454c4601010100000000000000000002000300",
        "fffffffffffefe00fffffffffffffffffeffffff",
        0x0,
        "8b5c24040fb61bb801000000cd80",
    ),
    "x86_64": Elf(
        62,
        "7f454c4602010100000000000000000002003e00",
        "fffffffffffefe00fffffffffffffffffeffffff",
        0x0,
        "488b7c24080fb63fb83c0000000f05",
    ),
    "armeb": Elf(40, "7f454c4601020100000000000000000000020028", BE, 0x5000000, "e59d0004e5d00000e3a07001ef000000"),
    "ppc64": Elf(21, "7f454c4602020100000000000000000000020015", BE, 0x2, "e8610008886300003800000144000002"),
    "ppc": Elf(20, "7f454c4601020100000000000000000000020014", BE, 0x0, "80610004886300003800000144000002"),
    "riscv32": Elf(243, "7f454c460101010000000000000000000200f300", LE, 0x0, "03254100034505009308d00573000000"),
    "mips": Elf(
        8,
        "7f454c46010201000000000000000000000200080000000100000000000000000000000000000000",
        "ffffffffffffff0000fffffffffffffffffeffffffffffff00000000000000000000000000000020",
        0x70001007,
        "8fa400049084000024020fa10000000c",
    ),
    "mipsel": Elf(
        8,
        "7f454c46010101000000000000000000020008000100000000000000000000000000000000000000",
        "ffffffffffffff0000fffffffffffffffeffffffffffffff00000000000000000000000020000000",
        0x70001007,
        "0400a48f00008490a10f02240c000000",
    ),
    "mipsn32": Elf(
        8,
        "7f454c46010201000000000000000000000200080000000100000000000000000000000000000020",
        "ffffffffffffff0000fffffffffffffffffeffffffffffff00000000000000000000000000000020",
        0x80000027,
        "8fa4000490840000240217aa0000000c",
    ),
    "mipsn32el": Elf(
        8,
        "7f454c46010101000000000000000000020008000100000000000000000000000000000020000000",
        "ffffffffffffff0000fffffffffffffffeffffffffffffff00000000000000000000000020000000",
        0x80000027,
        "0400a48f00008490aa1702240c000000",
    ),
    "mips64": Elf(
        8,
        "7f454c4602020100000000000000000000020008",
        "ffffffffffffff0000fffffffffffffffffeffff",
        0x80000007,
        "dfa4000890840000240213c20000000c",
    ),
    "mips64el": Elf(
        8,
        "7f454c4602010100000000000000000002000800",
        "ffffffffffffff0000fffffffffffffffeffffff",
        0x80000007,
        "0800a4df00008490c21302240c000000",
    ),
    "m68k": Elf(
        4,
        "7f454c4601020100000000000000000000020004",
        "fffffffffffffe00fffffffffffffffffffeffff",
        0x0,
        "206f00047200121070014e40",
    ),
    "sparc64": Elf(43, "7f454c460202010000000000000000000002002b", BE, 0x0, "d05ba887d00a00008210200191d0206d"),
    "alpha": Elf(
        36902,
        "7f454c4602010100000000000000000002002690",
        "fffffffffffefe00fffffffffffffffffeffffff",
        0x0,
        "08001ea60000102a01001f2083000000",
    ),
    "hppa": Elf(15, "7f454c460102010000000000000000000002000f", BE, 0x0, "4b1a0000435a0000e400820034140002"),
    "sh4": Elf(42, "7f454c4601010100000000000000000002002a00", LE, 0x0, "f15440644c6401e311c30900"),
}

_ARCHES = [
    # name, ELF row, qemu, Debian, Docker, uname -m, further names accepted
    Arch("aarch64", _ELF["aarch64"], "aarch64", "arm64", "linux/arm64", "aarch64", ("linux/arm64/v8", "armv8")),
    Arch("armhf", _ELF["arm"], "arm", "", "linux/arm/v6", "armv6l", ("armv6", "armv6l", "armv6hf")),
    Arch("armv7", _ELF["arm"], "arm", "armhf", "linux/arm/v7", "armv7l", ("armv7l", "armv7hf", "arm", "linux/arm")),
    Arch("loongarch64", _ELF["loongarch64"], "loongarch64", "loong64", "linux/loong64", "loongarch64", ("loongarch",)),
    Arch("ppc64le", _ELF["ppc64le"], "ppc64le", "ppc64el", "linux/ppc64le", "ppc64le", ("powerpc64le",)),
    Arch("riscv64", _ELF["riscv64"], "riscv64", "riscv64", "linux/riscv64", "riscv64", ()),
    Arch("s390x", _ELF["s390x"], "s390x", "s390x", "linux/s390x", "s390x", ()),
    Arch("x86", _ELF["i386"], "i386", "i386", "linux/386", "i686", ("i486", "i586", "i686", "386")),
    Arch("x86_64", _ELF["x86_64"], "x86_64", "amd64", "linux/amd64", "x86_64", ("x64", "x86-64")),
    Arch("armeb", _ELF["armeb"], "armeb", "", "", "armv7b", ()),
    Arch("ppc64", _ELF["ppc64"], "ppc64", "ppc64", "linux/ppc64", "ppc64", ("powerpc64",)),
    Arch("ppc", _ELF["ppc"], "ppc", "powerpc", "", "ppc", ("powerpc",)),
    Arch("riscv32", _ELF["riscv32"], "riscv32", "", "", "riscv32", ()),
    Arch("mips", _ELF["mips"], "mips", "mips", "linux/mips", "mips", ()),
    Arch("mipsel", _ELF["mipsel"], "mipsel", "mipsel", "linux/mipsle", "mips", ()),
    Arch("mipsn32", _ELF["mipsn32"], "mipsn32", "mipsn32", "", "mips64", ()),
    Arch("mipsn32el", _ELF["mipsn32el"], "mipsn32el", "mipsn32el", "", "mips64", ()),
    Arch("mips64", _ELF["mips64"], "mips64", "mips64", "linux/mips64", "mips64", ()),
    Arch("mips64el", _ELF["mips64el"], "mips64el", "mips64el", "linux/mips64le", "mips64", ()),
    Arch("m68k", _ELF["m68k"], "m68k", "m68k", "", "m68k", ()),
    Arch("sparc64", _ELF["sparc64"], "sparc64", "sparc64", "", "sparc64", ()),
    Arch("alpha", _ELF["alpha"], "alpha", "alpha", "", "alpha", ()),
    Arch("hppa", _ELF["hppa"], "hppa", "hppa", "", "parisc", ("parisc",)),
    Arch("sh4", _ELF["sh4"], "sh4", "sh4", "", "sh4", ()),
]

ALL: dict[str, Arch] = {arch.name: arch for arch in _ARCHES}

# Those that Alpine has releases for.
ALPINE: tuple[Arch, ...] = tuple(_ARCHES[:9])

# Names of Alpine come first, so that a clash is decided in their favour.
_BY_NAME: dict[str, Arch] = {}
for _arch in _ARCHES:
    _BY_NAME[_arch.name] = _arch
for _arch in _ARCHES:
    for _name in (_arch.debian, _arch.docker, _arch.docker.removeprefix("linux/"), _arch.uname, *_arch.aliases):
        if _name:
            _BY_NAME.setdefault(_name, _arch)
for _arch in _ARCHES:  # qemu's last: it has one name, arm, for both armhf and armv7, which is an alias of the latter
    _BY_NAME.setdefault(_arch.qemu, _arch)


def find(name: str) -> Arch:
    """The arch that `name` means, in Alpine's, Debian's, Docker's or qemu's words.

    Raises UsageError with a suggestion if nobody calls an arch that.
    """
    if arch := _BY_NAME.get(name.strip().lower()):
        return arch
    import difflib  # only this error needs it

    close = difflib.get_close_matches(name.lower(), _BY_NAME, n=1)
    meant = f"perhaps you meant {close[0]}; " if close else ""
    raise UsageError(f"unknown architecture '{name}'", hint=f"{meant}known are {', '.join(ALL)}")


def of_host() -> Arch:
    """The arch of the kernel (uname(2)), which needs no handler."""
    return find(os.uname().machine)


def of_elf(header: bytes) -> list[Arch]:
    """The arches whose magic matches the start of a file; more than one where they share it (armhf, armv7)."""
    return [arch for arch in ALL.values() if matches(arch, header)]


def matches(arch: Arch, header: bytes) -> bool:
    """Whether the kernel, with the arch's magic and mask registered, would give it a file that starts so."""
    magic, mask = bytes.fromhex(arch.elf.magic), bytes.fromhex(arch.elf.mask)
    if len(header) < len(magic):
        return False
    return all((byte ^ wanted) & bits == 0 for byte, wanted, bits in zip(header, magic, mask, strict=False))
