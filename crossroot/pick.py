"""Take one file out of a tar stream, without unpacking the rest."""

import shutil
import tarfile
from collections.abc import Collection
from typing import IO

from crossroot.errors import CrossrootError


def pick(stream: IO[bytes], names: Collection[str], target: IO[bytes], *, limit: int) -> str:
    """Copy the first regular file of a tar that is called one of `names`, exactly, to `target`.

    stream: an uncompressed tar, read no further than needed. limit: bytes the file may have at most.
    Gives the name found, "" if there is no such file. Raises CrossrootError for a broken tar or a larger file.
    """
    try:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if member.name in names and member.isreg():
                    if member.size > limit:
                        raise CrossrootError(f"{member.name} has {member.size} bytes, more than the {limit} expected")
                    content = tar.extractfile(member)
                    assert content is not None  # it is a regular file
                    shutil.copyfileobj(content, target)
                    return member.name
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise CrossrootError(f"it holds no sound tar: {error}") from error
    return ""
