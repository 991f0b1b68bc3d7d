"""crossroot.overlay: sizes, and what is said when the kernel refuses; the rest is in test_ephemeral.py."""

import errno

import pytest

from crossroot import overlay
from crossroot.cli import sessions
from crossroot.errors import CrossrootError, UsageError


@pytest.mark.parametrize("text", ["1", "500m", "2G", "30%", "65536", "12k"])
def test_sizes_that_tmpfs_understands(text: str) -> None:
    assert overlay.check_size(text) == text


@pytest.mark.parametrize("text", ["", "0", "0m", "-1", "1x", "1 m", "2gb", "1.5g", "%", "10m,mode=0777", "1\n"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        overlay.check_size(text)


def test_no_size_without_an_overlay() -> None:
    assert sessions.overlay_size(False, "") == ""
    assert sessions.overlay_size(True, "") == overlay.DEFAULT_SIZE
    assert sessions.overlay_size(True, "5m") == "5m"
    with pytest.raises(UsageError, match="--size is for ephemeral sessions only"):
        sessions.overlay_size(False, "5m")


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENODEV, "modprobe"), (errno.EINVAL, "CROSSROOT_STORE"), (errno.EPERM, "copy")]
)
def test_a_refusal_says_what_to_do(code: int, hint: str) -> None:
    error = overlay._refused("/r", OSError(code, "no"))
    assert isinstance(error, CrossrootError)
    assert error.message == "cannot lay an overlay over /r: no"
    assert hint in error.hint
