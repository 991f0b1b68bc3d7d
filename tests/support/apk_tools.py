"""Packages of Alpine with real tools for two arches, made of what can be had anywhere.

clang, lld, llvm, binutils    what is in zig, which is a static program of clang, lld and more, and which PyPI has for
                              many arches; binutils has its assembler and linker under their names
harec, qbe, hare, musl-dev    Debian's; the first two are dynamic programs, which here ask for musl's loader
busybox-static                Debian's
busybox, musl                 Alpine's own, of its minirootfs

    packages(folder, "aarch64", "x86_64", mirror)
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from crossroot import arch, elf
from crossroot.distros import alpine_tools
from tests.support import debian_archive
from tests.support.apk_repository import Package

_ZIG = "0.14.1"  # PyPI's ziglang
_CLANG = "19.1.7-r0"  # the clang and lld of that zig
_BIN = "usr/lib/llvm19/bin"
_DEBIAN = {"harec": "0.24.2-r0", "qbe": "1.2-r0", "hare": "0.24.2-r0", "musl": "1.2.5-r1", "musl-dev": "1.2.5-r1"}

# Small programs, which find zig by their own path. That of `as` takes several files for one, as GNU's does.
_PARTS = {"clang": "clang", "lld": "ld.lld", "ar": "ar", "as": "clang"}
_LAUNCHER = """\
#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
int main(int count, char **words) {
    char path[PATH_MAX] = "", *all[count + 8], *usr;
    int at = 0;
    if (readlink("/proc/self/exe", path, PATH_MAX - 64) < 0 || !(usr = strstr(path, "/usr/"))) return 99;
    strcpy(usr, "/BIN/zig");
    all[at++] = words[0];
    all[at++] = PART;
#ifdef ASSEMBLER
    int sources = memfd_create("sources", 0), byte;
    FILE *all_files = fdopen(sources, "w");
    all[at++] = ASSEMBLER;
    all[at++] = "-c";
    for (int number = 1; number < count; number++) {
        FILE *file = !strcmp(words[number], "-o") ? NULL : fopen(words[number], "r");
        if (file) {
            while ((byte = getc(file)) != EOF) putc(byte, all_files);
            fclose(file);
        } else {
            all[at++] = words[number];
            if (!strcmp(words[number], "-o")) all[at++] = words[++number];
        }
    }
    rewind(all_files);
    dup2(sources, 0);
    all[at++] = "-xassembler";
    all[at++] = "-";
#else
    for (int number = 1; number < count; number++) all[at++] = words[number];
#endif
    all[at] = NULL;
    execv(path, all);
    perror(path);
    return 99;
}
""".replace("BIN", _BIN)


def packages(folder: Path, target: str, host: str) -> list[Package]:
    """For both arches, by Alpine's names. folder: a new one. Downloads some 170 MB."""
    for name in (target, host):
        _fetch_zig(folder, name)
        _fetch_debian(folder, name)
    found = []
    for name in (target, host):
        _make_launchers(folder, name, host, target)
        found += _of_both(folder, name)
    return [*found, *_of_target(folder, target), *_of_host(folder, host, target)]


def _of_both(folder: Path, name: str) -> list[Package]:
    """What the foreign root has, and the tool root as well."""
    zig, launcher, debian = folder / "zig" / name, folder / "launchers" / name, folder / "debian" / name
    headers = _tree(zig / "lib/include", "usr/lib/llvm19/lib/clang/19/include")
    clang = {f"{_BIN}/zig": (zig / "zig").read_bytes(), f"{_BIN}/clang-19": (launcher / "clang").read_bytes()}
    lld, ar = (launcher / "lld").read_bytes(), (launcher / "ar").read_bytes()
    tools = {tool: {f"usr/bin/{tool}": (debian / tool / "usr/bin" / tool).read_bytes()} for tool in ("harec", "qbe")}
    library = _tree(debian / "hare/usr/share/hare", "usr/share/hare")
    hare = {"usr/bin/hare": (debian / "hare/usr/bin/hare").read_bytes(), **library}
    up = "../lib/llvm19/bin"
    return [
        Package(
            "clang19", _CLANG, name, {**clang, **headers}, depends=["musl"], links={"usr/bin/clang": f"{up}/clang-19"}
        ),
        Package(
            "lld19", _CLANG, name, {f"{_BIN}/lld": lld}, depends=["clang19"], links={"usr/bin/ld.lld": f"{up}/lld"}
        ),
        Package(
            "llvm19", _CLANG, name, {f"{_BIN}/llvm-ar": ar}, depends=["clang19"], links={"usr/bin/ar": f"{up}/llvm-ar"}
        ),
        *(Package(tool, _DEBIAN[tool], name, files, depends=["musl"]) for tool, files in tools.items()),
        Package("hare", _DEBIAN["hare"], name, hare, depends=["harec", "qbe"]),
    ]


def _of_target(folder: Path, name: str) -> list[Package]:
    launcher, debian = folder / "launchers" / name, folder / "debian" / name
    binutils = {"usr/bin/as": (launcher / "as").read_bytes(), "usr/bin/ld": (launcher / "lld").read_bytes()}
    links = {f"usr/bin/{name}-linux-gnu-{tool}": tool for tool in ("as", "ld")}  # which Debian's hare looks for
    development = debian / "musl-dev/usr"
    files = {
        **_tree(development / f"include/{name}-linux-musl", "usr/include"),
        **_tree(development / f"lib/{name}-linux-musl", "usr/lib"),
    }
    return [
        Package("binutils", "2.42-r0", name, binutils, depends=["clang19"], links=links),
        Package("musl-dev", _DEBIAN["musl-dev"], name, files, links={"usr/lib/libc.so": f"/lib/ld-musl-{name}.so.1"}),
    ]


def _of_host(folder: Path, name: str, target: str) -> list[Package]:
    launcher, debian = folder / "launchers" / name, folder / "debian" / name
    prefix = f"usr/bin/{alpine_tools.triplet(arch.find(target))}"
    cross = {f"{prefix}-as": (launcher / "as").read_bytes(), f"{prefix}-ld": (launcher / "lld").read_bytes()}
    static = {"bin/busybox.static": (debian / "busybox-static/usr/bin/busybox").read_bytes()}
    return [
        Package(f"binutils-{target}", "2.42-r0", name, cross, depends=["clang19"]),
        Package("busybox-static", "1.36.1-r29", name, static),
    ]


def _tree(folder: Path, where: str) -> dict[str, bytes]:
    return {f"{where}/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _fetch_zig(folder: Path, name: str) -> None:
    platforms = [f"{kind}_{name}" for kind in ("musllinux_1_1", "manylinux_2_17", "manylinux_2_31")]
    wheel = folder / f"wheel-{name}"
    options = ["--quiet", "--no-deps", "--only-binary=:all:", *(f"--platform={each}" for each in platforms)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "-d", wheel, f"ziglang=={_ZIG}"], check=True)
    (file,) = wheel.iterdir()
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            if member == "ziglang/zig" or member.startswith("ziglang/lib/include/"):
                archive.extract(member, folder)
    (folder / "zig").mkdir(exist_ok=True)
    (folder / "ziglang").rename(folder / "zig" / name)
    (folder / "zig" / name / "zig").chmod(0o755)
    file.unlink()


def _fetch_debian(folder: Path, name: str) -> None:
    """Unpack packages of Debian, verified by apt."""
    names = [*_DEBIAN, "busybox-static"]
    for package, file in debian_archive.download(names, arch.find(name).debian, folder / f"apt-{name}").items():
        where = folder / "debian" / name / package
        where.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", file, where], check=True)
    for tool in ("harec", "qbe"):
        assert elf.set_interpreter(folder / "debian" / name / tool / "usr/bin" / tool, f"/lib/ld-musl-{name}.so.1")


def _make_launchers(folder: Path, name: str, host: str, target: str) -> None:
    """Compile the small programs with musl, dynamically linked."""
    zig, debian, where = folder / "zig" / host / "zig", folder / "debian" / name, folder / "launchers" / name
    where.mkdir(parents=True)
    source = folder / "launcher.c"
    source.write_text(_LAUNCHER)
    headers = debian / f"musl-dev/usr/include/{name}-linux-musl"
    objects = debian / f"musl-dev/usr/lib/{name}-linux-musl"
    library = debian / f"musl/usr/lib/{name}-linux-musl"
    loader: list[str | Path] = ["-pie", "-L", library, "-dynamic-linker", f"/lib/ld-musl-{name}.so.1"]
    for tool, part in _PARTS.items():
        compiled = where / f"{tool}.o"
        options: list[str | Path] = [
            f"--target={name}-alpine-linux-musl",
            "-O1",
            "-fPIE",
            "-nostdinc",
            "-isystem",
            headers,
        ]
        options += [f'-DPART="{part}"', *([f'-DASSEMBLER="--target={target}-linux-musl"'] if tool == "as" else [])]
        subprocess.run([zig, "clang", *options, "-c", source, "-o", compiled], check=True)
        parts: list[str | Path] = [objects / "Scrt1.o", objects / "crti.o", compiled, "-lc", objects / "crtn.o"]
        subprocess.run([zig, "ld.lld", *loader, *parts, "-o", where / tool], check=True)


def of_minirootfs(archive: Path, name: str, wanted: Sequence[str]) -> list[Package]:
    """Packages that a minirootfs of the arch has installed, with their versions and files."""
    with tarfile.open(archive) as tar:
        members = {os.path.normpath(member.name): member for member in tar}
        database = tar.extractfile(members["lib/apk/db/installed"])
        assert database
        found = []
        for block in database.read().decode().split("\n\n"):
            lines = [line.partition(":")[::2] for line in block.splitlines()]
            fields = dict(lines)
            if fields.get("P") in wanted:
                files, links = _contents(tar, members, lines)
                depends, provides = fields.get("D", "").split(), fields.get("p", "").split()
                found.append(Package(fields["P"], fields["V"], name, files, {}, depends, provides, links))
    return found


def _contents(
    tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], lines: Sequence[tuple[str, str]]
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files and links that the lines of a package name: F a folder, R what is in it."""
    files, links, folder = {}, {}, ""
    for key, value in lines:
        if key == "F":
            folder = value
        elif key == "R":
            path = os.path.join(folder, value)
            content = tar.extractfile(members[path]) if members[path].isreg() else None
            if content:
                files[path] = content.read()
            else:
                links[path] = members[path].linkname
    return files, links
