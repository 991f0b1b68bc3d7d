"""A mirror of Alpine with packages of the tests' own, and profiles that use it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import apk_repository, http, releases
from tests.support.apk_repository import Key, Package
from tests.support.identity import Crossroot
from tests.support.mirror import Mirror


@dataclass(frozen=True)
class Alpine:
    """A mirror with the releases of the tests' mirror and packages of our own, in `folder`."""

    server: http.Server
    folder: Path
    branch: str
    key: Key

    def publish(self, packages: Sequence[Package], repository: str = "main", key: Key | None = None) -> None:
        """Make `packages` all that a repository has."""
        apk_repository.write(self.folder / self.branch / repository, packages, key or self.key)

    def profile(self, crossroot: Crossroot, more: str = "", extends: str = "riscv64") -> dict[str, str]:
        """Write a profile `mine` with the mirror and its key; the environment in which crossroot finds it."""
        folder = crossroot.tmp / "config/crossroot/profiles"
        folder.mkdir(parents=True, exist_ok=True)
        key = crossroot.tmp / self.key.name
        key.write_bytes(self.key.public)
        text = f'extends = "{extends}"\nmirrors = ["{self.server.url}"]\nkeys = ["{key}"]\n{more}\n'
        (folder / "mine.toml").write_text(text)
        return {"XDG_CONFIG_HOME": str(crossroot.tmp / "config")}


@contextmanager
def serve(
    mirror: Mirror, folder: Path, main: Sequence[Package], community: Sequence[Package], target: str = "riscv64"
) -> Iterator[Alpine]:
    """Such a mirror in an empty folder, with these packages. target: the arch of roots."""
    branch = releases.copy(mirror, [target, releases.HOST], folder)
    with http.serve(folder) as server:
        found = Alpine(server, folder, branch, apk_repository.new_key())
        found.publish(main)
        found.publish(community, "community")
        yield found
