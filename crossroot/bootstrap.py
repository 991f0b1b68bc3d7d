"""From a profile to a finished root: fill a rootfs, install packages, run hooks, publish."""

import base64
import os
from collections.abc import Sequence
from pathlib import Path

from crossroot import (
    __version__,
    apt,
    clone,
    enter,
    fill,
    guest,
    handlers,
    installed,
    metadata,
    namespaces,
    normalise,
    packages,
    session,
    store,
)
from crossroot import lock as locks
from crossroot.distros import debian
from crossroot.errors import EXIT_FAILED, CrossrootError
from crossroot.fill import INTERRUPTED
from crossroot.installed import Pin
from crossroot.lock import Lock
from crossroot.metadata import Root
from crossroot.request import Request
from crossroot.tasks import task
from crossroot.ui import Progress
from crossroot.wanted import Wanted

# Runs its arguments with no input and without touching stdout, which is for data.
_QUIET = ("/bin/sh", "-c", 'exec "$@" </dev/null >&2', "sh")
_NEEDED_QEMU = {"hare": ">=8"}  # it starts programs with execveat(2), which qemu-user has since then
_DAY = 24 * 3600  # seconds


def create(request: Request, store_folder: Path, cache: Path) -> Root:
    """Bootstrap a root and publish it in the store; afterwards it is there as a whole, or not at all.

    Raises CrossrootError for whatever keeps it from being made; nothing of it is left then but the download.
    """
    with store.create(request.name, store_folder, replace=request.replace) as unfinished:
        root = make(request, unfinished, cache)
        clone.share(root, store_folder)
        store.publish(unfinished, root)
    return metadata.open_root(request.name, store_folder)


def prepare() -> None:
    """Import what `create` imports late, for processes forked after this."""
    from crossroot import fetch, unpack

    fetch.prepare()
    unpack.prepare()


def lock(request: Request, store_folder: Path, cache: Path) -> Lock:
    """The lock of the root that `create` would make. It is made, looked at, and deleted again.

    request: its name is that of a root which is not there. Raises CrossrootError as `create`.
    """
    with store.create(request.name, store_folder, replace=False) as unfinished:
        root = _fill(request, unfinished, cache, keep_lists=True)
        before = fill.look(root).packages
        _finish(request, root)
        found = fill.look(root)
        sources = namespaces.call(lambda _: _sources(root), id_map=root.id_map)
    made = Lock(
        profile=request.profile,
        archive=root.source if root.sha512 else "",
        sha512=root.sha512,
        mirror=root.mirror,
        branch=root.branch,
        made=metadata.timestamp(),
        world=found.world,
        keys=request.keys(),
        # A hook may have removed the lists that have their digests.
        packages={name: _known(pin, before.get(name, pin)) for name, pin in found.packages.items()},
        sources=tuple(sources["lines"]),
        archives=tuple(sources["uris"]),
    )
    if made.sources:
        locks.check_digests(made)
    return made


def _sources(root: Root) -> dict[str, list[str]]:
    """Where the packages of a root of Debian come from, found out by a child in it; nothing in one of Alpine."""
    os.chroot(root.rootfs)
    os.chdir("/")
    lines = [line for line in guest.read(debian.SOURCES).decode(errors="replace").splitlines() if line.strip()]
    uris = dict.fromkeys(uri for source in apt.read_sources() for uri in source.uris.split())
    return {"lines": lines, "uris": list(uris)}


def make(request: Request, unfinished: Path, cache: Path) -> Root:
    """Make the root in the folder `unfinished`, whole but not published."""
    try:
        root = _fill(request, unfinished, cache)
        _finish(request, root)
    except CrossrootError as error:
        if request.lock:  # which allows no --mirror
            error.hint = error.hint.replace("with --mirror URL", "under mirrors in the lock's [profile]")
        raise
    return root


def _known(pin: Pin, before: Pin) -> Pin:
    """The pin, with what was known of the same version before."""
    return pin if pin.digest or pin.version != before.version else before


def _fill(request: Request, unfinished: Path, cache: Path, *, keep_lists: bool = False) -> Root:
    """Make the root in the folder `unfinished`, with all packages. keep_lists: those of Debian's apt."""
    profile = request.profile
    qemu_version = profile.qemu_version or _needed_qemu(profile.packages)
    created = metadata.timestamp()  # before anything is written: `export` tells by it what came from the archive
    # Before the download, so that a missing emulator costs nobody the wait.
    mirrors = profile.mirrors if profile.distro == "alpine" else ()
    handler = handlers.choose(profile.arch, profile.binfmt, request.qemu, qemu_version, mirrors)
    root = _root(request, unfinished, created)
    if request.archive is None and profile.distro in debian.DISTROS:
        root = fill.by_mmdebstrap(request, root, cache, handler, keep_lists=keep_lists)
    elif request.archive is None and profile.source == "packages":
        root = fill.from_packages(request, root, cache)
    else:
        root = fill.from_archive(request, root, cache)
        _add_packages(request, root, cache)
    return root


def _finish(request: Request, root: Root) -> None:
    """Run the hooks, after which the root is whole but not published."""
    for hook in request.profile.hooks:
        title = hook.strip().splitlines()[0]
        _run_inside(root, request.qemu, ["/bin/sh", "-ec", hook], f"the hook '{title}'")
    if request.lock:
        _settle(root, request.lock)


def _add_packages(request: Request, root: Root, cache: Path) -> None:
    """Install those of the profile, or of the lock, which may all be in the archive: that needs no network then."""
    names = request.packages()
    if names and not (request.lock and fill.look(root).packages == request.lock.packages):
        with fill.naming_what_is_gone(request, root):
            packages.add(root, names, cache, request.qemu)


def _settle(root: Root, lock: Lock) -> None:
    """Check that the root is what the lock says, and remove what differs between two creations."""
    locks.check(lock, fill.look(root).packages)

    def work(_: Progress) -> None:
        os.chroot(root.rootfs)
        os.chdir("/")
        installed.set_world(lock.world)  # instead of the exact versions that were asked for
        normalise.settle(lock.seconds // _DAY)

    namespaces.call(work, id_map=root.id_map)


def _needed_qemu(packages: Sequence[str]) -> str:
    """The version of qemu-user that packages are known to need, "" for any."""
    return next((_NEEDED_QEMU[name] for name in packages if name in _NEEDED_QEMU), "")


def _root(request: Request, unfinished: Path, created: str) -> Root:
    """The root as the profile has it; what it is made of is not known yet."""
    profile = request.profile
    return Root(
        name=request.name,
        folder=str(unfinished),
        arch=profile.arch.name,
        distro="",
        branch="",
        version="",
        source="",
        sha512="",
        mirror="",
        created=created,
        id_map=namespaces.own_id_map(),
        env=profile.env,
        binds=profile.binds,
        user=profile.user,
        shell=profile.shell,
        qemu_cpu=profile.qemu_cpu,
        qemu_version=profile.qemu_version or _needed_qemu(profile.packages),
        binfmt=profile.binfmt,
        packages=profile.packages,
        crossroot_version=__version__,
        accelerate=profile.accelerate,
        ccache=profile.ccache,
        distcc=profile.distcc,
        repositories=profile.repositories,
        keys={name: base64.b64encode(key).decode() for name, key in request.keys().items()},
    )


def _run_inside(root: Root, qemu: Wanted, command: Sequence[str], what: str) -> None:
    """Run a command as root of the unfinished root; its output goes to stderr, it has no input.

    Signals to crossroot go to the command, as in any session; the exit status tells of one that ended it.
    """
    plan = session.plan(root, session.Options(user="root", cwd=False, qemu=qemu), [*_QUIET, *command])
    with task(what):
        status = enter.run(plan, terminal=False)
    if status != 0:
        raise CrossrootError(
            f"{what} failed with status {status}",
            hint="its own output is above",
            exit_code=status if status in INTERRUPTED else EXIT_FAILED,
        )
