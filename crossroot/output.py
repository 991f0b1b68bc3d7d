"""A file or stream that the user names for what a command makes: in place as a whole, or not at all."""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from crossroot.errors import CrossrootError

STDOUT = "-"
_BUFFER = 1 << 20  # bytes


@contextmanager
def writing(descriptor: int, output: str) -> Iterator[Callable[[bytes], object]]:
    """Write to a descriptor in large pieces. output: its name for messages."""
    with explaining(output), open(descriptor, "wb", buffering=_BUFFER, closefd=False) as stream:
        yield stream.write


@contextmanager
def written(output: str) -> Iterator[int]:
    """A descriptor whose content becomes the file `output`, in one step when all is written; or that of a stream.

    Raises CrossrootError, and the file is what it was before.
    """
    path = new_file(output)
    if path is None:
        with explaining(output):
            descriptor = (
                os.dup(sys.stdout.fileno()) if output == STDOUT else os.open(output, os.O_WRONLY | os.O_CLOEXEC)
            )
        try:
            yield descriptor
        finally:
            os.close(descriptor)
        return
    part = path.with_name(hidden_name())
    try:
        with explaining(output):
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            yield descriptor
            with explaining(output):
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with explaining(output):
            part.rename(path)
    except BaseException:
        if os.path.lexists(part):  # also when a signal came right after it was made
            part.unlink()
        raise


def new_file(output: str) -> Path | None:
    """The path that a regular file or folder called `output` has, behind links; None for a pipe or device."""
    if output == STDOUT:
        return None
    path = Path(os.path.realpath(output))
    if os.path.exists(output) and not stat.S_ISREG(os.stat(output).st_mode) and not path.is_dir():
        return None
    return path


def hidden_name() -> str:
    """A name for what is not in place yet."""
    return f".crossroot-{os.urandom(4).hex()}.part"


@contextmanager
def explaining(output: str) -> Iterator[None]:
    """Turn errors of the kernel, met while writing `output`, into CrossrootError."""
    try:
        yield
    except OSError as error:
        name = "stdout" if output == STDOUT else output
        hints = {errno.ENOSPC: "free some space", errno.EDQUOT: "free some of your quota", errno.EPIPE: ""}
        raise CrossrootError(
            f"cannot write {name}: {error.strerror}", hint=hints.get(error.errno or 0, "check the path")
        ) from error
