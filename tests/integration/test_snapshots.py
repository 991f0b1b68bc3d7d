"""Clones, snapshots and restoring: exact copies, all or nothing, whoever does it and whatever ends it."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crossroot import clone, layout, namespaces, snapshots, store, tree
from crossroot.errors import CrossrootError
from crossroot.metadata import Root
from tests.support import expect
from tests.support.host import ready, wait_until
from tests.support.identity import Crossroot, Identity
from tests.support.roots import kill_at_step, make_root, run_as


def digest(crossroot: Crossroot, name: str) -> str:
    found: str = json.loads(crossroot.run("info", name, "--json", "--digest", check=True).stdout)["digest"]
    return found


def tags(crossroot: Crossroot, name: str = "riscv64") -> list[str]:
    found: list[str] = json.loads(crossroot.run("info", name, "--json", check=True).stdout)["snapshots"]
    return found


def sh(crossroot: Crossroot, script: str, name: str = "riscv64") -> str:
    return crossroot.run("run", name, "--", "sh", "-ec", script, check=True).stdout


@contextlib.contextmanager
def session(crossroot: Crossroot, name: str) -> Iterator[None]:
    """A session that runs in the block."""
    with ready(crossroot.popen("run", name, "--", "sh", "-c", "echo ready; sleep 1000")):
        yield


# The commands


@pytest.mark.emulation
def test_a_clone_is_the_same_and_changes_alone(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    before = digest(crossroot, "riscv64")
    done = crossroot.run("clone", "riscv64", "other", check=True)
    assert "cloned riscv64 to other, all " in done.stderr
    assert digest(crossroot, "other") == before
    sh(crossroot, "echo other >/etc/motd; rm /etc/passwd; mkdir /new", "other")
    assert digest(crossroot, "riscv64") == before
    crossroot.run("remove", "riscv64", check=True)
    assert sh(crossroot, "cat /etc/motd; uname -m", "other") == "other\nriscv64\n"
    facts = json.loads(crossroot.run("info", "other", "--json", check=True).stdout)
    assert (facts["name"], facts["arch"]) == ("other", "riscv64")


@pytest.mark.emulation
def test_a_root_is_again_what_it_was_at_the_snapshot(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    clean = digest(crossroot, "riscv64")
    assert crossroot.run("snapshot", "riscv64", "clean", check=True).stdout == "clean\n"
    sh(crossroot, "echo changed >/etc/motd; rm -r /etc/apk; chmod 700 /home")
    changed = digest(crossroot, "riscv64")
    stamp = crossroot.run("snapshot", "riscv64", check=True).stdout.strip()
    assert tags(crossroot) == [stamp, "clean"]
    assert "restored riscv64 to riscv64@clean" in crossroot.run("restore", "riscv64", "clean", check=True).stderr
    assert digest(crossroot, "riscv64") == clean
    crossroot.run("restore", "riscv64", stamp, check=True)
    assert digest(crossroot, "riscv64") == changed
    crossroot.run("clone", "riscv64@clean", "again", check=True)
    assert digest(crossroot, "again") == clean
    assert tags(crossroot) == [stamp, "clean"]
    assert tags(crossroot, "again") == []


@pytest.mark.emulation
def test_listing_and_removing_snapshots(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    assert "there are no snapshots" in crossroot.run("snapshots", check=True).stderr
    for tag in ("one", "two"):
        crossroot.run("snapshot", "riscv64", tag, check=True)
    listed = json.loads(crossroot.run("snapshots", "riscv64", "--json", check=True).stdout)
    assert [(entry["root"], entry["tag"]) for entry in listed] == [("riscv64", "one"), ("riscv64", "two")]
    assert all(entry["taken"].endswith("Z") for entry in listed)
    lines = crossroot.run("snapshots", check=True).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["SNAPSHOT", "riscv64@one", "riscv64@two"]
    assert crossroot.run("list", check=True).stdout.splitlines()[1].split()[5] == "2"
    assert crossroot.run("remove", "riscv64@one", check=True).stderr == "crossroot: removed riscv64@one\n"
    assert tags(crossroot) == ["two"]
    crossroot.run("remove", "riscv64", check=True)
    assert not list((crossroot.store / "snapshots").iterdir())
    expect.roots(crossroot.store)


@pytest.mark.emulation
def test_snapshots_outlive_a_change_of_packages_and_a_forced_creation(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    crossroot.run("snapshot", "riscv64", "clean", check=True)
    crossroot.create("riscv64", "--force")
    assert tags(crossroot) == ["clean"]
    crossroot.run("restore", "riscv64", "clean", check=True)


@pytest.mark.emulation
def test_what_is_refused_and_why(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    crossroot.run("snapshot", "riscv64", "clean", check=True)
    refusals: list[tuple[tuple[str, ...], str, int]] = [
        (("clone", "riscv64", "riscv64"), "the root riscv64 exists already", 1),
        (("clone", "nothing", "other"), "there is no root nothing in", 1),
        (("clone", "riscv64@nothing", "other"), "riscv64 has no snapshot nothing", 1),
        (("clone", "riscv64", "../other"), "is a path, not a name", 2),
        (("snapshot", "nothing"), "there is no root nothing in", 1),
        (("snapshot", "riscv64", "clean"), "riscv64 has a snapshot clean already", 1),
        (("snapshot", "riscv64", "a/b"), "is a path, not a name", 2),
        (("restore", "riscv64", "nothing"), "riscv64 has no snapshot nothing", 1),
        (("restore", "nothing", "clean"), "there is no root nothing in", 1),
        (("remove", "riscv64@nothing"), "riscv64 has no snapshot nothing", 1),
        (("snapshots", "nothing"), "there is no root nothing in", 1),
    ]
    for arguments, message, status in refusals:
        expect.error(crossroot.run(*arguments), message, status)
    before = digest(crossroot, "riscv64")
    with session(crossroot, "riscv64"):
        expect.error(crossroot.run("restore", "riscv64", "clean"), "riscv64 is in use by pid ")
        # What does not change the root is none of the session's business.
        crossroot.run("snapshot", "riscv64", "during", check=True)
        crossroot.run("remove", "riscv64@during", check=True)
        crossroot.run("clone", "riscv64", "other", check=True)
    assert digest(crossroot, "riscv64") == before
    expect.roots(crossroot.store, "other", "riscv64")


# Killed at any moment


@pytest.fixture
def folder(users_folder: Path) -> Path:
    return users_folder


def content(root: Root) -> str:
    """The digest of a rootfs, which must be whole."""
    found: str = namespaces.call(
        lambda _: tree.digest(os.open(root.rootfs, os.O_RDONLY | os.O_DIRECTORY)), id_map=root.id_map
    )
    return found


def prepare(folder: Path) -> tuple[str, str]:
    """A store with a root that has changed since its snapshot `then`; the digests of both."""
    root = make_root(folder)
    clone.snapshot("riscv64", "then", folder)
    (root.rootfs / "new").mkdir()
    return content(snapshots.open_snapshot("riscv64", "then", folder)), content(root)


def actions(folder: Path) -> dict[str, Callable[[], object]]:
    return {
        "clone": lambda: clone.clone("riscv64", "", "other", folder),
        "snapshot": lambda: clone.snapshot("riscv64", "now", folder),
        "restore": lambda: clone.restore("riscv64", "then", folder),
        "remove snapshot": lambda: snapshots.remove("riscv64", "then", folder),
        "remove": lambda: store.remove("riscv64", folder, force=False),
    }


@pytest.mark.slow
@pytest.mark.root
@pytest.mark.parametrize("action", ["clone", "snapshot", "restore", "remove snapshot", "remove"])
def test_killed_at_any_step_the_store_is_as_before_or_as_afterwards(action: str, user: Identity, folder: Path) -> None:
    def clean() -> bool:
        # A child of the killed process may hold the lock a moment longer.
        store.recover(folder)
        return os.listdir(folder / "unfinished") == []

    def check() -> None:
        wait_until(clean)
        roots = {root.name: content(root) for root in store.list_roots(folder)}
        found = layout.snapshot_tags("riscv64", folder)
        kept = {tag: content(snapshots.open_snapshot("riscv64", tag, folder)) for tag in found}
        then, now = json.loads((folder.parent / "digests").read_text())
        if action == "clone":
            assert (kept, roots) in (({"then": then}, {"riscv64": now, **more}) for more in ({}, {"other": now}))
        elif action == "snapshot":
            assert roots == {"riscv64": now}
            assert kept in ({"then": then}, {"then": then, "now": now})
        elif action == "restore":
            assert roots in ({"riscv64": now}, {"riscv64": then})
            assert kept == {"then": then}
        elif action == "remove snapshot":
            assert roots == {"riscv64": now}
            assert kept in ({"then": then}, {})
        else:
            assert roots in ({"riscv64": now}, {})
            assert kept in ({"then": then}, {})
            assert "riscv64" in roots or not kept
        for root in list(roots):
            store.remove(root, folder, force=False)
        assert not list((folder / "snapshots").iterdir()) and os.listdir(folder / "roots") == []

    def life() -> None:
        (folder.parent / "digests").write_text(json.dumps(prepare(folder)))

    number = 1
    while True:
        run_as(user, life)
        more = kill_at_step(number, actions(folder)[action], user)
        run_as(user, check)
        if not more:
            break
        number += 6
    assert number > 30


@pytest.mark.root
def test_a_snapshot_that_is_read_is_not_removed(user: Identity, folder: Path) -> None:
    def scenario() -> None:
        make_root(folder)
        clone.snapshot("riscv64", "then", folder)
        with snapshots.lock("riscv64", "then", folder, exclusive=False):
            clone.clone("riscv64", "then", "other", folder)
            for action in ("remove snapshot", "remove"):
                with pytest.raises(CrossrootError, match="another crossroot is using"):
                    actions(folder)[action]()
        store.remove("riscv64", folder, force=False)

    run_as(user, scenario)


@pytest.mark.root
def test_a_link_in_the_place_of_a_snapshot_is_left_alone(user: Identity, folder: Path) -> None:
    def scenario() -> None:
        make_root(folder)
        outside = folder.parent / "outside"
        (outside / "rootfs").mkdir(parents=True)
        (outside / "rootfs/precious").touch()
        clone.snapshot("riscv64", "other", folder)
        (folder / "snapshots/riscv64/then").symlink_to(outside)
        for action in ("remove snapshot", "remove", "restore"):
            with pytest.raises(CrossrootError, match="is not a plain folder"):
                actions(folder)[action]()
        assert (outside / "rootfs/precious").exists()
        assert layout.snapshot_tags("riscv64", folder) == ["other", "then"]
        (folder / "snapshots/riscv64/then").unlink()
        store.remove("riscv64", folder, force=False)

    run_as(user, scenario)
