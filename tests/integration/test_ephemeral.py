"""Ephemeral sessions: whatever they do and however they end, the root is as it was."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import namespaces
from tests.support.host import ready, wait_until
from tests.support.identity import Crossroot

pytestmark = pytest.mark.emulation

VANDAL = """
echo changed >/etc/motd; rm -r /etc/apk; mkdir /etc/apk; echo new >/etc/apk/new; chmod 700 /bin; ln -s / /link
mv /etc/passwd /etc/moved; cp /etc/moved /etc/passwd
"""


def state(crossroot: Crossroot, name: str = "riscv64") -> tuple[str, dict[str, tuple[int, int]]]:
    """The digest of a root, and the inode and time of change of each of its files."""
    rootfs = crossroot.store / "roots" / name / "rootfs"

    def look(_: object) -> dict[str, tuple[int, int]]:
        found = {}
        for path in [rootfs, *rootfs.rglob("*")]:
            status = path.lstat()
            found[str(path)] = status.st_ino, status.st_ctime_ns
        return found

    digest = json.loads(crossroot.run("info", name, "--json", "--digest", check=True).stdout)["digest"]
    id_map = None if crossroot.kind == "root" else namespaces_of(crossroot)
    return digest, namespaces.call(look, id_map=id_map)


def namespaces_of(crossroot: Crossroot) -> namespaces.IdMap:
    """The id map of the user's roots, as their metadata has it."""
    data = json.loads((crossroot.store / "roots/riscv64/root.json").read_text())
    return namespaces.IdMap.from_json(data["id_map"])


@pytest.fixture
def root(shared_root: Crossroot) -> Iterator[Crossroot]:
    """crossroot with a root that must be the same after the test, down to the inodes."""
    before = state(shared_root)
    yield shared_root
    assert state(shared_root) == before


def sh(crossroot: Crossroot, script: str, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return crossroot.run("run", "riscv64", "--ephemeral", *options, "--", "sh", "-ec", script)


@contextlib.contextmanager
def started(crossroot: Crossroot, script: str, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """An ephemeral session whose script has just printed "ready", killed at the end."""
    process = crossroot.popen("run", "riscv64", "--ephemeral", *options, "--", "sh", "-ec", script)
    with ready(process):
        yield process


def test_changes_are_there_inside_and_gone_afterwards(root: Crossroot) -> None:
    done = sh(root, VANDAL + "cat /etc/motd; ls /etc/apk; stat -c %a /bin; readlink /link; exit 37")
    assert (done.returncode, done.stdout, done.stderr) == (37, "changed\nnew\n700\n/\n", "")
    assert sh(root, "test -e /etc/apk/new").returncode == 1


def test_the_root_folder_looks_as_in_a_plain_session(root: Crossroot) -> None:
    script = "stat -c '%a %u %g %Y' / /etc /bin/busybox"
    plain = root.run("run", "riscv64", "--", "sh", "-c", script, check=True).stdout
    assert sh(root, script).stdout == plain


def test_places_of_mounts_are_made_in_the_overlay_alone(root: Crossroot) -> None:
    options = ["--bind", "/etc/hostname:/new/deep/file", "--bind", "/etc:/new/folder:ro", "--workdir", "/new"]
    done = sh(root, "ls -d deep/file folder/passwd", *options)
    assert (done.returncode, done.stdout) == (0, "deep/file\nfolder/passwd\n")


def test_a_shell_can_be_ephemeral(root: Crossroot) -> None:
    done = root.run("shell", "riscv64", "--ephemeral", input="echo x >/file; cat /file\n")
    assert (done.returncode, done.stdout) == (0, "x\n")


def test_setuid_programs_and_owners_work_as_in_the_root(root: Crossroot) -> None:
    done = sh(
        root,
        "cp /bin/busybox /bin/id-as-root; chmod 4755 /bin/id-as-root; chown 7:8 /etc/motd; stat -c %u:%g /etc/motd",
    )
    assert done.stdout == "7:8\n", done.stderr


def test_the_size_is_a_limit_that_says_no_space(root: Crossroot) -> None:
    done = sh(root, "dd if=/dev/zero of=/big bs=1M count=20 2>&1 || echo $?; stat -c %s /big", "--size", "4m")
    lines = done.stdout.splitlines()
    assert "No space left on device" in lines[0]
    assert int(lines[-1]) <= 4 << 20
    assert sh(root, "dd if=/dev/zero of=/big bs=1M count=3 2>&1", "--size", "4m").returncode == 0


def test_several_sessions_do_not_see_each_other(root: Crossroot) -> None:
    with contextlib.ExitStack() as stack:
        script = "echo {0} >/etc/motd; echo ready; read _; cat /etc/motd"
        running = [stack.enter_context(started(root, script.format(number))) for number in range(4)]
        plain = root.run("run", "riscv64", "--", "cat", "/etc/motd", check=True).stdout
        said = [process.communicate(b"\n", timeout=20)[0].decode() for process in running]
    assert said == ["0\n", "1\n", "2\n", "3\n"]
    assert plain not in said


def test_sigkill_leaves_nothing(root: Crossroot) -> None:
    with started(root, VANDAL + "(setsid sleep 1000 &) ; echo ready; sleep 1000") as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    wait_until(lambda: json.loads(root.run("info", "riscv64", "--json", check=True).stdout)["sessions"] == [])


def test_a_root_with_an_ephemeral_session_is_in_use(root: Crossroot) -> None:
    with started(root, "echo ready; sleep 1000"):
        refused = root.run("remove", "riscv64")
        assert refused.returncode == 1
        assert "riscv64 is in use by pid " in refused.stderr


def test_odd_characters_in_the_path_of_the_store(root: Crossroot) -> None:
    store = root.tmp / "a:b,c\\d e=\"f'"
    linked = {"CROSSROOT_STORE": str(store)}
    made = root.run("create", "riscv64", "--mirror", root.mirror.url, env=linked, timeout=120)
    assert made.returncode == 0, made.stderr
    done = root.run("run", "riscv64", "--ephemeral", "--", "sh", "-ec", VANDAL + "cat /etc/motd", env=linked)
    assert (done.returncode, done.stdout) == (0, "changed\n"), done.stderr
    assert root.run("remove", "riscv64", env=linked).returncode == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "1g"], "--size is for ephemeral sessions only"),
        (["--ephemeral", "--size", "much"], "'much' is no size"),
        (["--keep", "kept"], "--keep is for ephemeral sessions only"),
        (["--ephemeral", "--keep", "a/b"], "'a/b' is a path, not a name"),
    ],
)
def test_usage(root: Crossroot, options: list[str], message: str) -> None:
    done = root.run("run", "riscv64", *options, "--", "true")
    assert done.returncode == 125
    assert message in done.stderr


# What is kept


def names(crossroot: Crossroot) -> list[str]:
    return [found["name"] for found in json.loads(crossroot.run("list", "--json", check=True).stdout)]


def test_what_a_session_leaves_becomes_a_root_whatever_its_status(root: Crossroot) -> None:
    done = sh(root, VANDAL + "(setsid sleep 1000 &); echo x >/tmp/lost; exit 3", "--keep", "kept")
    assert (done.returncode, done.stderr) == (3, "crossroot: keeping kept\n")
    try:
        script = "cat /etc/motd; ls /etc/apk; stat -c %a /bin; readlink /link; test ! -e /tmp/lost; uname -m"
        said = root.run("run", "kept", "--", "sh", "-ec", script, check=True).stdout
        assert said == "changed\nnew\n700\n/\nriscv64\n"
        taken = sh(root, "echo ran", "--keep", "kept")
        assert (taken.returncode, taken.stdout) == (125, "")
        assert "the root kept exists already" in taken.stderr
    finally:
        root.run("remove", "kept", check=True)


def test_nothing_is_kept_of_a_session_that_did_not_start_or_was_killed(root: Crossroot) -> None:
    assert sh(root, "true", "--keep", "kept", "--workdir", "/none").returncode == 125
    assert root.run("run", "riscv64", "--ephemeral", "--keep", "kept", "--", "/none").returncode == 127
    assert names(root) == ["riscv64"]
    with started(root, "echo ready; sleep 1000", "--keep", "kept") as process:
        reserved = sh(root, "true", "--keep", "kept")
        assert (reserved.returncode, "another crossroot is creating kept" in reserved.stderr) == (125, True)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    wait_until(lambda: names(root) == ["riscv64"] and not os.listdir(root.store / "unfinished"))
