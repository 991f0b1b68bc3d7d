"""What the outcome of a probe means; the probes themselves are tried in tests/integration/test_binfmt.py."""

import errno
from typing import Any

import pytest

from crossroot import arch as arches
from crossroot import probe
from crossroot.probe import Verdict

RISCV64 = arches.find("riscv64")


def outcome(status: int, **facts: Any) -> dict[str, Any]:
    running = {"path": "/q", "inode": [1, 2]}
    return {"status": status, "output": "", "timed_out": False, "native": False, "running": running, **facts}


def test_its_argv0_arrived() -> None:
    assert probe._verdict(RISCV64, outcome(42)) == Verdict("emulated", True, emulator="/q", inode=(1, 2))


def test_its_argv0_was_lost() -> None:
    verdict = probe._verdict(RISCV64, outcome(ord("/")))
    assert (verdict.kind, verdict.runs, verdict.keeps_argv0) == ("emulated", True, False)


def test_the_cpu_ran_it() -> None:
    assert probe._verdict(RISCV64, outcome(42, native=True)) == Verdict("native", True)


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"status": 1}, "its handler exited with 1"),
        ({"status": 1, "output": "first\nqemu: bad\n"}, "its handler exited with 1: qemu: bad"),
        ({"status": -11}, "its handler was killed by signal 11"),
        ({"status": -9, "timed_out": True}, "its handler did not finish within 20 s"),
    ],
)
def test_it_started_and_failed(facts: dict[str, Any], problem: str) -> None:
    verdict = probe._verdict(RISCV64, outcome(**facts))
    assert (verdict.kind, verdict.runs, verdict.problem) == ("broken", False, problem)
    assert verdict.emulator == "/q", "which emulator failed is told"


def test_enoexec_means_that_there_is_no_handler() -> None:
    verdict = probe._verdict(RISCV64, {"errno": errno.ENOEXEC})
    assert (verdict.kind, verdict.error) == ("none", errno.ENOEXEC)


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.ELOOP, errno.EPERM, errno.EIO])
def test_any_other_error_of_execve_is_a_broken_handler(code: int) -> None:
    verdict = probe._verdict(RISCV64, {"errno": code})
    assert (verdict.kind, verdict.error) == ("broken", code)
    assert verdict.problem
