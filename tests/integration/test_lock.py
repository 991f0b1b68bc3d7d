"""A lock says exactly what a root is: two creations from it are the same, and what cannot be had again is named."""

import dataclasses
import json
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import apk_repository, archives, expect, releases
from tests.support.alpine import Alpine, serve
from tests.support.apk_repository import Package
from tests.support.identity import Crossroot, Identity, new_folder

pytestmark = [pytest.mark.emulation, pytest.mark.alpine]

# Its script makes an account, which has the day of the installation in it, and a log.
TOOL = {"usr/bin/tool": b"#!/bin/sh\necho tool\n"}
SCRIPT = b"""#!/bin/sh
adduser -D -H worker
date +%N >/var/log/installed
date +%N >/etc/machine-id
"""
TOOLED = 'packages = ["tool"]'
PACKAGES = [
    Package("tool", "1.0-r0", "riscv64", TOOL, {"post-install": SCRIPT}, ["lib"]),
    Package("lib", "1.0-r0", "riscv64", {"usr/lib/lib": b"library"}),
    Package("unrelated", "1.0-r0", "riscv64", {"usr/lib/unrelated": b"x"}),
]


@pytest.fixture
def alpine(crossroot: Crossroot, tmp_path: Path) -> Iterator[Alpine]:
    with serve(crossroot.mirror, tmp_path, PACKAGES, PACKAGES[2:]) as found:
        yield found


@pytest.fixture
def locked(crossroot: Crossroot, alpine: Alpine) -> Path:
    """A lock of a root with `tool`."""
    crossroot.run("lock", "mine", "-o", "mine.lock", env=alpine.profile(crossroot, TOOLED), check=True)
    return crossroot.tmp / "mine.lock"


def digest(crossroot: Crossroot, name: str) -> str:
    text: str = json.loads(crossroot.run("info", name, "--json", "--digest", check=True).stdout)["digest"]
    return text


def cold(crossroot: Crossroot) -> Crossroot:
    """The same with an empty cache."""
    return dataclasses.replace(crossroot, cache=crossroot.tmp / "cold")


def test_a_lock_holds_the_archives_hash_and_each_packages_version_and_digest(
    crossroot: Crossroot, alpine: Alpine, locked: Path
) -> None:
    lock = tomllib.loads(locked.read_text())
    index = apk_repository.entry(PACKAGES[0]).splitlines()
    assert lock["packages"]["tool"] == f"1.0-r0 {index[0].removeprefix('C:')}"
    assert {"tool", "lib", "busybox", "musl"} < set(lock["packages"])
    assert "unrelated" not in lock["packages"]
    assert lock["archive"].startswith(f"{alpine.server.url}/{alpine.branch}/releases/riscv64/alpine-minirootfs-")
    assert len(lock["sha512"]) == 128
    assert lock["keys"] == {alpine.key.name: alpine.key.public.decode()}
    expect.roots(crossroot.store)


def test_a_lock_has_a_line_for_each_package_in_order(locked: Path) -> None:
    lines = locked.read_text().partition("[packages]\n")[2].splitlines()
    assert lines == sorted(lines)
    assert all(line.count('"') == 4 for line in lines)


def test_without_o_the_lock_is_printed(crossroot: Crossroot, alpine: Alpine) -> None:
    result = crossroot.run("lock", "mine", "--package", "unrelated", env=alpine.profile(crossroot, TOOLED), check=True)
    assert "unrelated" in tomllib.loads(result.stdout)["packages"]


def test_two_creations_from_one_lock_are_the_same_tree(crossroot: Crossroot, locked: Path) -> None:
    crossroot.run("create", "--locked", locked, check=True)
    cold(crossroot).run("create", "--locked", locked, "--name", "other", check=True)
    assert digest(crossroot, "mine") == digest(crossroot, "other")
    assert crossroot.run("run", "other", "--", "tool", check=True).stdout == "tool\n"
    rootfs = crossroot.store / "roots/mine/rootfs"
    world = (rootfs / "etc/apk/world").read_text().split()
    assert "tool" in world
    assert not [word for word in world if "=" in word]
    assert "worker" in crossroot.run("run", "mine", "--", "cat", "/etc/shadow", check=True).stdout


def test_a_lock_of_the_archive_alone_needs_no_network(crossroot: Crossroot, alpine: Alpine) -> None:
    crossroot.run("lock", "mine", "-o", "mine.lock", env=alpine.profile(crossroot, ""), check=True)
    requests = len(alpine.server.seen)
    crossroot.run("create", "--locked", "mine.lock", check=True)
    assert len(alpine.server.seen) == requests


@pytest.mark.root
def test_root_and_an_ordinary_user_make_the_same_tree(
    crossroot: Crossroot, locked: Path, user: Identity, scratch: Path, folders_to_remove: list[Path]
) -> None:
    if crossroot.kind != "root":
        pytest.skip("needs root")
    crossroot.run("create", "--locked", locked, check=True)
    tmp = new_folder(scratch, user)
    folders_to_remove.append(tmp)
    other = Crossroot(user, crossroot.mirror, tmp, tmp / "store", tmp / "cache")
    (tmp / "mine.lock").write_bytes(locked.read_bytes())
    other.run("create", "--locked", "mine.lock", check=True)
    assert digest(other, "mine") == digest(crossroot, "mine")


def test_another_umask_and_day_make_the_same_tree(crossroot: Crossroot, locked: Path) -> None:
    crossroot.run("create", "--locked", locked, check=True)
    words = " ".join(crossroot.command("create", "--locked", str(locked), "--name", "other"))
    env = crossroot.environment()
    crossroot.identity.run(["sh", "-c", f"umask 077; {words}"], env=env, cwd=crossroot.tmp, check=True)
    assert digest(crossroot, "mine") == digest(crossroot, "other")


def test_a_root_of_packages_alone_is_locked_too(crossroot: Crossroot, alpine: Alpine) -> None:
    alpine.publish([*PACKAGES, *releases.as_packages(alpine.folder, "riscv64")])
    env = alpine.profile(crossroot, 'source = "packages"\npackages = ["tool"]')
    crossroot.run("lock", "mine", "-o", "mine.lock", env=env, check=True)
    crossroot.run("create", "--locked", "mine.lock", check=True)
    cold(crossroot).run("create", "--locked", "mine.lock", "--name", "other", check=True)
    assert digest(crossroot, "mine") == digest(crossroot, "other")


def test_newer_packages_do_not_come_in(crossroot: Crossroot, alpine: Alpine, locked: Path) -> None:
    newer = Package("unrelated", "2.0-r0", "riscv64", {"usr/lib/unrelated": b"newer"}, provides=["lib=9"])
    alpine.publish([*PACKAGES, newer])
    crossroot.run("create", "--locked", locked, check=True)
    assert not (crossroot.store / "roots/mine/rootfs/usr/lib/unrelated").exists()


@pytest.mark.parametrize(
    ("now", "error"),
    [
        ([PACKAGES[0], dataclasses.replace(PACKAGES[1], version="1.1-r0")], "has lib 1.0-r0 any more"),
        ([PACKAGES[1]], "has tool 1.0-r0 any more"),
        ([PACKAGES[0], dataclasses.replace(PACKAGES[1], files={"usr/lib/lib": b"new"})], "lib 1.0-r0 is another build"),
        ([PACKAGES[0], dataclasses.replace(PACKAGES[1], depends=["unrelated"])], "lib 1.0-r0 is another build"),
    ],
)
def test_what_is_gone_or_changed_is_named(
    now: list[Package], error: str, crossroot: Crossroot, alpine: Alpine, locked: Path
) -> None:
    alpine.publish([*now, PACKAGES[2]])
    result = cold(crossroot).run("create", "--locked", locked)
    hint = expect.error(result, error)
    assert "crossroot lock" in hint
    expect.roots(crossroot.store)


def test_a_gone_archive_is_named(crossroot: Crossroot, alpine: Alpine, locked: Path) -> None:
    for path in alpine.folder.glob("v*/releases/riscv64/*.tar.gz"):
        path.unlink()
    hint = expect.error(cold(crossroot).run("create", "--locked", locked), "alpine-minirootfs-")
    assert hint == "check the address, or name another mirror under mirrors in the lock's [profile]"
    expect.roots(crossroot.store)


def test_an_archive_that_has_changed_is_refused(crossroot: Crossroot, alpine: Alpine, locked: Path) -> None:
    for path in alpine.folder.glob("v*/releases/riscv64/*.tar.gz"):
        path.write_bytes(archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64")))
    expect.error(cold(crossroot).run("create", "--locked", locked), "sha512")
    expect.roots(crossroot.store)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda text: text + "no = [", "is not a sound lock"),
        (lambda text: text.replace("format = 1", "format = 2"), "is no lock of format 1"),
        (lambda text: text.replace("[packages]", "[others]"), "it has no proper 'packages'"),
        (lambda text: text.replace('arch = "riscv64"', 'arch = "pdp11"'), "pdp11"),
    ],
)
def test_what_is_no_lock_is_refused(
    change: Callable[[str], str], error: str, crossroot: Crossroot, locked: Path
) -> None:
    locked.write_text(change(locked.read_text()))
    expect.error(crossroot.run("create", "--locked", locked), error, status=2)


def test_a_lock_and_a_profile_exclude_each_other(crossroot: Crossroot, tmp_path: Path) -> None:
    result = crossroot.run("create", "riscv64", "--locked", tmp_path / "x.lock")
    expect.error(result, "says all about the root", status=2)
    expect.error(crossroot.run("create", "--locked", "none.lock"), "cannot read none.lock", status=2)
    expect.error(crossroot.run("create"), "no profile is named", status=2)


def test_a_lock_that_cannot_be_made_leaves_the_old_one(crossroot: Crossroot, alpine: Alpine, locked: Path) -> None:
    before = locked.read_bytes()
    alpine.publish([PACKAGES[1]])
    expect.error(
        crossroot.run("lock", "mine", "-o", locked, env=alpine.profile(crossroot, TOOLED)), "have no package tool"
    )
    assert locked.read_bytes() == before
    expect.roots(crossroot.store)


@pytest.mark.parametrize(("output", "error"), [("nowhere/x.lock", "No such file"), (".", "Is a directory")])
def test_where_no_lock_can_be_written_none_is_made(output: str, error: str, crossroot: Crossroot) -> None:
    result = crossroot.run("lock", "riscv64", "-o", output, env={"http_proxy": "http://127.0.0.1:9"})
    expect.error(result, f"cannot write {output}: {error}")
    assert len(result.stderr.splitlines()) == 2


def test_a_device_is_written_to_and_not_replaced(crossroot: Crossroot, alpine: Alpine) -> None:
    fifo = crossroot.tmp / "fifo"
    crossroot.identity.run(["mkfifo", fifo], check=True)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE, text=True) as reader:
        crossroot.run("lock", "mine", "-o", fifo, env=alpine.profile(crossroot, TOOLED), check=True)
        assert tomllib.loads(reader.communicate()[0])["packages"]
    assert fifo.is_fifo()
