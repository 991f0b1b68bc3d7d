"""What leaves the store: a root as a tar or as an OCI image, and its digest.

The tree is read by a child that is confined to it and has the root's id map, so that owners are those inside. The
caller holds the root's lock. What these functions raise is CrossrootError; a file or folder that was to be written is
then what it was before.
"""

import calendar
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crossroot import arch, namespaces, oci, pack, session, tree, ui
from crossroot.errors import CrossrootError, UsageError
from crossroot.metadata import Root
from crossroot.output import STDOUT, explaining, hidden_name, new_file, writing, written
from crossroot.pack import Compressor, Times, Write
from crossroot.tasks import task
from crossroot.ui import Progress

_PIECE = 1 << 20  # bytes


def digest(root: Root) -> str:
    """The digest of the root's tree, see `tree.digest`."""
    found: str = _inside(root, lambda top, _: tree.digest(top), ui.no_progress)
    return found


def to_tar(root: Root, output: str) -> None:
    """Write the root as a tar to the file `output`, compressed as its name says, or to STDOUT, not compressed."""
    compressor = pack.compressor_for(".tar" if output == STDOUT else output)
    since, latest = _created(root), _source_date_epoch()

    def work(descriptor: int, top: int, progress: Progress) -> dict[str, int]:
        times = Times(since, pack.newest_before(top, since), latest)
        with writing(descriptor, output) as write:
            compressing = _Compressing(compressor, write)
            skipped = pack.pack(top, compressing.write, times, progress)
            compressing.finish()
        return skipped

    with written(output) as descriptor:
        _refuse_terminal(descriptor)
        with task(f"exporting {root.name}") as progress:
            skipped = _inside(root, lambda top, progress: work(descriptor, top, progress), progress)
    _tell_skipped(skipped)


def to_oci(root: Root, output: str) -> None:
    """Write the root as an OCI image layout: as a tar of it if `output` ends in .tar or is STDOUT, else as a folder.

    The folder is a new one, or an empty one.
    """
    oci.platform(arch.find(root.arch))  # before any work
    as_tar = output == STDOUT or output.endswith(".tar")
    if not as_tar:
        _check_folder(output)
    with _scratch(output) as folder:
        layer, created = _write_layer(root, folder)
        image = oci.Image(
            name=root.name,
            arch=arch.find(root.arch),
            env={"PATH": session.PATH, **root.env},
            user=root.user,
            shell=root.shell or "/bin/sh",
            created=created,
        )
        with explaining(output):
            for name, content in oci.layout(image, layer).items():
                (folder / name).write_bytes(content)
        if as_tar:
            _write_tar_of(folder, created, output)
        else:
            with explaining(output):
                folder.rename(output)


def _write_layer(root: Root, folder: Path) -> tuple[oci.Layer, int]:
    """Put the layer into its place in the image layout `folder`; gives it and the time of what has no time."""
    blobs = folder / oci.BLOBS
    blobs.mkdir(parents=True)
    since, latest = _created(root), _source_date_epoch()

    def work(descriptor: int, top: int, progress: Progress) -> dict[str, Any]:
        times = Times(since, pack.newest_before(top, since), latest)
        with writing(descriptor, str(folder)) as write:
            compressed = _Hashing(write)
            compressing = _Compressing(pack.gzip(), compressed.write)
            plain = _Hashing(compressing.write)
            skipped = pack.pack(top, plain.write, times, progress)
            compressing.finish()
        layer = {"sha256": compressed.hex(), "size": compressed.size, "diff_id": plain.hex()}
        return {"layer": layer, "created": times.of(since * 10**9), "skipped": skipped}

    with open(blobs / "layer", "wb") as file, task(f"exporting {root.name}") as progress:
        done = _inside(root, lambda top, progress: work(file.fileno(), top, progress), progress)
    _tell_skipped(done["skipped"])
    layer = oci.Layer(**done["layer"])
    (blobs / "layer").rename(blobs / layer.sha256)
    return layer, done["created"]


def _write_tar_of(folder: Path, created: int, output: str) -> None:
    """Write the image layout `folder` as a tar, as root's and of one time, whoever made it."""
    with written(output) as descriptor, writing(descriptor, output) as write:
        _refuse_terminal(descriptor)
        for path in sorted(folder.rglob("*")):
            name = os.fsencode(path.relative_to(folder))
            if path.is_dir():
                pack.add(pack.folder(name, created), (), write)
            else:
                with open(path, "rb") as file:
                    pieces = iter(lambda: file.read(_PIECE), b"")
                    pack.add(pack.file(name, path.stat().st_size, created), pieces, write)
        pack.finish(write)


def _inside(root: Root, work: Callable[[int, Progress], Any], progress: Progress) -> Any:
    """What `work` gives for a descriptor of the root's tree, in a child that is confined to the tree."""

    def confined(progress: Progress) -> Any:
        os.chroot(root.rootfs)
        os.chdir("/")
        return work(os.open("/", os.O_RDONLY | os.O_DIRECTORY), progress)

    return namespaces.call(confined, id_map=root.id_map, progress=progress)


def _tell_skipped(skipped: dict[str, int]) -> None:
    if skipped:
        kinds = ", ".join(f"{count} {kind}{'s' * (count > 1)}" for kind, count in sorted(skipped.items()))
        ui.note(f"left out: {kinds}")


# Times


def _created(root: Root) -> int:
    """When the root was created, in seconds since the epoch."""
    return calendar.timegm(time.strptime(root.created, "%Y-%m-%dT%H:%M:%SZ"))


def _source_date_epoch() -> int:
    """The latest time that the caller wants in what he makes (reproducible-builds.org/specs/source-date-epoch)."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return pack.NEVER
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"SOURCE_DATE_EPOCH is no number of seconds: {text!r}",
            hint="export SOURCE_DATE_EPOCH=$(date +%s), or unset it",
        )
    return int(text)


# What is done to the bytes on their way


class _Compressing:
    """Compresses what is written to it."""

    def __init__(self, compressor: Compressor, write: Write) -> None:
        self._compressor = compressor
        self._write = write

    def write(self, data: bytes) -> None:
        self._write(self._compressor.compress(data))

    def finish(self) -> None:
        self._write(self._compressor.flush())


class _Hashing:
    """Hashes and counts what is written through it."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)
        self._write(data)

    def hex(self) -> str:
        return self._hash.hexdigest()


# Where they go


@contextmanager
def _scratch(output: str) -> Iterator[Path]:
    """A new folder beside `output`, or where temporary files go, that may be renamed and is else removed."""
    path = new_file(output)
    place = Path(tempfile.gettempdir()) if path is None else path.parent
    folder = place / hidden_name()
    try:
        with explaining(output):
            folder.mkdir()
        yield folder
    finally:
        if folder.exists():  # also when a signal came right after it was made
            shutil.rmtree(folder)


def _refuse_terminal(descriptor: int) -> None:
    if os.isatty(descriptor):
        raise UsageError("an archive is nothing for a terminal", hint="-o FILE, or redirect the output")


def _check_folder(output: str) -> None:
    """Refuse the name of a folder that cannot be meant, or of one with anything in it."""
    if output.endswith((".gz", ".tgz", ".xz", ".zst")):
        raise UsageError("the layers of an image are compressed already", hint="-o FILE.tar, or -o FOLDER")
    if os.path.lexists(output) and not (os.path.isdir(output) and not os.listdir(output)):
        raise CrossrootError(f"{output} is there already, and not an empty folder", hint="name a new folder, or a .tar")
