"""How much of the machine is ours to use: cores and memory, by affinity and control groups, and jobs that fit.

Sources: sched_getaffinity(2), proc_meminfo(5), cgroups(7); of the kernel's Documentation/admin-guide cgroup-v2.rst and
cgroup-v1/memory.rst.
"""

import os
from collections.abc import Iterator
from pathlib import Path

MEMORY_PER_JOB = 512 << 20  # bytes; what an emulated compiler takes at times

_NO_LIMIT = 1 << 62  # version 1 has such a number of bytes where there is no limit


def jobs_at_once() -> int:
    """How many jobs that compute run side by side here: one a core, but none for which there is no memory."""
    return max(1, min(cores(), free_memory() // MEMORY_PER_JOB))


def cores(host: Path = Path("/")) -> int:
    """Cores that this process may use, at least 1: its affinity, cut by the quotas of its control groups.

    host: where the kernel's files are.
    """
    quotas = [quota for group in _groups(host, "cpu") if (quota := _quota(group))]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def free_memory(host: Path = Path("/")) -> int:
    """Bytes that can be had without swapping: the machine's, or what the limits of the control groups leave."""
    lines = _read(host / "proc/meminfo").splitlines()
    available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return max(0, min([available, *map(_room, _groups(host, "memory"))]))


def _groups(host: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group for a controller, and of all above it."""
    for line in _read(host / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", controller) and controller not in controllers.split(","):
            continue
        mounted = host / "sys/fs/cgroup" / controllers  # version 2 names none
        # In a container the path may lead out of what is mounted: then the mounted part is all that can be seen.
        own = Path() if ".." in path.split("/") else Path(path.lstrip("/"))
        for group in (own, *own.parents):
            yield mounted / group


def _quota(group: Path) -> float | None:
    """The cores that a control group has, None where there is no limit."""
    fields = _read(group / "cpu.max").split() or [
        _read(group / "cpu.cfs_quota_us").strip(),
        _read(group / "cpu.cfs_period_us").strip(),
    ]
    return int(fields[0]) / int(fields[1]) if all(field.isdecimal() for field in fields) else None


def _room(group: Path) -> int:
    """Bytes until a control group is at its limit, with those that the kernel can take back from caches of files."""
    for limit_file, used_file, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _read(group / limit_file).strip(), _read(group / used_file).strip()
        if limit.isdecimal() and used.isdecimal():
            statistics = dict(line.split() for line in _read(group / "memory.stat").splitlines())
            return int(limit) - int(used) + int(statistics.get(cached, "0"))
    return _NO_LIMIT


def _read(path: Path) -> str:
    """The content of a file of the kernel, "" if there is none: the highest group has no limits."""
    try:
        return path.read_text()
    except OSError:
        return ""
