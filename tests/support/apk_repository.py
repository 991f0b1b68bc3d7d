"""Makes Alpine packages and indexes of format v2, and signs them, without apk.

    key = new_key("test@example.org-1.rsa.pub")
    package = Package("hello", "1.0-r0", "riscv64", {"usr/bin/hello": b"#!/bin/sh\\n"})
    write(folder, [package], key)    # FOLDER/riscv64/APKINDEX.tar.gz and FOLDER/riscv64/hello-1.0-r0.apk

The pieces of a package (`signed`, `control`, `data`) can be put together wrongly, too. Real apk installs these
packages, if the public key lies in its /etc/apk/keys under its name.
"""

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_BUILT = 1_700_000_000  # seconds since the epoch; fixed, so that the same package has the same bytes


@dataclass(frozen=True)
class Key:
    """A key to sign with. name: that of the public key's file, as signatures quote it."""

    name: str
    private: rsa.RSAPrivateKey

    @property
    def public(self) -> bytes:
        """The public key, in PEM."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes, algorithm: str = "RSA") -> bytes:
        """PKCS#1 v1.5; algorithm: RSA (SHA1) or RSA256."""
        return self.private.sign(data, padding.PKCS1v15(), {"RSA": hashes.SHA1(), "RSA256": hashes.SHA256()}[algorithm])


def new_key(name: str = "test@example.org-00000001.rsa.pub") -> Key:
    return Key(name, rsa.generate_private_key(public_exponent=65537, key_size=2048))


@dataclass(frozen=True)
class Package:
    """A package to make. files: content by path, without a slash at the start; all are executable.
    scripts: by kind, "post-install" for instance. depends, provides: as in .PKGINFO."""

    name: str
    version: str
    arch: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    scripts: Mapping[str, bytes] = field(default_factory=dict)
    depends: Sequence[str] = ()
    provides: Sequence[str] = ()
    links: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"{self.name}-{self.version}.apk"

    @property
    def installed_size(self) -> int:
        return sum(map(len, self.files.values()))


def compress(tar: bytes) -> bytes:
    """One gzip member."""
    return gzip.compress(tar, compresslevel=1, mtime=0)


def make_tar(files: Mapping[str, bytes], *, end: bool, mode: int = 0o644) -> bytes:
    """A tar of regular files; without the end-of-archive blocks if not `end`, so that another tar can follow."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), mode, _BUILT
            tar.addfile(entry, io.BytesIO(content))
        length = tar.offset
    content = buffer.getvalue()
    return content if end else content[:length]


def data(package: Package) -> bytes:
    """The data member. Each file has its checksum in a pax header, and each folder is listed, as apk wants it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in _folders([*package.files, *package.links]):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, _BUILT
            tar.addfile(entry)
        for name, content in package.files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o755, _BUILT
            entry.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(content).hexdigest()}
            tar.addfile(entry, io.BytesIO(content))
        for name, to in package.links.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.mode, entry.mtime = tarfile.SYMTYPE, to, 0o777, _BUILT
            entry.pax_headers = {"APK-TOOLS.checksum.SHA1": hashlib.sha1(to.encode()).hexdigest()}
            tar.addfile(entry)
    return compress(buffer.getvalue())


def _folders(names: Sequence[str]) -> list[str]:
    parents = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    return sorted(parents - {".", "/", ".."})


def control(package: Package, data_member: bytes) -> bytes:
    """The control member of a package with this data."""
    lines = [
        f"pkgname = {package.name}",
        f"pkgver = {package.version}",
        f"pkgdesc = {package.name}",
        f"arch = {package.arch}",
        f"builddate = {_BUILT}",
        f"size = {package.installed_size}",
        f"origin = {package.name}",
        "license = MIT",
        *(f"depend = {name}" for name in package.depends),
        *(f"provides = {name}" for name in package.provides),
        f"datahash = {hashlib.sha256(data_member).hexdigest()}",
    ]
    info = "".join(line + "\n" for line in ["# made by a test", *lines])
    scripts = {f".{kind}": content for kind, content in package.scripts.items()}
    return compress(make_tar({".PKGINFO": info.encode(), **scripts}, end=False, mode=0o755))


def signed(content: bytes, key: Key, algorithm: str = "RSA") -> bytes:
    """`content` after a member with its signature."""
    name = f".SIGN.{algorithm}.{key.name}"
    return compress(make_tar({name: key.sign(content, algorithm)}, end=False)) + content


def build(package: Package, key: Key, algorithm: str = "RSA") -> bytes:
    """The whole package, signed."""
    member = data(package)
    return signed(control(package, member), key, algorithm) + member


def entry(package: Package, size: int | None = None, member: bytes = b"") -> str:
    """What an index says of a package. size: of its file, if it is not to be the true one's. member: its data, if
    that is there already."""
    member = member or data(package)
    head = control(package, member)
    checksum = base64.b64encode(hashlib.sha1(head).digest()).decode()
    lines = [
        f"C:Q1{checksum}",
        f"P:{package.name}",
        f"V:{package.version}",
        f"A:{package.arch}",
        f"S:{size or len(head) + len(member) + 512}",
        f"I:{package.installed_size}",
        f"T:{package.name}",
        "U:https://example.org",
        "L:MIT",
        f"o:{package.name}",
        f"t:{_BUILT}",
        *([f"D:{' '.join(package.depends)}"] if package.depends else []),
        *([f"p:{' '.join(package.provides)}"] if package.provides else []),
    ]
    return "\n".join(lines) + "\n\n"


def index(entries: Sequence[str], key: Key, algorithm: str = "RSA") -> bytes:
    """A signed APKINDEX.tar.gz."""
    files = {"DESCRIPTION": b"test", "APKINDEX": "".join(entries).encode()}
    return signed(compress(make_tar(files, end=True)), key, algorithm)


def write(folder: Path, packages: Sequence[Package], key: Key) -> None:
    """Write a repository: FOLDER/ARCH with an index and the packages, for each arch among them."""
    for arch in {package.arch for package in packages}:
        where = folder / arch
        where.mkdir(parents=True, exist_ok=True)
        entries = []
        for package in packages:
            if package.arch == arch:
                member = data(package)
                built = signed(control(package, member), key) + member
                (where / package.file).write_bytes(built)
                entries.append(entry(package, len(built), member))
        (where / "APKINDEX.tar.gz").write_bytes(index(entries, key))
