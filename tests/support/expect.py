"""What every failed command has to look like, and what a store has to look like after one."""

import fcntl
import os
import subprocess
from pathlib import Path

from tests.support.host import wait_until


def error(result: "subprocess.CompletedProcess[str]", text: str, status: int = 1) -> str:
    """The command failed with `status` and said so in one line with `text` and a hint, nothing else; the hint."""
    said = result.stderr
    assert result.returncode == status, f"status {result.returncode} instead of {status}: {said}"
    assert "Traceback" not in said
    assert result.stdout == ""
    lines = said.splitlines()
    errors = [at for at, line in enumerate(lines) if line.startswith("crossroot: error: ")]
    assert len(errors) == 1, f"not one error but {len(errors)}: {said}"
    assert text in lines[errors[0]], said
    hint = lines[errors[0] + 1] if len(lines) > errors[0] + 1 else ""
    assert hint.startswith("  hint: "), f"no hint: {said}"
    return hint.removeprefix("  hint: ")


def roots(store: Path, *names: str) -> None:
    """The store holds these roots and nothing unfinished; there may be no store, if there are to be no roots."""
    found = {part: sorted(os.listdir(store / part)) if store.exists() else [] for part in ("roots", "unfinished")}
    assert found == {"roots": sorted(names), "unfinished": []}


def free(store: Path, name: str) -> None:
    """The processes that hold the root's lock are gone, or will be in a moment, as after the death of their parent."""

    def is_free() -> bool:
        try:
            with open(store / "locks" / name) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return True
        except BlockingIOError:
            return False
        return True

    wait_until(is_free)
