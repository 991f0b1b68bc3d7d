"""A store on every file system that people have, also a small one that is full in blocks or in inodes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import archives, expect
from tests.support.figures import Figures
from tests.support.identity import Crossroot, Identity

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SIZES = {"ext4": 64, "btrfs": 128, "xfs": 300}  # MiB, about the least that mkfs makes
FILES = {"etc/a b\\c": b"x" * 5000, "etc/new\nline": b"", "etc/ü": b"x", "etc/deep/er": b""}
LINKS = {"etc/mtab": "/proc/mounts", "etc/out": "../../../../../etc/passwd"}


def mount(kind: str, folder: Path, size: str = "") -> None:
    """Mount a new file system on `folder`."""
    if kind == "tmpfs":
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=755{size}", "tmpfs", folder], check=True)
    elif kind == "overlay":
        for name in ("lower", "upper", "work"):
            (folder.parent / name).mkdir()
        options = ",".join(f"{name}dir={folder.parent / name}" for name in ("lower", "upper", "work"))
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", folder], check=True)
    else:
        image = folder.parent / "image"
        with image.open("wb") as file:
            file.truncate(SIZES[kind] << 20)
        subprocess.run([f"mkfs.{kind}", "-q", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, folder], check=True)


@pytest.fixture
def place(crossroot: Crossroot) -> Iterator[Path]:
    """Where a file system may be mounted, for the time of the test."""
    folder = crossroot.tmp / "outer" / "mnt"
    folder.mkdir(parents=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def own(folder: Path, identity: Identity) -> None:
    os.chown(folder, identity.uid, identity.gid)


@pytest.mark.emulation
@pytest.mark.parametrize("kind", ["tmpfs", "overlay", "ext4", "btrfs", "xfs"])
def test_a_store_on(kind: str, crossroot: Crossroot, place: Path, figures: Figures) -> None:
    """With a symbolic link in its path, and names of every kind in its roots."""
    mount(kind, place)
    own(place, crossroot.identity)
    link = crossroot.tmp / "link"
    link.symlink_to(place)
    there = replace(crossroot, store=link / "store")
    archive = crossroot.tmp / "archive"
    archive.write_bytes(archives.rootfs("riscv64", FILES, LINKS))
    there.run("create", "riscv64", "--from", archive, check=True)
    etc = place / "store/roots/riscv64/rootfs/etc"
    assert {"a b\\c", "new\nline", "ü", "deep", "mtab", "out"} <= set(os.listdir(etc))
    there.run("create", "riscv64", "--from", archive, "--force", check=True)
    assert there.run("run", "riscv64", "--", "/bin/true").returncode == ord("/")
    there.run("rm", "riscv64", check=True)
    expect.roots(there.store)
    figures.add("file systems of a store")


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("full", ["blocks", "inodes"])
def test_a_file_system_that_gets_full_at_every_stage(
    kind: str, full: str, crossroot: Crossroot, place: Path, figures: Figures
) -> None:
    """With a little more room each time, until a creation succeeds: until then a clear error, and nothing left."""
    mount(kind, place, ",size=16m,nr_inodes=400" if kind == "tmpfs" else "")
    own(place, crossroot.identity)
    there = replace(crossroot, store=place / "store")
    archive = crossroot.tmp / "archive"
    archive.write_bytes(archives.rootfs("riscv64", {f"etc/{number}": b"x" * 9000 for number in range(40)}))
    filler = place / "filler"
    filler.mkdir()
    fill(filler, full)
    failures = 0
    while (result := there.run("create", "riscv64", "--from", archive)).returncode:
        expect.error(result, "No space left on device")
        failures += 1
        assert failures < 200
        free(filler, full)
    assert failures > 1
    there.run("rm", "riscv64", check=True)
    expect.roots(there.store)
    figures.add("creations on a full disk", failures)
    shutil.rmtree(filler)


def fill(folder: Path, full: str) -> None:
    """Use up all blocks or inodes, but for what is reserved for root."""
    number = 0
    try:
        while True:
            with (folder / str(number)).open("wb") as file:
                if full == "blocks":
                    file.write(bytes(65536))
            number += 1
    except OSError:
        pass


def free(folder: Path, full: str) -> None:
    """Give back a little of it."""
    for path in sorted(folder.iterdir())[: 2 if full == "blocks" else 7]:
        path.unlink()
