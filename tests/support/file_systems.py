"""File systems of their own for a store: made in a file, or in memory, and mounted where nobody else sees them."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from crossroot import namespaces

_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
SHARING = ("xfs", "btrfs")  # can share the content of files
KINDS = (*_MAKE, "tmpfs", "overlay")
_SIZE = "400m"  # of a sparse file; xfs takes no less than 300


def inside(kind: str, folder: Path, function: Callable[[Path], None]) -> None:
    """Run `function` with a folder on a new file system, in a mount namespace of its own. folder: for scratch files."""
    mounted = folder / "mounted"
    mounted.mkdir()

    def work(_: object) -> None:
        if kind in _MAKE:
            image = folder / "image"
            _run("truncate", "-s", _SIZE, image)
            _run(*_MAKE[kind], image)
            _run("mount", "-o", "loop", image, mounted)
        else:
            _run("mount", "-t", "tmpfs", "tmpfs", mounted)
        if kind == "overlay":
            layers = {name: mounted / name for name in ("lowerdir", "upperdir", "workdir")}
            for layer in layers.values():
                layer.mkdir()
            _run(
                "mount", "-t", "overlay", "-o", ",".join(f"{key}={path}" for key, path in layers.items()), "o", mounted
            )
        function(mounted)

    namespaces.call(work, id_map=None)


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
