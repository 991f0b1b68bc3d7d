"""Small roots in a store, and functions run in processes of their own."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from crossroot import layout, metadata, namespaces, store
from crossroot.metadata import Root
from tests.support.identity import Identity

_PR_SET_DUMPABLE = 4


def root_in(folder: Path, name: str) -> Root:
    """The metadata of a root that `fill` has made."""
    return Root(
        name=name,
        folder=layout.root_folder(name, folder),
        arch="riscv64",
        distro="alpine",
        branch="v3.22",
        version="3.22.1",
        source="https://mirror.example/minirootfs.tar.gz",
        sha512="ab" * 64,
        mirror="https://mirror.example",
        created=metadata.timestamp(),
        id_map=namespaces.own_id_map(),
        env={"LANG": "C.UTF-8"},
        binds=("/srv:/srv:ro",),
        user="root",
        shell="/bin/sh",
        qemu_cpu="rv64",
        qemu_version=">=8",
        binfmt="",
        packages=("make", "gcc"),
        crossroot_version="0.1",
    )


def fill(rootfs: Path) -> None:
    """A few files as a rootfs has them: a folder in a folder, a link that leads out of it, an empty folder."""
    (rootfs / "etc/apk").mkdir(parents=True)
    (rootfs / "etc/apk/world").write_text("busybox\n")
    (rootfs / "etc/mtab").symlink_to("/proc/mounts")
    (rootfs / "var").mkdir()


def make_root(folder: Path, name: str = "riscv64", *, replace: bool = False) -> Root:
    """Create and publish a small root in the store `folder`."""
    root = root_in(folder, name)
    with store.create(name, folder, replace=replace) as unfinished:
        fill(unfinished / "rootfs")
        store.publish(unfinished, root)
    return root


def start(function: Callable[[], object], user: Identity | None = None) -> int:
    """Run `function` in a forked child, of another user if one is given; gives its pid. Status 0 if it returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _be_child(function, user)
    return pid


def _be_child(function: Callable[[], object], user: Identity | None) -> NoReturn:
    status = 1
    try:
        if user and user.uid != os.geteuid():
            os.environ.update(user.environment())
            os.setgroups([])
            os.setresgid(user.gid, user.gid, user.gid)
            os.setresuid(user.uid, user.uid, user.uid)
            # Else /proc/PID of this process and its children stays root's, and newuidmap refuses (prctl(2)).
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
            os.chdir("/")
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def status_of(pid: int) -> int:
    """Wait for a child: its status, or -SIGNAL."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_as(user: Identity | None, function: Callable[[], object]) -> None:
    """Run `function` in a child; fails if it raises, and pytest shows its traceback."""
    assert status_of(start(function, user)) == 0


def kill(pid: int) -> None:
    """Kill a child and wait for it."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def kill_at_step(number: int, function: Callable[[], object], user: Identity | None = None) -> bool:
    """Run `function` in a child that is killed at its step `number`; whether there was such a step.

    A step is an audit event about files or processes: just before a file is opened, renamed, deleted and so on, in the
    child or in a child of its own.
    """

    def run() -> None:
        main, steps = os.getpid(), 0

        def count(event: str, _: object) -> None:
            nonlocal steps
            if event == "open" or event.startswith(("os.", "fcntl.", "shutil.")):
                steps += 1
                if steps == number:
                    os.kill(main, signal.SIGKILL)
                    signal.pause()  # a child of the child dies with it, a moment later

        sys.addaudithook(count)
        function()

    status = status_of(start(run, user))
    assert status in (0, -signal.SIGKILL), f"failed instead of being killed at step {number}"
    return status != 0


def in_root(rootfs: Path, function: Callable[[], object]) -> object:
    """What the function gives, as JSON has it, with `rootfs` as its root."""

    def work(_: object) -> object:
        os.chroot(rootfs)
        os.chdir("/")
        return function()

    return namespaces.call(work, id_map=namespaces.own_single_map() or namespaces.identity_map())


def write(rootfs: Path, name: str, content: str = "x") -> Path:
    """Write a file in a rootfs, with the folders it needs."""
    path = rootfs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def precious(folder: Path) -> Path:
    """A folder with a file in it that nothing may touch, see `assert_intact`."""
    outside = folder / "outside"
    write(outside, "deep/file", "precious")
    return outside


def assert_intact(outside: Path) -> None:
    """What `precious` has made is as it was."""
    assert [path.relative_to(outside).as_posix() for path in sorted(outside.rglob("*"))] == ["deep", "deep/file"]
    assert (outside / "deep/file").read_text() == "precious"


def assert_empty(folder: Path) -> None:
    """The store holds no root and nothing unfinished."""
    assert os.listdir(folder / "roots") == []
    assert os.listdir(folder / "unfinished") == []
