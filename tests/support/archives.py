"""Small archives of roots, sound and hostile ones, and a mirror that has one.

archives.rootfs("riscv64", {"etc/motd": b"hello\\n"}, {"etc/mtab": "/proc/mounts"})
"""

import bz2
import gzip
import hashlib
import io
import lzma
import tarfile
from collections.abc import Callable, Mapping, Sequence

import zstandard

from crossroot import arch, elf
from tests.support import http

COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": lambda data: gzip.compress(data, compresslevel=1, mtime=0),
    "tar.bz2": bz2.compress,
    "tar.xz": lambda data: lzma.compress(data, preset=0),
    "tar.zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
VERSION = "3.20.3"
RELEASES = "/v3.20/releases/riscv64"
INDEX = "/latest-stable/releases/riscv64/latest-releases.yaml"
ARCHIVE = f"{RELEASES}/alpine-minirootfs-{VERSION}-riscv64.tar.gz"


def make_tar(files: Mapping[str, bytes], links: Mapping[str, str] | None = None, fifos: Sequence[str] = ()) -> bytes:
    """A tar of symbolic links, then fifos, then files, all of mode 0755."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
        for name in fifos:
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.FIFOTYPE
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def rootfs(
    name: str,
    files: Mapping[str, bytes] | None = None,
    links: Mapping[str, str] | None = None,
    fifos: Sequence[str] = (),
) -> bytes:
    """A tar with a program for the arch `name`, bin/true, which exits with the first byte of its argv[0], and with
    what sessions mount on."""
    files = {
        "bin/true": program(name),
        "etc/os-release": b"ID=small\nVERSION_ID=1.0\n",
        "etc/passwd": b"root:x:0:0:root:/:/bin/true\n",
        **{f"{folder}/.keep": b"" for folder in ("dev", "proc", "sys", "tmp", "run")},
        **(files or {}),
    }
    links = links or {}
    return make_tar({path: files[path] for path in files if path not in links}, links, fifos)


def program(name: str) -> bytes:
    """An executable for the arch `name`."""
    return elf.probe_program(arch.find(name))


def serve_release(server: http.Server, archive: bytes, version: str = VERSION) -> None:
    """Let the server be a mirror whose only release, for riscv64, is `archive`."""
    server.answers[INDEX] = [http.Answer(index(archive, version))]
    server.answers[ARCHIVE.replace(VERSION, version)] = [http.Answer(archive)]


def index(archive: bytes, version: str = VERSION) -> bytes:
    """A latest-releases.yaml that names `archive`."""
    return f"""---
-
  branch: v3.20
  arch: riscv64
  version: {version}
  flavor: alpine-minirootfs
  file: {ARCHIVE.rpartition("/")[2].replace(VERSION, version)}
  size: {len(archive)}
  sha512: {hashlib.sha512(archive).hexdigest()}
""".encode()
