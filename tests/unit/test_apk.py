"""Alpine's package format: what is accepted, and that each kind of wrong package or index is refused."""

import dataclasses
import gzip
import io
from pathlib import Path

import pytest

from crossroot import apk, arch
from crossroot.errors import CrossrootError
from tests.support import apk_repository as repository
from tests.support.apk_repository import Key, Package

QEMU = "usr/bin/qemu-riscv64"
CONTENT = bytes(range(256)) * 1000
PACKAGE = Package("qemu-riscv64", "9.1.2-r0", "x86_64", {QEMU: CONTENT, "usr/share/doc/readme": b"read me"})
WHERE = "http://mirror/x.apk"


@pytest.fixture(scope="module")
def key() -> Key:
    return repository.new_key()


@pytest.fixture(scope="module")
def stranger() -> Key:
    return repository.new_key("stranger@example.org-00000002.rsa.pub")


def read_index(content: bytes, *keys: Key) -> list[apk.Package]:
    return apk.read_index(content, {key.name: key.public for key in keys}, WHERE)


def listed(package: Package, key: Key) -> apk.Package:
    """What a sound index says of `package`."""
    return read_index(repository.index([repository.entry(package)], key), key)[0]


def verify(content: bytes, key: Key, expected: Package = PACKAGE) -> io.BytesIO:
    file = io.BytesIO(content)
    apk.verify_package(file, {key.name: key.public}, listed(expected, key), WHERE)
    return file


def refusal(content: bytes, key: Key) -> str:
    with pytest.raises(CrossrootError) as caught:
        verify(content, key)
    assert caught.value.message.startswith(WHERE)
    assert caught.value.hint
    return caught.value.message.removeprefix(WHERE).strip()


# --- packages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RSA", "RSA256"])
def test_a_file_is_taken_from_a_verified_package(key: Key, algorithm: str) -> None:
    file = verify(repository.build(PACKAGE, key, algorithm), key)
    target = io.BytesIO()
    apk.extract_file(file, QEMU, target, limit=len(CONTENT), where=WHERE)
    assert target.getvalue() == CONTENT


def test_a_key_of_the_right_name_but_another_one_is_a_wrong_signature(key: Key, stranger: Key) -> None:
    impostor = dataclasses.replace(stranger, name=key.name)
    assert refusal(repository.build(PACKAGE, impostor), key).startswith("has a wrong signature")


def test_an_unknown_key_is_named(key: Key, stranger: Key) -> None:
    said = refusal(repository.build(PACKAGE, stranger), key)
    assert said == f"is signed with an unknown key: RSA.{stranger.name}"


def test_an_unknown_algorithm_by_a_known_key_is_no_signature(key: Key) -> None:
    member = repository.data(PACKAGE)
    control = repository.control(PACKAGE, member)
    name = f".SIGN.DSA.{key.name}"
    signature = repository.compress(repository.make_tar({name: key.sign(control)}, end=False))
    assert refusal(signature + control + member, key).startswith("is signed with an unknown key")


def test_an_rsa256_signature_is_not_taken_for_an_rsa_one(key: Key) -> None:
    member = repository.data(PACKAGE)
    control = repository.control(PACKAGE, member)
    name = f".SIGN.RSA.{key.name}"
    signature = repository.compress(repository.make_tar({name: key.sign(control, "RSA256")}, end=False))
    assert refusal(signature + control + member, key).startswith("has a wrong signature")


def test_a_changed_control_member_is_a_wrong_signature(key: Key) -> None:
    member = repository.data(PACKAGE)
    good = repository.build(PACKAGE, key)
    signature = good[: -len(repository.control(PACKAGE, member) + member)]
    other = dataclasses.replace(PACKAGE, scripts={"post-install": b"#!/bin/sh\n"})
    assert refusal(signature + repository.control(other, member) + member, key).startswith("has a wrong signature")


def test_a_package_without_signature_is_refused(key: Key) -> None:
    member = repository.data(PACKAGE)
    assert refusal(repository.control(PACKAGE, member) + member, key) == "is not signed"


def test_other_data_is_refused(key: Key) -> None:
    good = repository.build(PACKAGE, key)
    other = repository.data(dataclasses.replace(PACKAGE, files={QEMU: b"evil"}))
    changed = good[: -len(repository.data(PACKAGE))] + other
    assert refusal(changed, key).startswith("is damaged: its data does not have the hash")


def test_something_after_the_data_is_refused(key: Key) -> None:
    assert refusal(repository.build(PACKAGE, key) + b"more", key).startswith("is damaged")


def test_a_package_cut_anywhere_is_refused(key: Key) -> None:
    good = repository.build(PACKAGE, key)
    lengths = [*range(0, len(good) - 1, 97), len(good) - 1]
    causes = {refusal(good[:length], key).partition(":")[0] for length in lengths}
    assert causes == {"is cut short", "is damaged"}


@pytest.mark.parametrize("change", [{"name": "qemu-arm"}, {"version": "9.1.2-r1"}, {"arch": "aarch64"}])
def test_another_signed_package_under_the_name_is_refused(key: Key, change: dict[str, str]) -> None:
    said = refusal(repository.build(dataclasses.replace(PACKAGE, **change), key), key)  # type: ignore[arg-type]
    assert said.startswith("is another package: ")
    assert next(iter(change.values())) in said


def test_another_build_of_the_same_version_is_refused(key: Key) -> None:
    other = dataclasses.replace(PACKAGE, files={QEMU: b"older"})
    assert refusal(repository.build(other, key), key) == "is not the build that the index lists"


@pytest.mark.parametrize("start", [b"ADB.", b"ADBd", b"ADBc"])
def test_format_v3_is_recognised(key: Key, start: bytes) -> None:
    assert "package format v3" in refusal(start + b"pckg" + bytes(100), key)
    with pytest.raises(CrossrootError, match="package format v3"):
        read_index(start + b"indx" + bytes(100), key)


def test_other_files_are_not_gzip(key: Key) -> None:
    assert refusal(b"<html>", key) == "is not sound: it is not gzip"
    assert refusal(repository.compress(b"no tar" * 200), key) == "is not sound: a part of it is not a tar"


def test_a_huge_head_is_refused_without_unpacking_it(key: Key) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert refusal(bomb, key) == "is not sound: a part of it is larger than 1 MiB"


def test_a_head_of_endless_nothing_is_refused(key: Key) -> None:
    empty_blocks = gzip.compress(b"")[:10] + b"\x00\x00\x00\xff\xff" * (1 << 19)
    assert refusal(empty_blocks, key) == "is not sound: a part of it is larger than 1 MiB"


def test_a_signature_that_claims_to_be_huge_is_refused(key: Key) -> None:
    tar = bytearray(repository.make_tar({f".SIGN.RSA.{key.name}": b""}, end=False))
    tar[124:136] = b"77777777777\0"
    tar[148:156] = b"%06o\0 " % (sum(tar[:148]) + 8 * 32 + sum(tar[156:512]))
    assert refusal(repository.compress(bytes(tar)), key).startswith("is not s")


# --- one file of a package ----------------------------------------------------------------------------------


def extract(package: Package, key: Key, name: str = QEMU, limit: int = 1 << 20) -> bytes:
    file = verify(repository.build(package, key), key, package)
    target = io.BytesIO()
    apk.extract_file(file, name, target, limit=limit, where=WHERE)
    return target.getvalue()


def test_names_that_lead_elsewhere_are_not_the_file(key: Key) -> None:
    names = [
        "../usr/bin/qemu-riscv64",
        "/usr/bin/qemu-riscv64",
        "./usr/bin/qemu-riscv64",
        "usr/bin/../bin/qemu-riscv64",
    ]
    package = dataclasses.replace(PACKAGE, files={**dict.fromkeys(names, b"evil"), QEMU: b"good"})
    assert extract(package, key) == b"good"
    with pytest.raises(CrossrootError, match=f"has no file {QEMU}"):
        extract(dataclasses.replace(PACKAGE, files=dict.fromkeys(names, b"evil")), key)


def test_a_link_is_not_the_file(key: Key) -> None:
    with pytest.raises(CrossrootError, match=f"has no file {QEMU}"):
        extract(dataclasses.replace(PACKAGE, files={}, links={QEMU: "/bin/sh"}), key)


def test_a_file_larger_than_expected_is_refused(key: Key) -> None:
    with pytest.raises(CrossrootError, match=f"has {len(CONTENT)} bytes, more than the 1000 expected"):
        extract(PACKAGE, key, limit=1000)


def test_data_larger_than_any_package_is_refused(key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apk, "_LARGEST_DATA", len(CONTENT) // 2)
    with pytest.raises(CrossrootError, match="its data is larger"):
        extract(PACKAGE, key)


# --- indexes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["RSA", "RSA256"])
def test_an_index_is_read(key: Key, algorithm: str) -> None:
    second = Package("qemu-arm", "10.0.0_rc1-r2", "x86_64", depends=["musl"])
    content = repository.index([repository.entry(PACKAGE, 1234), repository.entry(second, 5678)], key, algorithm)
    packages = read_index(content, key)
    assert [(each.file, each.arch, each.size) for each in packages] == [
        ("qemu-riscv64-9.1.2-r0.apk", "x86_64", 1234),
        ("qemu-arm-10.0.0_rc1-r2.apk", "x86_64", 5678),
    ]
    assert repository.entry(PACKAGE).startswith(f"C:{packages[0].checksum}\n")


def test_an_index_changed_in_any_byte_is_refused(key: Key) -> None:
    content = repository.index([repository.entry(PACKAGE)], key)
    for position in range(0, len(content), 37):
        changed = bytearray(content)
        changed[position] ^= 0x41
        try:
            packages = read_index(bytes(changed), key)
        except CrossrootError:
            continue
        assert packages == read_index(content, key), f"byte {position}"  # a byte of the first header's no meaning


def test_an_index_by_a_stranger_is_refused(key: Key, stranger: Key) -> None:
    with pytest.raises(CrossrootError, match="unknown key"):
        read_index(repository.index([repository.entry(PACKAGE)], stranger), key)


def test_an_index_is_cut_short(key: Key) -> None:
    content = repository.index([repository.entry(PACKAGE)], key)
    for length, cause in ((100, "cut short"), (len(content) - 1, "wrong signature")):
        with pytest.raises(CrossrootError, match=cause):
            read_index(content[:length], key)


@pytest.mark.parametrize(
    ("field", "value"),
    [("P", "../evil"), ("V", "1/2"), ("A", ""), ("S", "-1"), ("S", "1e9"), ("C", "Q1short"), ("C", "")],
)
def test_unsound_fields_of_an_index_are_refused(key: Key, field: str, value: str) -> None:
    lines = [f"{field}:{value}" if line[:2] == f"{field}:" else line for line in repository.entry(PACKAGE).splitlines()]
    content = repository.index(["\n".join(lines) + "\n\n"], key)
    with pytest.raises(CrossrootError, match=f"is not sound: field {field} of"):
        read_index(content, key)


def test_an_index_without_list_is_refused(key: Key) -> None:
    content = repository.signed(repository.compress(repository.make_tar({"DESCRIPTION": b""}, end=True)), key)
    with pytest.raises(CrossrootError, match="it has no APKINDEX"):
        read_index(content, key)


# --- the keys that come with crossroot ------------------------------------------------------------------------


def test_every_arch_of_alpine_has_keys_that_can_be_used() -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    names = sorted(folder.name for folder in apk.KEYS.iterdir())
    assert names == ["aarch64", "armhf", "armv7", "loongarch64", "ppc64le", "riscv64", "s390x", "x86", "x86_64"]
    for name in names:
        for public in apk.keys(arch.find(name)).values():
            load_pem_public_key(public)
    with pytest.raises(CrossrootError, match="no keys of Alpine are known for m68k"):
        apk.keys(arch.find("m68k"))


def test_the_keys_are_those_of_real_roots() -> None:
    """A minirootfs has the keys of every arch, in a folder each."""
    import tarfile

    mirror = Path(__file__).parents[3] / "shared/alpine-mirror"
    archives = list(mirror.glob("v*/releases/*/alpine-minirootfs-*.tar.gz"))
    if not archives:
        pytest.skip("needs a real Alpine mirror")
    with tarfile.open(archives[0]) as tar:
        for name in ("aarch64", "armhf", "armv7", "ppc64le", "riscv64", "s390x", "x86", "x86_64"):
            folder = f"./usr/share/apk/keys/{name}/"
            links = [member.name for member in tar.getmembers() if member.name.startswith(folder)]
            real = {link.removeprefix(folder): tar.extractfile(link) for link in links}
            assert apk.keys(arch.find(name)) == {key: file.read() for key, file in real.items() if file}
