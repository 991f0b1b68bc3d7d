"""Roots on disk: what is created, found, locked, removed and recovered; for root and ordinary users alike."""

import fcntl
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crossroot import layout, locking, metadata, store
from crossroot.errors import CrossrootError, UsageError
from crossroot.metadata import Root
from crossroot.namespaces import IdMap
from tests.support.host import wait_until
from tests.support.roots import (
    assert_empty,
    assert_intact,
    fill,
    kill,
    kill_at_step,
    make_root,
    precious,
    root_in,
    start,
    status_of,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store that does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is none of the store's business, see `assert_intact`."""
    return precious(tmp_path)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def session_in(root: Root, command: list[str]) -> Iterator[int]:
    """A process that holds the root as a session does; gives its pid."""
    ready, say_ready = os.pipe()

    def session() -> None:
        locking.lock_root(root.name, root.path.parent.parent, exclusive=False, wait=False)
        locking.start_session_record(root, os.getpid(), command)
        os.write(say_ready, b"y")
        time.sleep(60)

    pid = start(session)
    assert os.read(ready, 1)
    os.close(ready)
    os.close(say_ready)
    try:
        yield pid
    finally:
        kill(pid)


# Names and the store itself


@pytest.mark.parametrize("name", ["riscv64", "a", "A.b_c-9", "x" * 63, "a.create.00000000"])
def test_a_proper_name_is_taken_as_it_is(name: str) -> None:
    assert layout.check_name(name) == name


@pytest.mark.parametrize("name", ["", ".hidden", "-x", "a b", "a\n", "ä", "x" * 64, "a\0b", "a:b"])
def test_an_improper_name_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a root") as caught:
        layout.check_name(name)
    assert "63 letters" in caught.value.hint


@pytest.mark.parametrize("name", ["/", "..", ".", "a/b", "../../etc", "/etc"])
def test_every_function_refuses_a_path_as_a_name(name: str, folder: Path) -> None:
    make_root(folder)
    calls: list[Callable[[], object]] = [
        lambda: store.root_path(name, folder),
        lambda: metadata.open_root(name, folder),
        lambda: locking.lock_root(name, folder, exclusive=True, wait=False),
        lambda: store.create(name, folder, replace=True).__enter__(),
        lambda: store.remove(name, folder, force=True),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="is a path, not a name"):
            call()


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_a_new_store_is_for_its_owner_only_and_a_rootfs_for_all(mask: int, folder: Path) -> None:
    with umask(mask):
        root = make_root(folder / "in/new/folders")
    assert (folder / "in/new/folders").stat().st_mode & 0o7777 == 0o700
    assert root.rootfs.stat().st_mode & 0o7777 == 0o755


def test_an_empty_folder_becomes_a_store(folder: Path) -> None:
    folder.mkdir()
    assert store.list_roots(folder) == []
    make_root(folder)
    assert (folder / ".crossroot-store").exists()
    assert folder.stat().st_mode & 0o7777 == 0o700


def test_a_folder_with_other_things_is_never_a_store(folder: Path) -> None:
    for name in ("roots/riscv64/rootfs", "unfinished/riscv64.remove.01234567/rootfs"):
        (folder / name).mkdir(parents=True)
    before = sorted(folder.rglob("*"))
    calls: list[Callable[[], object]] = [
        lambda: make_root(folder),
        lambda: store.list_roots(folder),
        lambda: metadata.open_root("riscv64", folder),
        lambda: locking.lock_root("riscv64", folder, exclusive=True, wait=False),
        lambda: store.remove("riscv64", folder, force=True),
        lambda: store.recover(folder),
    ]
    for call in calls:
        with pytest.raises(CrossrootError, match="not a store of crossroot") as caught:
            call()
        assert "CROSSROOT_STORE" in caught.value.hint
    assert sorted(folder.rglob("*")) == before


def test_a_file_in_the_place_of_the_store_is_a_clear_error(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(CrossrootError, match="store: Not a directory"):
        make_root(folder)


def test_a_store_behind_a_link_works(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    folder.symlink_to("real")
    make_root(folder)
    assert [root.name for root in store.list_roots(folder)] == ["riscv64"]
    store.remove("riscv64", folder, force=False)
    assert_empty(tmp_path / "real")


# Metadata


def test_metadata_comes_back_as_it_was(folder: Path) -> None:
    root = make_root(folder)
    assert metadata.open_root("riscv64", folder) == root
    mapped = Root(**{**vars(root), "id_map": IdMap(((0, 1000, 1), (1, 100000, 65536)), ((0, 1000, 1),))})
    assert Root.from_json(json.loads(json.dumps(mapped.to_json())), mapped.folder) == mapped


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\xff",
        "{}",
        '{"format": 1}',
        '{"format": 2}',
        '{"format": "1"}',
    ],
)
def test_damaged_metadata_is_an_error_with_a_way_out(text: str, folder: Path) -> None:
    root = make_root(folder)
    (root.path / "root.json").write_text(text, encoding="latin-1")
    with pytest.raises(CrossrootError, match=r"root.json") as caught:
        metadata.open_root("riscv64", folder)
    assert caught.value.hint
    store.remove("riscv64", folder, force=False)
    assert_empty(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("arch", None), ("arch", 7), ("user", ["root"]), ("env", []), ("env", {"A": 1}), ("binds", None)),
        *(("packages", [1]), ("packages", 1), ("id_map", []), ("id_map", {"uids": [[0]], "gids": []}), ("id_map", 1)),
    ],
)
def test_a_value_of_another_type_in_the_metadata_is_an_error(key: str, value: object, folder: Path) -> None:
    root = make_root(folder)
    (root.path / "root.json").write_text(json.dumps({**root.to_json(), key: value}))
    with pytest.raises(CrossrootError, match="the root riscv64 is damaged"):
        metadata.open_root("riscv64", folder)


def test_missing_metadata_is_an_error_with_a_way_out(folder: Path) -> None:
    root = make_root(folder)
    (root.path / "root.json").unlink()
    with pytest.raises(CrossrootError, match=r"damaged: root.json: No such file") as caught:
        metadata.open_root("riscv64", folder)
    assert "crossroot remove riscv64" in caught.value.hint
    store.remove("riscv64", folder, force=False)
    assert_empty(folder)


def test_a_missing_root_says_how_to_make_it(folder: Path) -> None:
    with pytest.raises(CrossrootError, match="there is no root riscv64") as caught:
        metadata.open_root("riscv64", folder)
    assert caught.value.hint == "crossroot create riscv64"
    assert not folder.exists()


def test_a_misspelt_root_is_answered_with_the_nearest(folder: Path) -> None:
    make_root(folder)
    calls: list[Callable[[], object]] = [
        lambda: metadata.open_root("riscv46", folder),
        lambda: locking.lock_root("riscv46", folder, exclusive=False, wait=False),
        lambda: store.remove("riscv46", folder, force=False),
    ]
    for call in calls:
        with pytest.raises(CrossrootError, match="there is no root riscv46") as caught:
            call()
        assert "did you mean riscv64?" in caught.value.hint
    assert os.listdir(folder / "locks") == ["riscv64"]


def test_roots_are_listed_by_name_and_damaged_ones_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b", "damaged", "a"):
        make_root(folder, name)
    (folder / "roots/damaged/root.json").write_text("{")
    (folder / "roots/link").symlink_to("a")
    assert [root.name for root in store.list_roots(folder)] == ["a", "b"]
    noted = capsys.readouterr().err
    assert "the root damaged is damaged" in noted
    assert "roots/link is not a plain folder" in noted


def test_no_store_is_an_empty_list_and_is_not_made(folder: Path) -> None:
    assert store.list_roots(folder) == []
    assert store.recover(folder) == []
    assert not folder.exists()


def test_a_thousand_roots_are_listed_at_once(folder: Path) -> None:
    text = json.dumps(make_root(folder, "first").to_json())
    for number in range(1000):
        (folder / f"roots/r{number}").mkdir()
        (folder / f"roots/r{number}/root.json").write_text(text)
    before = time.monotonic()
    assert len(store.list_roots(folder)) == 1001
    assert time.monotonic() - before < 2


# Creation


def test_a_root_appears_as_a_whole_when_it_is_published(folder: Path) -> None:
    with store.create("riscv64", folder, replace=False) as unfinished:
        assert os.listdir(unfinished / "rootfs") == []
        fill(unfinished / "rootfs")
        assert store.list_roots(folder) == []
        store.publish(unfinished, root_in(folder, "riscv64"))
        assert [root.name for root in store.list_roots(folder)] == ["riscv64"]
    assert (folder / "roots/riscv64/rootfs/etc/apk/world").read_text() == "busybox\n"
    assert os.listdir(folder / "unfinished") == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, CrossrootError("no"), GeneratorExit])
@pytest.mark.parametrize("started", [False, True])
def test_a_failed_creation_leaves_nothing(error: type[BaseException], started: bool, folder: Path) -> None:
    def attempt() -> None:
        with store.create("riscv64", folder, replace=False) as unfinished:
            if started:
                fill(unfinished / "rootfs")
            raise error

    with pytest.raises(error if isinstance(error, type) else CrossrootError):
        attempt()
    assert_empty(folder)
    make_root(folder)


def test_a_creation_that_publishes_nothing_leaves_nothing(folder: Path) -> None:
    with store.create("riscv64", folder, replace=False) as unfinished:
        fill(unfinished / "rootfs")
    assert_empty(folder)


def test_an_existing_root_is_not_created_again(folder: Path) -> None:
    root = make_root(folder)
    with pytest.raises(CrossrootError, match="the root riscv64 exists already") as caught:
        make_root(folder)
    assert "--force" in caught.value.hint
    assert "--name" in caught.value.hint
    assert caught.value.exit_code == 1
    assert metadata.open_root("riscv64", folder) == root


def test_a_root_under_creation_is_not_created_by_another(folder: Path) -> None:
    with store.create("riscv64", folder, replace=False) as unfinished:
        for replace in (False, True):
            with pytest.raises(CrossrootError, match="another crossroot is creating riscv64"):
                make_root(folder, replace=replace)
        assert store.recover(folder) == []
        assert unfinished.exists()
        make_root(folder, "other")


def test_of_concurrent_creations_of_one_name_one_wins(folder: Path) -> None:
    go, say_go = os.pipe()

    def attempt() -> None:
        os.read(go, 1)
        try:
            make_root(folder)
        except CrossrootError as error:
            assert "exists already" in error.message or "another crossroot is" in error.message
            os._exit(3)

    children = [start(attempt) for _ in range(12)]
    os.write(say_go, b"y" * len(children))
    results = sorted(status_of(child) for child in children)
    assert results == [0, *[3] * 11]
    assert [root.name for root in store.list_roots(folder)] == ["riscv64"]
    assert os.listdir(folder / "unfinished") == []
    os.close(go)
    os.close(say_go)


def test_a_root_published_just_before_the_lock_was_had_is_not_replaced(folder: Path) -> None:
    published: list[Root] = []

    def publish_another(event: str, _: object) -> None:
        if event == "fcntl.flock" and not published:
            published.append(root_in(folder, "riscv64"))
            make_root(folder)

    def attempt() -> None:
        sys.addaudithook(publish_another)
        with pytest.raises(CrossrootError, match="exists already"):
            make_root(folder)
        assert published

    assert status_of(start(attempt)) == 0
    assert os.listdir(folder / "unfinished") == []


def test_a_root_is_replaced_in_one_step_and_the_old_one_deleted(folder: Path) -> None:
    old = make_root(folder)
    (old.rootfs / "old").write_text("")
    with store.create("riscv64", folder, replace=True) as unfinished:
        fill(unfinished / "rootfs")
        assert (old.rootfs / "old").exists()
        store.publish(unfinished, root_in(folder, "riscv64"))
        assert not (old.rootfs / "old").exists()
        assert (unfinished / "rootfs/old").exists()
    assert os.listdir(folder / "unfinished") == []
    assert (old.rootfs / "etc/apk/world").exists()


def test_a_failed_replacement_leaves_the_old_root(folder: Path) -> None:
    old = make_root(folder)

    def attempt() -> None:
        with store.create("riscv64", folder, replace=True) as unfinished:
            fill(unfinished / "rootfs")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        attempt()
    assert metadata.open_root("riscv64", folder) == old
    assert os.listdir(folder / "unfinished") == []


def test_a_root_in_use_is_not_replaced(folder: Path) -> None:
    root = make_root(folder)
    with session_in(root, ["make", "check"]) as pid:
        with pytest.raises(CrossrootError, match=f"riscv64 is in use by pid {pid} ..make check.") as caught:
            make_root(folder, replace=True)
        assert "crossroot remove --force riscv64" in caught.value.hint
    make_root(folder, replace=True)


# Locks and sessions


def test_sessions_share_a_root_and_exclude_its_removal(folder: Path) -> None:
    make_root(folder)
    with locking.lock_root("riscv64", folder, exclusive=False, wait=False):
        with locking.lock_root("riscv64", folder, exclusive=False, wait=False):
            pass
        with pytest.raises(CrossrootError, match="another crossroot is using riscv64"):
            store.remove("riscv64", folder, force=False)
    with (
        locking.lock_root("riscv64", folder, exclusive=True, wait=False),
        pytest.raises(CrossrootError, match="another crossroot is using riscv64"),
    ):
        locking.lock_root("riscv64", folder, exclusive=False, wait=False)


def test_a_lock_can_be_waited_for(folder: Path) -> None:
    make_root(folder)
    held = locking.lock_root("riscv64", folder, exclusive=True, wait=False)

    def wait_for_it() -> None:
        held.close()  # the copy that the fork gave
        locking.lock_root("riscv64", folder, exclusive=True, wait=True)

    child = start(wait_for_it)
    time.sleep(0.05)
    assert os.waitpid(child, os.WNOHANG) == (0, 0)
    held.close()
    assert status_of(child) == 0


def test_a_lock_holds_as_long_as_a_forked_child_lives(folder: Path) -> None:
    make_root(folder)
    with locking.lock_root("riscv64", folder, exclusive=False, wait=False):
        child = start(lambda: time.sleep(60))
    with pytest.raises(CrossrootError, match="using riscv64"):
        store.remove("riscv64", folder, force=False)
    kill(child)
    store.remove("riscv64", folder, force=False)


def test_an_executed_program_does_not_hold_the_lock(folder: Path) -> None:
    make_root(folder)
    with locking.lock_root("riscv64", folder, exclusive=False, wait=False):
        program = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        store.remove("riscv64", folder, force=False)
    finally:
        program.kill()
        program.wait()


def test_a_running_session_is_on_record_until_it_ends(folder: Path) -> None:
    root = make_root(folder)
    assert locking.running_sessions(root) == []
    with locking.start_session_record(root, os.getpid(), ["make", "check"]):
        (found,) = locking.running_sessions(root)
        assert (found.pid, found.command) == (os.getpid(), ("make", "check"))
        time.strptime(found.started, "%Y-%m-%dT%H:%M:%SZ")
    assert locking.running_sessions(root) == []
    assert os.listdir(root.path / "sessions") == []


def test_the_record_of_a_killed_session_is_dropped(folder: Path) -> None:
    root = make_root(folder)
    with session_in(root, ["make"]) as pid:
        assert [session.pid for session in locking.running_sessions(root)] == [pid]
    assert os.listdir(root.path / "sessions") == [str(pid)]
    assert locking.running_sessions(root) == []
    assert os.listdir(root.path / "sessions") == []


def test_what_a_session_killed_while_it_wrote_its_record_left_is_dropped(folder: Path) -> None:
    root = make_root(folder)
    dead = start(lambda: None)
    status_of(dead)
    for pid in (dead, os.getpid()):
        (root.path / f"sessions/.{pid}").touch()
    assert locking.running_sessions(root) == []
    assert os.listdir(root.path / "sessions") == [f".{os.getpid()}"]  # whose writer may be at it


def test_one_who_looks_at_a_stale_record_is_not_taken_for_a_session(folder: Path) -> None:
    root = make_root(folder)
    with session_in(root, ["make"]) as pid:
        pass
    with open(root.path / f"sessions/{pid}") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert locking.running_sessions(root) == []


def test_a_removal_names_the_session_it_would_end(folder: Path) -> None:
    root = make_root(folder)
    with session_in(root, ["make", "check"]) as pid:
        with pytest.raises(CrossrootError, match=f"in use by pid {pid} .'make check', since 2.*Z") as caught:
            store.remove("riscv64", folder, force=False)
        assert "--force" in caught.value.hint
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
    assert metadata.open_root("riscv64", folder) == root


def test_a_forced_removal_ends_all_sessions_first(folder: Path) -> None:
    root = make_root(folder)
    with session_in(root, ["one"]), session_in(root, ["two"]):
        store.remove("riscv64", folder, force=True)
        assert_empty(folder)


def test_ending_a_session_spares_a_later_process_of_the_same_pid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_PATIENCE", 0.05)
    root = make_root(folder)
    innocent = start(lambda: time.sleep(60))
    with locking.start_session_record(root, innocent, ["make"]):
        (record,) = locking.running_sessions(root)
        earlier = record.but(start_ticks="1")
        with pytest.raises(CrossrootError, match=f"the session pid {innocent} .* does not end"):
            locking.end_session(earlier)
        assert os.waitpid(innocent, os.WNOHANG) == (0, 0)
    kill(innocent)


# Removal


def test_a_removed_root_is_gone_and_its_neighbours_are_not(folder: Path) -> None:
    make_root(folder)
    neighbour = make_root(folder, "riscv64-2")
    store.remove("riscv64", folder, force=False)
    assert store.list_roots(folder) == [neighbour]
    assert os.listdir(folder / "unfinished") == []
    assert (neighbour.rootfs / "etc/apk/world").exists()


@pytest.mark.parametrize("part", ["roots/riscv64", "roots/riscv64/rootfs", "roots/riscv64/sessions", "roots"])
def test_a_link_in_the_place_of_a_folder_of_the_store_is_refused(part: str, folder: Path, outside: Path) -> None:
    make_root(folder)
    real = outside.with_name("moved")
    (folder / part).rename(real)
    (folder / part).symlink_to(real)
    before = sorted(real.rglob("*"))
    for call in (
        lambda: store.remove("riscv64", folder, force=True),
        lambda: make_root(folder, replace=True),
    ):
        with pytest.raises(CrossrootError, match="is not a plain folder, or lies behind a symbolic link"):
            call()
    assert sorted(real.rglob("*")) == before


def test_a_link_among_the_unfinished_is_left_alone(
    folder: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_root(folder)
    (folder / "unfinished/riscv64.remove.01234567").symlink_to(outside)
    (outside / "rootfs").mkdir()
    assert store.recover(folder) == []
    assert (outside / "rootfs").exists()
    assert "is left over" in capsys.readouterr().err


def test_what_links_in_the_rootfs_point_to_stays(folder: Path, outside: Path) -> None:
    root = make_root(folder)
    (root.rootfs / "to-folder").symlink_to(outside)
    (root.rootfs / "to-file").symlink_to(outside / "deep/file")
    (root.rootfs / "up").symlink_to("../../../..")
    (root.rootfs / "hard").hardlink_to(outside / "deep/file")
    store.remove("riscv64", folder, force=False)
    assert_empty(folder)
    assert_intact(outside)


def test_any_name_a_file_can_have_is_deleted(folder: Path) -> None:
    root = make_root(folder)
    names = [b"new\nline", b"\xff\xfe", b"sp ace", b"back\\slash", b"\\040", b"-rf", b"*", b"\x01", b"x" * 255, b"..."]
    for name in names:
        os.mkdir(os.fsencode(root.rootfs) + b"/" + name)
        with open(os.fsencode(root.rootfs) + b"/" + name + b"/" + name, "w"):
            pass
    os.mkfifo(root.rootfs / "fifo")
    store.remove("riscv64", folder, force=False)
    assert_empty(folder)


def test_a_tree_of_any_depth_and_width_is_deleted_with_few_descriptors(folder: Path) -> None:
    root = make_root(folder)
    for number in range(300):
        (root.rootfs / f"wide{number}/sub").mkdir(parents=True)

    def dig_and_remove() -> None:
        os.chdir(root.rootfs)
        for _ in range(3000):
            os.mkdir("deep")
            os.chdir("deep")
        os.chdir("/")
        resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
        store.remove("riscv64", folder, force=False)

    assert status_of(start(dig_and_remove)) == 0
    assert_empty(folder)


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444, 0o555])
def test_folders_without_permissions_are_deleted(mode: int, folder: Path) -> None:
    root = make_root(folder)
    (root.rootfs / "etc/apk").chmod(mode)
    (root.rootfs / "etc").chmod(mode)
    store.remove("riscv64", folder, force=False)
    assert_empty(folder)


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_moved_during_its_deletion_does_not_lead_the_deletion_elsewhere(
    inside: bool, folder: Path, outside: Path
) -> None:
    root = make_root(folder)
    (root.rootfs / "a/b").mkdir(parents=True)
    (root.rootfs / "a/b/trigger").write_text("")

    def move(event: str, args: tuple[object, ...]) -> None:
        if event == "os.remove" and args[0] == "trigger":
            (aside,) = (folder / "unfinished").iterdir()
            (aside / "rootfs/a/b").rename((aside / "rootfs" if inside else outside) / "b")

    def remove() -> None:
        sys.addaudithook(move)
        with pytest.raises(CrossrootError, match="changed while it was being deleted"):
            store.remove("riscv64", folder, force=False)

    assert status_of(start(remove)) == 0
    if not inside:
        os.rmdir(outside / "b")
    assert_intact(outside)
    assert store.recover(folder) == ["removed what was left of the removal of riscv64 (it was interrupted)"]
    assert_empty(folder)


def test_a_racing_swap_of_folders_for_links_does_not_lead_the_deletion_out(folder: Path, outside: Path) -> None:
    root = make_root(folder)
    for number in range(20):
        for sub in range(100):
            (root.rootfs / f"d{number}/s{sub}").mkdir(parents=True)
            (root.rootfs / f"d{number}/s{sub}/file").write_text("")

    def swap() -> None:
        top = os.open(root.rootfs, os.O_RDONLY)
        while True:
            for number in range(20):
                name = f"d{number}"
                try:
                    os.rename(name, "away", src_dir_fd=top, dst_dir_fd=top)
                    os.symlink(outside, name, dir_fd=top)
                    os.unlink(name, dir_fd=top)
                    os.rename("away", name, src_dir_fd=top, dst_dir_fd=top)
                except OSError:
                    pass

    racer = start(swap)
    try:
        store.remove("riscv64", folder, force=False)
    except CrossrootError as error:
        assert "changed while it was being deleted" in error.message
    finally:
        kill(racer)
    store.recover(folder)
    assert_empty(folder)
    assert_intact(outside)


# Recovery


def test_only_what_crossroot_left_is_recovered(folder: Path) -> None:
    make_root(folder)
    ours = ["riscv64.create.0123abcd", "a.b.remove.01234567", "c.change.01234567"]
    others = ["notes", "riscv64", "riscv64.create.xyz", "riscv64.move.01234567", "riscv64.create.01234567.old"]
    for name in (*ours, *others):
        (folder / "unfinished" / name).mkdir()
        fill(folder / "unfinished" / name)
    assert store.recover(folder) == [
        "removed what was left of the removal of a.b (it was interrupted)",
        "removed what was left of the change of c (it was interrupted)",
        "removed the unfinished creation of riscv64 (it was interrupted)",
    ]
    assert sorted(os.listdir(folder / "unfinished")) == sorted(others)
    assert len(store.list_roots(folder)) == 1


def recover_fully(folder: Path) -> None:
    """Recover as soon as the killed process is gone altogether."""

    def clean() -> bool:
        store.recover(folder)
        return not (folder / "unfinished").exists() or os.listdir(folder / "unfinished") == []

    wait_until(clean)


def test_a_creation_killed_at_any_step_leaves_no_root_or_a_whole_one(folder: Path) -> None:
    number = 1
    while kill_at_step(number, lambda: make_root(folder)):
        recover_fully(folder)
        for root in store.list_roots(folder):
            assert (root.rootfs / "etc/apk/world").read_text() == "busybox\n"
            store.remove(root.name, folder, force=False)
        number += 1
    assert number > 15
    assert len(store.list_roots(folder)) == 1


def test_a_replacement_killed_at_any_step_leaves_the_old_root_or_the_new_one(folder: Path) -> None:
    number = 1
    while True:
        old = make_root(folder, replace=True)
        (old.rootfs / "old").write_text("")
        if not kill_at_step(number, lambda: make_root(folder, replace=True)):
            break
        recover_fully(folder)
        (root,) = store.list_roots(folder)
        assert (root.rootfs / "etc/apk/world").read_text() == "busybox\n"
        number += 1
    assert number > 40
    assert not (old.rootfs / "old").exists()


def test_a_removal_killed_at_any_step_leaves_the_whole_root_or_none(folder: Path) -> None:
    number = 1
    while True:
        if not store.list_roots(folder):
            make_root(folder)
        if not kill_at_step(number, lambda: store.remove("riscv64", folder, force=False)):
            break
        recover_fully(folder)
        for root in store.list_roots(folder):
            assert (root.rootfs / "etc/apk/world").read_text() == "busybox\n"
        number += 1
    assert number > 15
    assert_empty(folder)
