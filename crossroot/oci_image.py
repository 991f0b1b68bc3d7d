"""Container images as a source of roots: find the image for an arch, verify it, unpack its layers.

Known are the OCI image layout, as a folder or a tar of it, and the tar of `docker save` and `podman save`
(github.com/moby/docker-image-spec, v1.2). Either tar may be compressed. Nothing is used before its sha256 is verified.
"""

import hashlib
import io
import json
import os
import posixpath
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from crossroot import oci, tree, unpack
from crossroot.arch import Arch
from crossroot.errors import CrossrootError
from crossroot.ui import Progress
from crossroot.unpack import Unpacked

_MAX_JSON = 4 << 20  # bytes
_MAX_LAYERS = 500
_MAX_MANIFESTS = 1000
_PIECE = 1 << 20  # bytes
_INDEXES = (oci.INDEX, "application/vnd.docker.distribution.manifest.list.v2+json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What stands first in the tar of an image, and never in that of a rootfs.
_FIRST = re.compile(rb"(blobs|oci-layout|(index|manifest)\.json|repositories|[0-9a-f]{64}(\.json|\.tar)?)(/.*)?")
_AGAIN_HINT = "get the image again: skopeo copy docker://NAME oci-archive:FILE.tar"

Json = dict[str, Any]


def is_image(file: BinaryIO) -> bool:
    """Whether an archive is that of an image and not of a rootfs, by its first entries. Leaves the position at 0."""
    try:
        paths = (unpack.path_of(member.name) for member in unpack.members(file))
        return _FIRST.fullmatch(next((path for path in paths if path != b"."), b"")) is not None
    finally:
        file.seek(0)


def layers(source: BinaryIO | Path, arch: Arch) -> list[BinaryIO]:
    """The layers of the image for `arch`, the lowest first, each an open archive for `unpack_layers`.

    source: the tar of an image or of several, or the folder of an image layout. Raises CrossrootError if there is no
    image for the arch or more than one, if a part is missing, or not what its sha256 says.
    """
    try:
        files = _Folder(source) if isinstance(source, Path) else _Tar(source)
        if index := files.open("index.json"):
            return _layers_of_layout(files, _parsed(index), arch)
        if manifest := files.open("manifest.json"):
            return _layers_of_docker(files, _parsed(manifest), arch)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(f"its JSON makes no sense ({error})") from error
    raise _damaged("it has neither an index.json nor a manifest.json")


# The files of an image


class _Files(Protocol):
    """The files of an image by their names."""

    def open(self, name: str) -> BinaryIO | None:
        """The file of that name, None if there is none."""
        ...


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> BinaryIO | None:
        path = self._path / name
        if ".." in path.parts or not path.is_relative_to(self._path):
            return None
        return path.open("rb") if path.is_file() else None


class _Tar:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file if _is_plain_tar(file) else _decompressed(file)
        self._places: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        for member in unpack.members(self._file):
            name = posixpath.normpath(member.name)
            if member.isreg():
                self._places[name] = member.offset_data, member.size
            elif member.issym():  # docker save wrote a layer once, and links to it
                self._links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))

    def open(self, name: str) -> BinaryIO | None:
        place = self._places.get(self._links.get(name, name))
        return cast(BinaryIO, _Window(self._file, *place)) if place else None


def _is_plain_tar(file: BinaryIO) -> bool:
    start = file.read(512)
    file.seek(0)
    return start[257:262] == b"ustar"


def _decompressed(file: BinaryIO) -> BinaryIO:
    """The tar inside, in a file without a name."""
    try:
        found = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115  (open as long as its layers are)
        for piece in unpack.decompressed(file):
            found.write(piece)
        found.seek(0)
    except OSError as error:
        raise CrossrootError(
            f"cannot decompress the image in {tempfile.gettempdir()}: {error.strerror}",
            hint="set TMPDIR to a folder with more room",
        ) from error
    return found


class _Window(io.RawIOBase):
    """A part of a file, as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file  # kept open as long as the window is
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._size - self._position)
        data = os.pread(self._file.fileno(), size, self._start + self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _parsed(file: BinaryIO) -> Any:
    with file:
        data = file.read(_MAX_JSON + 1)
    if len(data) > _MAX_JSON:
        raise _damaged(f"it has a JSON file of more than {_MAX_JSON >> 20} MiB")
    return json.loads(data)


def _blob(files: _Files, digest: str) -> BinaryIO:
    """The blob of that digest, once it is verified."""
    algorithm, _, value = digest.partition(":")
    if algorithm != "sha256" or not _SHA256.fullmatch(value):
        raise _damaged(f"it names a part by {digest[:80]!r}, which is no sha256")
    return _verified(files, f"{oci.BLOBS}/{value}", value)


def _verified(files: _Files, name: str, sha256: str) -> BinaryIO:
    """The file of that name, if it has this sha256."""
    file = files.open(name)
    if file is None:
        raise _damaged(f"it lacks {name!r}")
    _check(name, iter(lambda: file.read(_PIECE), b""), sha256)
    file.seek(0)
    return file


def _check(name: str, pieces: Iterable[bytes], sha256: str) -> None:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    if found.hexdigest() != sha256:
        raise _damaged(f"{name!r} has the sha256 {found.hexdigest()}, not {sha256}")


def _damaged(why: str) -> CrossrootError:
    return CrossrootError(f"the image is damaged: {why}", hint=_AGAIN_HINT)


# An OCI image layout


def _layers_of_layout(files: _Files, index: Json, arch: Arch) -> list[BinaryIO]:
    others: list[str] = []
    found: dict[str, str] = {}  # digest of the manifest to what the image is called
    for entry in _manifests(files, index):
        platform = _platform_of(files, entry)
        if platform == _normal(oci.platform(arch)):
            found.setdefault(entry["digest"], entry.get("annotations", {}).get(oci.REF_NAME, ""))
        else:
            others.append(platform)
    manifest = _parsed(_blob(files, _only(found, others, arch)))
    _check_count(manifest["layers"])
    return [_blob(files, layer["digest"]) for layer in manifest["layers"]]


def _manifests(files: _Files, index: Json) -> Iterator[Json]:
    """The descriptors of manifests in an index, and in the indexes in it."""
    pending = list(index["manifests"])
    count = 0
    while pending:
        entry = pending.pop(0)
        count += 1
        if count > _MAX_MANIFESTS:
            raise _damaged(f"it has more than {_MAX_MANIFESTS} manifests")
        if entry.get("mediaType") not in _INDEXES:
            yield entry
        elif files.open(_name_of(entry["digest"])):  # docker save leaves out what it does not have
            inner = _parsed(_blob(files, entry["digest"]))
            pending += [{"annotations": entry.get("annotations", {}), **each} for each in inner["manifests"]]


def _name_of(digest: str) -> str:
    return f"{oci.BLOBS}/{digest.removeprefix('sha256:')}"


def _platform_of(files: _Files, entry: Json) -> str:
    """What a descriptor says of its platform; if it says nothing, the image's own configuration."""
    if "platform" in entry:
        return _normal(entry["platform"])
    manifest = _parsed(_blob(files, entry["digest"]))
    return _normal(_parsed(_blob(files, manifest["config"]["digest"])))


def _normal(platform: Json) -> str:
    """A platform as text, the same for the same platform: arm64 is arm64/v8, and arm without a variant arm/v7."""
    machine = f"{platform['os']}/{platform['architecture']}"
    variant = platform.get("variant") or {"linux/arm": "v7"}.get(machine, "")
    return f"{machine}/{variant}" if variant and (machine, variant) != ("linux/arm64", "v8") else machine


def _only(found: dict[str, Any], others: list[str], arch: Arch) -> Any:
    """The key of the one image for `arch`."""
    if len(found) == 1:
        return next(iter(found))
    if not found:
        known = ", ".join(sorted({other for other in others if "unknown" not in other})) or "none"
        raise CrossrootError(
            f"the image is not for {arch.docker}, only for {known}", hint=f"crossroot create {known.split(', ')[0]} …"
        )
    names = ", ".join(name or digest for digest, name in found.items())
    raise CrossrootError(
        f"there are {len(found)} images for {arch.docker}: {names}",
        hint="copy out one of them: skopeo copy oci-archive:FILE:NAME oci-archive:NEW.tar",
    )


def _check_count(found: list[Any]) -> None:
    if not 0 < len(found) <= _MAX_LAYERS:
        raise _damaged(f"it has {len(found)} layers")


# The tar of docker save


def _layers_of_docker(files: _Files, manifest: list[Json], arch: Arch) -> list[BinaryIO]:
    configs: dict[str, Json] = {}
    others: list[str] = []
    found: dict[str, str] = {}  # name of the configuration to what the image is called
    for image in manifest[:_MAX_MANIFESTS]:
        name = image["Config"]
        configs[name] = _parsed(_verified(files, name, posixpath.basename(name).removesuffix(".json")))
        platform = _normal(configs[name])
        if platform == _normal(oci.platform(arch)):
            found[name] = ", ".join(image.get("RepoTags") or [])
        else:
            others.append(platform)
    config = _only(found, others, arch)
    names = next(image["Layers"] for image in manifest if image["Config"] == config)
    _check_count(names)
    diff_ids = configs[config]["rootfs"]["diff_ids"]
    return [_verified_layer(files, name, diff_id) for name, diff_id in zip(names, diff_ids, strict=True)]


def _verified_layer(files: _Files, name: str, diff_id: str) -> BinaryIO:
    file = files.open(name)
    if file is None:
        raise _damaged(f"it lacks {name!r}")
    _check(name, unpack.decompressed(file), diff_id.removeprefix("sha256:"))
    file.seek(0)
    return file


# Layers


def unpack_layers(archives: list[BinaryIO], *, keep_owners: bool, progress: Progress) -> Unpacked:
    """`unpack.unpack` for each layer, one over the other, into the current directory, which the caller has chrooted to.

    What a layer deletes or replaces in those below it goes first, so that the order of its entries does not matter
    (image-spec, layer.md, "Whiteouts"). Returns the sums.
    """
    done = []
    for archive in archives:
        marks = _clear_the_way(archive)
        archive.seek(0)
        if marks is not None:
            done.append(unpack.unpack(archive, keep_owners=keep_owners, progress=progress))
            _remove_marks(marks)
    skipped, machines = Counter[str](), Counter[str]()
    for each in done:
        skipped.update(each.skipped)
        machines.update(each.machines)
    return Unpacked(
        files=sum(each.files for each in done),
        bytes=sum(each.bytes for each in done),
        skipped=dict(skipped),
        xattrs_refused=sum(each.xattrs_refused for each in done),
        machines=dict(machines),
    )


def _clear_the_way(archive: BinaryIO) -> list[bytes] | None:
    """Delete what the layer hides of those below it; gives the whiteouts among its entries, None if it has no entries.

    ".wh.NAME" hides NAME, ".wh..wh..opq" all that is in its folder, and anything but a folder hides a folder.
    """
    marks: list[bytes] = []
    hidden: list[bytes] = []
    empty = True
    for member in unpack.members(archive):
        empty = False
        path = unpack.path_of(member.name)
        folder, name = os.path.split(path)
        if name == b".wh..wh..opq":
            hidden += [os.path.join(folder, each) for each in _listed(folder or b".")]
        elif name.startswith(b".wh.") and name not in (b".wh.", b".wh..", b".wh..."):
            hidden.append(os.path.join(folder, name.removeprefix(b".wh.")))
        elif not member.isdir() and _is_folder(path):
            hidden.append(path)
        if name.startswith(b".wh."):
            marks.append(path)
    for path in hidden:
        _delete(path)
    return None if empty else marks


def _listed(folder: bytes) -> list[bytes]:
    return os.listdir(folder) if _is_folder(folder) else []


def _is_folder(path: bytes) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _delete(path: bytes) -> None:
    """Delete a file or a folder with all that is in it; nothing if it is not there."""
    if not os.path.lexists(path):
        return
    if not _is_folder(path):
        os.unlink(path)
        return
    with ExitStack() as stack:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        stack.callback(os.close, top)
        inside = [(entry.path, stat.S_ISDIR(entry.status.st_mode)) for entry in tree.walk(top) if entry.depth]
        for name, folder in reversed(inside):
            (os.rmdir if folder else os.unlink)(name, dir_fd=top)
    os.rmdir(path)


def _remove_marks(marks: list[bytes]) -> None:
    """Delete the whiteouts that were unpacked like files; their folders keep their times."""
    for path in marks:
        if os.path.lexists(path):
            folder = os.path.dirname(path) or b"."
            status = os.stat(folder)
            _delete(path)
            os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
