"""`crossroot binfmt`: what it says of every kind of broken handler, and what it does to the table."""

import errno
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import arch as arches
from crossroot import binfmt, binfmt_register, binfmt_rule, binfmt_status, elf, emulator, namespaces, probe
from crossroot.errors import CrossrootError
from tests.support.host import wait_until
from tests.support.identity import Identity
from tests.support.mirror import Mirror
from tests.support.space import TABLE, Space, space

pytestmark = [
    pytest.mark.root,
    pytest.mark.emulation,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

QEMU = {name: str(emulator.find(arches.find(name))) for name in ("riscv64", "s390x", "armv7", "ppc64le", "m68k")}
FOREIGN = [name for name in arches.ALL if name not in ("x86", "x86_64", platform.machine())]


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Space]:
    """Namespaces with handlers of their own."""
    with space(tmp_path, private=True) as made:
        yield made


@pytest.fixture
def host_table(tmp_path: Path) -> Iterator[Space]:
    """Namespaces in which the handlers are the host's: what is registered serves all, so be quick."""
    with space(tmp_path, private=False) as made:
        yield made


def copy_of(name: str, folder: Path) -> Path:
    return Path(shutil.copy(QEMU[name], folder / f"qemu-{name}"))


# --- status: every way in which programs do not run -------------------------------------------------------


def test_no_handler(private: Space) -> None:
    found = private.status("riscv64")
    assert (found["verdict"], found["entry"]) == ("none", "")
    assert found["problem"] == "the kernel has no handler for it"
    assert found["cure"] == "crossroot binfmt register riscv64"


def test_without_flag_f_it_runs_outside_of_roots_only(private: Space) -> None:
    private.add("foreign", "riscv64", QEMU["riscv64"], "OP")
    found = private.status("riscv64")
    assert found["verdict"] == "broken"
    assert found["problem"] == "it runs, but not inside a root, as its entry lacks flag F"
    assert (found["entry"], found["flags"], found["owner"], found["scope"]) == ("foreign", "PO", "unknown", "private")


def test_without_flag_f_an_interpreter_that_is_gone(private: Space, tmp_path: Path) -> None:
    copy = copy_of("riscv64", tmp_path)
    private.add("foreign", "riscv64", copy, "OP")
    copy.unlink()
    found = private.status("riscv64")
    assert (found["verdict"], found["problem"]) == ("broken", f"its interpreter {copy} does not exist")


def test_a_dynamically_linked_interpreter(private: Space) -> None:
    private.add("foreign", "riscv64", "/bin/true", "OPF")
    found = private.status("riscv64")
    assert (found["verdict"], found["static"]) == ("broken", False)
    assert "/bin/true is dynamically linked" in found["problem"]


def test_an_interpreter_on_a_file_system_mounted_noexec(private: Space, tmp_path: Path) -> None:
    private.sh(f"mkdir {tmp_path}/fs; mount -t tmpfs tmpfs {tmp_path}/fs; cp {QEMU['riscv64']} {tmp_path}/fs/qemu")
    private.add("foreign", "riscv64", f"{tmp_path}/fs/qemu", "OPF")
    private.sh(f"mount -o remount,noexec {tmp_path}/fs")
    found = private.status("riscv64")
    problem = f"its interpreter {tmp_path}/fs/qemu lies on a file system mounted noexec"
    assert (found["verdict"], found["problem"]) == ("broken", problem)
    refused = private.crossroot("binfmt", "register", "riscv64", "--qemu", f"{tmp_path}/fs/qemu")
    assert refused.returncode == 1
    assert "is on a file system mounted noexec" in refused.stderr
    assert private.names() == {"foreign"}
    private.add("pathwise", "riscv64", f"{tmp_path}/fs/qemu", "OP")
    assert private.status("riscv64")["problem"] == problem


def test_an_interpreter_that_is_not_executable(private: Space, tmp_path: Path) -> None:
    copy = copy_of("riscv64", tmp_path)
    private.add("foreign", "riscv64", copy, "OP")
    copy.chmod(0o644)
    assert private.status("riscv64")["problem"] == f"its interpreter {copy} is not executable"


def test_an_interpreter_that_is_no_program(private: Space, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello\n")
    text.chmod(0o755)
    private.add("foreign", "riscv64", text, "OPF")
    found = private.status("riscv64")
    assert (found["verdict"], found["entry"]) == ("broken", "foreign")
    assert found["problem"] == f"its interpreter {text} is no program that this host can run"


@pytest.mark.parametrize(("flags", "error"), [("F", errno.ELOOP), ("POF", errno.ENOEXEC)])
def test_an_interpreter_that_is_handled_itself(flags: str, error: int) -> None:
    native = arches.find(platform.machine())

    def work(_: object) -> dict[str, object]:
        binfmt.mount_table()
        binfmt.add(binfmt_rule.rule(native, QEMU["riscv64"], flags, "bad"))
        found = binfmt_status.look(native)
        return {
            "error": probe.run(native).error,
            "verdict": found.verdict,
            "problem": found.problem,
            "cure": found.cure,
        }

    assert namespaces.call(work, id_map=namespaces.identity_map()) == {
        "error": error,
        "verdict": "broken",
        "problem": f"its interpreter {QEMU['riscv64']} is itself taken by the entry bad",
        "cure": f"echo -1 > {TABLE}/bad",
    }


def test_a_lost_argv0_is_told_and_cured(private: Space) -> None:
    private.add("foreign", "riscv64", QEMU["riscv64"], "OF")
    found = private.status("riscv64")
    assert (found["verdict"], found["keeps_argv0"]) == ("emulated", False)
    assert "lacks flag P" in found["problem"]
    private.must("binfmt", "register", "riscv64")
    found = private.status("riscv64")
    assert (found["entry"], found["keeps_argv0"], found["problem"]) == ("crossroot-riscv64", True, "")
    assert found["others"] == [{"entry": "foreign", "enabled": True, "owner": "unknown"}]


def test_debians_wrapper_name_without_flag_p(private: Space) -> None:
    wrapper = "/usr/libexec/qemu-binfmt/riscv64-binfmt-P"
    assert os.path.exists(wrapper)
    private.add("foreign", "riscv64", wrapper, "OF")
    found = private.status("riscv64")
    assert (found["verdict"], found["problem"]) == (
        "broken",
        f"its interpreter {wrapper} needs flag P, which its entry lacks",
    )


def test_an_interpreter_for_another_arch(private: Space) -> None:
    private.add("foreign", "riscv64", QEMU["s390x"], "OPF")
    found = private.status("riscv64")
    assert found["verdict"] == "broken"
    assert "exited with" in found["problem"]


def test_a_replaced_interpreter_is_told_and_cured(private: Space, tmp_path: Path) -> None:
    copy = copy_of("riscv64", tmp_path)
    private.must("binfmt", "register", "riscv64", "--qemu", copy)
    assert private.status("riscv64")["unchanged"] is True
    copy.rename(tmp_path / "before")
    copy_of("riscv64", tmp_path)
    found = private.status("riscv64")
    assert (found["verdict"], found["unchanged"]) == ("emulated", False)
    assert found["problem"] == f"{copy} has been replaced; the file that was there before still runs"
    assert found["cure"] == "crossroot binfmt register --replace riscv64"
    private.must("binfmt", "register", "--replace", "riscv64", "--qemu", copy)
    assert private.status("riscv64")["unchanged"] is True


def test_a_disabled_entry_is_told_and_cured(private: Space) -> None:
    private.add("foreign", "riscv64", QEMU["riscv64"], "OPF")
    private.sh(f"echo 0 > {TABLE}/foreign")
    found = private.status("riscv64")
    assert (found["verdict"], found["problem"]) == ("none", "its entry foreign is disabled")
    private.sh(found["cure"])
    assert private.status("riscv64")["verdict"] == "emulated"


def test_a_disabled_table_is_told_and_cured(private: Space) -> None:
    private.add("foreign", "riscv64", QEMU["riscv64"], "OPF")
    private.sh(f"echo 0 > {TABLE}/status")
    found = private.status("riscv64")
    assert (found["verdict"], found["problem"]) == ("none", "binfmt_misc is disabled as a whole")
    refused = private.crossroot("binfmt", "register", "riscv64")
    assert (refused.returncode, private.names()) == (1, {"foreign"})
    assert "disabled as a whole" in refused.stderr
    private.sh(found["cure"])
    assert private.status("riscv64")["verdict"] == "emulated"


@pytest.mark.parametrize("newest", ["a-foreign", "z-foreign"])
def test_of_duplicates_the_newest_wins(private: Space, tmp_path: Path, newest: str) -> None:
    copy = copy_of("riscv64", tmp_path)
    private.add("m-foreign", "riscv64", QEMU["riscv64"], "OPF")
    private.add(newest, "riscv64", copy, "OPF")
    found = private.status("riscv64")
    # The file that ran is the newest entry's own: no order of names or listing is taken on trust.
    assert (found["entry"], found["interpreter"], found["unchanged"]) == (newest, str(copy), True)
    assert [other["entry"] for other in found["others"]] == ["m-foreign"]
    private.sh(f"echo 0 > {TABLE}/{newest}")
    found = private.status("riscv64")
    assert (found["entry"], found["unchanged"]) == ("m-foreign", True)
    assert found["others"] == [{"entry": newest, "enabled": False, "owner": "unknown"}]


def test_owners_are_known_by_their_records(private: Space) -> None:
    rule = binfmt_rule.rule(arches.find("riscv64"), QEMU["riscv64"], "OPF", "by-systemd").decode()
    private.sh(f"mkdir -p /run/binfmt.d; cat > /run/binfmt.d/x.conf <<'END'\n# comment\n{rule}\nEND\n")
    private.add("by-systemd", "riscv64", QEMU["riscv64"], "OPF")
    assert private.status("riscv64")["owner"] == "systemd"
    private.sh(
        "mkdir /run/lib; mount --bind /run/lib /var/lib; mkdir /var/lib/binfmts; touch /var/lib/binfmts/by-debian"
    )
    private.add("by-debian", "s390x", QEMU["s390x"], "OPF")
    assert private.status("s390x")["owner"] == "binfmt-support"


def test_the_version_is_the_registered_ones(private: Space) -> None:
    private.must("binfmt", "register", "riscv64")
    installed = subprocess.run([QEMU["riscv64"], "--version"], capture_output=True, text=True, check=True).stdout
    assert private.status("riscv64")["version"] == installed.splitlines()[0]


def test_the_cpus_own_arch_is_native(private: Space) -> None:
    found = private.status(platform.machine())
    assert (found["verdict"], found["keeps_argv0"], found["entry"], found["scope"]) == ("native", True, "", "")


def test_the_table_on_paper(private: Space) -> None:
    private.must("binfmt", "register", "riscv64")
    done = private.crossroot("binfmt", "status")
    assert done.returncode == 0, "only arches that were asked for count"
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["ARCH", "VERDICT", "ENTRY", "FLAGS", "OWNER", "SCOPE", "VERSION", "INTERPRETER"]
    assert [line[0] for line in lines[1:]] == list(arches.ALL)
    row = next(line for line in lines if line[0] == "riscv64")
    assert row[1:6] == ["emulated", "crossroot-riscv64", "POF", "crossroot", "private"]
    assert "\x1b" not in done.stdout


def test_a_user_who_cannot_see_the_table_is_told_what_runs(host_table: Space, user: Identity) -> None:
    host_table.must("binfmt", "register", "ppc64le")
    # Root sees it also where binfmt_misc is not mounted.
    assert binfmt_status.look(arches.find("ppc64le")).entry == "crossroot-ppc64le"
    command: list[str | Path] = [user.python, "-m", "crossroot", "binfmt", "status", "ppc64le", "--json"]
    script = f'umount {TABLE}; exec setpriv --reuid={user.uid} --regid={user.gid} --clear-groups "$@"'
    found = json.loads(host_table.run("unshare", "--mount", "sh", "-ec", script, "sh", *command).stdout)[0]
    assert (found["verdict"], found["entry"], found["interpreter"]) == ("emulated", "", QEMU["ppc64le"])
    assert (found["scope"], found["unchanged"]) == ("host", True)


# --- register ---------------------------------------------------------------------------------------------


def test_every_arch_runs_after_register(private: Space) -> None:
    private.must("binfmt", "register", *FOREIGN)
    found = json.loads(private.must("binfmt", "status", *FOREIGN, "--json"))
    facts = {(one["verdict"], one["keeps_argv0"], one["flags"], one["unchanged"], one["problem"]) for one in found}
    assert facts == {("emulated", True, "POF", True, "")}


def test_in_a_user_namespace_it_says_that_it_is_private(private: Space, host_table: Space) -> None:
    before = host_table.entries()
    assert "in this user namespace only" in private.must("binfmt", "register", "m68k")
    assert host_table.entries() == before
    refused = private.crossroot("binfmt", "register", "s390x", "--persist")
    assert refused.returncode == 1
    assert "can't persist" in refused.stderr


def test_a_table_that_was_inherited_is_not_written_to(private: Space) -> None:
    # In a user namespace within that of the table, whose root has the same id and so could.
    before = private.entries()
    nested = ("unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "crossroot")
    done = private.run(*nested, "binfmt", "register", "riscv64")
    assert done.returncode == 0, done.stderr
    assert "in this user namespace only" in done.stderr
    assert private.entries() == before


def test_what_works_is_left_alone(private: Space) -> None:
    private.add("foreign", "riscv64", QEMU["riscv64"], "OPF")
    assert "nothing to do" in private.must("binfmt", "register", "riscv64")
    assert private.names() == {"foreign"}
    private.must("binfmt", "register", "riscv64", "--setuid")
    assert private.names() == {"foreign", "crossroot-riscv64"}
    assert private.status("riscv64")["flags"] == "POCF"
    assert "nothing to do" in private.must("binfmt", "register", "riscv64")


def test_what_the_cpu_runs_is_not_registered(private: Space) -> None:
    assert "nothing to do" in private.must("binfmt", "register", platform.machine())
    assert private.names() == set()


@pytest.mark.parametrize("mask", ["00" * 20, "ffffffff"], ids=["everything", "every ELF file"])
def test_a_rule_that_would_take_the_hosts_own_programs_is_refused_before_writing(private: Space, mask: str) -> None:
    before = private.entries()
    riscv64 = arches.find("riscv64")
    bad = riscv64.but(elf=riscv64.elf.but(magic=riscv64.elf.magic[: len(mask)], mask=mask))
    with pytest.raises(CrossrootError, match="away from the CPU; it was not registered"):
        binfmt_register.install(bad, Path(QEMU["riscv64"]), "POF")
    native = arches.find(platform.machine())
    with pytest.raises(CrossrootError, match="away from the CPU"):
        binfmt_register.install(native, Path(QEMU["riscv64"]), "POF")
    assert private.entries() == before


def test_a_failing_emulator_leaves_everything_as_it_was(private: Space, tmp_path: Path) -> None:
    copy = copy_of("riscv64", tmp_path)
    private.add("foreign", "riscv64", QEMU["riscv64"], "OP")
    private.must("binfmt", "register", "riscv64", "--qemu", copy)
    copy.unlink()  # only the entry still holds the file, so that it could not be registered again
    before = private.entries()
    refused = private.crossroot("binfmt", "register", "riscv64", "--replace", "--qemu", QEMU["s390x"])
    assert refused.returncode == 1
    assert "does not run riscv64 programs" in refused.stderr
    assert private.entries() == before
    assert private.status("riscv64")["verdict"] == "emulated"


def program(folder: Path, code: dict[str, str]) -> Path:
    """A static program for this CPU, of machine code by uname -m, that takes the place of an emulator."""
    native = arches.find(platform.machine())
    file = folder / "qemu-stub"
    elf_facts = native.elf.but(code=code[platform.machine()])
    file.write_bytes(elf.probe_program(native.but(elf=elf_facts)))
    file.chmod(0o755)
    return file


# pause(2) in a loop, or ppoll(2) of nothing
HANGS = {"x86_64": "b8220000000f05ebf7", "aarch64": "000080d2010080d2020080d2030080d2280980d2010000d4faffff17"}
# exit(47), as the probe does when its argv[0] is lost
LOSES_ARGV0 = {"x86_64": "bf2f000000b83c0000000f05", "aarch64": "e00580d2a80b80d2010000d4"}


def test_an_emulator_that_loses_argv0_in_spite_of_flag_p_is_refused(private: Space, tmp_path: Path) -> None:
    before = private.entries()
    refused = private.crossroot("binfmt", "register", "riscv64", "--qemu", program(tmp_path, LOSES_ARGV0))
    assert refused.returncode == 1
    assert "does not keep argv[0]" in refused.stderr
    assert private.entries() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_register_leaves_everything_as_it_was(
    private: Space, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    private.must("binfmt", "register", "riscv64")
    before = private.entries()
    process = private.popen("binfmt", "register", "riscv64", "--replace", "--qemu", program(tmp_path, HANGS))
    try:
        wait_until(lambda: "crossroot-riscv64-trial" in private.names())
        process.send_signal(number)
        assert process.wait(20) == code
    finally:
        process.kill()
        process.communicate()
    assert private.entries() == before


def test_two_at_once_wait_for_each_other(private: Space, tmp_path: Path) -> None:
    first = private.popen("binfmt", "register", "riscv64", "--qemu", program(tmp_path, HANGS))
    second = None
    try:
        wait_until(lambda: "crossroot-riscv64-trial" in private.names())
        second = private.popen("binfmt", "register", "--replace", "riscv64")
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(1)
        first.terminate()
        assert (first.wait(20), second.wait(10)) == (143, 0)
    finally:
        for process in (first, second):
            if process:
                process.kill()
                process.communicate()
    assert private.names() == {"crossroot-riscv64"}


def test_the_rest_of_a_killed_register_is_cleaned_up(private: Space) -> None:
    private.add("crossroot-riscv64-trial", "riscv64", QEMU["s390x"], "POF")
    private.must("binfmt", "register", "riscv64")
    assert private.names() == {"crossroot-riscv64"}
    private.add("crossroot-s390x-trial", "s390x", QEMU["s390x"], "POF")
    private.must("binfmt", "unregister", "--all")
    assert private.names() == set()


def test_one_failure_of_several_is_told_and_the_others_are_done(private: Space) -> None:
    done = private.crossroot("binfmt", "register", "riscv64", "hppa", "s390x", "--setuid", "--qemu", "/bin/true")
    assert done.returncode == 2, "one emulator for three arches"
    private.sh(f"mount --bind {QEMU['m68k']} {QEMU['s390x']}")
    done = private.crossroot("binfmt", "register", "riscv64", "s390x", "m68k")
    assert done.returncode == 1
    assert "s390x" in done.stderr
    assert private.names() == {"crossroot-riscv64", "crossroot-m68k"}


def test_only_root_may(user: Identity, host_table: Space) -> None:
    before = host_table.entries()
    for verb in ("register", "unregister"):
        done = user.run([user.python, "-m", "crossroot", "binfmt", verb, "riscv64"])
        assert done.returncode == 1
        assert "only root" in done.stderr
        assert "sudo crossroot binfmt" in done.stderr
    assert host_table.entries() == before


def test_where_private_handlers_are_refused_a_session_of_root_registers_one_and_says_so(private: Space) -> None:
    private.sh("echo 0 > /proc/sys/user/max_user_namespaces")  # of this user namespace only
    code = "from crossroot import arch, handlers; print(handlers.choose(arch.find('riscv64')).scope)"
    done = private.run(sys.executable, "-c", code)
    assert done.stdout == "host\n", done.stderr
    assert "undo with: crossroot binfmt unregister riscv64" in done.stderr
    assert private.names() == {"crossroot-riscv64"}
    again = private.run(sys.executable, "-c", code)
    assert (again.stdout, again.stderr) == ("host\n", ""), "the second time it is there"


# --- unregister -------------------------------------------------------------------------------------------


def test_armhf_and_armv7_share_a_rule_and_neither_breaks_the_other(private: Space) -> None:
    private.must("binfmt", "register", "armv7")
    assert private.status("armhf")["verdict"] == "emulated"
    private.must("binfmt", "register", "armhf")
    private.must("binfmt", "unregister", "armv7")
    assert private.names() == {"crossroot-armhf"}
    assert private.status("armv7")["verdict"] == private.status("armhf")["verdict"] == "emulated"
    assert "still served by crossroot-armhf" in private.must("binfmt", "unregister", "armv7", "--force")
    private.must("binfmt", "register", "armv7")
    private.must("binfmt", "unregister", "armhf")
    assert private.names() == {"crossroot-armv7"}
    private.must("binfmt", "unregister", "armv7")
    assert private.names() == set()


def test_foreign_entries_need_force_and_are_named(private: Space) -> None:
    private.add("foreign", "riscv64", QEMU["riscv64"], "OPF")
    private.add("other", "s390x", QEMU["s390x"], "OPF")
    refused = private.crossroot("binfmt", "unregister", "riscv64")
    assert refused.returncode == 1
    assert "foreign (owner: unknown)" in refused.stderr
    assert private.names() == {"foreign", "other"}
    assert "registered nothing" in private.must("binfmt", "unregister", "--all")
    assert private.names() == {"foreign", "other"}
    assert "unregistered foreign" in private.must("binfmt", "unregister", "--force", "riscv64")
    assert private.names() == {"other"}
    assert private.crossroot("binfmt", "unregister", "--all", "--force").returncode == 2


def test_unregister_of_nothing_is_done_already(private: Space) -> None:
    assert "nothing to do" in private.must("binfmt", "unregister", "riscv64")
    assert private.crossroot("binfmt", "unregister").returncode == 2


# --- the host's own table ---------------------------------------------------------------------------------


def test_all_of_alpines_run_after_register_all_and_none_is_left_after_unregister_all(
    host_table: Space, mirror: Mirror, tmp_path: Path
) -> None:
    before = host_table.entries()
    roots = {
        name: unpacked(mirror, name, tmp_path) for name in ("aarch64", "armv7", "riscv64") if name in mirror.arches
    }
    try:
        host_table.must("binfmt", "register", "--all")
        names = [arch.name for arch in arches.ALPINE]
        found = json.loads(host_table.must("binfmt", "status", *names, "--json"))
        assert [one["verdict"] in ("native", "emulated") for one in found] == [True] * 9
        said = {
            name: host_table.sh(f"chroot {root} /bin/sh -c 'echo $0 $((6*7))'").strip() for name, root in roots.items()
        }
    finally:
        host_table.must("binfmt", "unregister", "--all")
    assert said == dict.fromkeys(roots, "/bin/sh 42")
    assert host_table.entries() == before


def unpacked(mirror: Mirror, name: str, folder: Path) -> Path:
    """A rootfs that nothing of crossroot's has made: the archive of a mirror, unpacked by Python."""
    releases = f"{mirror.url}/latest-stable/releases/{name}"
    with urllib.request.urlopen(f"{releases}/latest-releases.yaml") as index:
        file = re.search(r"file: (alpine-minirootfs\S+)", index.read().decode())
    assert file is not None
    root = folder / name
    root.mkdir()
    with urllib.request.urlopen(f"{releases}/{file[1]}") as archive, tarfile.open(fileobj=archive, mode="r|*") as tar:
        tar.extractall(root)
    return root


def test_binfmt_misc_is_mounted_if_needed_and_stays(tmp_path: Path) -> None:
    with space(tmp_path, private=False, mounted=False) as bare:
        bare.must("binfmt", "register", "m68k")
        assert bare.status("m68k")["verdict"] == "emulated"
        assert "crossroot-m68k" in bare.names()


@pytest.mark.network
@pytest.mark.slow
def test_an_emulator_that_is_missing_is_fetched(host_table: Space) -> None:
    host_table.hide_emulators()
    host_table.must("binfmt", "register", "m68k")
    found = host_table.status("m68k")
    assert found["verdict"] == "emulated"
    assert found["interpreter"].startswith(f"{host_table.folder}/cache/emulators/m68k/")


# --- persist ----------------------------------------------------------------------------------------------

CONF = "/etc/binfmt.d/crossroot-m68k.conf"


def test_persist_writes_a_file_and_says_what_the_init_needs(host_table: Space) -> None:
    said = host_table.must("binfmt", "register", "m68k", "--persist")
    assert f"wrote {CONF}" in said
    assert "nothing here reads /etc/binfmt.d at start" in said
    rule = binfmt_rule.rule(arches.find("m68k"), QEMU["m68k"], "POF").decode()
    assert host_table.sh(f"cat {CONF}").splitlines()[1:] == [rule]
    assert host_table.sh("stat -c %a /etc/binfmt.d/*; ls -A /etc/binfmt.d") == "644\ncrossroot-m68k.conf\n"
    host_table.sh("mkdir /run/openrc")
    assert "rc-update add binfmt boot" in host_table.must("binfmt", "register", "m68k", "--persist")
    host_table.must("binfmt", "unregister", "m68k")
    assert host_table.sh("ls -A /etc/binfmt.d") == ""
    assert "crossroot-m68k" not in host_table.names()


def test_where_systemd_runs_only_that_file_is_applied(host_table: Space) -> None:
    host_table.sh("mkdir -p /run/systemd/system")
    host_table.add("foreign-python", "hppa", QEMU["s390x"], "")
    before = host_table.entries()
    said = host_table.must("binfmt", "register", "m68k", "--persist", "--setuid")
    assert "at start" not in said
    assert host_table.status("m68k")["flags"] == "POCF"
    host_table.must("binfmt", "unregister", "--all")
    assert host_table.entries() == before
    host_table.sh("echo -1 > /proc/sys/fs/binfmt_misc/foreign-python")


def test_the_file_does_what_it_says_at_the_next_start(host_table: Space) -> None:
    host_table.must("binfmt", "register", "m68k", "--persist")
    host_table.sh(f"echo -1 > {TABLE}/crossroot-m68k; /usr/lib/systemd/systemd-binfmt {CONF}")
    found = host_table.status("m68k")
    assert (found["verdict"], found["entry"], found["flags"]) == ("emulated", "crossroot-m68k", "POF")


@pytest.mark.parametrize("half", ["", "# Written by `cross", ":crossroot-m68k:M:0:\\x7f", "mine\n"])
def test_a_half_written_or_foreign_file_is_not_overwritten(host_table: Space, half: str) -> None:
    before = host_table.entries()
    host_table.run("sh", "-c", f"cat > {CONF}", input=half.encode())
    for command in (["register", "m68k", "--persist"], ["unregister", "m68k"]):
        refused = host_table.crossroot("binfmt", *command)
        assert refused.returncode == 1
        assert f"{CONF} is not as crossroot writes it" in refused.stderr
        assert host_table.sh(f"cat {CONF}") == half
    assert host_table.entries() == before
    host_table.must("binfmt", "register", "m68k", "--persist", "--replace")
    host_table.must("binfmt", "register", "m68k", "--persist")
    host_table.must("binfmt", "unregister", "m68k")
    assert host_table.sh("ls -A /etc/binfmt.d") == ""


def test_a_truncated_file_of_our_own_is_recognised(host_table: Space) -> None:
    host_table.must("binfmt", "register", "m68k", "--persist")
    host_table.sh(f"truncate -s -1 {CONF}")
    assert host_table.crossroot("binfmt", "register", "m68k", "--persist").returncode == 1


def test_a_file_that_comes_later_at_start_is_named(host_table: Space) -> None:
    rule = binfmt_rule.rule(arches.find("m68k"), QEMU["m68k"], "POF", "qemu-m68k").decode()
    host_table.sh(f"cat > /usr/lib/binfmt.d/qemu-m68k.conf <<'END'\n{rule}\nEND\n")
    said = host_table.must("binfmt", "register", "m68k", "--persist")
    assert re.search(r"/usr/lib/binfmt.d/qemu-m68k.conf comes later and wins", said)


def test_a_failing_register_leaves_the_file_as_it_was(host_table: Space) -> None:
    host_table.must("binfmt", "register", "m68k", "--persist")
    before = host_table.sh(f"cat {CONF}")
    done = host_table.crossroot("binfmt", "register", "m68k", "--persist", "--replace", "--qemu", QEMU["s390x"])
    assert done.returncode == 1
    assert host_table.sh(f"cat {CONF}") == before
    assert host_table.status("m68k")["verdict"] == "emulated"


def test_a_file_that_cannot_be_written_registers_nothing(host_table: Space) -> None:
    before = host_table.entries()
    host_table.sh("mount -o remount,ro /etc/binfmt.d")
    done = host_table.crossroot("binfmt", "register", "m68k", "--persist")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert host_table.entries() == before
