"""A newer Python than that of the host: crossroot from a wheel in a root of Debian, and its tests."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from crossroot import arch
from tests.support.identity import Crossroot
from tests.support.mirror import REPOSITORY

pytestmark = [
    pytest.mark.network,
    pytest.mark.long,
    pytest.mark.timeout(900),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

NATIVE = f"debian-{arch.find(os.uname().machine).debian}"
NEEDED = ("pytest", "pytest-timeout", "hypothesis", "check-jsonschema")

# A root of its own by pivot_root(2), as the kernel gives no user namespaces in a chroot.
ENTER = """
mount --bind "$1" "$1"; mount --rbind /dev "$1/dev"; mount -t proc proc "$1/proc"; mount -t sysfs sysfs "$1/sys"
mount -t tmpfs tmpfs "$1/tmp"; mount -t tmpfs tmpfs "$1/run"; mount --bind "$2" "$1/mnt"
cd "$1"; mkdir tmp/old; pivot_root . tmp/old; umount -l tmp/old
exec env -i PATH=/usr/sbin:/usr/bin HOME=/root CROSSROOT_TEST_MIRROR="$3" bash -ex /mnt/inside
"""

# What of Python changes between versions: tarfile, ctypes, argument parsing, imports, processes. Deprecated names are
# errors, so that the next Python is no surprise.
INSIDE = """
cp /mnt/qemu-riscv64-static /usr/local/bin
python3 -m venv /venv
/venv/bin/pip install --quiet --no-index --find-links /mnt/wheels crossroot NEEDED
cd /mnt/repository
parts=(tests/unit/test_{unpack,pack,oci_image,namespaces,probe,profiles,record,cli,imports}.py)
/venv/bin/pytest -q -W error::DeprecationWarning "${parts[@]}"
cd /
useradd --create-home jo
sh -ex /mnt/session
runuser --user jo -- env HOME=/home/jo sh -ex /mnt/session
"""

SESSION = """
export PYTHONWARNINGS=error::DeprecationWarning CROSSROOT_STORE=$HOME/store CROSSROOT_CACHE=$HOME/cache
/venv/bin/crossroot create riscv64 --mirror "$CROSSROOT_TEST_MIRROR"
test $(/venv/bin/crossroot run riscv64 -- uname -m) = riscv64
test $($CROSSROOT_STORE/roots/riscv64/enter uname -m) = riscv64
echo 'exit 7' | /venv/bin/crossroot shell riscv64 || test $? = 7
/venv/bin/crossroot remove riscv64
"""


@pytest.mark.parametrize("identity", ["root"], indirect=True)
def test_the_python_of_trixie(crossroot: Crossroot, qemu: Callable[[str], Path]) -> None:
    packages = [word for name in ("python3-venv", "uidmap", "gpg", "gpg-agent", "gpgv") for word in ("--package", name)]
    crossroot.run("create", NATIVE, "--name", "debian", *packages, timeout=600, check=True)
    rootfs = crossroot.store / "roots/debian/rootfs"
    version = crossroot.run("run", "debian", "--", "python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
    assert version.stdout == "3.13\n"
    wheels = crossroot.tmp / "wheels"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", wheels, REPOSITORY], check=True)
    for_there: list[str | Path] = [
        "--only-binary=:all:",
        "--python-version=3.13",
        "--dest",
        wheels,
        *wheels.iterdir(),
        *NEEDED,
    ]
    subprocess.run([*pip, "download", *for_there], check=True)
    shutil.copytree(
        REPOSITORY, crossroot.tmp / "repository", ignore=shutil.ignore_patterns(".*_cache", ".git", ".venv")
    )
    shutil.copy(qemu("riscv64"), crossroot.tmp / "qemu-riscv64-static")
    (crossroot.tmp / "inside").write_text(INSIDE.replace("NEEDED", " ".join(NEEDED)))
    (crossroot.tmp / "session").write_text(SESSION)
    enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-exc", ENTER]
    words: list[str | Path] = [*enter, "sh", rootfs, crossroot.tmp, crossroot.mirror.url]
    result = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stdout[-8000:]
    crossroot.run("remove", "debian", check=True)
