"""What is known of a root, beside its files: root.json."""

from __future__ import annotations

import os
import time

from crossroot import fastjson, layout
from crossroot.errors import CrossrootError
from crossroot.namespaces import IdMap
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from crossroot.layout import StrPath

_FORMAT = 1
_TEXTS = (
    *("arch", "distro", "branch", "version", "source", "sha512", "mirror"),
    *("created", "user", "shell", "qemu_cpu", "qemu_version", "binfmt", "crossroot_version"),
)
# What early roots lack.
_NEW = {"qemu_version": "", "accelerate": 0, "ccache": False, "distcc": (), "repositories": (), "keys": {}}


class Root(Record):
    """A named rootfs in the store. All texts may be "" where there is nothing to say.

    source: URL or file of the archive it was made from, sha512 its hash. created: see `timestamp`. id_map: under which
    its files were made, None for root's own. binds, user, shell, qemu_cpu, qemu_version, binfmt, accelerate, ccache,
    distcc: of the profile, for sessions. repositories, keys: of the profile, for tool roots; keys in base64 by name.
    """

    name: str
    folder: str
    arch: str
    distro: str
    branch: str
    version: str
    source: str
    sha512: str
    mirror: str
    created: str
    id_map: IdMap | None
    env: dict[str, str]
    binds: tuple[str, ...]
    user: str
    shell: str
    qemu_cpu: str
    qemu_version: str
    binfmt: str
    packages: tuple[str, ...]
    crossroot_version: str
    accelerate: int = 0
    ccache: bool = False
    distcc: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    keys: dict[str, str] = {}  # noqa: RUF012  (a record)

    @property
    def rootfs_folder(self) -> str:
        return os.path.join(self.folder, "rootfs")

    @property
    def path(self) -> Path:
        """Its folder as a Path, whose import sessions do without."""
        from pathlib import Path

        return Path(self.folder)

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    @property
    def public_keys(self) -> dict[str, bytes]:
        """Its keys as they are in files."""
        import base64  # no session needs it

        return {name: base64.b64decode(content) for name, content in self.keys.items()}

    def to_json(self) -> dict[str, Any]:
        """The content of root.json: everything but name and folder, which are those of the folder."""
        data = self.as_dict()
        del data["name"], data["folder"]
        return {"format": _FORMAT, **data, "id_map": self.id_map and self.id_map.to_json()}

    @staticmethod
    def from_json(data: Any, folder: str) -> Root:
        """The root in a folder with this root.json. Raises CrossrootError if it makes no sense."""
        try:
            data = {**_NEW, **data}
            if data["format"] != _FORMAT:
                raise CrossrootError(
                    f"{folder}/root.json has format {data['format']}, this crossroot knows format {_FORMAT}",
                    hint="use the version of crossroot that made it, or a newer one",
                )
            return Root(
                name=os.path.basename(folder),
                folder=folder,
                id_map=None if data["id_map"] is None else IdMap.from_json(data["id_map"]),
                env=dict(zip(_texts(data["env"]), _texts(data["env"].values()), strict=True)),
                binds=_texts(data["binds"]),
                packages=_texts(data["packages"]),
                accelerate=int(data["accelerate"]),
                ccache=bool(data["ccache"]),
                distcc=_texts(data["distcc"]),
                repositories=_texts(data["repositories"]),
                keys=dict(zip(_texts(data["keys"]), _texts(data["keys"].values()), strict=True)),
                **dict(zip(_TEXTS, _texts(data[key] for key in _TEXTS), strict=True)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(folder, f"root.json has no proper {error}") from error


def _texts(values: Any) -> tuple[str, ...]:
    texts = tuple(values)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"text in {texts}")
    return texts


def timestamp() -> str:
    """The time now, in UTC, as ISO 8601 writes it: 2024-05-01T12:00:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def open_root(name: str, store: StrPath) -> Root:
    """The root of that name. Raises CrossrootError if there is none or its metadata is damaged."""
    folder = layout.root_folder(name, store)
    if not layout.is_store(store) or not os.path.lexists(folder):
        raise no_root(name, store)
    return read_root(folder)


def read_root(folder: StrPath) -> Root:
    """The root in a folder. Raises CrossrootError if its metadata is damaged."""
    folder = os.fspath(folder)
    if os.path.islink(folder):
        from pathlib import Path

        from crossroot import deletion

        # Two names for one root would also be two locks.
        raise deletion.not_plain(Path(folder))
    try:
        with open(os.path.join(folder, "root.json"), "rb") as file:
            data = fastjson.loads(file.read())
    except OSError as error:
        raise _damaged(folder, f"root.json: {error.strerror}") from error
    except ValueError as error:
        raise _damaged(folder, f"root.json is not JSON: {error}") from error
    return Root.from_json(data, folder)


def _damaged(folder: str, why: str) -> CrossrootError:
    name = os.path.basename(folder)
    return CrossrootError(f"the root {name} is damaged: {why}", hint=f"crossroot remove {name}, then create it again")


def no_root(name: str, store: StrPath) -> CrossrootError:
    """The error for a name that no root has."""
    from difflib import get_close_matches  # only this error needs it

    near = get_close_matches(name, layout.names(store, "roots"), n=1)
    return CrossrootError(
        f"there is no root {name} in {store}",
        hint=f"did you mean {near[0]}? Otherwise: crossroot create {name}" if near else f"crossroot create {name}",
    )
