"""Which packages of Alpine hold the native tools that can take the places of a foreign root's own, as plain data.

clang, lld, harec and qbe are cross compilers by nature, so the tool root has the packages of the same names. Alpine has
no gcc for another arch of its own; binutils only where a repository has them, under the names of its own bootstrap.
"""

import re
from collections.abc import Mapping

from crossroot import installed as database
from crossroot.arch import Arch
from crossroot.wrappers import Program

DATABASES: tuple[str, ...] = ("/usr/lib/apk/db/installed", "/lib/apk/db/installed")  # of apk-tools 3 and 2
SHELL_PACKAGE = "busybox-static"  # its ash has `exec -a`
SHELLS: tuple[str, ...] = ("bin/busybox.static", "usr/bin/busybox.static")
# What a session has of the foreign root, and what no tool needs.
SUPERFLUOUS: tuple[str, ...] = ("etc", "usr/include", "usr/lib/gcc", "usr/libexec", "usr/share", "var")

_TRIPLETS = {
    "armhf": "armv6-alpine-linux-musleabihf",
    "armv7": "armv7-alpine-linux-musleabihf",
    "ppc64le": "powerpc64le-alpine-linux-musl",
    "x86": "i586-alpine-linux-musl",
}
_QBE_TARGETS = {"aarch64": "arm64", "riscv64": "rv64", "x86_64": "amd64_sysv"}
_BINUTILS = (
    *("addr2line", "ar", "as", "c++filt", "elfedit", "ld", "ld.bfd", "nm", "objcopy", "objdump", "ranlib", "readelf"),
    *("size", "strings", "strip"),
)
_LLVM = (
    *("llvm-ar", "llvm-as", "llvm-cxxfilt", "llvm-nm", "llvm-objcopy", "llvm-objdump", "llvm-readobj", "llvm-size"),
    "llvm-strings",
)
_OLDEST_LLVM = 16  # whose headers lie in a folder named after the first number of the version, as of all later ones

# Never among these: uname, arch and nproc, which say what the root or machine is; what changes users, mounts or looks
# at processes; ldd.
_APPLETS = (
    *("[", "[[", "ash", "awk", "base64", "basename", "bunzip2", "bzcat", "bzip2", "cat", "chmod", "cksum", "cmp"),
    *("comm", "cp", "cpio", "cut", "date", "dd", "diff", "dirname", "dos2unix", "echo", "egrep", "env", "expand"),
    *("expr", "factor", "false", "fgrep", "find", "fold", "getopt", "grep", "gunzip", "gzip", "hd", "head", "hexdump"),
    *("install", "join", "link", "ln", "ls", "lzcat", "lzma", "md5sum", "mkdir", "mkfifo", "mktemp", "mv", "nl", "od"),
    *("paste", "patch", "printenv", "printf", "pwd", "readlink", "realpath", "rev", "rm", "rmdir", "sed", "seq", "sh"),
    *("sha1sum", "sha256sum", "sha3sum", "sha512sum", "shuf", "sleep", "sort", "split", "stat", "strings", "sum"),
    *("tac", "tail", "tar", "tee", "test", "timeout", "touch", "tr", "tree", "true", "truncate", "tsort", "unexpand"),
    *("uniq", "unix2dos", "unlink", "unlzma", "unxz", "unzip", "usleep", "uudecode", "uuencode", "wc", "which"),
    *("xargs", "xxd", "xz", "xzcat", "yes", "zcat"),
)
_MULTICALL = ("busybox", "coreutils")  # one file with many names each
_SHELL_TOOLS: dict[str, tuple[str, ...]] = {
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
    "xz": ("xz",),
    "zstd": ("zstd",),
}


def triplet(arch: Arch) -> str:
    """The GNU triplet of Alpine's port."""
    return _TRIPLETS.get(arch.name, f"{arch.name}-alpine-linux-musl")


def installed(text: str) -> dict[str, str]:
    """The versions of the installed packages in the text of apk's database, by name."""
    return dict(re.findall(r"^P:(\S+)\nV:(\S+)$", text, re.MULTILINE))


def versions() -> dict[str, str]:
    """The versions of the packages of the tool root, which is "/"."""
    return {name: pin.version for name, pin in database.look().packages.items()}


def same(version: str, native: str) -> bool:
    """Whether two versions are builds of one source; those of all arches have one number."""
    return version == native


def programs(arch: Arch, packages: Mapping[str, str]) -> list[Program]:
    """The programs of a root of `arch` with these packages that native ones could replace."""
    found = [*_binutils(arch), *_llvm(packages), *_hare(arch)]
    found += [
        Program(2, "multicall", f"{folder}/{name}", name, name, option=(name, *_APPLETS))
        for name in _MULTICALL
        for folder in ("/bin", "/usr/bin")
    ]
    found += [
        Program(2, "plain", f"{folder}/{name}", package, package)
        for package, names in _SHELL_TOOLS.items()
        for name in names
        for folder in ("/bin", "/usr/bin")
    ]
    found += [Program(1, "plain", f"/usr/bin/{name}", name, name) for name in ("ccache", "distcc")]
    return [program for program in found if program.package in packages]


def _binutils(arch: Arch) -> list[Program]:
    """The root has each under two names; compilers take the one below the triplet."""
    prefix = f"/usr/bin/{triplet(arch)}-"
    return [
        Program(1, "plugged", f"{folder}/{name}", "binutils", f"binutils-{arch.name}", native_file=prefix + name)
        for folder in ("/usr/bin", f"/usr/{triplet(arch)}/bin")
        for name in _BINUTILS
    ]


def _llvm(packages: Mapping[str, str]) -> list[Program]:
    """clang, lld and the tools of each installed version of LLVM."""
    found = []
    for name in packages:
        if match := re.fullmatch(r"(clang|lld|llvm)([0-9]*)", name):
            kind, number = match.groups()
            folder = f"/usr/lib/llvm{number}" if number else "/usr"
            if kind == "lld":
                found.append(Program(1, "plain", f"{folder}/bin/lld", name, name))
            elif kind == "llvm" and number:
                found += [Program(1, "plain", f"{folder}/bin/{tool}", name, name) for tool in _LLVM]
            elif kind == "clang" and number and int(number) >= _OLDEST_LLVM:
                # It may start the linker that lies beside it.
                linkers = tuple(lld for lld in ("lld", f"lld{number}") if lld in packages)
                option = (f"{folder}/lib/clang/{number}",)
                found.append(Program(1, "clang", f"{folder}/bin/clang-{number}", name, name, linkers, option))
    return found


def _hare(arch: Arch) -> list[Program]:
    """Hare's compiler, its backend and its driver; the driver would look for an assembler and linker of other names."""
    if arch.name not in _QBE_TARGETS:
        return []
    return [
        Program(1, "itself", "/usr/bin/harec", "harec", "harec"),
        Program(1, "default", "/usr/bin/qbe", "qbe", "qbe", option=("-t", _QBE_TARGETS[arch.name])),
        Program(3, "unprefixed-hare", "/usr/bin/hare", "hare", "hare", ("harec", "qbe"), ("-a", arch.name)),
    ]
