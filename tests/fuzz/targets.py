"""What is fuzzed: each parser of ours for what others have written, as a function of bytes that may raise nothing but
CrossrootError, with a few sound inputs to start from.

tests/fuzz/corpus/TARGET/ keeps inputs that once made a parser fail.
"""

import io
import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from crossroot import (
    apk,
    arch,
    binfmt,
    deletion,
    elf,
    fetch,
    guest,
    lock,
    metadata,
    oci_image,
    osrelease,
    profiles,
    unpack,
)
from crossroot.distros import alpine
from crossroot.errors import CrossrootError
from tests.support import apk_repository, archives

CORPUS = Path(__file__).parent / "corpus"
RISCV64 = arch.find("riscv64")

_PROFILE = b"""arch = "riscv64"
extends = "x"
packages = ["a", "b"]
binds = ["/srv:/srv:ro"]
qemu_version = ">=8"
env = { LANG = "C.UTF-8" }
"""
_LOCK = b"""format = 1
name = "x"
archive = "https://mirror.example/a.tar.gz"
sha512 = "%s"
mirror = "https://mirror.example"
branch = "v3.20"
made = "2024-05-01T12:00:00Z"
world = ["busybox"]
[profile]
arch = "riscv64"
[keys]
"a.rsa.pub" = "-----BEGIN PUBLIC KEY-----"
[packages]
busybox = "1.36-r0 Q1abc="
""" % (b"ab" * 64)
_INDEX = b"""C:Q1p78yvTLG094tHE1+dToJGbmYzQE=
P:hello
V:1.0-r0
A:riscv64
S:1234
I:4096
"""
_IMAGE = json.dumps({"schemaVersion": 2, "manifests": [{"digest": f"sha256:{'ab' * 32}"}]}).encode()
_ENTRY = b"enabled\ninterpreter /usr/bin/qemu\nflags: POCF\noffset 0\nmagic 7f454c46\nmask ffffffff\n"
_MOUNTS = b"36 35 98:0 /mnt1 /mnt\\040two rw,noatime master:1 - ext3 /dev/root rw\n"


@dataclass(frozen=True)
class Target:
    """run: the parser. seeds: sound inputs."""

    run: Callable[[bytes], object]
    seeds: Sequence[bytes]

    def __call__(self, data: bytes) -> None:
        with suppress(CrossrootError):
            self.run(data)


def _in_file(parse: Callable[[Path], object], name: str) -> Callable[[bytes], object]:
    """A parser of a file as one of bytes."""

    def run(data: bytes) -> object:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            path = Path(folder) / name
            path.write_bytes(data)
            return parse(path)

    return run


def _releases(data: bytes) -> object:
    with mock.patch.object(fetch, "read_small", lambda *_, **__: data[: alpine._INDEX_LIMIT]):
        return alpine.find_minirootfs(RISCV64, "latest-stable", ["https://mirror.example"])


def _package_info(data: bytes) -> object:
    return apk._package_info(apk_repository.make_tar({".PKGINFO": data}, end=False), "x")


def _index(data: bytes) -> object:
    return [apk._package(block, "x") for block in data.decode(errors="replace").split("\n\n") if block.strip()]


def _mountinfo(data: bytes) -> object:
    with mock.patch.object(deletion, "open", lambda *_: io.BytesIO(data), create=True):
        return deletion.mounts_below(Path("/mnt two"))


def _archive(data: bytes) -> object:
    return [(member.name, unpack.path_of(member.name)) for member in unpack.members(io.BytesIO(data))]


def _image(data: bytes) -> object:
    """An OCI layout, whose index is fuzzed."""
    return _in_file(lambda path: oci_image.layers(path.parent, RISCV64), "index.json")(data)


def _passwd(data: bytes) -> object:
    with mock.patch.object(guest, "read", lambda _: data):
        return guest.identity("root:wheel")


TARGETS = {
    "releases": Target(_releases, [archives.index(b"x")]),
    "pkginfo": Target(_package_info, [b"# made by\npkgname = hello\npkgver = 1.0-r0\ndatahash = ab\n"]),
    "control": Target(
        lambda data: apk._package_info(data, "x"), [apk_repository.make_tar({".PKGINFO": b"a = b"}, end=True)]
    ),
    "apkindex": Target(_index, [_INDEX, _INDEX + b"\n" + _INDEX]),
    "elf": Target(_in_file(elf.read, "elf"), [elf.probe_program(arch.find(name)) for name in ("riscv64", "armv7")]),
    "binfmt": Target(lambda data: binfmt._parse("x", data.decode(errors="surrogateescape")), [_ENTRY]),
    "mountinfo": Target(_mountinfo, [_MOUNTS]),
    "profile": Target(_in_file(lambda path: profiles.load("x", [path.parent]), "x.toml"), [_PROFILE]),
    "lock": Target(_in_file(lock.read, "lock"), [_LOCK]),
    "image": Target(_image, [_IMAGE]),
    "archive": Target(
        _archive, [pack(archives.make_tar({"a/b": b"c"}, {"l": "a"})) for pack in archives.COMPRESSIONS.values()]
    ),
    "metadata": Target(
        _in_file(lambda path: metadata.read_root(str(path.parent)), "root.json"), [b'{"format": 1, "id_map": null}']
    ),
    "os-release": Target(
        lambda data: osrelease.parse(data.decode(errors="replace")), [b'ID="alpine"\nVERSION_ID=3.20\n']
    ),
    "passwd": Target(_passwd, [b"root:x:0:0:root:/root:/bin/sh\nwheel:x:10:root\n"]),
}


def kept(name: str) -> list[bytes]:
    """Inputs that once made a target fail, then its seeds."""
    folder = CORPUS / name
    return [path.read_bytes() for path in sorted(folder.iterdir())] if folder.exists() else []
