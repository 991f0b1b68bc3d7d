"""What a process has run short of is told by its error, however it came here."""

import errno

import pytest

from crossroot import namespaces
from crossroot.errors import CrossrootError, shortage_cure


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (OSError(errno.EMFILE, "x"), "ulimit -n"),
        (OSError(errno.EAGAIN, "x"), "ulimit -u"),
        (OSError(errno.ENOMEM, "x"), "ulimit -v"),
        (MemoryError(), "ulimit -v"),
        (ImportError("libssl.so.3: failed to map segment from shared object"), "ulimit -v"),
    ],
)
def test_the_cure_is_found_at_the_end_of_the_causes(error: Exception, cure: str) -> None:
    ours = CrossrootError("cannot", hint="look elsewhere")
    ours.__cause__ = error
    assert cure in shortage_cure(error)
    assert shortage_cure(ours) == shortage_cure(error)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "x"), ImportError("no x"), CrossrootError("x"), None])
def test_other_errors_keep_their_hints(error: BaseException | None) -> None:
    assert shortage_cure(error) == ""


def test_a_shortage_in_a_child_keeps_its_cure() -> None:
    def short(_: object) -> None:
        raise CrossrootError("cannot mount", hint="look elsewhere") from OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(CrossrootError, match="cannot mount") as caught:
        namespaces.call(short, id_map=None, flags=0)
    assert caught.value.hint == "allow more open files: ulimit -n 1024"


def test_a_child_without_memory_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    def short(_: object) -> None:
        raise MemoryError

    with pytest.raises(CrossrootError, match="not enough memory"):
        namespaces.call(short, id_map=None, flags=0)
    assert capfd.readouterr().err == ""
