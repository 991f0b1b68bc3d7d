"""Environments that lack what one takes for granted: HOME, LANG, a umask, /dev/shm, a /proc of one's own."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support import archives, expect
from tests.support.identity import Crossroot

pytestmark = pytest.mark.emulation


def create_run_remove(crossroot: Crossroot, before: str, wrapper: tuple[str, ...] = ()) -> None:
    """The three commands, in a shell that has first run `before`; the program exits with the first byte of its name."""
    archive = crossroot.tmp / "archive"
    archive.write_bytes(archives.rootfs("riscv64"))
    for command, status in (
        (("create", "riscv64", "--from", archive), 0),
        (("run", "riscv64", "--", "/bin/true"), ord("/")),
        (("list",), 0),
        (("rm", "riscv64"), 0),
    ):
        script = f'{before}; exec "$@"'
        words = [*wrapper, "sh", "-c", script, "sh", *crossroot.command(*command)]
        result = crossroot.identity.run(words, env=crossroot.environment(), cwd=crossroot.tmp)
        assert result.returncode == status, result.stderr
        assert "Traceback" not in result.stderr
    expect.roots(crossroot.store)


@pytest.mark.parametrize(
    "before",
    [
        "unset LANG LC_ALL",
        "export LANG=C LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0",
        "unset HOME",
        "export HOME=/nonexistent/home",
        "export HOME=/proc",
        "unset TERM USER LOGNAME",
        "umask 077",
        "umask 0",
        "exec </dev/null",
        "ulimit -c 0; ulimit -n 64",
    ],
)
def test_an_environment_that_lacks_something(before: str, crossroot: Crossroot) -> None:
    create_run_remove(crossroot, before)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("hidden", ["/dev/shm", "/sys", "/etc/resolv.conf", "/run"])
def test_a_host_without(hidden: str, crossroot: Crossroot) -> None:
    if not Path(hidden).exists():
        pytest.fail(f"this host has no {hidden} to hide")
    cover = "/dev/null" if Path(hidden).is_file() else str(crossroot.tmp / "empty")
    (crossroot.tmp / "empty").mkdir()
    script = f"mount --bind {cover} {hidden}; exec setpriv --reuid={crossroot.identity.uid} "
    script += f'--regid={crossroot.identity.gid} --clear-groups "$@"'
    archive = crossroot.tmp / "archive"
    archive.write_bytes(archives.rootfs("riscv64"))
    for command, status in ((("create", "riscv64", "--from", archive), 0), (("run", "riscv64", "--", "/bin/true"), 47)):
        words = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            script,
            "sh",
            *crossroot.command(*command),
        ]
        environment = crossroot.identity.environment(crossroot.environment())
        result = subprocess.run(words, env=environment, cwd=crossroot.tmp, capture_output=True, text=True, check=False)
        assert result.returncode == status, result.stderr
    crossroot.run("rm", "riscv64", check=True)


# What Docker leaves to root in a container.
DOCKERS = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
MASKED = "crossroot: this container masks parts of /proc, so the session sees the container's processes in /proc\n"


def in_a_container(crossroot: Crossroot, capabilities: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run crossroot in a container of crun with a masked /proc and the host's files."""
    identity, bundle = crossroot.identity, Path(tempfile.mkdtemp(dir="/run"))
    try:
        subprocess.run(["crun", "spec"], cwd=bundle, check=True)
        spec = json.loads((bundle / "config.json").read_text())
        names = [f"CAP_{name}" for name in capabilities.split()]
        sets = ("bounding", "effective", "permitted") if identity.kind == "root" else ("bounding",)
        environment = identity.environment(crossroot.environment())
        spec["process"] |= {
            "terminal": False,
            "noNewPrivileges": False,
            "user": {"uid": identity.uid, "gid": identity.gid},
            "capabilities": dict.fromkeys(sets, names),
            "env": [f"{name}={value}" for name, value in environment.items()],
            "args": [str(word) for word in crossroot.command(*arguments)],
            "cwd": str(crossroot.tmp),
        }
        spec["root"] = {"path": str(bundle / "root"), "readonly": True}
        (bundle / "config.json").write_text(json.dumps(spec))
        (bundle / "root").mkdir()
        binds = [f"mount --bind {folder} {bundle}/root{folder}" for folder in ("/", crossroot.tmp)]
        script = f"{'; '.join(binds)}; umount -R /sys/fs/cgroup || :; mount -t cgroup2 cgroup2 /sys/fs/cgroup; "
        script += f"exec crun --root {bundle}/state --cgroup-manager=disabled run --bundle {bundle} {bundle.name}"
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    finally:
        shutil.rmtree(bundle)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_container_that_masks_proc(shared_root: Crossroot) -> None:
    result = in_a_container(shared_root, f"{DOCKERS} SYS_ADMIN", "run", "riscv64", "--", "uname", "-m")
    assert (result.returncode, result.stdout, result.stderr) == (0, "riscv64\n", MASKED)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_container_without_the_right_to_mount(shared_root: Crossroot) -> None:
    result = in_a_container(shared_root, DOCKERS, "run", "riscv64", "--", "uname", "-m")
    if shared_root.kind == "root":
        assert "run crossroot as an ordinary user" in expect.error(result, "refuses a mount or pid namespace", 125)
    else:
        result.stderr = result.stderr.removeprefix("newuidmap: write to uid_map failed: Operation not permitted\n")
        assert "setcap cap_setuid+ep /usr/bin/newuidmap" in expect.error(result, "newuidmap refused the id map", 125)
