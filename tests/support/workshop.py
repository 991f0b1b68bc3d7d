"""A root of Debian with compilers for C and Hare, for one who builds in it."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from crossroot.arch import Arch
from tests.support.identity import Crossroot, Identity
from tests.support.mirror import REPOSITORY

EXAMPLE = REPOSITORY / "examples/hare"
TARGETS = {"root": ("riscv64", "aarch64"), "user": ("aarch64", "riscv64")}  # the first that can be had
PROFILES = {"riscv64": "debian-hare-riscv64", "aarch64": "debian-hare-arm64"}


@dataclass(frozen=True)
class Workshop:
    """A root named after its arch with hare, gcc, make, ccache and distcc, and a copy of the example for its owner."""

    crossroot: Crossroot
    target: Arch
    folder: Path

    def run(self, *command: str, root: str = "", input: str = "", level: int = 0) -> str:
        """The output of a command in the folder, in the root of the target or in another. level: of acceleration."""
        words = ["run", root or self.target.name, "--accelerate", str(level), "--", *command]
        return self.crossroot.run(*words, input=input, cwd=self.folder, timeout=900, check=True).stdout


def new_workshop(crossroot: Crossroot, target: Arch, folder: Path) -> Workshop:
    """Make the root. folder: a new one, for the copy of the example."""
    packages = [word for name in ("gcc", "libc6-dev", "make", "ccache", "distcc") for word in ("--package", name)]
    crossroot.run("create", PROFILES[target.name], "--name", target.name, *packages, timeout=1500, check=True)
    return Workshop(crossroot, target, copy_of_example(folder, crossroot.identity))


def copy_of_example(folder: Path, owner: Identity) -> Path:
    shutil.copytree(EXAMPLE, folder)
    if owner.uid != os.geteuid():
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, owner.uid, owner.gid)
    return folder
