"""Fill an empty rootfs: from an archive, from Alpine's signed packages, or by mmdebstrap.

Each way takes the root as the profile has it, and gives it with what is known of its content.

All that is written into a rootfs is written by a child that is confined to it.
"""

import errno
import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from crossroot import apk, guest, installed, namespaces, packages, session, ui
from crossroot import archive as archives
from crossroot import lock as locks
from crossroot.arch import ALL as ARCHES
from crossroot.arch import Arch
from crossroot.archive import Archive
from crossroot.distros import alpine, deb_repository, debian
from crossroot.errors import EXIT_SIGNAL_BASE, CrossrootError
from crossroot.fetch import shown
from crossroot.handlers import Handler
from crossroot.installed import Installed, Pin
from crossroot.metadata import Root
from crossroot.request import Request
from crossroot.tasks import task
from crossroot.ui import Progress

INTERRUPTED = [EXIT_SIGNAL_BASE + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]

# Where a session mounts something, so that a package that is installed in one cannot give them their modes.
_MOUNT_POINTS = {"/dev": 0o755, "/proc": 0o555, "/sys": 0o555, "/tmp": 0o1777}
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+-]{0,39}")  # os-release(5): what ID and VERSION_ID are made of


def from_archive(request: Request, root: Root, cache: Path) -> Root:
    """From an archive: the one that is asked for, or the newest of the profile's branch."""
    id_map = namespaces.own_id_map()
    if id_map is not None and id_map.single:
        ui.note(f"all files of this root will belong to you alone: {namespaces.single_id_reason()}")
    archive = archives.fetch(request, cache)
    with archive.verified:
        facts = _unpack(request, archive, root.rootfs, keep_owners=id_map is None or not id_map.single)
    _check_arch(request.profile.arch, facts, archive.source)
    return root.but(
        distro=facts["distro"],
        branch=archive.branch,
        version=facts["version"],
        source=archive.source,
        sha512=archive.verified.sha512,
        mirror=archive.mirror,
    )


def _unpack(request: Request, archive: Archive, rootfs: Path, *, keep_owners: bool) -> dict[str, Any]:
    """Unpack and configure in a child that is confined to `rootfs`; what the child found out about it."""
    from crossroot import unpack

    unpack.prepare()
    file = archive.verified.file
    layers = [] if archive.mirror else _layers(archive, request.profile.arch)
    files = {"/etc/resolv.conf": session.resolver_configuration()}
    if archive.mirror:
        files["/etc/apk/repositories"] = request.repositories(archive.mirror, archive.branch)
        files |= {f"/etc/apk/keys/{name}": key for name, key in request.keys().items()}

    def work(progress: Progress) -> dict[str, Any]:
        os.chroot(rootfs)
        os.chdir("/")
        if layers:
            from crossroot import oci_image

            unpacked = oci_image.unpack_layers(layers, keep_owners=keep_owners, progress=progress)
        else:
            unpacked = unpack.unpack(file, keep_owners=keep_owners, progress=progress)
        for name, content in files.items():
            write(name, content)
        release = guest.os_release()
        return {
            "machines": unpacked.machines,
            "skipped": unpacked.skipped,
            "apk_arch": guest.read("/etc/apk/arch").decode(errors="replace").strip(),
            "distro": _word(release.get("ID", "")) or "unknown",
            "version": _word(release.get("VERSION_ID", "")),
        }

    with task("unpacking") as progress:
        facts: dict[str, Any] = namespaces.call(work, id_map=namespaces.own_id_map(), progress=progress)
    if facts["skipped"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in facts["skipped"].items())
        ui.note(f"left out of the archive: {kinds} (a session has its own /dev)")
    return facts


def _layers(archive: Archive, arch: Arch) -> list[BinaryIO]:
    """The layers of a container image, none of another archive."""
    from crossroot import oci_image  # hardly any root is made of an image

    image = archive.folder or (archive.verified.file if oci_image.is_image(archive.verified.file) else None)
    return oci_image.layers(image, arch) if image else []


def _check_arch(arch: Arch, facts: dict[str, Any], source: str) -> None:
    """Raise CrossrootError unless the programs that were unpacked are for `arch`."""
    machines: dict[str, int] = facts["machines"]
    apk_arch = facts["apk_arch"]
    if not machines:
        raise CrossrootError(
            f"{source} holds no executable in bin or sbin, so it is no rootfs", hint="give the archive of a rootfs"
        )
    # The ELF header cannot tell armhf from armv7, apk's own record can.
    if apk_arch in ARCHES and apk_arch != arch.name:
        held = apk_arch
    elif arch.name not in machines:
        held = max(machines, key=lambda name: machines[name])
    else:
        return
    raise CrossrootError(f"{source} is a rootfs for {held}, not for {arch.name}", hint=f"crossroot create {held} …")


def from_packages(request: Request, root: Root, cache: Path) -> Root:
    """From signed packages alone: what a minirootfs consists of, and those of the profile."""
    profile = request.profile
    branch = request.lock.branch if request.lock else profile.branch
    mirror = alpine.find_repositories(profile.arch, branch, [request.lock.mirror] if request.lock else profile.mirrors)
    files = {
        "/etc/resolv.conf": session.resolver_configuration(),
        "/etc/apk/repositories": request.repositories(mirror, branch),
        **{f"/etc/apk/keys/{name}": key for name, key in (apk.keys(profile.arch) | request.keys()).items()},
    }

    def prepare(_: Progress) -> None:
        os.chroot(root.rootfs)
        os.chdir("/")
        os.umask(0o022)
        for name, content in files.items():
            write(name, content)
        for folder, mode in _MOUNT_POINTS.items():
            os.mkdir(folder)
            os.chmod(folder, mode)

    def look(_: Progress) -> str:
        os.chroot(root.rootfs)
        os.chdir("/")
        version = _word(guest.os_release().get("VERSION_ID", ""))
        write("/etc/apk/repositories", request.repositories(mirror, alpine.branch_of(version, branch)))
        return version

    namespaces.call(prepare, id_map=root.id_map)
    root = root.but(distro="alpine", branch=branch, source=f"packages of {shown(mirror)}/{branch}", mirror=mirror)
    with naming_what_is_gone(request, root):
        if profile.variant == debian.EXTRACT:
            packages.unpack(root, profile.packages, cache)
        else:
            packages.initialise(root, request.packages(), cache, request.qemu)
    version: str = namespaces.call(look, id_map=root.id_map)
    return root.but(version=version, branch=alpine.branch_of(version, branch))


def by_mmdebstrap(request: Request, root: Root, cache: Path, handler: Handler, *, keep_lists: bool) -> Root:
    """From the packages of Debian or Ubuntu, with those of the profile.

    handler: runs the programs of its arch. keep_lists: whether apt's lists of packages stay.
    """
    profile, lock = request.profile, request.lock
    id_map = root.id_map
    if id_map is None and handler.scope == "private":
        id_map = namespaces.identity_map()
    recipe = debian.Recipe(
        distro=profile.distro,
        arch=profile.arch,
        suite=profile.suite,
        components=profile.components,
        variant=profile.variant,
        packages=tuple(lock.packages) if lock else profile.packages,
        mirrors=profile.mirrors,
        keyring=profile.keyring,
        qemu_cpu=profile.qemu_cpu,
        keep_lists=keep_lists,
    )
    if lock is None:
        made = debian.bootstrap(recipe, root.rootfs, handler, id_map)
    else:
        repository = root.path / "repository"
        mirrors = dict.fromkeys((*debian.archives(recipe), *lock.archives))
        deb_repository.make(repository, lock, list(mirrors), cache)
        exact = debian.Exact(repository, lock.sources, lock.keys.get(debian.KEYRING_NAME, b""), lock.seconds)
        made = debian.rebuild(recipe, exact, root.rootfs, handler, id_map)
        shutil.rmtree(repository)
    return root.but(
        distro=profile.distro,
        branch=profile.suite,
        version=made.version,
        source=made.mirror,
        mirror=made.mirror,
    )


@contextmanager
def naming_what_is_gone(request: Request, root: Root) -> Iterator[None]:
    """If the block fails with a lock, look for packages that are not there any more: they are the cause then."""
    try:
        yield
    except CrossrootError as error:
        if request.lock is None or error.exit_code in INTERRUPTED:
            raise
        present = look(root).packages
        lines = request.repositories(root.mirror, root.branch).decode().split()
        remote = [line for line in lines if "://" in line]
        raise locks.gone(request.lock, present, remote) or error from error


def look(root: Root) -> Installed:
    """What is installed in a root, found out by a child in it."""

    def work(_: Progress) -> dict[str, Any]:
        os.chroot(root.rootfs)
        os.chdir("/")
        there = installed.look()
        return {"packages": {name: pin.as_dict() for name, pin in there.packages.items()}, "world": there.world}

    found = namespaces.call(work, id_map=root.id_map)
    return Installed({name: Pin(**pin) for name, pin in found["packages"].items()}, tuple(found["world"]))


def write(name: str, content: bytes) -> None:
    """Write a file of ours, in a child in the root. Raises CrossrootError."""
    try:
        guest.write(name, content)
    except OSError as error:
        raise CrossrootError(
            f"cannot write {name} in the new root: {error.strerror}",
            hint="free some space" if error.errno == errno.ENOSPC else "give the archive of a rootfs",
        ) from error


def _word(text: str) -> str:
    """What an archive says of itself, if it is fit for a terminal; else ""."""
    return text if _WORD.fullmatch(text) else ""
