"""crossroot.namespaces: children in namespaces of their own, and id maps."""

import contextlib
import io
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossroot import linux, namespaces
from crossroot.errors import CrossrootError, UsageError
from crossroot.namespaces import IdMap

OWN = namespaces.own_single_map()


def call(function: Callable[[], Any]) -> Any:
    return namespaces.call(lambda _: function(), id_map=OWN)


# Children


def test_a_result_comes_back() -> None:
    assert call(lambda: {"list": [1, "ä", None]}) == {"list": [1, "ä", None]}


def test_a_result_larger_than_a_pipe_comes_back() -> None:
    assert call(lambda: "x" * 1_000_000) == "x" * 1_000_000


def test_errors_come_back_as_they_are() -> None:
    def fail() -> None:
        raise UsageError("the message", hint="the hint")

    with pytest.raises(CrossrootError) as caught:
        call(fail)
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == ("the message", "the hint", 2)


def test_os_errors_come_back_in_words() -> None:
    with pytest.raises(CrossrootError, match=r"^/no/such: No such file or directory$"):
        call(lambda: os.listdir("/no/such"))


def test_other_errors_are_internal_ones_with_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CrossrootError, match="internal error: ZeroDivisionError"):
        call(lambda: 1 // 0)
    assert "Traceback" in capfd.readouterr().err


def test_a_child_that_is_killed_is_an_error() -> None:
    with pytest.raises(CrossrootError, match="ended with status -9 before it was done"):
        call(lambda: os.kill(os.getpid(), signal.SIGKILL))


def test_progress_is_passed_on() -> None:
    seen: list[tuple[int, int | None]] = []

    def work(progress: Any) -> str:
        progress(1, 2)
        progress(2, None)
        return "done"

    assert namespaces.call(work, id_map=OWN, progress=lambda done, total: seen.append((done, total))) == "done"
    assert seen == [(1, 2), (2, None)]


def test_an_interruption_ends_the_child() -> None:
    def interrupt(done: int, total: int | None) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    def work(progress: Any) -> None:
        progress(os.getpid(), None)
        signal.pause()

    with pytest.raises(KeyboardInterrupt):
        namespaces.call(work, id_map=OWN, progress=interrupt)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_the_child_leads_a_session_and_takes_signals_again() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        session, handlers = call(
            lambda: [os.getsid(0) == os.getpid(), [int(signal.getsignal(n)) for n in (2, 15)]]  # type: ignore[arg-type]
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (session, handlers) == (True, [0, 0])


def test_no_descriptors_are_left() -> None:
    before = os.listdir("/proc/self/fd")
    call(lambda: 1)
    with contextlib.suppress(CrossrootError):
        call(lambda: os.listdir("/no/such"))
    assert os.listdir("/proc/self/fd") == before


def test_output_that_is_buffered_is_not_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr("sys.stdout", out)
        print("once")
        call(lambda: 1)
    assert (tmp_path / "out").read_text() == "once\n"


@pytest.mark.userns
def test_the_child_is_root_of_its_mounts(tmp_path: Path) -> None:
    def mount() -> list[bool]:
        linux.move_mount(linux.new_filesystem("tmpfs", {"mode": "0700"}), str(tmp_path))
        (tmp_path / "inside").touch()
        return [os.geteuid() == 0, stat.S_IMODE(tmp_path.stat().st_mode) == 0o700]

    assert call(mount) == [True, True]
    assert list(tmp_path.iterdir()) == []


# Id maps


def test_a_map_survives_json() -> None:
    id_map = IdMap(((0, 1000, 1), (1, 100000, 65536)), ((0, 100, 1),))
    assert IdMap.from_json(id_map.to_json()) == id_map
    assert not id_map.single
    assert IdMap(((0, 1000, 1),), ((0, 100, 1),)).single


def patch_host(
    monkeypatch: pytest.MonkeyPatch,
    *,
    subuid: str,
    subgid: str,
    uid: int = 1000,
    helpers: bool = True,
    ids: int = 1 << 32,
) -> None:
    """Make the caller the user "me" with this uid, on a host with these files and `ids`, and newuidmap if `helpers`."""
    mapped = f"0 500000 {ids - 1}\n"
    files = {"/etc/subuid": subuid, "/etc/subgid": subgid}
    files |= dict.fromkeys(("/proc/self/uid_map", "/proc/self/gid_map"), mapped)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: 100)
    monkeypatch.setattr(namespaces, "_login_name", lambda: "me")
    monkeypatch.setattr(namespaces, "_map_helpers", lambda: ("newuidmap", "newgidmap") if helpers else None)
    monkeypatch.setattr(namespaces, "open", lambda path: io.StringIO(files[path]), raising=False)


def test_root_needs_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_host(monkeypatch, subuid="me:1:2\n", subgid="me:1:2\n", uid=0)
    assert namespaces.own_id_map() is None
    assert namespaces.own_single_map() is None


def test_a_users_map_is_his_own_id_and_then_his_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    subuid = "other:1:5\nme:100000:65536\n# comment\nme:bad:5\nme:7:0\n1000:300000:10\nme2:4:4\n"
    patch_host(monkeypatch, subuid=subuid, subgid="me:200000:65536\n")
    assert namespaces.own_id_map() == IdMap(
        ((0, 1000, 1), (1, 100000, 65536), (65537, 300000, 10)), ((0, 100, 1), (1, 200000, 65536))
    )
    assert namespaces.single_id_reason() == ""


@pytest.mark.parametrize(
    ("subuid", "subgid", "helpers", "reason"),
    [
        ("", "me:1:2\n", True, "/etc/subuid has no range for me: usermod --add-subuids 100000-165535 me"),
        ("me:1:2\n", "", True, "/etc/subgid has no range for me: usermod --add-subgids 100000-165535 me"),
        ("me:1:2\n", "me:1:2\n", False, "newuidmap and newgidmap are not installed: install the package uidmap"),
    ],
)
def test_without_ranges_or_helpers_there_is_one_id_and_a_reason(
    monkeypatch: pytest.MonkeyPatch, subuid: str, subgid: str, helpers: bool, reason: str
) -> None:
    patch_host(monkeypatch, subuid=subuid, subgid=subgid, helpers=helpers)
    single = IdMap(((0, 1000, 1),), ((0, 100, 1),))
    assert namespaces.own_id_map() == single == namespaces.own_single_map()
    assert namespaces.single_id_reason().startswith(reason)


def test_ranges_that_a_container_does_not_have_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    subgid = "me:40000:20000\n"
    patch_host(monkeypatch, subuid="me:100000:65536\nme:40000:20000\n", subgid=subgid, ids=65536)
    assert namespaces.own_id_map() == IdMap(((0, 1000, 1), (1, 40000, 20000)), ((0, 100, 1), (1, 40000, 20000)))
    patch_host(monkeypatch, subuid="me:100000:65536\n", subgid=subgid, ids=65536)
    assert namespaces.own_id_map() == namespaces.own_single_map()
    assert namespaces.single_id_reason() == (
        "this container has no ids beyond 65534, and so none of those of me in /etc/subuid: "
        "usermod --add-subuids 32767-65534 me"
    )


def test_the_identity_map_maps_every_id_to_itself() -> None:
    id_map = namespaces.identity_map()
    assert all(inside == outside for inside, outside, _ in (*id_map.uids, *id_map.gids))
    assert not id_map.single or os.geteuid() != 0


@pytest.mark.parametrize(
    ("sysctls", "cure"),
    [
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, "apparmor_restrict_unprivileged_userns=0"),
        ({"kernel/unprivileged_userns_clone": "0"}, "unprivileged_userns_clone=1"),
        ({"user/max_user_namespaces": "0"}, "user.max_user_namespaces="),
        ({}, "docker run --privileged"),
    ],
)
def test_refused_namespaces_have_a_cure(monkeypatch: pytest.MonkeyPatch, sysctls: dict[str, str], cure: str) -> None:
    monkeypatch.setattr(namespaces, "_sysctl", lambda name: sysctls.get(name, ""))
    assert cure in namespaces.namespace_cure()
