"""Which packages of Debian hold the native tools that can take the places of a foreign root's own, as plain data.

The foreign root has gcc-14 and binutils-riscv64-linux-gnu of riscv64, the tool root gcc-14-riscv64-linux-gnu and
binutils-riscv64-linux-gnu of the host's arch, which are built from the same source. They give the same output where
they have the same version.
"""

import re
from collections.abc import Mapping, Sequence

from crossroot import guest
from crossroot.arch import Arch
from crossroot.distros import debian
from crossroot.wrappers import PLACE, Program

LIBEXEC = f"{PLACE}/usr/libexec/gcc-cross"  # of the tool root in a session
DATABASES: tuple[str, ...] = ("/var/lib/dpkg/status",)
SHELL_PACKAGE = "mksh"  # it has a static one, which starts as fast as any program and knows `exec -a`
SHELLS: tuple[str, ...] = ("usr/bin/mksh-static", "bin/mksh-static")
# Of the foreign arch, in whose places a session has the root's own, and what no tool needs.
SUPERFLUOUS: tuple[str, ...] = (
    "etc",
    "usr/{triplet}/include",
    "usr/{triplet}/lib",
    "usr/lib/gcc-cross",
    "usr/share",
    "var",
)

# The words of Debian's triplets that are not those of qemu's names.
_TRIPLETS = {
    "aarch64": "aarch64-linux-gnu",
    "armv7": "arm-linux-gnueabihf",
    "ppc64le": "powerpc64le-linux-gnu",
    "riscv64": "riscv64-linux-gnu",
    "s390x": "s390x-linux-gnu",
    "x86": "i686-linux-gnu",
    "x86_64": "x86_64-linux-gnu",
    "loongarch64": "loongarch64-linux-gnu",
}
_OFFLOADING = ("aarch64", "ppc64le", "x86_64")  # those where Debian's gcc is configured with --enable-offload-targets
_QBE_TARGETS = {"aarch64": "arm64", "riscv64": "rv64", "x86_64": "amd64_sysv"}
_BINUTILS = (
    *("addr2line", "ar", "as", "c++filt", "elfedit", "ld.bfd", "nm", "objcopy", "objdump", "ranlib", "readelf"),
    *("size", "strings", "strip"),
)

# Never among these: uname, arch and dpkg, which say what the root is; bash, perl and python, which load modules of the
# root's arch; ldd and ldconfig, which look at its libraries.
SHELL_TOOLS: dict[str, tuple[str, ...]] = {
    "dash": ("dash",),
    "make": ("make",),
    "sed": ("sed",),
    "grep": ("grep",),
    "mawk": ("mawk",),
    "gawk": ("gawk",),
    "findutils": ("find", "xargs"),
    "diffutils": ("cmp", "diff"),
    "gzip": ("gzip",),
    "bzip2": ("bzip2",),
    "xz-utils": ("xz",),
    "zstd": ("zstd",),
    "coreutils": (
        *("[", "base64", "basename", "cat", "chmod", "cksum", "comm", "cp", "cut", "date", "dd", "dirname", "echo"),
        *("env", "expr", "false", "fold", "head", "install", "join", "ln", "ls", "md5sum", "mkdir", "mkfifo", "mktemp"),
        *("mv", "nl", "od", "paste", "printf", "pwd", "readlink", "realpath", "rm", "rmdir", "seq", "sha1sum"),
        *("sha256sum", "sha512sum", "sleep", "sort", "split", "stat", "sum", "tac", "tail", "tee", "test", "touch"),
        *("tr", "true", "truncate", "tsort", "uniq", "unlink", "wc", "yes"),
    ),
}


def triplet(arch: Arch) -> str:
    """The GNU triplet of Debian's port, "" where there is none."""
    return _TRIPLETS.get(arch.name, "")


def installed(status: str) -> dict[str, str]:
    """The versions of the installed packages in the text of dpkg's status file, by name."""
    found = {}
    for paragraph in status.split("\n\n"):
        if "\nStatus: install ok installed\n" in paragraph:
            fields = dict(re.findall(r"^(Package|Version): (\S+)$", paragraph, re.MULTILINE))
            if len(fields) == 2:
                found[fields["Package"]] = fields["Version"]
    return found


def programs(arch: Arch, packages: Mapping[str, str]) -> list[Program]:
    """The programs of a root of `arch` with these packages that native ones could replace."""
    found = [*_binutils(arch, packages), *_compilers(arch, packages), *_hare(arch)]
    found += [
        Program(2, "plain", f"/usr/bin/{name}", package, package)
        for package, names in SHELL_TOOLS.items()
        for name in names
    ]
    found += [Program(1, "plain", f"/usr/bin/{name}", name, name) for name in ("ccache", "distcc")]
    return [program for program in found if program.package in packages]


def _binutils(arch: Arch, packages: Mapping[str, str]) -> list[Program]:
    package = f"binutils-{_in_names(arch)}"
    compilers = sorted(name for name in packages if re.fullmatch(r"gcc-[0-9]+", name))
    plugin = f"{LIBEXEC}/{triplet(arch)}/{compilers[-1].removeprefix('gcc-')}/liblto_plugin.so" if compilers else ""
    options = {name: ("--plugin", plugin) for name in ("ar", "nm", "ranlib") if plugin} | {"ld.bfd": ()}
    return [
        Program(
            1,
            "plugged" if name in options else "plain",
            f"/usr/bin/{triplet(arch)}-{name}",
            package,
            package,
            option=options.get(name, ()),
        )
        for name in _BINUTILS
    ]


def _compilers(arch: Arch, packages: Mapping[str, str]) -> list[Program]:
    """gcc, g++ and cpp of each installed version; they assemble and link with the native binutils."""
    names = [name for name in packages if re.fullmatch(r"(gcc|g\+\+|cpp)-[0-9]+", name)]
    return [
        Program(
            1,
            "compiler",
            f"/usr/bin/{triplet(arch)}-{name}",
            name,
            f"{name}-{_in_names(arch)}",
            needs=(f"binutils-{_in_names(arch)}",),
            option=(name.rpartition("-")[2], *(("offload",) if arch.name in _OFFLOADING else ())),
        )
        for name in names
    ]


def _hare(arch: Arch) -> list[Program]:
    """Hare's compiler, its backend and its driver are cross compilers by nature, with the arch as an option."""
    if arch.name not in _QBE_TARGETS:
        return []
    return [
        Program(1, "itself", "/usr/bin/harec", "harec", "harec"),
        Program(1, "default", "/usr/bin/qbe", "qbe", "qbe", option=("-t", _QBE_TARGETS[arch.name])),
        Program(3, "hare", "/usr/bin/hare", "hare", "hare", ("harec", "qbe"), ("-a", arch.name)),
    ]


def _in_names(arch: Arch) -> str:
    """The triplet as the names of packages have it."""
    return triplet(arch).replace("_", "-")


def versions() -> dict[str, str]:
    """The versions of the packages of the tool root, which is "/"."""
    return from_archives(guest.read(debian.ARCHIVES).decode().split())


def same(version: str, native: str) -> bool:
    """Whether two versions are builds of one source: 14.2.0-19 and 14.2.0-19cross1, 1.2-3 and 1.2-3+b1."""
    return _source(version) == _source(native)


def _source(version: str) -> str:
    return re.sub(r"(cross[0-9]+)?(\+b[0-9]+)?$", "", version)


def from_archives(names: Sequence[str]) -> dict[str, str]:
    """Versions by package of the names of packages' files, binutils_2.44-3_amd64.deb."""
    parts = [name.split("_") for name in names if name.endswith(".deb")]
    return {part[0]: part[1].replace("%3a", ":") for part in parts if len(part) == 3}
