"""Every parser of ours takes whatever it is given, or says what is wrong with it.

`make test` mutates a few sound inputs; `make test-long` lets libFuzzer look for new ways through the code.
"""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, kept
from tests.support.figures import Figures
from tests.support.mirror import REPOSITORY

SECONDS = 6  # of libFuzzer for each target
MUTATIONS = 200
INSERTED = (b"\n", b":", b"=", b'"', b"\\", b"[", b"{", b"9" * 5000, b"\xff", b"-1", b"../")
NAMES = pytest.mark.parametrize("name", TARGETS)


@NAMES
def test_what_once_failed_and_what_is_sound(name: str) -> None:
    for data in (*TARGETS[name].seeds, *kept(name), b"", b"\0", b"\n", b"\xff" * 100, b"[" * 20_000):
        TARGETS[name](data)


@NAMES
def test_mutations(name: str, chance: random.Random, figures: Figures) -> None:
    target = TARGETS[name]
    for _ in range(MUTATIONS):
        data = bytearray(chance.choice(target.seeds))
        for _ in range(chance.randint(1, 4)):
            mutate(data, chance)
        target(bytes(data))
    figures.add("fuzzed executions", MUTATIONS)


def mutate(data: bytearray, chance: random.Random) -> None:
    """Change, cut out, double or insert something anywhere."""
    at = chance.randrange(len(data) + 1)
    end = min(len(data), at + chance.randint(1, 20))
    match chance.randrange(4):
        case 0:
            data[at:end] = chance.randbytes(end - at)
        case 1:
            del data[at:end]
        case 2:
            data[at:at] = data[at:end] * chance.choice([1, 2, 1000])
        case 3:
            data[at:at] = chance.choice(
                [b"\n", b":", b"=", b'"', b"\\", b"[", b"{", b"9" * 5000, b"\xff", b"-1", b"../"]
            )


@pytest.mark.long
@NAMES
def test_coverage_guided(name: str, tmp_path: Path, pytestconfig: pytest.Config, figures: Figures) -> None:
    pytest.importorskip("atheris")
    (tmp_path / "corpus").mkdir()
    seed = str(pytestconfig.getoption("seed"))
    options = [
        f"-max_total_time={SECONDS}",
        f"-seed={seed if seed.isdecimal() else 0}",
        "-timeout=10",
        "-rss_limit_mb=1024",
    ]
    folder = str(tmp_path / "corpus")
    command = [sys.executable, "-m", "tests.fuzz", name, folder, f"-artifact_prefix={tmp_path}/", *options]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=SECONDS + 120)
    assert result.returncode == 0, result.stderr[-5000:]
    done = re.search(r"Done (\d+) runs", result.stderr)
    assert done, result.stderr[-2000:]
    figures.add("fuzzed executions", int(done[1]))
