"""Archives that hypothesis draws, as hostile as it can, unpacked as `create` does it: a tree as expected, or an error,
and nothing outside of the destination has changed.

`make test` tries some, `make test-long` many, SEED=random others.
"""

import os
import time
from pathlib import Path

import hypothesis
import pytest

from tests.support import hostile, unpacker
from tests.support.figures import Figures
from tests.support.identity import Crossroot

pytestmark = [pytest.mark.userns, pytest.mark.timeout(600)]

PATIENCE = 20  # seconds for one archive
UNEXPECTED = ("internal error", "a worker process ended", "there is not enough memory")  # namespaces.call's own errors


def make_outside(crossroot: Crossroot) -> Path:
    """A folder beside the destination with something of each kind in it; its owner is who unpacks."""
    outside = crossroot.tmp / "outside"
    script = 'mkdir -p "$0/folder"; echo alive >"$0/file"; ln "$0/file" "$0/folder/same"; ln -s file "$0/link"'
    crossroot.identity.run(["sh", "-ec", script, outside], check=True)
    return outside


def state(top: Path) -> list[tuple[object, ...]]:
    """All below `top` but the destination: content, and what changes with any write to an inode, its ctime for one."""
    found: list[tuple[object, ...]] = []
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(set(folders) - {"destination"})
        for name in [".", *folders, *sorted(files)]:
            path = Path(folder, name)
            status = path.lstat()
            if path in (top, top / "archive"):
                continue  # written by the test itself
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found.append((path, status.st_mode, status.st_ino, status.st_nlink, status.st_ctime_ns, content))
    return found


@pytest.mark.parametrize("count", [50, pytest.param(400, marks=pytest.mark.long)])
def test_any_archive_becomes_what_it_says_or_an_error(count: int, crossroot: Crossroot, figures: Figures) -> None:
    outside = make_outside(crossroot)
    with unpacker.start(crossroot) as unpack:

        @hypothesis.settings(max_examples=count, suppress_health_check=list(hypothesis.HealthCheck))
        @hypothesis.given(archive=hostile.archives(bytes(outside)))
        def unpacks(archive: hostile.Archive) -> None:
            before, started = state(crossroot.tmp), time.monotonic()
            done = unpack(archive.data)
            assert time.monotonic() - started < PATIENCE
            assert state(crossroot.tmp) == before
            assert not done.get("error", "").startswith(UNEXPECTED), done
            figures.add("archives tried")
            if archive.entries is not None:
                check(done, archive.entries)

        unpacks()


def check(done: dict[str, object], entries: tuple[hostile.Entry, ...]) -> None:
    try:
        expected = hostile.expected(entries)
    except hostile.Refused as refused:
        hypothesis.event(f"refused: {refused}")
        assert "error" in done, f"should be refused: {refused}"
        return
    assert "tree" in done, done
    hypothesis.event(f"a tree of {min(len(expected), 9)} entries")
    found: dict[str, list[object]] = done["tree"]  # type: ignore[assignment]
    for name, wanted in expected.items():
        if name in found and wanted[4] is None:
            found[name][4] = None
    assert {name: tuple(value) for name, value in found.items()} == expected
