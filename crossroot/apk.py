"""Alpine's package format v2 (apk-tools 2): indexes and packages, verified before anything in them is believed.

    package   three gzip members, each a tar: signatures, control (.PKGINFO), data
    index     two: signatures, and a tar with DESCRIPTION and APKINDEX

A signature is an entry `.SIGN.RSA.KEY` (SHA1) or `.SIGN.RSA256.KEY` of the first tar, PKCS#1 v1.5 over the compressed
bytes of the control member, or of the rest of the index. `datahash` in .PKGINFO is the SHA256 of the compressed data
member. The tars of signatures and control have no end-of-archive blocks. Specification: apk-v2(5) of apk-tools.
"""

import base64
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, BinaryIO

from crossroot.arch import Arch
from crossroot.errors import CrossrootError
from crossroot.pick import pick
from crossroot.record import Record

# Alpine's public keys, KEYS/ARCH/NAME: those that sign the packages of an arch, as alpine-keys has them.
KEYS = Path(__file__).parent / "keys"

LARGEST_INDEX = 32 << 20  # bytes, compressed; that of community has about 2 MiB

_LARGEST_UNPACKED_INDEX = 256 << 20  # bytes
_LARGEST_HEAD = 1 << 20  # bytes of the signatures or the control member, compressed and not
_LARGEST_DATA = 2 << 30  # bytes of the data member, unpacked
_CHUNK = 64 << 10  # bytes
_ALGORITHMS = ("RSA", "RSA256")
_AGAIN = "try again later, or name another mirror with --mirror URL"

_NAME = r"[A-Za-z0-9_][A-Za-z0-9_+.-]*"
_VERSION = r"[0-9][A-Za-z0-9_.~+-]*"
_FIELDS = {"P": _NAME, "V": _VERSION, "A": r"[a-z0-9_]+", "S": r"[1-9][0-9]{0,11}", "C": r"Q1[A-Za-z0-9+/]{27}="}


class Package(Record):
    """What a signed index says of a package. arch: Alpine's name. size: of the file, in bytes.
    checksum: "Q1" and the base64 of the SHA1 of its control member."""

    name: str
    version: str
    arch: str
    size: int
    checksum: str

    @property
    def file(self) -> str:
        """The package's file name in its repository."""
        return f"{self.name}-{self.version}.apk"


def keys(arch: Arch) -> dict[str, bytes]:
    """Alpine's public keys (PEM) for packages of `arch`, by their names. Raises CrossrootError if there are none."""
    found = {file.name: file.read_bytes() for file in sorted((KEYS / arch.name).glob("*.rsa.pub"))}
    if not found:
        raise CrossrootError(f"no keys of Alpine are known for {arch.name}", hint="use another source")
    return found


def read_index(data: bytes, keys: Mapping[str, bytes], where: str) -> list[Package]:
    """The packages of an index (the content of APKINDEX.tar.gz), in its order.

    keys: public keys in PEM by name. where: the index's address, for messages. Raises CrossrootError if it is not
    signed by one of `keys`, or not sound.
    """
    file = io.BytesIO(data)
    _refuse_v3(file, where)
    signatures = _signatures(_unpack_member(file, _LARGEST_HEAD, where), where)
    _check_signature(signatures, data[file.tell() :], keys, where)
    content = _read_tar(_unpack_member(file, _LARGEST_UNPACKED_INDEX, where), where).get("APKINDEX")
    if content is None:
        raise _unsound(where, "it has no APKINDEX")
    blocks = content.decode(errors="replace").split("\n\n")
    return [_package(block, where) for block in blocks if block.strip()]


def verify_package(file: BinaryIO, keys: Mapping[str, bytes], expected: Package, where: str) -> None:
    """Check that `file` is the package an index names, unchanged: signature, data hash, identity.

    file: at its start; left at the start of its data, for `extract_file`. keys, where: as for `read_index`.
    Raises CrossrootError that says what is wrong.
    """
    _refuse_v3(file, where)
    signatures = _signatures(_unpack_member(file, _LARGEST_HEAD, where), where)
    start = file.tell()
    unpacked = _unpack_member(file, _LARGEST_HEAD, where)
    data_start = file.tell()
    file.seek(start)
    control = file.read(data_start - start)
    _check_signature(signatures, control, keys, where)
    info = _package_info(unpacked, where)
    if _hash_of_rest(file) != info.get("datahash"):
        raise CrossrootError(f"{where} is damaged: its data does not have the hash it is signed with", hint=_AGAIN)
    is_ = (info.get("pkgname"), info.get("pkgver"), info.get("arch"))
    if is_ != (expected.name, expected.version, expected.arch):
        raise CrossrootError(
            f"{where} is another package: {' '.join(map(str, is_))}, "
            f"not {expected.name} {expected.version} {expected.arch}",
            hint=_AGAIN,
        )
    # Versions are built anew sometimes: name and version alone do not say that it is what the index lists.
    if _checksum(control) != expected.checksum:
        raise CrossrootError(f"{where} is not the build that the index lists", hint=_AGAIN)
    file.seek(data_start)


def extract_file(file: BinaryIO, name: str, target: IO[bytes], *, limit: int, where: str) -> None:
    """Copy one regular file of a verified package to `target`.

    file: as `verify_package` left it. name: exactly as in the package, usr/bin/qemu-arm. limit: bytes it may have.
    Raises CrossrootError if the package has no such file.
    """
    stream = io.BufferedReader(_Unpacked(file, where), _CHUNK)
    if not pick(stream, {name}, target, limit=limit):
        raise CrossrootError(f"{where} has no file {name}")


# --- signatures -------------------------------------------------------------------------------------------


def _refuse_v3(file: BinaryIO, where: str) -> None:
    """Leave files of apk-tools 3 to others: they start with ADB, whatever their compression (apk-v3(5))."""
    start = file.read(3)
    file.seek(0)
    if start == b"ADB":
        raise CrossrootError(
            f"{where} has Alpine's package format v3, which crossroot does not read yet",
            hint="name a mirror, or a branch with --branch, that has format v2",
        )


def _signatures(tar: bytes, where: str) -> dict[str, bytes]:
    """The signatures in the first member's tar, by their entries' names."""
    found = {name: content for name, content in _read_tar(tar, where).items() if name.startswith(".SIGN.")}
    if not found:
        raise CrossrootError(f"{where} is not signed", hint=_AGAIN)
    return found


def _check_signature(signatures: Mapping[str, bytes], signed: bytes, keys: Mapping[str, bytes], where: str) -> None:
    """Raise CrossrootError unless a key of `keys` has signed. The first signature by such a key decides."""
    for name, signature in signatures.items():
        algorithm, _, key = name.removeprefix(".SIGN.").partition(".")
        if algorithm in _ALGORITHMS and key in keys:
            if not _is_signed(signed, signature, keys[key], algorithm):
                raise CrossrootError(f"{where} has a wrong signature by {key}: it was changed", hint=_AGAIN)
            return
    names = ", ".join(name.removeprefix(".SIGN.") for name in signatures)
    raise CrossrootError(
        f"{where} is signed with an unknown key: {''.join(char if char.isprintable() else '?' for char in names)}",
        hint="use a mirror of Alpine itself; a new key of Alpine's needs a newer crossroot",
    )


def _is_signed(signed: bytes, signature: bytes, key: bytes, algorithm: str) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    public = load_pem_public_key(key)
    assert isinstance(public, RSAPublicKey)  # as all keys that come with crossroot
    try:
        # Alpine signs with SHA1 (abuild-sign). Forging one takes a second preimage, not a mere collision.
        public.verify(signature, signed, PKCS1v15(), hashes.SHA1() if algorithm == "RSA" else hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _checksum(control: bytes) -> str:
    return "Q1" + base64.b64encode(hashlib.sha1(control, usedforsecurity=False).digest()).decode()


# --- what is in a member ----------------------------------------------------------------------------------


def _unpack_member(file: BinaryIO, limit: int, where: str) -> bytes:
    """The content of the gzip member (RFC 1952) at the position of `file`, which is left right after it.

    limit: in bytes, of the member both as it is and unpacked.
    """
    start = file.tell()
    unpacker = zlib.decompressobj(wbits=31)
    content, length = bytearray(), 0
    while not unpacker.eof:
        chunk = file.read(_CHUNK)
        length += len(chunk)
        if not chunk:
            raise CrossrootError(f"{where} is cut short", hint=_AGAIN)
        try:
            content += unpacker.decompress(chunk, limit + 1 - len(content))
        except zlib.error as error:
            raise _unsound(where, "it is not gzip") from error
        if len(content) > limit or length - len(unpacker.unused_data) > limit:
            raise _unsound(where, f"a part of it is larger than {limit >> 20} MiB")
    file.seek(start + length - len(unpacker.unused_data))
    return bytes(content)


def _read_tar(tar: bytes, where: str) -> dict[str, bytes]:
    """The regular files of a tar, by name."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as members:
            for member in members:
                # A sparse file can claim any size.
                content = members.extractfile(member) if member.isreg() and member.size <= len(tar) else None
                if content is not None:
                    found[member.name] = content.read()
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _unsound(where, "a part of it is not a tar") from error
    return found


def _package_info(control: bytes, where: str) -> dict[str, str]:
    """The `key = value` lines of .PKGINFO; of a key that is there several times, the last one."""
    content = _read_tar(control, where).get(".PKGINFO")
    if content is None:
        raise _unsound(where, "it has no .PKGINFO")
    lines = (line.split(" = ", 1) for line in content.decode(errors="replace").splitlines() if not line.startswith("#"))
    return {line[0]: line[1] for line in lines if len(line) == 2}


def _hash_of_rest(file: BinaryIO) -> str:
    """SHA256 in hex of all from the position of `file` on."""
    sha256 = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        sha256.update(chunk)
    return sha256.hexdigest()


def _package(block: str, where: str) -> Package:
    """The package that a block of `X:value` lines of an APKINDEX describes."""
    lines = (line.partition(":") for line in block.splitlines())
    values = {key: value for key, _, value in lines}
    for key, pattern in _FIELDS.items():
        if not re.fullmatch(pattern, values.get(key, "")):
            raise _unsound(where, f"field {key} of {values.get('P', 'a package')!r} is {values.get(key, '')[:80]!r}")
    return Package(values["P"], values["V"], values["A"], int(values["S"]), values["C"])


class _Unpacked(io.RawIOBase):
    """What is in a gzip member, read as a stream; bounded, as a small file may unpack to a huge one."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file = file
        self.where = where
        self.unpacker = zlib.decompressobj(wbits=31)
        self.left = _LARGEST_DATA
        self.compressed = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        """Fill `buffer` with what comes next; gives how many bytes, 0 at the end."""
        while not self.unpacker.eof:
            self.compressed = self.compressed or self.file.read(_CHUNK)
            if not self.compressed:
                raise CrossrootError(f"{self.where} is cut short", hint=_AGAIN)
            try:
                content = self.unpacker.decompress(self.compressed, len(buffer))
            except zlib.error as error:
                raise _unsound(self.where, "its data is not gzip") from error
            self.compressed = self.unpacker.unconsumed_tail
            if content:
                self.left -= len(content)
                if self.left < 0:
                    raise _unsound(self.where, f"its data is larger than {_LARGEST_DATA >> 20} MiB")
                buffer[: len(content)] = content
                return len(content)
        return 0


def _unsound(where: str, why: str) -> CrossrootError:
    return CrossrootError(f"{where} is not sound: {why}", hint=_AGAIN)
