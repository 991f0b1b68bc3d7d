"""crossroot.mounts: the plan as data."""

import pytest

from crossroot import linux, mounts
from crossroot.errors import CrossrootError
from crossroot.mounts import Bind, Content, Folder, Link, Mask, New, ReadOnly, Script, Step


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Bind("/a", "/b"), "bind /a on /b"),
        (Bind("/a", "/b", readonly=True), "bind /a on /b read-only"),
        (New("tmpfs", "/tmp", {}), "mount tmpfs on /tmp"),
        (Content(b"abc", "/etc/x"), "mount 3 bytes on /etc/x"),
        (Link("/proc/self/fd", "/dev/fd"), "link /dev/fd to /proc/self/fd"),
        (Folder("/dev/pts"), "make folder /dev/pts"),
        (Script("#!/bin/sh", "/dev/x/cc"), "write the script /dev/x/cc"),
        (ReadOnly("/proc/sys"), "make /proc/sys read-only"),
        (Mask("/proc/keys"), "mask /proc/keys"),
    ],
)
def test_steps_in_words(step: Step, words: str) -> None:
    assert mounts.describe(step) == words


def test_no_device_file_system_is_the_hosts() -> None:
    kinds = [step.fstype for step in mounts.standard() if isinstance(step, New)]
    assert sorted(kinds) == ["devpts", "proc", "tmpfs", "tmpfs", "tmpfs"]


def test_only_dev_and_its_terminals_may_hold_devices() -> None:
    for step in mounts.standard():
        if isinstance(step, New):
            assert step.attributes & linux.MOUNT_ATTR_NOSUID
            assert bool(step.attributes & linux.MOUNT_ATTR_NODEV) == (step.target not in ("/dev", "/dev/pts"))


def test_whatever_lies_below_a_mount_comes_after_it() -> None:
    targets = [step.target for step in mounts.standard()]
    for number, target in enumerate(targets):
        assert not any(earlier.startswith(target + "/") for earlier in targets[:number])


def test_sys_is_read_only() -> None:
    assert [step for step in mounts.standard() if step.target == "/sys"] == [Bind("/sys", "/sys", readonly=True)]


def test_what_cannot_be_mounted_is_named() -> None:
    with pytest.raises(CrossrootError, match="cannot bind /no/such on /x: No such file or directory"):
        mounts.prepare([Bind("/no/such", "/x")], say=lambda _: None)
