"""What runs the programs of a session: the host's handler, a private one, or nothing, on hosts of every kind.

A host of another kind is a mount namespace in which files are hidden, or a user namespace with every id mapped to
itself: binfmt_misc, sysctls and limits in there are its own, and go with it.
"""

import json
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from crossroot import arch, binfmt, binfmt_rule, emulator, linux, namespaces
from crossroot.errors import CrossrootError
from tests.support import old_kernel
from tests.support.identity import Crossroot, Identity, new_folder
from tests.support.mirror import Mirror
from tests.support.roots import run_as

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

RISCV64 = arch.find("riscv64")
# Prints "riscv64 1" under a private handler, "riscv64 0" under one of the host.
WHICH = ("sh", "-c", "echo $(uname -m) $(grep -c binfmt_misc /proc/self/mountinfo)")
PRIVATE, HOST = "riscv64 1\n", "riscv64 0\n"

Outcome = tuple[int, str, str]  # status, stdout, stderr


def on_a_host(
    *commands: Callable[[], "subprocess.CompletedProcess[str]"],
    entries: Sequence[bytes] = (),
    sysctl: str = "",
    begin: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """What `commands` give one after another on a host of their own with these entries in binfmt_misc.

    sysctl: a limit of user namespaces there to set to 0, below /proc/sys/user. begin: called before the commands.
    """

    def run(_: object) -> list[Outcome]:
        binfmt.mount_table()
        for rule in entries:
            (binfmt.TABLE / "register").write_bytes(rule)
        if sysctl:
            Path("/proc/sys/user", sysctl).write_text("0")
        begin()
        return outcomes(commands)

    return [(int(status), out, err) for status, out, err in namespaces.call(run, id_map=namespaces.identity_map())]


def without_emulator(command: Callable[[], "subprocess.CompletedProcess[str]"]) -> Outcome:
    """What `command` gives on a host without qemu-riscv64, apt-get, or a network to fetch it from."""

    def run(_: object) -> list[Outcome]:
        folders = ("/usr/bin", "/usr/local/bin", "/usr/libexec/qemu-binfmt", "/usr/libexec/qemu-user")
        files = [file for folder in folders for file in Path(folder).glob("qemu-riscv64*")]
        for file in [*files, *Path("/usr/bin").glob("apt-get")]:
            subprocess.run(["mount", "--bind", "/dev/null", file], check=True)
        return outcomes([command])

    status, out, err = namespaces.call(run, id_map=None, flags=linux.CLONE_NEWNS | linux.CLONE_NEWNET)[0]
    return status, out, err


def outcomes(commands: Sequence[Callable[[], "subprocess.CompletedProcess[str]"]]) -> list[Outcome]:
    results = [command() for command in commands]
    return [(result.returncode, result.stdout, result.stderr) for result in results]


def which(crossroot: Crossroot, *options: str | Path) -> Callable[[], "subprocess.CompletedProcess[str]"]:
    """A session that tells which handler runs it."""
    return lambda: crossroot.run("run", "riscv64", *options, "--", *WHICH)


def names() -> "subprocess.CompletedProcess[str]":
    """The entries of binfmt_misc."""
    return subprocess.run(["ls", binfmt.TABLE], capture_output=True, text=True, check=True)


def assert_refused(outcome: Outcome, message: str) -> None:
    status, out, err = outcome
    assert (status, out) == (125, "")
    first, second = err.splitlines()
    assert first.startswith("crossroot: error: ")
    assert message in first
    assert second.startswith("  hint: ")


@pytest.fixture
def static_qemu(qemu: Callable[[str], Path]) -> str:
    return str(qemu("riscv64"))


# Which handler


def test_without_a_handler_on_the_host_it_is_a_private_one(shared_root: Crossroot) -> None:
    first, entries = on_a_host(which(shared_root), names)
    assert first == (0, PRIVATE, "")
    assert entries[1].split() == ["register", "status"]


def test_a_handler_of_the_host_that_works_is_used(shared_root: Crossroot, static_qemu: str) -> None:
    entry = binfmt_rule.rule(RISCV64, static_qemu, "POF")
    results = on_a_host(which(shared_root), which(shared_root, "--binfmt", "host"), entries=[entry])
    assert results == [(0, HOST, "")] * 2


def test_a_private_one_can_be_forced(shared_root: Crossroot, static_qemu: str) -> None:
    entry = binfmt_rule.rule(RISCV64, static_qemu, "POF")
    commands = [which(shared_root, "--binfmt", "private"), which(shared_root, "--qemu", static_qemu)]
    assert on_a_host(*commands, entries=[entry]) == [(0, PRIVATE, "")] * 2


@pytest.mark.parametrize(("interpreter", "flags"), [("qemu", "PO"), ("qemu", "OF"), ("/bin/false", "POF")])
def test_a_handler_of_the_host_that_fails_is_not_used(
    shared_root: Crossroot, static_qemu: str, interpreter: str, flags: str
) -> None:
    path = static_qemu if interpreter == "qemu" else interpreter
    assert on_a_host(which(shared_root), entries=[binfmt_rule.rule(RISCV64, path, flags)]) == [(0, PRIVATE, "")]


def test_a_broken_handler_that_was_asked_for_is_an_error(shared_root: Crossroot) -> None:
    entry = binfmt_rule.rule(RISCV64, "/bin/false", "POF")
    outcome = on_a_host(which(shared_root, "--binfmt", "host"), entries=[entry])[0]
    assert_refused(outcome, "the host's handler for riscv64 is broken")


def test_only_root_gets_a_handler_registered_on_the_host(shared_root: Crossroot) -> None:
    command = which(shared_root, "--binfmt", "host")
    first, entries, again = on_a_host(command, names, which(shared_root))
    if shared_root.kind == "user":
        assert_refused(first, "the host has no handler for riscv64")
        assert entries[1].split() == ["register", "status"]
        return
    assert first[:2] == (0, HOST)
    assert first[2].startswith("crossroot: registered ")
    assert "undo with: " in first[2]
    assert entries[1].split() == ["crossroot-riscv64", "register", "status"]
    assert again == (0, HOST, "")


def test_the_rootfs_is_a_plain_folder_for_chroot(shared_root: Crossroot, static_qemu: str) -> None:
    rootfs = shared_root.store / "roots/riscv64/rootfs"

    def chroot() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["chroot", rootfs, "/bin/uname", "-m"], capture_output=True, text=True, check=False)

    assert on_a_host(chroot, entries=[binfmt_rule.rule(RISCV64, static_qemu, "POF")]) == [(0, "riscv64\n", "")]


def test_info_tells_what_serves_sessions(shared_root: Crossroot, static_qemu: str) -> None:
    def info() -> "subprocess.CompletedProcess[str]":
        return shared_root.run("info", "riscv64", "--json", check=True)

    version = emulator.version_of(Path(static_qemu))
    entry = binfmt_rule.rule(RISCV64, static_qemu, "POF")
    for outcome, scope in (on_a_host(info)[0], "private"), (on_a_host(info, entries=[entry])[0], "host"):
        facts = json.loads(outcome[1])
        assert (facts["handler"], facts["emulator"], facts["emulator_version"]) == (scope, static_qemu, version)
        assert facts["emulator_cpu"] == emulator.fastest_cpu(RISCV64, version)


def test_info_of_a_root_that_nothing_can_run_says_why(shared_root: Crossroot) -> None:
    cache = {"CROSSROOT_CACHE": str(shared_root.tmp / "empty cache")}
    status, out, err = without_emulator(lambda: shared_root.run("info", "riscv64", "--json", env=cache))
    assert (status, json.loads(out)["emulator"]) == (0, "")
    assert "no emulator for riscv64 on this host (hint: crossroot emulator fetch riscv64" in err


def test_an_emulator_that_the_profile_would_not_take_is_named(crossroot: Crossroot, static_qemu: str) -> None:
    profiles = crossroot.tmp / "config/crossroot/profiles"
    profiles.mkdir(parents=True)
    (profiles / "new.toml").write_text('extends = "riscv64"\nqemu_version = ">=100"')
    config = {"XDG_CONFIG_HOME": str(crossroot.tmp / "config")}
    mirror = ("--mirror", crossroot.mirror.url)
    refused = without_emulator(lambda: crossroot.run("create", "new", *mirror, env=config))
    assert (refused[0], "of version >=100" in refused[2]) == (1, True)
    for arguments in ("create", "new", *mirror), ("run", "new", "--", "true"):
        start, rest = arguments[:2], arguments[2:]
        result = crossroot.run(*start, "--qemu", static_qemu, *rest, env=config, check=True)
        assert f"{static_qemu} is qemu " in result.stderr
        assert "the profile asks for >=100" in result.stderr


@pytest.mark.network
@pytest.mark.slow
def test_a_newer_emulator_serves_with_the_cpu_that_it_is_fastest_with(shared_root: Crossroot, static_qemu: str) -> None:
    cache = {"CROSSROOT_CACHE": str(new_folder(shared_root.tmp, shared_root.identity))}
    fetch = ("emulator", "fetch", "riscv64", "--qemu-version", ">=10")
    shared_root.run(*fetch, env=cache, timeout=200, check=True)
    script = ("--", "sh", "-c", "echo $QEMU_CPU $(uname -m)")
    assert shared_root.run("run", "riscv64", *script, env=cache, check=True).stdout == "max,ztso=off riscv64\n"
    info = json.loads(shared_root.run("info", "riscv64", "--json", env=cache, check=True).stdout)
    assert (info["emulator_cpu"], emulator.satisfies(info["emulator_version"], ">=10")) == ("max,ztso=off", True)
    named = shared_root.run("run", "riscv64", "--env", "QEMU_CPU=rv64", *script, env=cache, check=True)
    assert named.stdout == "rv64 riscv64\n"
    older = emulator.fastest_cpu(RISCV64, emulator.version_of(Path(static_qemu)))
    result = shared_root.run("run", "riscv64", "--qemu", static_qemu, *script, env=cache, check=True)
    assert result.stdout == f"{older} riscv64\n".lstrip()


def test_the_cpus_own_arch_is_never_emulated(crossroot: Crossroot) -> None:
    if "x86_64" not in crossroot.mirror.arches:
        pytest.skip("needs a real Alpine mirror")
    crossroot.create("x86_64")
    for option in (["--binfmt", "private"], ["--qemu", "/bin/true"]):
        result = crossroot.run("run", "x86_64", *option, "--", "true")
        assert_refused((result.returncode, result.stdout, result.stderr), "own arch and is never emulated")


# The emulator


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "No such file or directory"),
        (b"#!/bin/sh\nexit 0\n", "is not an ELF executable"),
        (b"", "is not an ELF executable"),
    ],
)
def test_what_is_no_emulator_is_refused(shared_root: Crossroot, content: bytes | None, problem: str) -> None:
    file = new_folder(shared_root.tmp, shared_root.identity) / "qemu"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o755)
    result = shared_root.run("run", "riscv64", "--qemu", file, "--", "true")
    assert_refused((result.returncode, result.stdout, result.stderr), problem)


def test_a_dynamically_linked_emulator_is_refused(shared_root: Crossroot) -> None:
    result = shared_root.run("run", "riscv64", "--qemu", "/bin/ls", "--", "true")
    assert_refused((result.returncode, result.stdout, result.stderr), "is dynamically linked")


def test_an_emulator_with_a_long_path_serves(shared_root: Crossroot, static_qemu: str) -> None:
    folder = new_folder(shared_root.tmp, shared_root.identity) / ("long" * 40)
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "qemu").write_bytes(Path(static_qemu).read_bytes())
    (folder / "qemu").chmod(0o755)
    result = shared_root.run("run", "riscv64", "--qemu", folder / "qemu", "--", *WHICH)
    assert (result.returncode, result.stdout, result.stderr) == (0, PRIVATE, "")


def test_no_emulator_at_all(shared_root: Crossroot) -> None:
    cache = {"CROSSROOT_CACHE": str(shared_root.tmp / "empty cache")}
    status, out, err = without_emulator(lambda: shared_root.run("run", "riscv64", "--", "true", env=cache))
    assert (status, out) == (125, "")
    *_, last, hint = err.splitlines()
    assert last.startswith("crossroot: error: no emulator for riscv64 could be fetched: ")
    assert hint.startswith("  hint: ")


def test_a_handler_of_the_host_needs_no_emulator_in_sight(shared_root: Crossroot, static_qemu: str) -> None:
    def hide() -> "subprocess.CompletedProcess[str]":
        return subprocess.run(["mount", "--bind", "/dev/null", static_qemu], text=True, check=True)

    results = on_a_host(hide, which(shared_root), entries=[binfmt_rule.rule(RISCV64, static_qemu, "POF")])
    assert results[1] == (0, HOST, "")


# Hosts of an older kernel, hosts that refuse namespaces, or have no ids to give


def test_an_older_kernel_has_the_handlers_of_the_host_alone(shared_root: Crossroot, static_qemu: str) -> None:
    entry = binfmt_rule.rule(RISCV64, static_qemu, "POF", "host")
    options: tuple[list[str], ...] = ([], ["--binfmt", "host"], ["--binfmt", "private"])
    with old_kernel.simulated() as begin:
        *results, entries = on_a_host(
            *(which(shared_root, *each) for each in options), names, entries=[entry], begin=begin
        )
    assert results[:2] == [(0, HOST, "")] * 2
    assert_refused(results[2], f"this kernel ({os.uname().release}) has no private handlers")
    assert entries[1].split() == ["host", "register", "status"]


def test_an_older_kernel_without_handlers_needs_root_once(shared_root: Crossroot) -> None:
    with old_kernel.simulated() as begin:
        first, entries = on_a_host(which(shared_root), names, begin=begin)
    if shared_root.kind == "user":
        assert_refused(
            first, f"no handler runs riscv64 on this host, and its kernel ({os.uname().release}) has no private"
        )
        assert first[2].endswith("or: sudo crossroot binfmt register riscv64\n")
        assert entries[1].split() == ["register", "status"]
        return
    assert first[:2] == (0, HOST)
    assert "undo with: crossroot binfmt unregister riscv64" in first[2]
    assert entries[1].split() == ["crossroot-riscv64", "register", "status"]


def test_where_user_namespaces_are_refused_only_root_goes_on(shared_root: Crossroot) -> None:
    first, entries = on_a_host(which(shared_root), names, sysctl="max_user_namespaces")
    if shared_root.kind == "user":
        assert_refused(first, "this system refuses a user namespace")
        assert "sysctl -w user.max_user_namespaces=" in first[2]
        assert entries[1].split() == ["register", "status"]
        return
    assert first[:2] == (0, HOST)
    assert "crossroot: registered " in first[2]
    assert entries[1].split() == ["crossroot-riscv64", "register", "status"]


def test_where_mount_namespaces_are_refused_it_is_said(shared_root: Crossroot) -> None:
    assert_refused(on_a_host(which(shared_root), sysctl="max_mnt_namespaces")[0], "this system refuses")


@pytest.fixture
def strangers_crossroot(scratch: Path, mirror: Mirror, user: Identity, folders_to_remove: list[Path]) -> Crossroot:
    """crossroot as a user id without a name, subordinate ids or a home; only the files of its folder are its own."""
    uid = next(uid for uid in range(63000, 64000) if uid not in {account.pw_uid for account in pwd.getpwall()})
    stranger = Identity("user", str(uid), uid, uid, scratch, user.python)
    tmp = new_folder(scratch, stranger)
    folders_to_remove.append(tmp)
    return Crossroot(stranger, mirror, tmp, tmp / "store", tmp / "cache")


def test_without_subordinate_ids_all_files_belong_to_one(strangers_crossroot: Crossroot) -> None:
    crossroot, own = strangers_crossroot, strangers_crossroot.identity
    created = crossroot.run("create", "riscv64", "--mirror", crossroot.mirror.url, timeout=120, check=True)
    assert f"belong to you alone: /etc/subuid has no range for {own.uid}: usermod --add-subuids " in created.stderr
    assert which(crossroot)().stdout == PRIVATE
    script = "id -u; touch /root/new; stat -c %u /root/new /bin /etc/passwd"
    assert crossroot.run("run", "riscv64", "--", "sh", "-c", script, check=True).stdout.split() == ["0"] * 4
    files = [path.lstat() for path in (crossroot.store / "roots/riscv64/rootfs").rglob("*")]
    assert {(file.st_uid, file.st_gid) for file in files} == {(own.uid, own.gid)}
    result = crossroot.run("run", "riscv64", "--user", "guest", "--", "id", "-u")
    assert_refused((result.returncode, result.stdout, result.stderr), "cannot become user guest")
    crossroot.run("remove", "riscv64", check=True)


def test_a_root_is_only_entered_under_its_own_id_map(
    scratch: Path, mirror: Mirror, user: Identity, folders_to_remove: list[Path]
) -> None:
    tmp = new_folder(scratch, user)
    folders_to_remove.append(tmp)
    crossroot = Crossroot(user, mirror, tmp, tmp / "store", tmp / "cache")
    no_helpers = {"PATH": "/no/newuidmap/here"}
    arguments = ("create", "riscv64", "--mirror", mirror.url)
    created = crossroot.run(*arguments, env=no_helpers, timeout=120, check=True)
    assert "newuidmap and newgidmap are not installed" in created.stderr
    assert crossroot.run("run", "riscv64", "--", *WHICH, env=no_helpers).stdout == PRIVATE
    result = crossroot.run("run", "riscv64", "--", "true")
    assert_refused((result.returncode, result.stdout, result.stderr), "created under another id map")


def test_a_killed_trial_is_no_reason_to_register_a_handler_on_the_host(identity: Identity) -> None:
    def die(fstype: str, options: dict[str, str], attributes: int = 0) -> int:  # noqa: ARG001
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    def try_it() -> None:
        linux.new_filesystem = die
        with pytest.raises(CrossrootError, match="a worker process ended with status -9"):
            binfmt.private_possible()

    run_as(identity, try_it)
