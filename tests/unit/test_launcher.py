"""crossroot.launcher: the ways to start Python; the rest is in tests/integration/test_launcher.py."""

import subprocess
import sys
from pathlib import Path

import pytest

from crossroot import launcher


def test_the_interpreter_is_named_as_the_kernel_wants_it() -> None:
    assert launcher._start("/usr/bin/python3") == "#!/usr/bin/python3 -IS"


@pytest.mark.parametrize("name", ["with a space", "x" * 130, "with 'quotes' and a space"])
def test_paths_that_a_first_line_cannot_hold(tmp_path: Path, name: str) -> None:
    python = tmp_path / name
    python.symlink_to(sys.executable)
    script = tmp_path / "script"
    script.write_text(f"{launcher._start(str(python))}\nimport sys\nprint(sys.argv[1:], sys.flags.no_site)\n")
    script.chmod(0o755)
    result = subprocess.run([script, "a b", "c"], capture_output=True, text=True, check=True)
    assert result.stdout == "['a b', 'c'] 1\n"
