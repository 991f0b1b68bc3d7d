"""Environments that lack what one takes for granted: HOME, LANG, a umask, /dev/shm."""

import os
import subprocess
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
