"""A hostile root: what its programs try against the host, natively and emulated.

What only a session of an ordinary user promises is tried as the user alone; the rest as root as well, where it guards
against accidents and is no boundary.
"""

import contextlib
import errno
import os
import select
import shutil
import socket
import struct
import subprocess
import termios
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import seccomp
from tests.support.figures import Figures
from tests.support.identity import Crossroot, new_folder
from tests.support.syscalls import Call, program

pytestmark = [
    pytest.mark.emulation,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the programs of these tests are for x86_64 hosts"),
]

NATIVE = {abi.name: abi for abi in seccomp.ABIS["x86_64"]}

CLONE_NEWUSER, CLONE_NEWNS = 0x10000000, 0x00020000
SIGCHLD = 17
TIOCSTI, TIOCLINUX, TIOCSCTTY = 0x5412, 0x541C, 0x540E
PTRACE_ATTACH = 16

# Numbers of x86_64.
SOCKET, CONNECT, PTRACE, KILL, PROCESS_VM_READV, IOCTL = 41, 42, 101, 62, 310, 16
CLONE, CLONE3, UNSHARE, SETNS, OPEN, MKNOD = 56, 435, 272, 308, 2, 133
MOUNT, UMOUNT2, PIVOT_ROOT, OPEN_TREE, MOVE_MOUNT, FSOPEN, MOUNT_SETATTR = 165, 166, 155, 428, 429, 430, 442


of_a_user = pytest.mark.parametrize("identity", ["user"], indirect=True)


def statuses(crossroot: Crossroot, programs: dict[str, bytes], *options: str) -> dict[str, int]:
    """The exit statuses of programs that run in one session, by their names."""
    folder = new_folder(crossroot.tmp, crossroot.identity)
    for name, content in programs.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o755)
    script = 'for name in *; do "./$name"; echo "$name $?"; done'
    result = crossroot.run("run", "riscv64", *options, "--", "sh", "-c", script, cwd=folder, check=True)
    return {name: int(status) for name, status in (line.split() for line in result.stdout.splitlines())}


def status(crossroot: Crossroot, *calls: Call, abi: str = "x86_64", options: tuple[str, ...] = ()) -> int:
    """The errno of the last of some system calls that a program makes in a session; 0 if it succeeded."""
    return statuses(crossroot, {"program": program(abi, calls)}, *options)["program"]


def sh(crossroot: Crossroot, script: str, *options: str) -> str:
    """What a shell script in the root prints, errors included, whatever its status."""
    result = crossroot.run("run", "riscv64", *options, "--", "sh", "-c", f"exec 2>&1; {script}")
    assert result.stderr == ""
    return result.stdout


# System calls


@pytest.mark.parametrize("abi", ["x86_64", "x86"])
def test_calls_that_no_build_needs_are_refused(shared_root: Crossroot, abi: str, figures: Figures) -> None:
    expected = dict.fromkeys(seccomp.numbers(NATIVE[abi], seccomp.FORBIDDEN), errno.EPERM)
    expected |= dict.fromkeys(seccomp.numbers(NATIVE[abi], seccomp.MISSING), errno.ENOSYS)
    calls = seccomp.numbers(NATIVE[abi], seccomp.FORBIDDEN | seccomp.MISSING)
    programs = {name: program(abi, [(number,)]) for name, number in calls.items()}
    assert statuses(shared_root, programs) == expected
    figures.add("refused system calls tried", len(programs))


# Namespaces, mounts, capabilities

ATTEMPTS: dict[str, Call] = {
    "unshare": (UNSHARE, CLONE_NEWUSER),
    "unshare-more": (UNSHARE, CLONE_NEWUSER | CLONE_NEWNS),
    "unshare-mounts": (UNSHARE, CLONE_NEWNS),
    "clone": (CLONE, CLONE_NEWUSER | SIGCHLD),
    "mount": (MOUNT, b"none\0", b"/tmp\0", b"tmpfs\0", 0, 0),
    "remount": (MOUNT, b"none\0", b"/proc/sys\0", b"\0", 0x1020, 0),  # MS_REMOUNT, MS_BIND: writable
    "umount": (UMOUNT2, b"/proc/sys\0", 2),
    "umount-mask": (UMOUNT2, b"/proc/keys\0", 2),
    "pivot_root": (PIVOT_ROOT, b"/\0", b"/\0"),
    "open_tree": (OPEN_TREE, -100, b"/\0", 1),
    "fsopen": (FSOPEN, b"proc\0", 0),
    "mount_setattr": (MOUNT_SETATTR, -100, b"/sys\0", 0, (8).to_bytes(8, "little") + bytes(24), 32),
    "mknod": (MKNOD, b"/tmp/device\0", 0o60600, 0x801),
}


@of_a_user
def test_there_are_no_mounts_and_namespaces_inside(shared_root: Crossroot, figures: Figures) -> None:
    programs = {name: program("x86_64", [call]) for name, call in ATTEMPTS.items()}
    assert statuses(shared_root, programs) == dict.fromkeys(programs, errno.EPERM)
    assert status(shared_root, (CLONE3,)) == errno.ENOSYS
    setns: list[Call] = [(OPEN, b"/proc/1/ns/mnt\0", 0), (SETNS, 3, 0)]
    assert status(shared_root, *setns) == errno.EBADF
    emulated: list[Call] = [(97, CLONE_NEWUSER), (40, b"x\0", b"/tmp\0", b"tmpfs\0")]  # unshare, mount
    for call in emulated:
        assert status(shared_root, call, abi="riscv64") == errno.EPERM
    # Let through, it fails otherwise: the emulator has a second thread.
    assert status(shared_root, emulated[0], abi="riscv64", options=("--nesting",)) == errno.EINVAL
    x86 = {"unshare": (310, CLONE_NEWUSER), "clone": (120, CLONE_NEWUSER | SIGCHLD)}
    assert statuses(shared_root, {name: program("x86", [call]) for name, call in x86.items()}) == {
        "unshare": errno.EPERM,
        "clone": errno.EPERM,
    }
    figures.add("ways to a mount or namespace tried", len(programs) + 6)


def test_nesting_allows_them(shared_root: Crossroot) -> None:
    wanted = ("unshare", "unshare-more", "unshare-mounts", "clone", "mount", "open_tree", "fsopen")
    programs = {name: program("x86_64", [ATTEMPTS[name]]) for name in wanted}
    found = statuses(shared_root, programs, "--nesting")
    assert found == dict.fromkeys(programs, 0)
    inside = [(UNSHARE, CLONE_NEWUSER | CLONE_NEWNS), (MOUNT, b"none\0", b"/tmp\0", b"tmpfs\0", 0, 0)]
    assert status(shared_root, *inside, options=("--nesting",)) == 0


@of_a_user
def test_capabilities_are_what_a_build_needs(shared_root: Crossroot) -> None:
    kept = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 31))
    script = "grep -E '^Cap(Prm|Eff|Bnd)|^Seccomp:' /proc/self/status"
    fields = dict(line.split() for line in sh(shared_root, script).splitlines())
    assert fields == {**dict.fromkeys(("CapPrm:", "CapEff:", "CapBnd:"), f"{kept:016x}"), "Seccomp:": "2"}
    fields = dict(line.split() for line in sh(shared_root, script, "--user", "99:99").splitlines())
    assert (fields["CapEff:"], fields["CapBnd:"]) == ("0" * 16, f"{kept:016x}")


def test_what_a_build_needs_works(shared_root: Crossroot) -> None:
    script = (
        "cd /tmp; touch a; chown 12:34 a; chmod 4755 a; stat -c '%u %g %a' a; mkfifo fifo;"
        "mkdir -p new/bin; cp /bin/busybox new/bin; chroot new /bin/busybox true 2>/dev/null || :;"
        "su -s /bin/sh nobody -c 'id -u'; mkdir closed; chown 12 closed; chmod 0 closed; touch closed/x && echo all"
    )
    assert sh(shared_root, script).split() == ["12", "34", "4755", "65534", "all"]


def test_no_new_privileges_holds_for_root_and_others(shared_root: Crossroot) -> None:
    script = "grep NoNewPrivs /proc/self/status | tr -dc 01"
    assert sh(shared_root, script) == "0"
    assert sh(shared_root, script, "--no-new-privileges") == "1"
    assert sh(shared_root, script, "--user", "99:99", "--no-new-privileges") == "1"


# /proc, /sys and the processes of the host


def test_what_is_the_hosts_in_proc_and_sys_is_read_only(shared_root: Crossroot) -> None:
    files = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/user/max_user_namespaces",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/profiling",
        "/sys/module/kernel/parameters/panic",
    ]
    # Opened for writing, with nothing written: harmless where it should succeed.
    script = "; ".join(f"[ -e {file} ] && (: >> {file})" for file in files)
    said = sh(shared_root, script).splitlines()
    there = [file for file in files if Path(file).exists()]
    assert len(there) > 4
    assert len(said) == len(there)
    # What belongs to the host's root is closed to a user for that alone.
    refusals = ("Read-only file system", "Permission denied") if shared_root.kind == "user" else "Read-only file system"
    assert all(line.endswith(refusals) for line in said), said
    mounted = {
        row[4]: row[5].split(",") for row in map(str.split, sh(shared_root, "cat /proc/self/mountinfo").splitlines())
    }
    assert all("ro" in mounted[place] for place in ("/proc/sys", "/proc/irq", "/sys"))


def test_what_tells_of_the_host_is_masked(shared_root: Crossroot) -> None:
    files = [name for name in ("kcore", "keys", "timer_list", "interrupts") if Path("/proc", name).exists()]
    assert "interrupts" in files
    for name in files:
        assert sh(shared_root, f"head -c 64 /proc/{name} | wc -c").strip() == "0"
    folders = [name for name in ("/sys/firmware", "/proc/acpi", "/proc/scsi") if Path(name).is_dir()]
    assert folders
    for name in folders:
        assert sh(shared_root, f"ls -A {name}") == ""


def test_the_sessions_own_handlers_are_in_place(shared_root: Crossroot) -> None:
    place = "/proc/sys/fs/binfmt_misc"
    assert sh(shared_root, f"cat {place}/status; uname -m", "--binfmt", "private").split() == ["enabled", "riscv64"]


@of_a_user
def test_processes_of_the_host_are_out_of_reach(shared_root: Crossroot) -> None:
    victim = subprocess.Popen(["sleep", "1000"], user=shared_root.identity.uid, group=shared_root.identity.gid)
    memory = struct.pack("<QQ", 0x10000, 8)  # struct iovec
    try:
        for call in (
            (PTRACE, PTRACE_ATTACH, victim.pid),
            (KILL, victim.pid, 0),
            (PROCESS_VM_READV, victim.pid, memory, 1, memory, 1),
        ):
            assert status(shared_root, call) == errno.ESRCH
        assert "sleep" not in sh(shared_root, "cat /proc/[0-9]*/comm")
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@of_a_user
def test_pid_1_is_out_of_reach(shared_root: Crossroot) -> None:
    assert status(shared_root, (PTRACE, PTRACE_ATTACH, 1)) == errno.EPERM
    for name in ("mem", "environ", "maps", "fd/0", "root/etc/passwd", "cwd/etc/passwd"):
        assert status(shared_root, (OPEN, f"/proc/1/{name}\0".encode(), 0)) == errno.EACCES


@of_a_user
def test_only_the_session_is_to_be_seen_as_a_mount(shared_root: Crossroot) -> None:
    mounted = [line.split() for line in sh(shared_root, "cat /proc/self/mountinfo", "--no-cwd").splitlines()]
    store = str(shared_root.store)
    of_host = [
        row[3] for row in mounted if row[3] != "/" and row[4] != "/" and not row[4].startswith(("/proc/", "/dev/"))
    ]
    assert not [place for place in of_host if store in place]
    assert {row[4] for row in mounted if row[4].startswith(("/home", "/root", "/mnt", "/run", "/var"))} == set()


# Sockets and terminals of the host


def test_abstract_sockets_of_the_host_are_out_of_reach(shared_root: Crossroot) -> None:
    name = f"crossroot-{uuid.uuid4()}"
    address = b"\x01\x00\x00" + name.encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind("\0" + name)
        listener.listen()
        calls: list[Call] = [(SOCKET, socket.AF_UNIX, socket.SOCK_STREAM, 0), (CONNECT, 3, address, len(address))]
        scoped = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 12)
        assert status(shared_root, *calls) == (errno.EPERM if scoped else 0)
        assert status(shared_root, *calls, options=("--no-network",)) in (errno.EPERM, errno.ECONNREFUSED)


def test_nothing_types_into_a_terminal_that_is_passed_on(shared_root: Crossroot, figures: Figures) -> None:
    """stdin is a terminal and stdout is not, so that the session holds the caller's."""
    folder = new_folder(shared_root.tmp, shared_root.identity)
    for abi, ioctl in (("x86_64", IOCTL), ("x86", 54), ("riscv64", 29)):
        for request in (TIOCSTI, TIOCLINUX, 1 << 32 | TIOCSTI):
            if abi != "x86_64" and request >> 32:
                continue
            calls: list[Call] = [(ioctl, 0, TIOCSCTTY, 0), (ioctl, 0, request, b"\x03")]
            (folder / "attack").write_bytes(program(abi, calls))
            (folder / "attack").chmod(0o755)
            with terminal() as (master, slave):
                result = shared_root.popen("run", "riscv64", "--", "./attack", cwd=folder, stdin=slave)
                said = result.communicate(timeout=30)
                # What an emulator does not know it refuses itself.
                refusals = (errno.EPERM,) if abi != "riscv64" else (errno.EPERM, errno.ENOTTY)
                assert result.returncode in refusals, said
                assert waiting(master) == b""
            figures.add("ways to type into the caller's terminal tried")


def test_a_terminal_that_is_only_written_to_is_not_the_callers(shared_root: Crossroot) -> None:
    """stdin is none, so what is typed while the session runs is for others."""
    script = "readlink /proc/$$/fd/1; readlink /proc/$$/fd/2; timeout 1 head -n 1 <&2; stty -echo <&1; echo end"
    with terminal() as (master, slave):
        process = shared_root.popen(
            "run", "riscv64", "--", "sh", "-c", script, stdin=subprocess.DEVNULL, stdout=slave, stderr=slave
        )
        os.write(master, b"secret\n")
        assert process.wait(30) == 0
        assert waiting(slave) == b"secret\n"
        assert termios.tcgetattr(slave)[3] & termios.ECHO
        said = waiting(master).replace(b"\r", b"").replace(b"secret\n", b"", 1).splitlines()
        assert (said[:2], said[-1]) == ([b"/dev/pts/0", b"/dev/pts/0"], b"end")


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo-terminal: its master end, and the end that is a terminal for programs."""
    master, slave = os.openpty()
    try:
        yield master, slave
    finally:
        os.close(master)
        os.close(slave)


def waiting(descriptor: int) -> bytes:
    """What can be read at once."""
    return os.read(descriptor, 65536) if select.select([descriptor], [], [], 0)[0] else b""


# Links of the root


def test_nothing_is_made_in_a_folder_of_the_host_that_a_link_leads_to(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    folder = new_folder(crossroot.tmp, crossroot.identity)
    script = f"mkdir -p {folder}; cp -a /etc /etc2; rm -r /etc; ln -s {folder} /etc; ls -d /etc/passwd"
    crossroot.run("run", "riscv64", "--no-cwd", "--no-network", "--", "sh", "-c", script)
    for options in ([], ["--bind", f"{folder}:{folder}"]):
        crossroot.run("run", "riscv64", *options, "--", "true", cwd=folder)
        assert os.listdir(folder) == []


def test_fifos_links_and_endless_files_neither_hang_a_command_nor_lead_it_out(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    canary = new_folder(crossroot.tmp, crossroot.identity)
    rootfs = crossroot.store / "roots/riscv64/rootfs"
    for name in ("dev", "proc", "sys", "home", "run"):
        shutil.rmtree(rootfs / name)
        (rootfs / name).symlink_to(canary)
    for name in (
        "etc/group",
        "etc/os-release",
        "etc/apk/world",
        "usr/lib/os-release",
        "lib/apk/db/installed",
        "bin/sh",
    ):
        (rootfs / name).parent.mkdir(parents=True, exist_ok=True)
        (rootfs / name).unlink(missing_ok=True)
        os.mkfifo(rootfs / name)
    (rootfs / "etc/passwd").unlink()
    with (rootfs / "etc/passwd").open("wb") as file:
        file.truncate(900 << 30)
    true = ("--", "/bin/busybox", "true")
    for command in (
        ("info", "riscv64"),
        ("list",),
        ("clone", "riscv64", "other"),
        ("snapshot", "riscv64", "then"),
        ("restore", "riscv64", "then"),
        ("run", "riscv64", "--no-cwd", *true),
        ("run", "riscv64", "--ephemeral", *true),
        ("run", "riscv64", "--user", "1:1", *true),
        ("shell", "riscv64"),
        ("install", "riscv64", "make"),
    ):
        result = crossroot.run(*command, timeout=60)
        assert "Traceback" not in result.stderr
        assert "internal error" not in result.stderr
        assert os.listdir(canary) == [], command
    assert crossroot.run("rm", "riscv64", "other", check=True).stdout == ""
    assert canary.is_dir()


def test_a_bind_on_resolv_conf_is_the_users_choice(shared_root: Crossroot) -> None:
    folder = new_folder(shared_root.tmp, shared_root.identity)
    (folder / "mine").write_text("nameserver 192.0.2.1\n")
    (folder / "mine").chmod(0o644)
    assert sh(shared_root, "cat /etc/resolv.conf", "--bind", f"{folder}/mine:/etc/resolv.conf") == (
        "nameserver 192.0.2.1\n"
    )
