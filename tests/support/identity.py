"""Who runs the crossroot under test: root, and a real ordinary user made for the purpose."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypedDict, Unpack

from crossroot import namespaces
from tests.support import host
from tests.support.mirror import REPOSITORY, Mirror

Kind = Literal["root", "user"]

Command = Sequence[str | Path]

_USER_PREFIX = "crossroot-test-"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OLDEST_PYTHON = (3, 11)


class Options(TypedDict, total=False):
    """How to run a command. env: added to the clean environment. cwd: the identity's home if not given.
    timeout: seconds, 60 if not given. check: fail the test if the status is not 0. The rest as for Popen."""

    env: Mapping[str, str]
    cwd: Path | str
    timeout: float
    check: bool
    stdin: int | IO[Any]
    stdout: int | IO[Any]
    stderr: int | IO[Any]
    start_new_session: bool
    process_group: int


@dataclass(frozen=True)
class Identity:
    """A user of the host. home: an existing folder of his, his HOME. python: an interpreter he can execute that
    imports crossroot."""

    kind: Kind
    name: str
    uid: int
    gid: int
    home: Path
    python: Path

    def run(self, command: Command, input: str = "", **options: Unpack[Options]) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in a clean environment; text in and out, in UTF-8.

        stdin is empty if there is no `input`, never the terminal of who runs the tests.
        """
        result = self.run_bytes(command, input.encode(), **options)
        return subprocess.CompletedProcess(
            result.args, result.returncode, result.stdout.decode(), result.stderr.decode()
        )

    def run_bytes(
        self, command: Command, input: bytes = b"", **options: Unpack[Options]
    ) -> subprocess.CompletedProcess[bytes]:
        """`run` for bytes."""
        check, timeout = options.pop("check", False), options.pop("timeout", 60)
        how = self._how(options)
        words = [str(word) for word in command]
        result = subprocess.run(words, input=input, capture_output=True, timeout=timeout, check=False, **how)
        said = (result.stdout + result.stderr).decode(errors="replace")
        assert not check or result.returncode == 0, f"{words} as {self.name} gave {result.returncode}:\n{said}"
        return result

    def popen(self, command: Command, **options: Unpack[Options]) -> "subprocess.Popen[bytes]":
        """Start a command as this user, in a clean environment, with a pipe for each of its three streams."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen([str(word) for word in command], **{**pipes, **self._how(options)})

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment of this user after login, with `extra` added."""
        own = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name}
        return {"PATH": _PATH, "LANG": "C.UTF-8", "TERM": "xterm", **own, **(extra or {})}

    def _how(self, options: Options) -> dict[str, Any]:
        """The arguments of Popen that make this user run a command with `options`."""
        how: dict[str, Any] = {"cwd": self.home, **options, "env": self.environment(options.get("env"))}
        if self.uid != os.geteuid():
            how |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return how


@dataclass(frozen=True)
class Crossroot:
    """The crossroot under test, as one identity, with a store of its own.

    tmp: a folder the identity owns, empty at first but for the store. cache: one for all stores of the identity.
    """

    identity: Identity
    mirror: Mirror
    tmp: Path
    store: Path
    cache: Path

    @property
    def kind(self) -> Kind:
        """Who runs it."""
        return self.identity.kind

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line that runs crossroot with `arguments`."""
        return [str(word) for word in (self.identity.python, "-m", "crossroot", *arguments)]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What to add to the identity's environment, so that crossroot uses this store."""
        return {"CROSSROOT_STORE": str(self.store), "CROSSROOT_CACHE": str(self.cache), **(extra or {})}

    def run(
        self, *arguments: str | Path, input: str = "", **options: Unpack[Options]
    ) -> subprocess.CompletedProcess[str]:
        """Run crossroot with `arguments`, in the folder `tmp` if no other is given; as `Identity.run`."""
        return self.identity.run(self.command(*arguments), input, **self._options(options))

    def run_bytes(
        self, *arguments: str | Path, input: bytes = b"", **options: Unpack[Options]
    ) -> subprocess.CompletedProcess[bytes]:
        """`run` for bytes."""
        return self.identity.run_bytes(self.command(*arguments), input, **self._options(options))

    def popen(self, *arguments: str | Path, **options: Unpack[Options]) -> "subprocess.Popen[bytes]":
        """Start crossroot with `arguments`, in the folder `tmp` if no other is given; as `Identity.popen`."""
        return self.identity.popen(self.command(*arguments), **self._options(options))

    def _options(self, options: Options) -> Options:
        return {"cwd": self.tmp, **options, "env": self.environment(options.get("env"))}

    def create(self, *arguments: str | Path) -> None:
        """`crossroot create` from the mirror of the tests; it has to succeed."""
        self.run("create", *arguments, "--mirror", self.mirror.url, timeout=120, check=True)


def new_folder(parent: Path, identity: Identity) -> Path:
    """Make a folder that `identity` owns below `parent`, which must be open to him."""
    path = Path(tempfile.mkdtemp(prefix=f"{identity.kind}-", dir=parent))
    path.chmod(0o755)
    if identity.uid != os.geteuid():
        os.chown(path, identity.uid, identity.gid)
    return path


def remove_tree(path: Path) -> None:
    """Delete a folder of the tests, which may hold files of subordinate ids.

    Refuses while something is mounted below: what a failed test has left mounted may be a folder of the host.
    """
    mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {path}/" in line]
    assert not mounted, f"not deleted, as there are mounts below: {mounted}"
    namespaces.call(lambda _: shutil.rmtree(path), id_map=namespaces.own_id_map())


@contextmanager
def ordinary_user(scratch: Path) -> Iterator[Identity]:
    """An ordinary user: a new one if root runs the tests, else the one who does. scratch: a new folder."""
    if os.geteuid() != 0:
        yield _own_identity("user", Path.home())
        return
    _remove_users_of_dead_runs()
    name = f"{_USER_PREFIX}{os.getpid()}"
    subprocess.run(["useradd", "--create-home", "--shell", "/bin/sh", name], check=True)
    try:
        ranges = Path("/etc/subuid").read_text() + Path("/etc/subgid").read_text()
        assert ranges.count(f"{name}:") == 2, "useradd gave no subordinate ids: is the package uidmap installed?"
        account = pwd.getpwnam(name)
        user = Identity("user", name, account.pw_uid, account.pw_gid, Path(account.pw_dir), Path(sys.executable))
        yield _with_python(user, scratch)
    finally:
        _remove_user(name)


def root_identity(home: Path) -> Identity:
    """Root, with a home of its own instead of the one of who runs the tests."""
    return _own_identity("root", home)


def _own_identity(kind: Kind, home: Path) -> Identity:
    account = pwd.getpwuid(os.geteuid())
    return Identity(kind, account.pw_name, account.pw_uid, account.pw_gid, home, Path(sys.executable))


def _with_python(user: Identity, scratch: Path) -> Identity:
    """`user` with a Python that he can execute and that imports crossroot.

    The interpreter of the tests will do if he can reach it. He often can't: a clone or a Python of one's own
    below /root is closed to others. Then crossroot is installed, with its dependencies, into a virtual
    environment in `scratch`, on top of a Python that he can execute.
    """
    if _works(user, user.python, "import crossroot"):
        return user
    version = f"import sys, venv; assert sys.version_info >= {_OLDEST_PYTHON}"
    base = next((python for python in _system_pythons() if _works(user, python, version)), None)
    assert base is not None, f"{user.name} can execute no Python {_OLDEST_PYTHON} or later of this host"
    # Without pip, as Debian's Python has none to put there unless python3-venv is installed.
    subprocess.run([base, "-m", "venv", "--without-pip", scratch], check=True)
    python = scratch / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", str(REPOSITORY)]
    subprocess.run(install, env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"}, check=True)
    return Identity(user.kind, user.name, user.uid, user.gid, user.home, python)


def _works(user: Identity, python: Path, code: str) -> bool:
    """Whether `user` can run `code` with `python`."""
    try:
        return user.run([python, "-c", code]).returncode == 0
    except PermissionError:
        return False


def _system_pythons() -> list[Path]:
    names = ["python3", *(f"python3.{minor}" for minor in range(11, 20))]
    return [
        path for folder in ("/usr/bin", "/usr/local/bin") for name in names if (path := Path(folder, name)).exists()
    ]


def _remove_users_of_dead_runs() -> None:
    """Remove the users of earlier runs that were killed before they could do so."""
    for account in pwd.getpwall():
        pid = account.pw_name.removeprefix(_USER_PREFIX)
        if pid != account.pw_name and not Path("/proc", pid).exists():
            _remove_user(account.pw_name)


def _remove_user(name: str) -> None:
    """Remove a user with his home, after everything that runs under his own id or a subordinate one."""
    own = pwd.getpwnam(name).pw_uid
    ids = [range(own, own + 1), *_subordinate_ids(name)]
    for entry in Path("/proc").iterdir():
        status = host.read_of(int(entry.name), "status") if entry.name.isdecimal() else ""
        if status and any(int(status.partition("\nUid:")[2].split()[0]) in each for each in ids):
            host.kill(int(entry.name))
    subprocess.run(["userdel", "--remove", "--force", name], capture_output=True, check=True)


def _subordinate_ids(name: str) -> list[range]:
    lines = [line.split(":") for line in Path("/etc/subuid").read_text().splitlines()]
    return [range(int(line[1]), int(line[1]) + int(line[2])) for line in lines if line[0] == name]
