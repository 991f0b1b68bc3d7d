"""Mount and user namespaces that live for a test, with a binfmt_misc in them, and crossroot run inside.

The namespaces are held by a sleeping process: when it is killed, all that was mounted in them is gone, and with the
last mount of a binfmt_misc its entries.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossroot import arch as arches
from crossroot import binfmt_rule
from tests.support.mirror import REPOSITORY

TABLE = "/proc/sys/fs/binfmt_misc"
# Folders of the host that registering with --persist writes to or looks at.
_REPLACED = ("/etc/binfmt.d", "/run", "/usr/lib/binfmt.d")


@dataclass(frozen=True)
class Space:
    """The namespaces of the process `pid`. private: with a user namespace, and so handlers, of their own."""

    pid: int
    private: bool
    folder: Path

    def command(self, *words: str | Path) -> list[str]:
        """The command line that runs `words` in here, as root."""
        user = ["--user", "--preserve-credentials"] if self.private else []
        return [str(word) for word in ("nsenter", f"--target={self.pid}", "--mount", *user, "--", *words)]

    def environment(self) -> dict[str, str]:
        """Of all that is run in here."""
        own = {"CROSSROOT_STORE": f"{self.folder}/store", "CROSSROOT_CACHE": f"{self.folder}/cache"}
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {"PATH": path, "PYTHONPATH": str(REPOSITORY), "HOME": str(self.folder), **own}

    def run(self, *words: str | Path, input: bytes = b"") -> subprocess.CompletedProcess[str]:
        """Run a command in here, to its end; text out, in UTF-8."""
        done = subprocess.run(
            self.command(*words), input=input, capture_output=True, check=False, timeout=60, env=self.environment()
        )
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def sh(self, script: str) -> str:
        """Run a shell script in here, which has to succeed; what it prints."""
        done = self.run("sh", "-ec", script)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def crossroot(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run crossroot in here."""
        return self.run(sys.executable, "-m", "crossroot", *arguments)

    def popen(self, *arguments: str | Path) -> "subprocess.Popen[bytes]":
        """Start crossroot in here; the process is crossroot itself, as nsenter executes it."""
        command = self.command(sys.executable, "-m", "crossroot", *arguments)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment())

    def must(self, *arguments: str | Path) -> str:
        """Run crossroot in here, which has to succeed; what it says on stdout and stderr."""
        done = self.crossroot(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def status(self, name: str) -> dict[str, Any]:
        """What `crossroot binfmt status` says of one arch."""
        done = self.crossroot("binfmt", "status", name, "--json")
        assert done.returncode in (0, 1), done.stderr
        found: dict[str, Any] = json.loads(done.stdout)[0]
        assert done.returncode == (0 if found["verdict"] in ("native", "emulated") else 1), found
        return found

    def add(self, name: str, arch: str, interpreter: str | Path, flags: str) -> None:
        """Register an entry by hand, as another tool would."""
        rule = binfmt_rule.rule(arches.find(arch), str(interpreter), flags, name)
        done = self.run("sh", "-c", f"cat > {TABLE}/register", input=rule)
        assert done.returncode == 0, done.stderr

    def entries(self) -> dict[str, str]:
        """The content of each entry, by name, and of `status`."""
        script = f"cd {TABLE}; for e in *; do [ $e = register ] || {{ echo =$e; cat $e; }}; done"
        parts = self.sh(script).split("=")[1:]
        return {name: text for name, _, text in (part.partition("\n") for part in parts)}

    def hide_emulators(self) -> None:
        """Let /usr/bin have no qemu; /run is a tmpfs of the namespace's own."""
        self.sh(
            "mkdir /run/up /run/work; "
            "mount -t overlay -o lowerdir=/usr/bin,upperdir=/run/up,workdir=/run/work o /usr/bin; rm /usr/bin/qemu-*"
        )

    def names(self) -> set[str]:
        """The names of the entries."""
        return set(self.entries()) - {"status"}


@contextmanager
def space(folder: Path, *, private: bool, mounted: bool = True) -> Iterator[Space]:
    """New namespaces with empty folders in place of the host's for binfmt.d, and with binfmt_misc if `mounted`.

    folder: that crossroot may write to, for those in the initial user namespace. What was registered goes at the end.
    """
    mounts = "; ".join(f"mkdir -p {target}; mount -t tmpfs tmpfs {target}" for target in _REPLACED)
    mounts += f"; umount {TABLE} 2> /dev/null || :"  # the host's, from this mount namespace alone
    if mounted:
        mounts += f"; mount -t binfmt_misc binfmt_misc {TABLE}"
    user = ["--user", "--map-root-user"] if private else []
    script = f"{mounts}; echo ready; exec sleep 600"
    command = ["unshare", *user, "--mount", "--propagation", "private", "sh", "-ec", script]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"ready\n"
        made = Space(holder.pid, private, folder)
        before = made.names() if mounted else set()
        try:
            yield made
        finally:
            made.sh(f"[ -e {TABLE}/register ] || mount -t binfmt_misc binfmt_misc {TABLE}")
            for name in made.names() - before:
                made.sh(f"echo -1 > '{TABLE}/{name}'")
    finally:
        holder.stdout.close()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
