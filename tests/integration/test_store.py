"""Removal against real mounts, file systems, id maps and users: nothing but the root is ever deleted."""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crossroot import deletion, linux, locking, metadata, namespaces, store
from crossroot.errors import CrossrootError
from tests.support.host import wait_until
from tests.support.identity import Identity
from tests.support.roots import (
    assert_empty,
    assert_intact,
    fill,
    kill,
    kill_at_step,
    make_root,
    precious,
    root_in,
    run_as,
    start,
)

pytestmark = pytest.mark.root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store that does not exist yet."""
    return tmp_path / "store"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of the host, see `assert_intact`."""
    return precious(tmp_path)


def in_private_mounts(function: Callable[[], None]) -> None:
    """Run `function` where the mounts it makes are its own and end with it."""
    namespaces.call(lambda _: function(), id_map=None)


def bind(source: Path, target: Path) -> None:
    linux.move_mount(linux.open_tree(str(source)), str(target))


def mount_tmpfs(target: Path, **options: str) -> None:
    linux.move_mount(linux.new_filesystem("tmpfs", options), str(target))


# Mounts


@pytest.mark.parametrize("part", ["roots/riscv64/rootfs/var", "roots/riscv64/rootfs", "roots/riscv64"])
def test_a_root_with_a_folder_of_the_host_bound_into_it_is_refused(part: str, folder: Path, outside: Path) -> None:
    root = make_root(folder)

    def scenario() -> None:
        bind(outside, folder / part)
        calls: list[Callable[[], object]] = [
            lambda: store.remove("riscv64", folder, force=False),
            lambda: store.remove("riscv64", folder, force=True),
            lambda: make_root(folder, replace=True),
        ]
        for call in calls:
            with pytest.raises(
                CrossrootError, match=f"something is mounted in {root.path}: {folder / part}$"
            ) as caught:
                call()
            assert caught.value.hint == f"umount {folder / part}"
            assert_intact(outside)
        linux.detach(str(folder / part))
        store.remove("riscv64", folder, force=False)

    in_private_mounts(scenario)
    assert_intact(outside)
    assert_empty(folder)


def test_all_mounts_are_named_last_first_in_the_hint_whatever_their_names(folder: Path) -> None:
    root = make_root(folder)
    odd = root.rootfs / "sp ace\\ tab\t new\nline \\040"
    odd.mkdir()

    def scenario() -> None:
        mount_tmpfs(odd)
        (odd / "sub").mkdir()
        mount_tmpfs(odd / "sub")
        assert deletion.mounts_below(root.path) == [str(odd), str(odd / "sub")]
        with pytest.raises(CrossrootError, match="something is mounted") as caught:
            store.remove("riscv64", folder, force=True)
        assert "\n" not in caught.value.message
        first, second = caught.value.hint.split("; ")
        assert first == f"{second}/sub"

    in_private_mounts(scenario)


def test_a_mount_in_a_sibling_whose_name_starts_the_same_does_not_matter(folder: Path, outside: Path) -> None:
    make_root(folder)
    siblings = [make_root(folder, name) for name in ("riscv64-2", "riscv6", "riscv64.x")]

    def scenario() -> None:
        for sibling in siblings:
            bind(outside, sibling.rootfs / "var")
        store.remove("riscv64", folder, force=False)
        assert [root.name for root in store.list_roots(folder)] == ["riscv6", "riscv64-2", "riscv64.x"]
        for sibling in siblings:
            assert_intact(sibling.rootfs / "var")

    in_private_mounts(scenario)
    assert_intact(outside)


def test_a_mount_is_found_when_the_store_is_reached_through_links(folder: Path, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    folder.symlink_to("link/sub")
    root = make_root(folder)

    def scenario() -> None:
        bind(outside, root.rootfs / "var")
        with pytest.raises(CrossrootError, match="something is mounted"):
            store.remove("riscv64", folder, force=False)

    in_private_mounts(scenario)
    assert_intact(outside)
    store.remove("riscv64", folder, force=False)
    assert_empty(tmp_path / "real/sub")


def test_a_store_that_is_itself_a_mount_works(folder: Path) -> None:
    folder.mkdir()

    def scenario() -> None:
        mount_tmpfs(folder)
        make_root(folder)
        make_root(folder, replace=True)
        store.remove("riscv64", folder, force=False)
        assert_empty(folder)

    in_private_mounts(scenario)


def test_roots_on_a_mount_of_their_own_are_refused(folder: Path) -> None:
    root = make_root(folder)

    def scenario() -> None:
        bind(folder / "roots", folder / "roots")
        with pytest.raises(CrossrootError, match="is on another mount than its store"):
            store.remove("riscv64", folder, force=False)

    in_private_mounts(scenario)
    assert metadata.open_root("riscv64", folder) == root


def test_an_unfinished_root_with_a_mount_is_recovered_after_the_unmount(
    folder: Path, outside: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_root(folder)
    left = folder / "unfinished/riscv64.create.01234567"
    fill(left / "rootfs")

    def scenario() -> None:
        bind(outside, left / "rootfs/var")
        assert store.recover(folder) == []

    in_private_mounts(scenario)
    noted = capfd.readouterr().err
    assert f"{left} is left over: something is mounted" in noted
    assert f"hint: umount {left}/rootfs/var" in noted
    assert (left / "rootfs/etc/apk/world").exists()
    assert len(store.recover(folder)) == 1
    assert_intact(outside)


@pytest.mark.parametrize("other", [False, True], ids=["same file system", "another one"])
def test_the_deletion_itself_does_not_see_a_mount_that_the_check_missed(
    other: bool, folder: Path, outside: Path
) -> None:
    root = make_root(folder)

    def scenario() -> None:
        if other:
            mount_tmpfs(outside)
            (outside / "deep").mkdir()
            (outside / "deep/file").write_text("precious")
        assert (outside.stat().st_dev == root.rootfs.stat().st_dev) != other
        bind(outside, root.rootfs / "var")
        with pytest.raises(CrossrootError, match=r"rootfs/var: Device or resource busy"):
            namespaces.call(lambda _: deletion.delete(folder, Path("roots/riscv64"), ".crossroot-store"), id_map=None)
        with pytest.raises(CrossrootError, match="something is mounted in"):
            store.remove("riscv64", folder, force=True)
        assert_intact(root.rootfs / "var")

    in_private_mounts(scenario)
    assert_intact(outside)


def test_nor_does_that_of_an_ordinary_user(user: Identity, users_folder: Path, outside: Path) -> None:
    run_as(user, lambda: make_root(users_folder))
    var = users_folder / "roots/riscv64/rootfs/var"

    def delete() -> None:
        with pytest.raises(CrossrootError, match=r"something was mounted in .*/roots/riscv64 just now"):
            namespaces.call(
                lambda _: deletion.delete(users_folder, Path("roots/riscv64"), ".crossroot-store"),
                id_map=namespaces.own_id_map(),
            )

    def scenario() -> None:
        bind(outside, var)
        run_as(user, delete)

    in_private_mounts(scenario)
    assert_intact(outside)
    run_as(user, lambda: store.remove("riscv64", users_folder, force=False))


# File systems


def test_a_full_disk_is_a_clear_error_that_leaves_nothing(folder: Path) -> None:
    folder.mkdir()

    def scenario() -> None:
        mount_tmpfs(folder, size="64k")

        def attempt() -> None:
            with store.create("riscv64", folder, replace=False) as unfinished:
                with pytest.raises(OSError, match="No space left"):
                    (unfinished / "rootfs/big").write_bytes(bytes(100_000))
                store.publish(unfinished, root_in(folder, "riscv64"))

        with pytest.raises(CrossrootError, match=r"/unfinished/riscv64\.create.*: No space left on device") as caught:
            attempt()
        assert "free some space" in caught.value.hint
        assert_empty(folder)

    in_private_mounts(scenario)


def make_empty_root(folder: Path) -> None:
    with store.create("riscv64", folder, replace=False) as unfinished:
        store.publish(unfinished, root_in(folder, "riscv64"))


@pytest.mark.parametrize("inodes", range(2, 10))
def test_a_full_inode_table_is_a_clear_error_at_every_stage(inodes: int, folder: Path) -> None:
    folder.mkdir()

    def scenario() -> None:
        mount_tmpfs(folder, nr_inodes=str(inodes))
        with pytest.raises(CrossrootError, match=f"^{folder}.*: No space left on device"):
            make_empty_root(folder)
        if (folder / "unfinished").exists():
            assert os.listdir(folder / "unfinished") == []

    in_private_mounts(scenario)


def test_a_read_only_store_can_be_read_and_locked_and_says_why_it_cannot_be_changed(folder: Path) -> None:
    root = make_root(folder)
    fill(folder / "unfinished/riscv64.create.01234567")

    def scenario() -> None:
        tree = linux.open_tree(str(folder))
        linux.set_mount_attributes(tree, linux.MOUNT_ATTR_RDONLY)
        linux.move_mount(tree, str(folder))
        assert store.list_roots(folder) == [root]
        assert store.recover(folder) == []
        locking.lock_root("riscv64", folder, exclusive=False, wait=False).close()
        calls: list[Callable[[], object]] = [
            lambda: make_root(folder, "other"),
            lambda: make_root(folder, replace=True),
            lambda: store.remove("riscv64", folder, force=False),
            lambda: locking.start_session_record(root, os.getpid(), ["sh"]),
        ]
        for call in calls:
            with pytest.raises(CrossrootError, match=f"^{folder}.*: Read-only file system") as caught:
                call()
            assert "CROSSROOT_STORE" in caught.value.hint

    in_private_mounts(scenario)
    assert metadata.open_root("riscv64", folder) == root


def test_an_immutable_file_is_named_and_the_removal_goes_on_after_its_release(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_root(folder)
    subprocess.run(["chattr", "+i", root.rootfs / "etc/apk/world"], check=True)
    try:
        with pytest.raises(CrossrootError, match=r"cannot delete .*/rootfs/etc/apk/world: Operation not") as caught:
            store.remove("riscv64", folder, force=False)
        assert store.recover(folder) == []
        assert "etc/apk/world" in capsys.readouterr().err
    finally:
        (left,) = (folder / "unfinished").iterdir()
        subprocess.run(["chattr", "-R", "-i", left], check=True)
    assert f"chattr -R -i {left}" in caught.value.hint
    assert len(store.recover(folder)) == 1
    assert_empty(folder)


def test_a_root_of_a_lower_overlay_layer_is_removed_in_place(folder: Path, tmp_path: Path) -> None:
    make_root(folder)
    merged = tmp_path / "merged"
    layers = tmp_path / "layers"
    layers.mkdir()
    merged.mkdir()

    def scenario() -> None:
        mount_tmpfs(layers)
        for part in ("upper", "work"):
            (layers / part).mkdir(mode=0o700)
        options = {"lowerdir": str(folder), "upperdir": str(layers / "upper"), "workdir": str(layers / "work")}
        linux.move_mount(linux.new_filesystem("overlay", options), str(merged))
        store.remove("riscv64", merged, force=False)
        assert_empty(merged)

    in_private_mounts(scenario)
    assert len(store.list_roots(folder)) == 1


# Users


def test_the_store_of_another_user_is_refused(user: Identity, users_folder: Path) -> None:
    run_as(user, lambda: make_root(users_folder))
    calls: list[Callable[[], object]] = [
        lambda: make_root(users_folder, "other"),
        lambda: store.list_roots(users_folder),
        lambda: store.remove("riscv64", users_folder, force=True),
        lambda: store.recover(users_folder),
    ]
    for call in calls:
        with pytest.raises(CrossrootError, match=f"belongs to another user .id {user.uid}") as caught:
            call()
        assert caught.value.hint


def test_setuid_files_of_a_root_are_out_of_reach_of_other_users(user: Identity, scratch: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "store"
    folder.parent.chmod(0o755)
    root = make_root(folder)

    def look() -> None:
        with pytest.raises(PermissionError):
            (root.rootfs / "etc").stat()

    run_as(user, look)


def fill_with_subordinate_ids(rootfs: Path) -> None:
    """Files and closed folders of ids that only the id map gives, as package managers make them."""

    def fill_inside(_: object) -> None:
        fill(rootfs)
        for uid in (0, 1, 1000, 65533):
            folder = rootfs / f"of{uid}"
            (folder / "sub").mkdir(parents=True)
            (folder / "sub/setuid").write_text("")
            for path in (folder / "sub/setuid", folder / "sub", folder):
                os.chown(path, uid, uid)
                path.chmod(0o4755 if path.name == "setuid" else 0o000)

    namespaces.call(fill_inside, id_map=namespaces.own_id_map())


def make_users_root(folder: Path, *, replace: bool = False) -> None:
    with store.create("riscv64", folder, replace=replace) as unfinished:
        fill_with_subordinate_ids(unfinished / "rootfs")
        store.publish(unfinished, root_in(folder, "riscv64"))


def test_an_ordinary_user_removes_files_of_subordinate_ids(user: Identity, users_folder: Path) -> None:
    def scenario() -> None:
        make_users_root(users_folder)
        assert (users_folder / "roots/riscv64/rootfs/of1000").stat().st_uid > 65536
        make_users_root(users_folder, replace=True)
        assert os.listdir(users_folder / "unfinished") == []
        store.remove("riscv64", users_folder, force=False)
        assert_empty(users_folder)

    run_as(user, scenario)


def test_a_failed_creation_of_an_ordinary_user_leaves_nothing(user: Identity, users_folder: Path) -> None:
    def attempt() -> None:
        with store.create("riscv64", users_folder, replace=False) as unfinished:
            fill_with_subordinate_ids(unfinished / "rootfs")
            raise KeyboardInterrupt

    def scenario() -> None:
        with pytest.raises(KeyboardInterrupt):
            attempt()
        assert_empty(users_folder)

    run_as(user, scenario)


def test_a_creation_that_fails_for_lack_of_namespaces_leaves_nothing(user: Identity, users_folder: Path) -> None:
    def attempt() -> None:
        with store.create("riscv64", users_folder, replace=False) as unfinished:
            fill_with_subordinate_ids(unfinished / "rootfs")

    def scenario() -> None:
        with pytest.raises(CrossrootError, match="refuses a user namespace"):
            attempt()
        assert_empty(users_folder)

    def without_namespaces(_: object) -> None:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")  # of the namespace this runs in
        run_as(user, scenario)

    namespaces.call(without_namespaces, id_map=namespaces.identity_map())


def test_what_a_killed_ordinary_user_leaves_is_recovered_at_any_step(user: Identity, users_folder: Path) -> None:
    def life() -> None:
        make_users_root(users_folder, replace=True)
        store.remove("riscv64", users_folder, force=False)

    def recover() -> None:
        def clean() -> bool:
            store.recover(users_folder)
            return not (users_folder / "unfinished").exists() or os.listdir(users_folder / "unfinished") == []

        wait_until(clean)
        for root in store.list_roots(users_folder):
            assert (root.rootfs / "of65533").exists()

    number = 1
    while kill_at_step(number, life, user):
        run_as(user, recover)
        number += 3
    assert number > 60
    run_as(user, lambda: assert_empty(users_folder))


def test_an_ordinary_user_ends_his_session_by_force(user: Identity, users_folder: Path) -> None:
    ready, say_ready = os.pipe()

    def session() -> None:
        root = make_root(users_folder)

        def pid_1(_: namespaces.Reporter) -> int:
            time.sleep(60)
            return 0

        locking.lock_root("riscv64", users_folder, exclusive=False, wait=False)
        child = namespaces.spawn(pid_1, id_map=namespaces.own_id_map(), flags=linux.CLONE_NEWNS)
        with locking.start_session_record(root, child.pid, ["sleep"]):
            os.write(say_ready, b"y")
            os.waitpid(child.pid, 0)

    running = start(session, user)
    try:
        assert os.read(ready, 1)
        run_as(user, lambda: store.remove("riscv64", users_folder, force=True))
        run_as(user, lambda: assert_empty(users_folder))
    finally:
        kill(running)
        os.close(ready)
        os.close(say_ready)
