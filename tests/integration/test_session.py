"""Sessions as docs/sessions.md promises them: real roots, real signals, real kills."""

import contextlib
import io
import json
import os
import random
import shlex
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import arch, elf, enter, metadata, mounts, session
from tests.support.host import read_of, ready, wait_until
from tests.support.identity import Crossroot, new_folder
from tests.support.roots import run_as

pytestmark = pytest.mark.emulation

BASE_ENVIRONMENT = {
    "TERM": "xterm",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
}
FOREVER = "sleep 1000"


@pytest.fixture(scope="session")
def scrap_root(shared_root: Crossroot) -> Crossroot:
    """crossroot with a root named riscv64 whose files the tests may change."""
    tmp = new_folder(shared_root.tmp.parent, shared_root.identity)
    instance = Crossroot(shared_root.identity, shared_root.mirror, tmp, tmp / "store", shared_root.cache)
    instance.create("riscv64")
    return instance


def sh(crossroot: Crossroot, script: str, *options: str | Path, cwd: Path | str = "") -> str:
    """What a shell script in the root riscv64 prints on stdout; it has to succeed."""
    where = cwd or crossroot.tmp
    return crossroot.run("run", "riscv64", *options, "--", "sh", "-ec", script, cwd=where, check=True).stdout


def refusal(crossroot: Crossroot, *arguments: str | Path, command: str = "true") -> str:
    """The error of a session that can't be, in two lines: what happened and a hint. Its status is 125."""
    result = crossroot.run("run", "riscv64", *arguments, "--", command)
    assert (result.returncode, result.stdout) == (125, "")
    first, second = result.stderr.splitlines()
    assert first.startswith("crossroot: error: ")
    assert second.startswith("  hint: ")
    return result.stderr


def on_host(crossroot: Crossroot, script: str) -> subprocess.CompletedProcess[str]:
    """Run a bash script on the host, in the folder `tmp` of crossroot and with its environment."""
    return crossroot.identity.run(["bash", "-c", script], env=crossroot.environment(), cwd=crossroot.tmp)


@contextlib.contextmanager
def started(
    crossroot: Crossroot, script: str, *, prefix: str = "exec", name: str = "riscv64"
) -> Iterator["subprocess.Popen[bytes]"]:
    """crossroot itself as a process, running a shell script that has just printed "ready"; killed at the end.

    prefix: how a shell on the host starts it.
    """
    command = shlex.join(crossroot.command("run", name, "--", "sh", "-c", script))
    identity, environment = crossroot.identity, crossroot.environment()
    # In a process group of its own, as a shell starts a job.
    process = identity.popen(["sh", "-c", f"{prefix} {command}"], env=environment, cwd=crossroot.tmp, process_group=0)
    with ready(process):
        yield process


def init_of(process: "subprocess.Popen[bytes]") -> int:
    """The host's pid of a session's pid 1: the grandchild of crossroot."""
    return children(children(process.pid)[0])[0]


def children(pid: int) -> list[int]:
    return [int(child) for child in read_of(pid, f"task/{pid}/children").split()]


def state(pid: int) -> str:
    """R, S, T (stopped) and so on (proc_pid_stat(5))."""
    return read_of(pid, "stat").rpartition(")")[2].split()[0]


def members(namespace: str) -> list[int]:
    """The processes of a pid namespace, which is given as /proc/PID/ns/pid shows it."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                found.append(int(name))
    return found


def file_into(crossroot: Crossroot, path: str, content: bytes, mode: str) -> None:
    """Write a file into the root."""
    script = f"cat > {path}; chmod {mode} {path}"
    result = crossroot.run_bytes("run", "riscv64", "--", "sh", "-ec", script, input=content)
    assert result.returncode == 0, result.stderr


# The arch


def test_uname_says_the_arch_of_the_root(crossroot: Crossroot) -> None:
    for name in crossroot.mirror.arches:
        crossroot.create(name)
        result = crossroot.run("run", name, "--", "uname", "-m", check=True)
        assert result.stdout == arch.find(name).uname + "\n"
        assert crossroot.run("run", name, "--", "sh", "-c", "exit 37").returncode == 37


# Programs that print the machine field of uname(2); nothing of a distribution is needed to run them.
PRINT_MACHINE = {
    "x86": "81ec9001000089e3b87a000000cd808d8c2404010000ba06000000bb01000000b804000000cd80b80100000031dbcd80",
    "armhf": "19de4de20d00a0e17a70a0e3000000ef0100a0e3411f8de20720a0e30470a0e3000000ef0000a0e30170a0e3000000ef",
}


@pytest.mark.parametrize(("name", "machine"), [("x86", "i686"), ("armhf", "armv6l")])
def test_uname_and_cpu_are_those_of_the_narrower_arch(crossroot: Crossroot, name: str, machine: str) -> None:
    narrow = arch.find(name)
    code = narrow.elf.but(code=PRINT_MACHINE[name])
    program = elf.probe_program(narrow.but(elf=code))
    archive = crossroot.tmp / "rootfs.tar"
    with tarfile.open(archive, "w") as tar:
        for path, content in (
            ("bin/machine", program),
            ("bin/sh", program),
            ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
        ):
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    archive.chmod(0o644)
    crossroot.run("create", name, "--from", archive, check=True)
    assert crossroot.run("run", name, "--", "machine", check=True).stdout.rstrip("\0") == machine


# Status


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 37"], 37),
        (["sh", "-c", "exit 255"], 255),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["no-such-command"], 127),
        (["/bin/no-such-command"], 127),
        (["/etc/passwd"], 126),
        (["/etc"], 126),
    ],
)
def test_the_status_is_the_commands(shared_root: Crossroot, command: list[str], status: int) -> None:
    assert shared_root.run("run", "riscv64", "--", *command).returncode == status


def test_errors_of_crossroot_itself_are_125_with_a_hint(shared_root: Crossroot) -> None:
    for arguments in (
        ["no-such-root", "--", "true"],
        ["../riscv64", "--", "true"],
        ["riscv64"],
        ["riscv64", "--no-such-option", "--", "true"],
        ["riscv64", "--binfmt", "nonsense", "--", "true"],
    ):
        result = shared_root.run("run", *arguments)
        assert (result.returncode, result.stdout) == (125, "")
        assert result.stderr.startswith("crossroot: error: ")
        assert "\n  hint: " in result.stderr


def test_a_script_whose_interpreter_is_missing_is_said(scrap_root: Crossroot) -> None:
    file_into(scrap_root, "/usr/local/bin/orphan", b"#!/no/such/interpreter\n", "755")
    result = scrap_root.run("run", "riscv64", "--", "/usr/local/bin/orphan")
    assert result.returncode == 127
    assert "interpreter" in result.stderr


# Streams


def test_stdin_and_stdout_pass_bytes_unchanged(shared_root: Crossroot) -> None:
    data = random.Random(1).randbytes(1 << 20)
    result = shared_root.run_bytes("run", "riscv64", "--", "cat", input=data)
    assert (result.returncode, result.stdout == data, result.stderr) == (0, True, b"")


def test_stderr_is_its_own_stream(shared_root: Crossroot) -> None:
    result = shared_root.run("run", "riscv64", "--", "sh", "-c", "echo out; echo err >&2")
    assert (result.stdout, result.stderr) == ("out\n", "err\n")


def test_a_shell_reads_commands_from_a_pipe(shared_root: Crossroot) -> None:
    result = shared_root.run("shell", "riscv64", input="uname -m\nexit 5\n")
    assert (result.returncode, result.stdout, result.stderr) == (5, "riscv64\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_obstacle(shared_root: Crossroot, closed: str) -> None:
    alive = shared_root.tmp / "alive"
    alive.unlink(missing_ok=True)
    command = shlex.join(shared_root.command("run", "riscv64", "--", "sh", "-c", "cat; touch alive; echo x; exit 7"))
    result = on_host(shared_root, f"exec {command} {closed}")
    assert (result.returncode, alive.exists()) == (7, True), result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_leaves_early_ends_the_command(shared_root: Crossroot) -> None:
    command = shlex.join(shared_root.command("run", "riscv64", "--", "yes"))
    result = on_host(shared_root, f"set -o pipefail; {command} | head -c 10")
    assert (result.returncode, result.stdout, result.stderr) == (128 + signal.SIGPIPE, "y\ny\ny\ny\ny\n", "")


# Environment


def environment_inside(crossroot: Crossroot, *options: str, env: dict[str, str]) -> dict[str, str]:
    output = crossroot.run("run", "riscv64", *options, "--", "env", env=env, check=True).stdout
    return dict(line.split("=", 1) for line in output.splitlines())


def test_the_environment_is_clean(shared_root: Crossroot) -> None:
    inside = environment_inside(shared_root, env={"SECRET": "1", "LD_PRELOAD": "", "PYTHONPATH": ""})
    assert inside == BASE_ENVIRONMENT


def test_proxies_and_env_options_reach_the_command(shared_root: Crossroot) -> None:
    options = ["--env", "A=1=2", "--env", "B", "--env", "EMPTY=", "--env", "LANG=C"]
    outside = {"B": "b b", "http_proxy": "http://p:1", "NO_PROXY": "x", "SECRET": "1"}
    assert environment_inside(shared_root, *options, env=outside) == {
        **BASE_ENVIRONMENT,
        "LANG": "C",
        "A": "1=2",
        "B": "b b",
        "EMPTY": "",
        "http_proxy": "http://p:1",
        "NO_PROXY": "x",
    }


def test_a_variable_to_pass_on_that_is_not_there_is_refused(shared_root: Crossroot) -> None:
    assert "the environment has no NO_SUCH" in refusal(shared_root, "--env", "NO_SUCH")


# Users


def test_users_are_those_of_the_root(shared_root: Crossroot) -> None:
    rows = [line.split(":") for line in sh(shared_root, "cat /etc/passwd").splitlines()]
    guest = next(row for row in rows if row[0] == "guest")
    script = "id -u; id -g; echo $HOME"
    for user, expected in {
        "guest": [guest[2], guest[3], guest[5]],
        guest[2]: [guest[2], guest[3], guest[5]],
        "guest:0": [guest[2], "0", guest[5]],
        "guest:root": [guest[2], "0", guest[5]],
        "1234:56": ["1234", "56", "/"],
        "1234": ["1234", "1234", "/"],
    }.items():
        assert sh(shared_root, script, "--user", user).split() == expected


def test_supplementary_groups_are_those_of_the_root(scrap_root: Crossroot) -> None:
    sh(scrap_root, "grep -q '^two:' /etc/group || printf 'two:x:2222:guest\\nthree:x:3333:bin,guest\\n' >> /etc/group")
    assert {"2222", "3333"} <= set(sh(scrap_root, "id -G", "--user", "guest").split())
    assert sh(scrap_root, "id -G", "--user", "1234:56").split() == ["56"]


@pytest.mark.parametrize("user", ["no-such-user", "guest:no-such-group", "4294967295", "99999999999", "²", ":"])
def test_an_unknown_user_is_refused(shared_root: Crossroot, user: str) -> None:
    assert "the root has no " in refusal(shared_root, "--user", user)


def test_a_setuid_program_works_under_emulation(scrap_root: Crossroot) -> None:
    riscv64 = arch.find("riscv64")
    geteuid_exit = "9308f00a730000009308d00573000000"  # a complete program: exit(geteuid())
    code = riscv64.elf.but(code=geteuid_exit)
    program = elf.probe_program(riscv64.but(elf=code))
    for mode, status in (("755", 99), ("4755", 0)):
        file_into(scrap_root, "/usr/local/bin/euid", program, mode)
        assert scrap_root.run("run", "riscv64", "--user", "99", "--", "euid").returncode == status
        # Here it runs, and stays who it was.
        options = ("--user", "99", "--no-new-privileges")
        assert scrap_root.run("run", "riscv64", *options, "--", "euid").returncode == 99


# Folders


def test_the_current_folder_is_there_and_writable(shared_root: Crossroot) -> None:
    source = shared_root.tmp / "a source tree"
    source.mkdir(exist_ok=True)
    os.chown(source, shared_root.identity.uid, shared_root.identity.gid)
    (source / "in").write_text("from the host")
    assert sh(shared_root, "pwd; cat in; echo from inside > out", cwd=source) == f"{source}\nfrom the host"
    written = source / "out"
    assert (written.read_text(), written.stat().st_uid) == ("from inside\n", shared_root.identity.uid)


def test_no_cwd_leaves_it_out(shared_root: Crossroot) -> None:
    assert sh(shared_root, f"pwd; ls -d {shared_root.tmp} 2>&1 || :", "--no-cwd").splitlines()[0] == "/root"


@pytest.mark.parametrize("folder", ["/", "/usr", "/usr/lib", "/etc", "/tmp", "/dev/shm", "/proc/self", "home"])
def test_system_folders_and_homes_are_the_roots_own(shared_root: Crossroot, folder: str) -> None:
    where = shared_root.identity.home if folder == "home" else folder
    assert sh(shared_root, "pwd; cat /etc/os-release | head -1; ls -A /tmp", cwd=where).startswith("/root\n")
    assert sh(shared_root, "ls -A /tmp", cwd=where) == ""


def test_a_deleted_current_folder_is_none(shared_root: Crossroot) -> None:
    command = shlex.join(shared_root.command("run", "riscv64", "--", "pwd"))
    assert on_host(shared_root, f"mkdir gone; cd gone; rmdir ../gone; exec {command}").stdout == "/root\n"


def test_workdir_is_where_the_command_starts(shared_root: Crossroot) -> None:
    assert sh(shared_root, "pwd", "--workdir", "/etc") == "/etc\n"
    assert "cannot work in /no/such" in refusal(shared_root, "--workdir", "/no/such")


# Binds


@pytest.fixture
def source(shared_root: Crossroot) -> Path:
    """A folder of the identity on the host, with a file in it."""
    folder = new_folder(shared_root.tmp, shared_root.identity)
    (folder / "file").write_text("content")
    os.chown(folder / "file", shared_root.identity.uid, shared_root.identity.gid)
    return folder


def test_a_bind_shows_a_folder_of_the_host(scrap_root: Crossroot, source: Path) -> None:
    output = sh(scrap_root, "cat /new/place/file; echo x > /new/place/out", "--bind", f"{source}:/new/place")
    assert (output, (source / "out").read_text()) == ("content", "x\n")
    assert sh(scrap_root, "ls -A /new/place") == ""
    assert sh(scrap_root, f"cat {source}/file", "--no-cwd", "--bind", source) == "content"


def test_a_bind_shows_a_file_of_the_host(scrap_root: Crossroot, source: Path) -> None:
    assert sh(scrap_root, "cat /etc/motto", "--bind", f"{source}/file:/etc/motto") == "content"
    assert sh(scrap_root, "cat /etc/motto") == ""


@pytest.mark.root
def test_a_read_only_bind_holds_for_what_is_mounted_below(scrap_root: Crossroot, source: Path) -> None:
    below = source / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", below], check=True)
    try:
        script = "for place in /data /data/below; do touch $place/new 2>/dev/null && echo $place; done; true"
        assert sh(scrap_root, script, "--bind", f"{source}:/data:ro") == ""
        assert sh(scrap_root, script, "--bind", f"{source}:/data:rw") == "/data\n/data/below\n"
        assert sh(scrap_root, script, "--bind", f"{source}:/data") == "/data\n/data/below\n"
    finally:
        subprocess.run(["umount", below], check=True)


@pytest.mark.parametrize("bind", ["", ":/x", "/etc:/x:rx", "/etc:/x:ro:more", "/etc:x", "/etc:/", "/no/such:/x"])
def test_a_bind_that_makes_no_sense_is_refused(shared_root: Crossroot, bind: str) -> None:
    refusal(shared_root, "--bind", bind)


def test_a_bind_on_a_link_of_the_root_goes_where_it_leads_inside(scrap_root: Crossroot, source: Path) -> None:
    outside = new_folder(scrap_root.tmp, scrap_root.identity)
    sh(scrap_root, f"mkdir -p {outside} /real; ln -sfn {outside} /trap; ln -sfn /real /link", "--no-cwd")
    for place in ("/trap", "/link"):
        assert sh(scrap_root, f"cat {place}/file", "--no-cwd", "--bind", f"{source}:{place}") == "content"
    assert os.listdir(outside) == []


# What is mounted


def test_the_mounts_are_those_and_no_others(shared_root: Crossroot) -> None:
    output = sh(shared_root, "cat /proc/self/mountinfo", "--bind", "/etc/passwd:/mnt/file:ro")
    fields = {line.split()[4]: line.split() for line in output.splitlines()}
    below_sys = {place for place in fields if place.startswith("/sys/")}
    covered = {step.target for step in mounts.masks() if step.target.startswith("/proc/")}
    devices = {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty", "pts", "shm")}
    binds = {str(shared_root.tmp), "/mnt/file", "/etc/resolv.conf"}
    others = {"/", "/proc", "/dev", "/sys", "/tmp", "/proc/sys/fs/binfmt_misc"}
    assert set(fields) - below_sys - covered == devices | binds | others
    assert all("ro" in fields[place][5].split(",") for place in {"/sys", "/mnt/file", *below_sys})
    assert not any(option.startswith(("shared:", "master:")) for row in fields.values() for option in row)


def test_dev_is_minimal_and_works(shared_root: Crossroot) -> None:
    names = [
        "fd",
        "full",
        "null",
        "ptmx",
        "pts",
        "random",
        "shm",
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    ]
    script = "ls /dev; echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; ls /dev/pts"
    assert sh(shared_root, script).split() == [*names, "3", "4", "ptmx"]
    assert sh(shared_root, "echo one | cat /dev/stdin; echo two > /dev/shm/file; cat /dev/shm/file") == "one\ntwo\n"


def test_tmp_and_shm_are_new_and_open_to_all(shared_root: Crossroot) -> None:
    script = "stat -c '%a %U' /tmp /dev/shm; touch /tmp/a /dev/shm/a"
    assert sh(shared_root, script, "--user", "guest", "--no-cwd") == "1777 root\n1777 root\n"
    assert sh(shared_root, "ls -A /tmp /dev/shm", "--no-cwd").split() == ["/dev/shm:", "/tmp:"]


def test_sys_and_the_hosts_devices_are_out_of_reach(shared_root: Crossroot) -> None:
    script = "rm -f /sys/kernel/profiling 2>&1; echo 1 > /sys/kernel/profiling; echo written"
    result = shared_root.run("run", "riscv64", "--", "sh", "-c", script)
    assert "Read-only file system" in result.stdout + result.stderr


def test_resolv_conf_has_the_content_of_the_hosts(scrap_root: Crossroot) -> None:
    hosts = Path("/etc/resolv.conf").read_text()
    outside = new_folder(scrap_root.tmp, scrap_root.identity) / "file"
    for prepare in (
        "rm -f /etc/resolv.conf",
        "rm -f /etc/resolv.conf; echo own > /etc/resolv.conf",
        "ln -sf ../run/no/such /etc/resolv.conf",
        f"ln -sf {outside} /etc/resolv.conf",
    ):
        sh(scrap_root, prepare, "--no-network", "--no-cwd")
        assert sh(scrap_root, "cat /etc/resolv.conf") == hosts
    assert not outside.exists()
    assert sh(scrap_root, "readlink /etc/resolv.conf", "--no-network", "--no-cwd") == f"{outside}\n"


# What is in sight


def test_only_the_session_is_in_sight(shared_root: Crossroot) -> None:
    script = "hostname; cd /proc; for pid in [0-9]*; do cat $pid/comm; done; ls -d /proc/1/root/* 2>/dev/null | wc -l"
    hostname, *names, _ = sh(shared_root, script).splitlines()
    assert hostname == "riscv64"
    assert set(names[1:]) <= {"sh", "cat"}
    assert len(names) <= 3


@pytest.mark.parametrize("name", ["riscv64", "x86_64"])
def test_pid_1_tells_nothing_of_the_caller(crossroot: Crossroot, name: str) -> None:
    if name not in crossroot.mirror.arches:
        pytest.skip("needs a real Alpine mirror")
    crossroot.create(name)
    script = "cat /proc/1/cmdline /proc/1/environ /proc/self/environ 2>/dev/null; cat /proc/*/cmdline | tr '\\0' ' '"
    secrets = {"SECRET": "from-the-environment"}
    output = crossroot.run("run", name, "--", "sh", "-c", f"{script}; : ", "from-the-command", env=secrets).stdout
    assert "crossroot" in output
    assert "from-the-environment" not in output
    assert "python" not in output


def test_open_files_of_the_caller_are_not_passed_on(shared_root: Crossroot) -> None:
    secret = shared_root.tmp / "secret"
    secret.write_text("of the caller")
    secret.chmod(0o644)
    inside = "cat <&9; ls -l /proc/self/fd/"
    command = shlex.join(shared_root.command("run", "riscv64", "--no-cwd", "--", "sh", "-c", inside))
    result = on_host(shared_root, f"exec {command} 9< secret")
    assert "Bad file descriptor" in result.stderr
    assert "secret" not in result.stdout


def test_without_network_there_is_only_loopback(shared_root: Crossroot) -> None:
    interfaces, flags = "cat /proc/net/dev | tail -n +3 | cut -d: -f1", "ifconfig lo | grep -o UP"
    assert sh(shared_root, f"{interfaces}; {flags}", "--no-network").split() == ["lo", "UP"]
    host = [line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert sh(shared_root, interfaces).split() == host


# Signals


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2"])
def test_a_signal_reaches_the_command(shared_root: Crossroot, name: str) -> None:
    script = f"trap 'echo caught; exit 7' {name}; echo ready; {FOREVER} & wait"
    with started(shared_root, script) as process:
        process.send_signal(signal.Signals[f"SIG{name}"])
        output, _ = process.communicate(timeout=10)
        assert (process.returncode, output) == (7, b"caught\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_that_ends_the_command_is_its_status(shared_root: Crossroot, number: signal.Signals) -> None:
    with started(shared_root, f"echo ready; exec {FOREVER}") as process:
        process.send_signal(number)
        assert process.wait(10) == 128 + number


def test_stop_and_continue(shared_root: Crossroot) -> None:
    with started(shared_root, f"echo ready; {FOREVER} & wait") as process:
        command = children(init_of(process))[0]
        for _ in range(3):
            process.send_signal(signal.SIGTSTP)
            wait_until(lambda: (state(process.pid), state(command)) == ("T", "T"))
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: (state(process.pid), state(command)) == ("S", "S"))


def test_stop_and_continue_at_once_do_not_stop(shared_root: Crossroot) -> None:
    with started(shared_root, f"echo ready; {FOREVER} & wait") as process:
        command = children(init_of(process))[0]
        for number in range(20):
            process.send_signal(signal.SIGTSTP)
            # Within microseconds the kernel may call the second handler on top of the first, and so before it.
            time.sleep(0.0005 * (number + 1))
            process.send_signal(signal.SIGCONT)
            time.sleep(0.001)
        process.send_signal(signal.SIGCONT)
        time.sleep(0.2)  # so that a stop that is still under way is seen
        wait_until(lambda: (state(process.pid), state(command)) == ("S", "S"))


def test_an_ignored_hangup_stays_ignored(shared_root: Crossroot) -> None:
    with started(shared_root, f"echo ready; {FOREVER} & wait", prefix="trap '' HUP; exec") as process:
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == 128 + signal.SIGTERM


# The end


DETACHED = f"setsid {FOREVER} & (setsid sh -c '{FOREVER}; :' &); echo ready; {FOREVER} & wait"


def test_a_killed_crossroot_takes_everything_along(shared_root: Crossroot) -> None:
    with started(shared_root, DETACHED) as process:
        namespace = os.readlink(f"/proc/{init_of(process)}/ns/pid")
        wait_until(lambda: len(members(namespace)) >= 5)
        process.kill()
        process.wait()
        wait_until(lambda: not members(namespace), timeout=2)


def test_a_killed_helper_takes_everything_along(shared_root: Crossroot) -> None:
    with started(shared_root, DETACHED) as process:
        namespace = os.readlink(f"/proc/{init_of(process)}/ns/pid")
        os.kill(children(process.pid)[0], signal.SIGKILL)
        assert process.wait(10) == 128 + signal.SIGKILL
        wait_until(lambda: not members(namespace), timeout=2)


def test_what_the_command_left_running_ends_with_it(shared_root: Crossroot) -> None:
    script = f"setsid {FOREVER} & ({FOREVER} &); exit 3"
    before = time.monotonic()
    assert shared_root.run("run", "riscv64", "--", "sh", "-c", script).returncode == 3
    assert time.monotonic() - before < 10


def test_orphans_are_reaped(shared_root: Crossroot) -> None:
    script = "for i in 1 2 3 4 5; do (true & exec true); (sleep 0.01 &); done; echo ready; read line"
    with started(shared_root, script) as process:
        init = init_of(process)
        wait_until(lambda: len(children(init)) == 1)


@pytest.mark.slow
def test_kills_at_any_moment_leave_nothing(shared_root: Crossroot) -> None:
    arguments = ("run", "riscv64", "--", "true")
    before = time.monotonic()
    shared_root.run(*arguments, check=True)
    whole = time.monotonic() - before
    kills = 6
    for number in range(kills):
        process = shared_root.popen(*arguments)
        time.sleep(whole * (0.3 + 0.7 * number / kills))
        process.kill()
        process.communicate()
    facts = json.loads(shared_root.run("info", "riscv64", "--json", check=True).stdout)
    wait_until(lambda: not json.loads(shared_root.run("info", "riscv64", "--json").stdout)["sessions"], timeout=2)
    assert facts["name"] == "riscv64"
    assert sh(shared_root, "uname -m") == "riscv64\n"


def test_a_caller_that_ignores_sigchld_is_no_obstacle(shared_root: Crossroot) -> None:
    code = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [
        str(shared_root.identity.python),
        "-c",
        code,
        *shared_root.command("run", "riscv64", "--", "sh", "-c", "exit 7"),
    ]
    environment = shared_root.environment()
    assert shared_root.identity.run(command, env=environment, cwd=shared_root.tmp, timeout=10).returncode == 7


def test_pid_1_is_there_until_it_was_recorded(shared_root: Crossroot) -> None:
    seen = []

    def look_late(pid: int) -> None:
        time.sleep(0.3)  # the command has ended long ago
        seen.append(state(pid))

    def run() -> None:
        os.environ["CROSSROOT_CACHE"] = str(shared_root.cache)
        plan = session.plan(metadata.open_root("riscv64", shared_root.store), session.Options(cwd=False), ["true"])
        assert (enter.run(plan, terminal=False, started=look_late), seen) == (0, ["Z"])

    run_as(shared_root.identity, run)


# Several sessions, and removal


def test_removal_waits_for_no_session_but_ends_it_by_force(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    with started(crossroot, f"echo ready; {FOREVER}") as one, started(crossroot, f"echo ready; {FOREVER}") as other:
        inits = [init_of(process) for process in (one, other)]
        sessions = json.loads(crossroot.run("info", "riscv64", "--json", check=True).stdout)["sessions"]
        assert sorted(session["pid"] for session in sessions) == sorted(inits)
        refused = crossroot.run("remove", "riscv64")
        assert refused.returncode == 1
        assert all(f"pid {init} " in refused.stderr for init in inits)
        assert sh(crossroot, "echo alive") == "alive\n"
        crossroot.run("remove", "--force", "riscv64", check=True)
        assert [process.wait(10) for process in (one, other)] == [128 + signal.SIGKILL] * 2
    assert json.loads(crossroot.run("list", "--json", check=True).stdout) == []


def test_sessions_of_one_root_share_its_files_and_nothing_else(scrap_root: Crossroot) -> None:
    with started(scrap_root, f"echo 1 > /root/shared; echo 1 > /tmp/own; echo ready; {FOREVER}"):
        script = "cat /root/shared; ls /tmp; ls /proc | grep -c '^[0-9]'"
        content, processes = sh(scrap_root, script, "--no-cwd").split()
        assert (content, int(processes) <= 4) == ("1", True)
