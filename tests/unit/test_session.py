"""crossroot.session: what a session is planned to be, from options, environment and the current folder."""

import os
import pwd
from pathlib import Path

import pytest

from crossroot import arch, session
from crossroot.errors import CrossrootError, UsageError
from crossroot.handlers import Handler
from crossroot.metadata import Root
from crossroot.mounts import Bind, Content
from crossroot.session import Options, Session
from tests.support.roots import root_in

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NATIVE = arch.find(os.uname().machine).name


def root(folder: Path, **changes: object) -> Root:
    data = root_in(folder, "name").to_json()
    defaults = {"arch": NATIVE, "binds": [], "env": {}, "binfmt": "auto"}
    return Root.from_json({**data, **defaults, **changes}, str(folder / "roots/name"))


# Environment


def test_the_environment_is_clean_but_for_term_and_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        monkeypatch.delenv(name)
    assert session.environment(root(tmp_path), Handler("host")) == {
        "TERM": "dumb",
        "LANG": "C.UTF-8",
        "PATH": PATH,
        "QEMU_CPU": "rv64",
    }
    kept = {"TERM": "xterm", "http_proxy": "http://p", "HTTPS_PROXY": "s", "ftp_proxy": "f", "ALL_PROXY": "a"}
    for name, value in {**kept, "no_proxy": "", "SECRET": "1", "LANG": "de", "LD_PRELOAD": "x", "HOME": "/h"}.items():
        monkeypatch.setenv(name, value)
    expected = {**kept, "no_proxy": "", "LANG": "C.UTF-8", "PATH": PATH}
    assert session.environment(root(tmp_path), Handler("native")) == expected


@pytest.mark.parametrize(
    ("profiled", "handler", "cpu"),
    [
        ("", Handler("private", "/q", "10.0.2", "max,ztso=off"), "max,ztso=off"),
        ("", Handler("host", "/q", "7.2.22"), None),
        ("", Handler("native"), None),
        ("rv64", Handler("private", "/q", "10.0.2", "max,ztso=off"), "rv64"),
        ("rv64", Handler("native"), None),
    ],
)
def test_the_cpu_is_that_of_the_profile_or_the_fastest(
    tmp_path: Path, profiled: str, handler: Handler, cpu: str | None
) -> None:
    inside = session.environment(root(tmp_path, arch="riscv64", qemu_cpu=profiled), handler)
    assert inside.get("QEMU_CPU") == cpu


def test_the_profiles_environment_comes_before_the_clean_one(tmp_path: Path) -> None:
    profiled = root(tmp_path, env={"LANG": "C", "QEMU_CPU": "max", "CFLAGS": "-O2"})
    inside = session.environment(profiled, Handler("private"))
    assert (inside["LANG"], inside["QEMU_CPU"], inside["CFLAGS"]) == ("C", "max", "-O2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("A=1", ("A", "1")), ("A=", ("A", "")), ("A=b=c", ("A", "b=c")), ("PASSED", ("PASSED", "on"))],
)
def test_env_settings(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, str]) -> None:
    monkeypatch.setenv("PASSED", "on")
    assert session.parse_env(text) == expected


@pytest.mark.parametrize("text", ["", "=x", "A\0=x", "NOT_SET"])
def test_bad_env_settings(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(UsageError) as caught:
        session.parse_env(text)
    assert "--env" in caught.value.hint


# Binds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/etc", Bind("/etc", "/etc")),
        ("/etc:/x", Bind("/etc", "/x")),
        ("/etc:/x/../y/", Bind("/etc", "/y")),
        ("/etc:/x:ro", Bind("/etc", "/x", readonly=True)),
        ("/etc:/x:rw", Bind("/etc", "/x")),
        ("/etc::ro", Bind("/etc", "/etc", readonly=True)),
        ("/etc/../etc/passwd", Bind("/etc/passwd", "/etc/passwd")),
        ("/:/host", Bind("/", "/host")),
    ],
)
def test_binds(text: str, expected: Bind) -> None:
    assert session.parse_bind(text) == expected


def test_a_binds_source_is_relative_to_the_current_folder_or_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = Bind(str(tmp_path / "data"), "/data")
    assert session.parse_bind("data:/data") == expected
    assert session.parse_bind("~/data:/data") == expected


@pytest.mark.parametrize("text", ["", ":/x", "/etc:/x:", "/etc:/x:rox", "/etc:/x:ro:", "/etc:x", "/etc:/", "/"])
def test_bad_binds(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        session.parse_bind(text)
    assert "--bind SRC:" in caught.value.hint or "--bind SRC[" in caught.value.hint


def test_a_bind_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CrossrootError, match="no such file or folder"):
        session.parse_bind(f"{tmp_path}/missing:/x")


# The current folder


@pytest.mark.parametrize(
    "folder",
    [
        *("/", "/home", "/home/somebody", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var"),
        *("/bin", "/boot", "/dev", "/dev/shm/x", "/etc", "/etc/x", "/lib", "/lib64/x", "/proc/1", "/sbin", "/sys/x"),
        *("/usr", "/usr/share/x", "/usr/src", "/usr/local", "/usr/local/src", "/my/home", "/sudo/home"),
    ],
)
def test_folders_that_a_session_does_not_show(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    patch_folders(monkeypatch, folder)
    assert session.bound_cwd() == ""


@pytest.mark.parametrize(
    "folder",
    [
        *("/home/somebody/src", "/root/src", "/tmp/x", "/var/tmp/x", "/mnt/disk", "/opt/x", "/srv/x", "/my/home/src"),
        *("/usr/src/linux", "/usr/local/src/x", "/etcetera", "/library", "/my/homework", "/work", "/run/user/1/x"),
    ],
)
def test_folders_that_a_session_shows(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    patch_folders(monkeypatch, folder)
    assert session.bound_cwd() == folder


def patch_folders(monkeypatch: pytest.MonkeyPatch, current: str) -> None:
    """Make `current` the current folder, /my/home the caller's home, /sudo/home that of who called sudo."""
    homes = {os.getuid(): "/passwd/home", 4242: "/sudo/home"}
    monkeypatch.setattr(os, "getcwd", lambda: current)
    monkeypatch.setenv("HOME", "/my/home/")
    monkeypatch.setenv("SUDO_UID", "4242")
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: pwd.struct_passwd(("", "x", uid, uid, "", homes[uid], "")))


def test_a_home_behind_a_link_is_still_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real/src").mkdir(parents=True)
    (tmp_path / "home").symlink_to("real")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    assert session.bound_cwd() == ""
    monkeypatch.chdir(tmp_path / "home/src")
    assert session.bound_cwd() == str(tmp_path / "real/src")


def test_a_folder_that_was_deleted_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert session.bound_cwd() == ""


def test_a_sudo_uid_that_is_no_number_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", "nobody")
    monkeypatch.chdir(tmp_path)
    assert session.bound_cwd() == str(tmp_path)


# The whole plan, for the CPU's own arch, which needs nothing of the host


def test_a_plan_is_made_of_options_over_the_roots_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = root(tmp_path, binds=["/etc:/etc-of-host:ro"], env={"A": "1", "B": "1"}, user="guest", shell="/bin/bash")
    options = Options(binds=("/usr:/usr-of-host",), env=("A=2",), user="1:2", workdir="/w", network=False)
    plan = session.plan(own, options, ["make", "check"])
    assert (plan.user, plan.workdir, plan.shell, plan.command) == ("1:2", "/w", "/bin/bash", ("make", "check"))
    assert (plan.rootfs, plan.hostname, plan.network) == (str(own.rootfs), "name", False)
    assert (plan.handler, plan.id_map, plan.env["A"], plan.env["B"]) == (Handler("native"), own.id_map, "2", "1")
    assert [step for step in plan.mounts if isinstance(step, Bind)][-3:] == [
        Bind(str(tmp_path), str(tmp_path)),
        Bind("/etc", "/etc-of-host", readonly=True),
        Bind("/usr", "/usr-of-host"),
    ]
    assert not any(isinstance(step, Content) for step in plan.mounts)


def test_a_plan_without_options_is_as_the_root_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = session.plan(root(tmp_path, user="guest"), Options(), ())
    assert (plan.user, plan.workdir, plan.command, plan.network) == ("guest", str(tmp_path), (), True)
    assert session.plan(root(tmp_path), Options(cwd=False), ()).workdir == ""


def test_a_root_of_another_id_map_is_refused(tmp_path: Path) -> None:
    foreign = root(tmp_path, id_map={"uids": [[0, 4711, 1]], "gids": [[0, 4711, 1]]})
    with pytest.raises(CrossrootError, match="another id map") as caught:
        session.plan(foreign, Options(), ())
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "scope", "narrow"),
    [("x86", "native", True), ("armv7", "native", True), ("x86", "private", False), ("x86_64", "native", False)],
)
def test_only_a_32_bit_mode_of_the_cpu_has_to_be_told_to_uname(name: str, scope: str, narrow: bool) -> None:
    plan = Session("/", "h", arch.find(name), Handler(scope), None, (), True, "root", "", "", (), {})
    assert plan.narrow is narrow
