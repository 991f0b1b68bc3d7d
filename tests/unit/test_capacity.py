"""Cores and memory by the kernel's files: those of this machine, and made up ones of machines with limits."""

import os
from pathlib import Path

import pytest

from crossroot import capacity

GIB = 1 << 30


def host(folder: Path, files: dict[str, str]) -> Path:
    """A / with these files of the kernel, and 8 GiB of free memory."""
    for name, content in {"proc/meminfo": f"MemTotal: 99 kB\nMemAvailable: {8 << 20} kB\n", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


V2 = "sys/fs/cgroup"
OWN_V2 = {"proc/self/cgroup": "0::/ci/job\n"}
OWN_V1 = {"proc/self/cgroup": "4:memory:/ci/job\n3:cpuacct,cpu:/ci\n1:name=systemd:/\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({**OWN_V2, f"{V2}/ci/job/cpu.max": "max 100000\n"}, 8),
        ({**OWN_V2, f"{V2}/ci/job/cpu.max": "350000 100000\n"}, 3),
        ({**OWN_V2, f"{V2}/ci/job/cpu.max": "50000 100000\n"}, 1),
        ({**OWN_V2, f"{V2}/ci/job/cpu.max": "max 100000\n", f"{V2}/ci/cpu.max": "200000 100000\n"}, 2),
        ({**OWN_V2, f"{V2}/ci/job/cpu.max": "9900000 100000\n"}, 8),
        ({"proc/self/cgroup": "0::/../../outside\n", f"{V2}/cpu.max": "200000 100000\n"}, 2),
        ({**OWN_V1, f"{V2}/cpuacct,cpu/ci/cpu.cfs_quota_us": "-1\n"}, 8),
        (
            {
                **OWN_V1,
                f"{V2}/cpuacct,cpu/ci/cpu.cfs_quota_us": "400000\n",
                f"{V2}/cpuacct,cpu/ci/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
    ],
)
def test_cores(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert capacity.cores(host(tmp_path, files)) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * GIB),
        ({**OWN_V2, f"{V2}/ci/job/memory.max": "max\n", f"{V2}/ci/job/memory.current": f"{GIB}\n"}, 8 * GIB),
        ({**OWN_V2, f"{V2}/ci/job/memory.max": f"{3 * GIB}\n", f"{V2}/ci/job/memory.current": f"{GIB}\n"}, 2 * GIB),
        ({**OWN_V2, f"{V2}/ci/memory.max": f"{GIB}\n", f"{V2}/ci/memory.current": f"{2 * GIB}\n"}, 0),
        (
            {
                **OWN_V2,
                f"{V2}/ci/job/memory.max": f"{3 * GIB}\n",
                f"{V2}/ci/job/memory.current": f"{3 * GIB}\n",
                f"{V2}/ci/job/memory.stat": f"anon 1\ninactive_file {GIB}\n",
            },
            GIB,
        ),
        (
            {
                **OWN_V1,
                f"{V2}/memory/ci/job/memory.limit_in_bytes": f"{2 * GIB}\n",
                f"{V2}/memory/ci/job/memory.usage_in_bytes": f"{GIB}\n",
                f"{V2}/memory/ci/job/memory.stat": "inactive_file 77\ntotal_inactive_file 5\n",
            },
            GIB + 5,
        ),
        (
            {
                **OWN_V1,
                f"{V2}/memory/memory.limit_in_bytes": "9223372036854771712\n",
                f"{V2}/memory/memory.usage_in_bytes": f"{GIB}\n",
            },
            8 * GIB,
        ),
    ],
)
def test_free_memory(files: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert capacity.free_memory(host(tmp_path, files)) == expected


@pytest.mark.parametrize(("cores", "memory", "expected"), [(4, 64, 4), (4, 1, 2), (4, 0, 1), (1, 64, 1)])
def test_jobs_at_once(cores: int, memory: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "cores", lambda: cores)
    monkeypatch.setattr(capacity, "free_memory", lambda: memory * GIB)
    assert capacity.jobs_at_once() == expected


def test_this_machine_has_something_to_offer() -> None:
    assert 1 <= capacity.cores() <= 8
    assert capacity.free_memory() > 0
    assert capacity.jobs_at_once() >= 1
