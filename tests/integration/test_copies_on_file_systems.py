"""Ephemeral sessions, clones and snapshots with the store on each kind of file system, and what roots share there."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import pytest

from crossroot import tree
from tests.conftest import NEEDS_ROOT
from tests.support import file_systems
from tests.support.identity import Crossroot

pytestmark = [pytest.mark.root, pytest.mark.emulation, pytest.mark.slow]

VANDAL = "rm -r /etc/apk; mkdir /etc/apk; echo new >/etc/apk/new; echo changed >/etc/motd; exit 7"


@pytest.fixture(autouse=True)
def _only_root_mounts() -> None:
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)


def digest(crossroot: Crossroot, name: str) -> str:
    found: str = json.loads(crossroot.run("info", name, "--json", "--digest", check=True).stdout)["digest"]
    return found


def is_shared(file: Path) -> bool:
    """Whether all extents of a file are shared with another one (FIEMAP_EXTENT_SHARED)."""
    shown = subprocess.run(["filefrag", "-v", file], capture_output=True, text=True, check=True).stdout
    extents = [line for line in shown.splitlines() if line.strip()[:1].isdigit()]
    return bool(extents) and all("shared" in line for line in extents)


@pytest.mark.parametrize("kind", file_systems.KINDS)
def test_each_kind_of_file_system(kind: str, crossroot: Crossroot) -> None:
    def scenario(mounted: Path) -> None:
        os.chown(mounted, crossroot.identity.uid, crossroot.identity.gid)
        here = dataclasses.replace(crossroot, store=mounted / "store")
        sharing = kind in file_systems.SHARING
        how = "all content shared (reflink)" if sharing else "all files copied (this file system shares none)"

        here.create("riscv64")
        clean = digest(here, "riscv64")
        done = here.run("run", "riscv64", "--ephemeral", "--keep", "kept", "--", "sh", "-ec", VANDAL)
        assert done.returncode == 7, done.stderr
        assert digest(here, "riscv64") == clean
        assert here.run("run", "kept", "--", "ls", "/etc/apk", check=True).stdout == "new\n"

        assert how in here.run("snapshot", "riscv64", "clean", check=True).stderr
        assert here.run("run", "riscv64", "--", "sh", "-ec", VANDAL).returncode == 7
        changed = digest(here, "riscv64")
        assert changed == digest(here, "kept")
        assert how in here.run("clone", "riscv64", "changed", check=True).stderr
        assert how in here.run("restore", "riscv64", "clean", check=True).stderr
        assert (digest(here, "riscv64"), digest(here, "changed")) == (clean, changed)

        # A second creation of the same root shares what it can with the first.
        second = here.run("create", "riscv64", "--name", "second", "--mirror", here.mirror.url, check=True, timeout=120)
        assert ("files share their space with those of " in second.stderr) is sharing
        assert digest(here, "second") == clean
        largest = max((here.store / "roots/second/rootfs/bin").iterdir(), key=lambda path: path.lstat().st_size)
        if kind != "tmpfs" and kind != "overlay":
            os.sync()
            assert is_shared(largest) is sharing
        here.run("run", "second", "--", "sh", "-ec", "echo x >>/bin/busybox", check=True)
        assert digest(here, "riscv64") == clean
        for name in ("riscv64", "kept", "changed", "second"):
            here.run("remove", name, check=True)

    file_systems.inside(kind, crossroot.tmp, scenario)


@pytest.mark.parametrize("kind", file_systems.SHARING)
def test_only_what_is_equal_is_shared(kind: str, tmp_path: Path) -> None:
    contents = {
        "equal": b"a" * 100_000,
        "large": b"b" * (20 << 20),
        "last byte": b"c" * 8191 + b"1",
        "length": b"d" * 9000,
    }

    def scenario(mounted: Path) -> None:
        one, other = mounted / "one", mounted / "other"
        for folder in (one, other):
            folder.mkdir()
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            (folder / "empty").touch()
        (other / "last byte").write_bytes(b"c" * 8191 + b"2")
        (other / "length").write_bytes(b"d" * 9001)
        (other / "only here").write_bytes(b"e" * 9000)
        (one / "link").symlink_to(one / "equal")
        (other / "link").write_bytes(contents["equal"])
        before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in other.iterdir()}
        os.sync()
        source, destination = (os.open(folder, os.O_RDONLY) for folder in (one, other))
        assert tree.share(source, destination) == 2
        assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in other.iterdir()} == before
        assert [path.name for path in sorted(other.iterdir()) if is_shared(path)] == ["equal", "large"]

    file_systems.inside(kind, tmp_path, scenario)
