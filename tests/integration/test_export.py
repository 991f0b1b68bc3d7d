"""`crossroot export`, `create --from` of what it wrote and of container images, and `info --digest`."""

import dataclasses
import hashlib
import io
import json
import os
import pty
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crossroot import elf, tree
from crossroot.arch import find
from tests.conftest import NEEDS_ROOT
from tests.support import expect
from tests.support.host import wait_until
from tests.support.identity import Crossroot, Identity, new_folder

CAPABILITY = b"\x01\x00\x00\x02\x00\x20\x00\x00" + bytes(12)  # cap_net_raw=ep, as in /bin/ping
NEWEST = 1_600_000_000  # of the times in `archive`


@pytest.fixture
def other(crossroot: Crossroot, request: pytest.FixtureRequest, scratch: Path) -> Iterator[Crossroot]:
    """crossroot as the other identity, with an empty store."""
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    if crossroot.kind == "root":
        identity: Identity = request.getfixturevalue("user")
    else:
        identity = dataclasses.replace(crossroot.identity, kind="root", name="root", uid=0, gid=0, home=scratch)
    tmp = new_folder(scratch, identity)
    request.getfixturevalue("folders_to_remove").append(tmp)
    yield Crossroot(identity, crossroot.mirror, tmp, tmp / "store", tmp / "cache")


def archive(crossroot: Crossroot) -> Path:
    """The tar of a small rootfs for riscv64 with everything that a tar may hold, and that `create` unpacks."""
    program = elf.probe_program(find("riscv64"))
    path = crossroot.tmp / "archive.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape") as tar:

        def add(name: str, content: bytes = b"", type: bytes = tarfile.REGTYPE, **fields: object) -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size, entry.mtime = type, len(content), 1_500_000_000
            for key, value in fields.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(content))

        add(".", type=tarfile.DIRTYPE, mode=0o755, mtime=NEWEST)
        add("tmp", type=tarfile.DIRTYPE, mode=0o1777)
        add("bin", type=tarfile.DIRTYPE, mode=0o755)
        add("bin/true", program, mode=0o4755)
        add("bin/false", type=tarfile.LNKTYPE, linkname="bin/true")
        add("bin/ping", program, mode=0o755, pax_headers=xattr("security.capability", CAPABILITY))
        add("etc/os-release", b"ID=small\nVERSION_ID=1.0\n", mode=0o644)
        add("etc/shadow", b"root:*:\n", mode=0o640, gid=42, pax_headers=xattr("user.note", b"\0\xff=\n"))
        add("home/me/file", b"mine", mode=0o600, uid=1000, gid=1001)
        add("home/me/link", type=tarfile.SYMTYPE, linkname="/etc/" + "x" * 150, uid=1000, gid=1001)
        add("home/nobody", type=tarfile.DIRTYPE, mode=0o2770, uid=65534, gid=65534)
        add("usr/" + "long/" * 40 + "caf\udce9", b"name", mode=0o444)
    path.chmod(0o644)
    return path


def xattr(name: str, value: bytes) -> dict[str, str]:
    return {f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")}


def create_from(crossroot: Crossroot, source: Path, name: str) -> str:
    """A root of the archive or image; its digest."""
    crossroot.run("create", "riscv64", "--name", name, "--from", source, check=True)
    return digest(crossroot, name)


def digest(crossroot: Crossroot, name: str) -> str:
    found: str = json.loads(crossroot.run("info", name, "--digest", "--json", check=True).stdout)["digest"]
    return found


def exported(crossroot: Crossroot, name: str, *arguments: str | Path) -> bytes:
    return crossroot.run_bytes("export", name, *arguments, check=True).stdout


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rootfs(crossroot: Crossroot, name: str) -> Path:
    return crossroot.store / "roots" / name / "rootfs"


def digest_of(folder: Path) -> str:
    """The digest of a tree that other tools have made, as root."""
    top = os.open(folder, os.O_RDONLY)
    try:
        return tree.digest(top)
    finally:
        os.close(top)


# The same bytes


def test_two_creations_give_the_same_digest_and_bytes_and_a_copy_of_an_export_too(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    time.sleep(1.1)  # the times of what crossroot writes differ now
    crossroot.create("riscv64", "--name", "second")
    assert digest(crossroot, "second") == digest(crossroot, "riscv64")
    data = exported(crossroot, "riscv64")
    assert exported(crossroot, "second") == data
    crossroot.run("export", "riscv64", "-o", "root.tar.zst", check=True)
    assert create_from(crossroot, crossroot.tmp / "root.tar.zst", "third") == digest(crossroot, "riscv64")
    assert exported(crossroot, "third") == data


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.xz", "tar.zst"])
def test_all_that_a_root_holds_comes_back(crossroot: Crossroot, suffix: str) -> None:
    first = create_from(crossroot, archive(crossroot), "first")
    result = crossroot.run("export", "first", "-o", f"out.{suffix}", check=True)
    assert result.stdout == ""
    assert create_from(crossroot, crossroot.tmp / f"out.{suffix}", "second") == first


def test_roots_of_root_and_of_a_user_are_the_same(crossroot: Crossroot, other: Crossroot) -> None:
    here = create_from(crossroot, archive(crossroot), "here")
    data = exported(crossroot, "here")
    exchange = other.tmp / "exchange.tar"
    exchange.write_bytes(data)
    assert create_from(other, exchange, "there") == here
    assert exported(other, "there") == data
    image = exported(crossroot, "here", "--format", "oci")
    exchange.write_bytes(image)
    assert create_from(other, exchange, "image") == here
    assert sha256(exported(other, "there", "--format", "oci")) != sha256(image)  # they have other names
    crossroot.run("create", "riscv64", "--name", "there", "--from", archive(crossroot), check=True)
    assert sha256(exported(other, "there", "--format", "oci")) == sha256(
        exported(crossroot, "there", "--format", "oci")
    )


def test_gnu_tar_unpacks_what_the_digest_says(crossroot: Crossroot, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    expected = create_from(crossroot, archive(crossroot), "riscv64")
    crossroot.run("export", "riscv64", "-o", "out.tar", check=True)
    command = ["tar", "-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", str(crossroot.tmp / "out.tar")]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert digest_of(tmp_path) == expected


def test_files_of_the_archive_keep_their_times_and_later_ones_get_the_newest_of_these(crossroot: Crossroot) -> None:
    create_from(crossroot, archive(crossroot), "riscv64")
    times = {name: entry.mtime for name, entry in members(exported(crossroot, "riscv64")).items()}
    assert times["etc/resolv.conf"] == NEWEST
    assert times["bin/true"] == 1_500_000_000
    late = members(crossroot.run_bytes("export", "riscv64", env={"SOURCE_DATE_EPOCH": "1550000000"}, check=True).stdout)
    assert {late["etc/resolv.conf"].mtime, late["."].mtime} == {1_550_000_000}
    assert late["bin/true"].mtime == 1_500_000_000


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        return {member.name: member for member in tar.getmembers()}


def test_no_epoch_is_an_error_of_usage(crossroot: Crossroot) -> None:
    create_from(crossroot, archive(crossroot), "riscv64")
    result = crossroot.run("export", "riscv64", env={"SOURCE_DATE_EPOCH": "yesterday"})
    expect.error(result, "SOURCE_DATE_EPOCH is no number of seconds: 'yesterday'", 2)


# Where it is written


@pytest.fixture
def small(crossroot: Crossroot) -> Crossroot:
    """crossroot with a small root named riscv64."""
    create_from(crossroot, archive(crossroot), "riscv64")
    return crossroot


def test_the_digest_is_told_in_words_too(small: Crossroot) -> None:
    told = small.run("info", "riscv64", "--digest", check=True).stdout.splitlines()
    assert f"digest:            {digest(small, 'riscv64')}" in told
    assert "digest" not in small.run("info", "riscv64", check=True).stdout


def test_stdout_gets_the_same_as_a_file(small: Crossroot) -> None:
    small.run("export", "riscv64", "-o", "out.tar", check=True)
    assert exported(small, "riscv64") == exported(small, "riscv64", "-o", "-") == (small.tmp / "out.tar").read_bytes()
    small.run("export", "riscv64", "--format", "oci", "-o", "image.tar", check=True)
    assert exported(small, "riscv64", "--format", "oci") == (small.tmp / "image.tar").read_bytes()


@pytest.mark.parametrize("format", ["tar", "oci"])
def test_a_terminal_gets_nothing(small: Crossroot, format: str) -> None:
    controller, terminal = pty.openpty()
    process = small.popen("export", "riscv64", "--format", format, stdout=terminal)
    assert process.communicate()[1].decode().splitlines()[-2:] == [
        "crossroot: error: an archive is nothing for a terminal",
        "  hint: -o FILE, or redirect the output",
    ]
    assert process.returncode == 2
    os.close(terminal)
    with pytest.raises(OSError):
        os.read(controller, 1)  # nothing was written
    os.close(controller)


def test_a_file_is_replaced_and_behind_a_link_too(small: Crossroot) -> None:
    (small.tmp / "out.tar").write_text("old")
    (small.tmp / "link.tar").symlink_to("out.tar")
    exported(small, "riscv64", "-o", "link.tar")
    assert (small.tmp / "link.tar").is_symlink()
    assert (small.tmp / "out.tar").read_bytes() == exported(small, "riscv64")


def test_a_device_or_fifo_is_written_to_and_not_replaced(small: Crossroot) -> None:
    (small.tmp / "null.tar").symlink_to("/dev/null")
    exported(small, "riscv64", "-o", "null.tar")
    assert Path("/dev/null").is_char_device()
    os.mkfifo(small.tmp / "fifo.tar", 0o666)
    (small.tmp / "fifo.tar").chmod(0o666)
    process = small.popen("export", "riscv64", "-o", "fifo.tar")
    data = (small.tmp / "fifo.tar").read_bytes()
    process.communicate()
    assert data == exported(small, "riscv64")
    assert (small.tmp / "fifo.tar").is_fifo()


@pytest.mark.parametrize("format", ["tar", "oci"])
def test_a_full_disk_is_named(small: Crossroot, format: str) -> None:
    (small.tmp / "full.tar").symlink_to("/dev/full")
    result = small.run("export", "riscv64", "-o", "full.tar", "--format", format)
    assert expect.error(result, "cannot write full.tar: No space left on device") == "free some space"
    with open("/dev/full", "wb") as full:
        process = small.popen("export", "riscv64", "--format", format, stdout=full)
        assert "error: cannot write stdout: No space left on device" in process.communicate()[1].decode()
    assert process.returncode == 1


def test_a_reader_that_has_enough_is_no_crash(small: Crossroot) -> None:
    (rootfs(small, "riscv64") / "large").touch()
    os.truncate(rootfs(small, "riscv64") / "large", 8 << 20)
    process = small.popen("export", "riscv64")
    assert process.stdout is not None
    process.stdout.read(100)
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    assert "error: cannot write stdout: Broken pipe" in said
    assert "Traceback" not in said
    assert process.wait() == 1


@pytest.mark.parametrize("format", ["tar", "oci"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_export_leaves_no_half_file(small: Crossroot, format: str, number: signal.Signals) -> None:
    (rootfs(small, "riscv64") / "large").touch()
    os.truncate(rootfs(small, "riscv64") / "large", 8 << 30)  # a hole: long to read, nothing to store
    output = small.tmp / "out.tar"
    output.write_text("old")
    process = small.popen("export", "riscv64", "--format", format, "-o", output)
    wait_until(lambda: list(small.tmp.glob(".crossroot-*.part")))
    process.send_signal(number)
    process.communicate()
    assert output.read_text() == "old"
    assert number == signal.SIGKILL or not list(small.tmp.glob(".crossroot-*.part"))


@pytest.mark.parametrize(
    ("arguments", "text", "status"),
    [
        (["-o", "nowhere/out.tar"], "cannot write nowhere/out.tar: No such file or directory", 1),
        (["-o", "nowhere/out.tar", "--format", "oci"], "cannot write nowhere/out.tar: No such file or directory", 1),
        (["-o", "out.zip"], "out.zip says of no compression", 2),
        (["-o", "out.tar.gz", "--format", "oci"], "the layers of an image are compressed already", 2),
        (["--format", "zip"], "unknown format 'zip'", 2),
        (["-o", "folder.tar"], "cannot write folder.tar: Is a directory", 1),
        (["-o", "full", "--format", "oci"], "full is there already, and not an empty folder", 1),
    ],
)
def test_what_cannot_be_written_is_named(small: Crossroot, arguments: list[str], text: str, status: int) -> None:
    for name in ("folder.tar", "full"):
        (small.tmp / name).mkdir()
    (small.tmp / "full/file").touch()
    expect.error(small.run("export", "riscv64", *arguments), text, status)
    assert sorted(os.listdir(small.tmp)) == ["archive.tar", "folder.tar", "full", "store"]


def test_there_has_to_be_a_root(crossroot: Crossroot) -> None:
    expect.error(crossroot.run("export", "riscv64"), "there is no root riscv64")


# What is left out, or in the way


def test_sockets_and_devices_are_left_out_and_said(small: Crossroot) -> None:
    before = exported(small, "riscv64")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(rootfs(small, "riscv64") / "tmp/socket"))
    told = "left out: 1 socket"
    if small.kind == "root":
        for name in ("null", "zero"):
            os.mknod(rootfs(small, "riscv64") / "tmp" / name, 0o20666, os.makedev(1, 3))
        told = "left out: 2 character devices, 1 socket"
    result = small.run_bytes("export", "riscv64", check=True)
    assert f"crossroot: {told}\n" in result.stderr.decode()
    assert members(result.stdout).keys() == members(before).keys()


@pytest.mark.parametrize("command", [["export", "riscv64"], ["info", "riscv64", "--digest"]])
def test_what_is_mounted_in_a_root_is_not_read(small: Crossroot, command: list[str]) -> None:
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    mounted = ["mount", "--bind", "/etc", str(rootfs(small, "riscv64") / "tmp")]
    script = '"$1" "$2" "$3" "$4" || exit 99; shift 4; exec "$@"'
    ids = ["setpriv", f"--reuid={small.identity.uid}", f"--regid={small.identity.gid}", "--clear-groups"]
    line = ["unshare", "--mount", "sh", "-c", script, "sh", *mounted, *ids, *small.command(*command)]
    environment = small.identity.environment(small.environment())
    result = subprocess.run(line, env=environment, cwd=small.tmp, capture_output=True, text=True, check=False)
    expect.error(result, "something is mounted on 'tmp' in the rootfs")


# Container images


def manifest_of(folder: Path) -> dict[str, object]:
    index = json.loads((folder / "index.json").read_bytes())
    found: dict[str, object] = json.loads((folder / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_bytes())
    return found


def test_skopeo_accepts_the_image(small: Crossroot) -> None:
    small.run("export", "riscv64", "--format", "oci", "-o", "image", check=True)
    small.run("export", "riscv64", "--format", "oci", "-o", "image.tar", check=True)
    for name in ("oci:image:riscv64", "oci-archive:image.tar:riscv64"):
        inspected = small.identity.run(["skopeo", "inspect", "--config", name], cwd=small.tmp, check=True)
        config = json.loads(inspected.stdout)
        assert (config["os"], config["architecture"]) == ("linux", "riscv64")
        assert config["config"]["Cmd"] == ["/bin/sh"]
        assert config["created"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NEWEST))
        assert config["rootfs"]["diff_ids"] == [f"sha256:{sha256(exported(small, 'riscv64'))}"]
    # Copying reads every blob and verifies it.
    for name in ("oci:image:riscv64", "oci-archive:image.tar:riscv64"):
        small.identity.run(["skopeo", "copy", name, "dir:copied"], cwd=small.tmp, check=True)
    assert json.loads((small.tmp / "copied/manifest.json").read_bytes()) == manifest_of(small.tmp / "image")


def test_umoci_unpacks_what_the_digest_says(small: Crossroot) -> None:
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    small.run("export", "riscv64", "--format", "oci", "-o", "image", check=True)
    umoci(small, "unpack", "--image", "image:riscv64", "bundle")
    assert digest_of(small.tmp / "bundle/rootfs") == digest(small, "riscv64")


def umoci(crossroot: Crossroot, *arguments: str) -> None:
    """Run umoci as root, in the folder of the test."""
    subprocess.run(["umoci", *arguments], cwd=crossroot.tmp, check=True, capture_output=True)


@pytest.mark.parametrize("output", ["image", "image.tar"])
def test_an_image_comes_back(small: Crossroot, output: str) -> None:
    small.run("export", "riscv64", "--format", "oci", "-o", output, check=True)
    assert create_from(small, small.tmp / output, "again") == digest(small, "riscv64")


def test_an_image_comes_back_from_docker_save(small: Crossroot) -> None:
    small.run("export", "riscv64", "--format", "oci", "-o", "image", check=True)
    copy = ["skopeo", "copy", "oci:image:riscv64", "docker-archive:docker.tar:riscv64:latest"]
    small.identity.run(copy, cwd=small.tmp, check=True)
    assert create_from(small, small.tmp / "docker.tar", "again") == digest(small, "riscv64")
    small.identity.run(["gzip", "docker.tar"], cwd=small.tmp, check=True)
    assert create_from(small, small.tmp / "docker.tar.gz", "compressed") == digest(small, "riscv64")


def test_layers_of_umoci_give_umocis_tree(small: Crossroot) -> None:
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    small.run("export", "riscv64", "--format", "oci", "-o", "image", check=True)
    changes: list[Callable[[Path], object]] = [
        lambda top: (top / "etc/shadow").unlink(),
        lambda top: subprocess.run(["rm", "-r", top / "home", top / "usr"], check=True),
        lambda top: (top / "home").symlink_to("/tmp"),
        lambda top: (top / "bin/new").write_bytes(b"new"),
        lambda top: os.chown(top / "bin/new", 33, 44),
        lambda top: (top / "bin/true").chmod(0o700),
    ]
    for number, change in enumerate(changes):
        bundle = f"bundle{number}"
        umoci(small, "unpack", "--image", "image:riscv64", bundle)
        change(small.tmp / bundle / "rootfs")
        umoci(small, "repack", "--image", "image:riscv64", bundle)
    umoci(small, "unpack", "--image", "image:riscv64", "final")
    layers = manifest_of(small.tmp / "image")["layers"]
    assert isinstance(layers, list)
    assert len(layers) == 1 + len(changes)
    subprocess.run(["chmod", "-R", "a+rX", small.tmp / "image"], check=True)
    assert create_from(small, small.tmp / "image", "again") == digest_of(small.tmp / "final/rootfs")


def test_an_image_for_another_platform_is_refused(small: Crossroot) -> None:
    small.run("export", "riscv64", "--format", "oci", "-o", "image.tar", check=True)
    result = small.run("create", "aarch64", "--from", "image.tar")
    expect.error(result, "the image is not for linux/arm64, only for linux/riscv64")
    expect.roots(small.store, "riscv64")


def test_a_damaged_image_is_refused(small: Crossroot) -> None:
    small.run("export", "riscv64", "--format", "oci", "-o", "image", check=True)
    largest = max((small.tmp / "image/blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"!")
    result = small.run("create", "riscv64", "--name", "again", "--from", "image")
    expect.error(result, f"the image is damaged: 'blobs/sha256/{largest.name}' has the sha256")
    expect.roots(small.store, "riscv64")


def test_the_digest_of_an_image_folder_is_that_of_its_index(small: Crossroot) -> None:
    small.run("export", "riscv64", "--format", "oci", "-o", "image", check=True)
    right = sha256((small.tmp / "image/index.json").read_bytes())
    small.run("create", "riscv64", "--name", "pinned", "--from", "image", "--sha256", right, check=True)
    result = small.run("create", "riscv64", "--name", "wrong", "--from", "image", "--sha256", "0" * 64)
    expect.error(result, "index.json has a wrong sha256")


def test_a_folder_that_is_no_image_is_refused(crossroot: Crossroot) -> None:
    (crossroot.tmp / "folder").mkdir()
    expect.error(crossroot.run("create", "riscv64", "--from", "folder"), "folder/index.json: No such file")
