"""From a profile to a finished root: fetch, verify, unpack, configure, install packages, publish."""

import dataclasses
import errno
import os
import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossroot import __version__, apk, enter, guest, handlers, namespaces, normalise, packages, session, store, ui
from crossroot import lock as locks
from crossroot.arch import ALL as ARCHES
from crossroot.arch import Arch
from crossroot.distros import alpine, debian
from crossroot.emulator import Wanted
from crossroot.errors import EXIT_FAILED, EXIT_SIGNAL_BASE, CrossrootError, UsageError
from crossroot.fetch import Digest, NotFound, Verified, download, open_local, read_small, shown
from crossroot.handlers import Handler
from crossroot.lock import Lock, Pin
from crossroot.profiles import Profile
from crossroot.store import Root
from crossroot.ui import Progress

# Runs its arguments with no input and without touching stdout, which is for data.
_QUIET = ("/bin/sh", "-c", 'exec "$@" </dev/null >&2', "sh")
_INTERRUPTED = [EXIT_SIGNAL_BASE + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)]
_NEEDED_QEMU = {"hare": ">=8"}  # it starts programs with execveat(2), which qemu-user has since then
# Where a session mounts something, so that a package that is installed in one cannot give them their modes.
_MOUNT_POINTS = {"/dev": 0o755, "/proc": 0o555, "/sys": 0o555, "/tmp": 0o1777}
_WORLD = "/etc/apk/world"
_DAY = 24 * 3600  # seconds
_SIGNATURE_LIMIT = 64 << 10  # bytes
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+-]{0,39}")  # os-release(5): what ID and VERSION_ID are made of


@dataclass(frozen=True)
class Request:
    """What `create` is asked for. profile: already with the command line's --branch and --mirror in it.

    archive: a file or URL to unpack instead of the profile's minirootfs. digest: what the archive must have.
    lock: what the root has to be exactly; then the profile is the lock's own.
    """

    name: str
    profile: Profile
    archive: str | None = None
    digest: Digest | None = None
    replace: bool = False
    qemu: Wanted = handlers.ANY
    lock: Lock | None = None


@dataclass(frozen=True)
class _Archive:
    """A verified archive and where it came from; mirror and branch are "" unless it is a distribution's.

    folder: of an image layout, whose index.json is the archive, as it holds the hashes of all the rest.
    """

    verified: Verified
    source: str
    mirror: str = ""
    branch: str = ""
    folder: Path | None = None


@dataclass(frozen=True)
class _Filled:
    """What a rootfs was filled with: texts as in `Root`. packages: whether those of the profile are among it."""

    distro: str
    branch: str
    version: str
    source: str
    sha512: str
    mirror: str
    packages: bool = False


def create(request: Request, store_folder: Path, cache: Path) -> Root:
    """Bootstrap a root and publish it in the store; afterwards it is there as a whole, or not at all.

    Raises CrossrootError for whatever keeps it from being made; nothing of it is left then but the download.
    """
    with store.create(request.name, store_folder, replace=request.replace) as unfinished:
        store.publish(unfinished, _make(request, unfinished, cache))
    return store.open_root(request.name, store_folder)


def lock(request: Request, store_folder: Path, cache: Path) -> Lock:
    """The lock of the root that `create` would make. It is made, looked at, and deleted again.

    request: its name is that of a root which is not there. Raises CrossrootError as `create`.
    """
    profile = request.profile
    if profile.distro in debian.DISTROS:
        raise UsageError(
            f"{profile.name} is a profile of {profile.distro}, and locks are for Alpine only",
            hint="name a mirror of one day, a snapshot, under mirrors in the profile instead",
        )
    with store.create(request.name, store_folder, replace=False) as unfinished:
        root = _make(request, unfinished, cache)
        found = namespaces.call(lambda _: _look(unfinished / "rootfs"), id_map=root.id_map)
    return Lock(
        profile=profile,
        archive=root.source if root.sha512 else "",
        sha512=root.sha512,
        mirror=root.mirror,
        branch=root.branch,
        made=store.timestamp(),
        world=tuple(found["world"]),
        keys=_keys(request),
        packages=_pins(found),
    )


def _look(rootfs: Path) -> dict[str, Any]:
    """What is installed, by a child in the root."""
    os.chroot(rootfs)
    os.chdir("/")
    pins = {name: [pin.version, pin.digest] for name, pin in locks.installed().items()}
    return {"packages": pins, "world": guest.read(_WORLD).decode(errors="replace").split()}


def _pins(found: dict[str, Any]) -> dict[str, Pin]:
    return {name: Pin(*pin) for name, pin in found["packages"].items()}


def _make(request: Request, unfinished: Path, cache: Path) -> Root:
    """Make the root in the folder `unfinished`, whole but not published."""
    profile = request.profile
    qemu_version = profile.qemu_version or _needed_qemu(profile.packages)
    created = store.timestamp()  # before anything is written: `export` tells by it what came from the archive
    # Before the download, so that a missing emulator costs nobody the wait.
    mirrors = profile.mirrors if profile.distro == "alpine" else ()
    handler = handlers.choose(profile.arch, profile.binfmt, request.qemu, qemu_version, mirrors)
    if request.archive is None and profile.distro in debian.DISTROS:
        filled = _bootstrap_debian(profile, unfinished / "rootfs", handler)
    elif request.archive is None and profile.source == "packages":
        filled = _install_alpine(request, unfinished, cache)
    else:
        filled = _unpack_archive(request, unfinished / "rootfs", cache)
    root = _root(request, unfinished, filled, created)
    if _packages(request) and not filled.packages:
        with _naming_what_is_gone(request, root):
            packages.add(root, _packages(request), cache, request.qemu)
    for hook in profile.hooks:
        title = hook.strip().splitlines()[0]
        _run_inside(root, request.qemu, ["/bin/sh", "-ec", hook], f"the hook '{title}'")
    if request.lock:
        _settle(root, request.lock)
    return root


def _packages(request: Request) -> list[str]:
    """The packages to install, in exactly their versions if there is a lock."""
    if request.lock:
        return [f"{name}={pin.version}" for name, pin in request.lock.packages.items()]
    return list(request.profile.packages)


@contextmanager
def _naming_what_is_gone(request: Request, root: Root) -> Iterator[None]:
    """If the block fails with a lock, look for packages that are not there any more: they are the cause then."""
    try:
        yield
    except CrossrootError as error:
        if request.lock is None or error.exit_code in _INTERRUPTED:
            raise
        present = _pins(namespaces.call(lambda _: _look(root.rootfs), id_map=root.id_map))
        lines = _repositories(request, root.mirror, root.branch).decode().split()
        remote = [line for line in lines if "://" in line]
        raise locks.gone(request.lock, present, remote) or error from error


def _settle(root: Root, lock: Lock) -> None:
    """Check that the root is what the lock says, and remove what differs between two creations."""

    def work(_: Progress) -> None:
        locks.check(lock, _pins(_look(root.rootfs)))
        # Instead of the exact versions that apk was asked for.
        _write(_WORLD, "".join(f"{name}\n" for name in lock.world).encode())
        normalise.settle(lock.seconds // _DAY)

    namespaces.call(work, id_map=root.id_map)


def _needed_qemu(packages: Sequence[str]) -> str:
    """The version of qemu-user that packages are known to need, "" for any."""
    return next((_NEEDED_QEMU[name] for name in packages if name in _NEEDED_QEMU), "")


def _root(request: Request, unfinished: Path, filled: _Filled, created: str) -> Root:
    profile = request.profile
    return Root(
        name=request.name,
        path=unfinished,
        arch=profile.arch.name,
        distro=filled.distro,
        branch=filled.branch,
        version=filled.version,
        source=filled.source,
        sha512=filled.sha512,
        mirror=filled.mirror,
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
    )


def _bootstrap_debian(profile: Profile, rootfs: Path, handler: Handler) -> _Filled:
    id_map = namespaces.own_id_map()
    recipe = debian.Recipe(
        distro=profile.distro,
        arch=profile.arch,
        suite=profile.suite,
        components=profile.components,
        variant=profile.variant,
        packages=profile.packages,
        mirrors=profile.mirrors,
        keyring=profile.keyring,
        qemu_cpu=profile.qemu_cpu,
    )
    if id_map is None and handler.scope == "private":
        made = debian.bootstrap(recipe, rootfs, handler, namespaces.identity_map())
    else:
        made = debian.bootstrap(recipe, rootfs, handler, id_map)
    return _Filled(profile.distro, profile.suite, made.version, made.mirror, "", made.mirror, packages=True)


def _install_alpine(request: Request, unfinished: Path, cache: Path) -> _Filled:
    """Fill the rootfs with signed packages alone: what a minirootfs consists of, and those of the profile."""
    profile = request.profile
    branch = request.lock.branch if request.lock else profile.branch
    mirror = alpine.find_repositories(profile.arch, branch, [request.lock.mirror] if request.lock else profile.mirrors)
    source = f"packages of {shown(mirror)}/{branch}"
    files = {
        "/etc/resolv.conf": session.resolver_configuration(),
        "/etc/apk/repositories": _repositories(request, mirror, branch),
        **{f"/etc/apk/keys/{name}": key for name, key in (apk.keys(profile.arch) | _keys(request)).items()},
    }

    def prepare(_: Progress) -> None:
        os.chroot(unfinished / "rootfs")
        os.chdir("/")
        os.umask(0o022)
        for name, content in files.items():
            _write(name, content)
        for folder, mode in _MOUNT_POINTS.items():
            os.mkdir(folder)
            os.chmod(folder, mode)

    def look(_: Progress) -> str:
        os.chroot(unfinished / "rootfs")
        os.chdir("/")
        version = _word(guest.os_release().get("VERSION_ID", ""))
        _write("/etc/apk/repositories", _repositories(request, mirror, alpine.branch_of(version, branch)))
        return version

    id_map = namespaces.own_id_map()
    namespaces.call(prepare, id_map=id_map)
    filled = _Filled("alpine", branch, "", source, "", mirror, packages=True)
    root = _root(request, unfinished, filled, store.timestamp())
    with _naming_what_is_gone(request, root):
        packages.initialise(root, _packages(request), cache, request.qemu)
    version: str = namespaces.call(look, id_map=id_map)
    return dataclasses.replace(filled, version=version, branch=alpine.branch_of(version, branch))


def _repositories(request: Request, mirror: str, branch: str) -> bytes:
    """Content of /etc/apk/repositories."""
    return (
        alpine.repositories(mirror, branch) + "".join(f"{line}\n" for line in request.profile.repositories)
    ).encode()


def _keys(request: Request) -> dict[str, bytes]:
    """The public keys of the profile, by their names."""
    if request.lock:
        return request.lock.keys
    keys = {}
    for path in map(Path, request.profile.keys):
        try:
            keys[path.name] = path.read_bytes()
        except OSError as error:
            raise CrossrootError(
                f"cannot read the key {path}: {error.strerror}", hint="check keys in the profile"
            ) from error
    return keys


def _unpack_archive(request: Request, rootfs: Path, cache: Path) -> _Filled:
    """Fill `rootfs` from an archive: the one that is asked for, or the newest of the profile's branch."""
    id_map = namespaces.own_id_map()
    if id_map is not None and id_map.single:
        ui.note(f"all files of this root will belong to you alone: {namespaces.single_id_reason()}")
    archive = _fetch(request, cache)
    with archive.verified:
        facts = _unpack(request, archive, rootfs, keep_owners=id_map is None or not id_map.single)
    _check_arch(request.profile.arch, facts, archive.source)
    return _Filled(
        facts["distro"],
        archive.branch,
        facts["version"],
        archive.source,
        archive.verified.sha512,
        archive.mirror,
    )


def _fetch(request: Request, cache: Path) -> _Archive:
    """The archive to unpack, verified against the best hash there is: given, pinned, or the mirror's."""
    profile = request.profile
    pinned = Digest("sha512", profile.sha512) if profile.sha512 else None
    digest = request.digest or pinned
    if request.lock:
        return _fetch_locked(request.lock, cache)
    if request.archive is None:
        return _fetch_release(profile, digest, cache)
    if "://" in request.archive:
        with ui.task(f"downloading {shown(request.archive)}") as progress:
            verified = download([request.archive], digest, cache=cache, progress=progress)
        return _Archive(verified, shown(request.archive))
    path = Path(request.archive).expanduser().absolute()
    if path.is_dir():
        return _Archive(open_local(path / "index.json", digest), str(path), folder=path)
    return _Archive(open_local(path, digest), str(path))


def _fetch_locked(lock: Lock, cache: Path) -> _Archive:
    with ui.task(f"downloading {shown(lock.archive)}") as progress:
        verified = download(lock.urls, Digest("sha512", lock.sha512), cache=cache, progress=progress)
    return _Archive(verified, lock.archive, lock.mirror, lock.branch)


def _fetch_release(profile: Profile, digest: Digest | None, cache: Path) -> _Archive:
    """The newest minirootfs of the profile's branch."""
    release = alpine.find_minirootfs(profile.arch, profile.branch, profile.mirrors)
    with ui.task(f"downloading Alpine {release.version} for {profile.arch.name}") as progress:
        verified = download(
            release.urls, digest or Digest("sha512", release.sha512), cache=cache, size=release.size, progress=progress
        )
    if profile.keyring:
        alpine.verify_signature(verified, _signature(release), Path(profile.keyring))
    return _Archive(verified, shown(release.urls[0]), release.mirror, release.branch)


def _signature(release: alpine.Release) -> bytes:
    try:
        return read_small(release.signature_url, limit=_SIGNATURE_LIMIT)
    except NotFound as error:
        raise CrossrootError(
            f"the mirror has no signature for its archive: {error.message}",
            hint="name another mirror with --mirror URL, or pin the hash: sha512 in the profile, instead of keyring",
        ) from error


def _unpack(request: Request, archive: _Archive, rootfs: Path, *, keep_owners: bool) -> dict[str, Any]:
    """Unpack and configure in a child that is confined to `rootfs`; what the child found out about it."""
    from crossroot import oci_image, unpack

    unpack.prepare()
    file = archive.verified.file
    image = archive.folder or (file if not archive.mirror and oci_image.is_image(file) else None)
    layers = oci_image.layers(image, request.profile.arch) if image else []
    files = {"/etc/resolv.conf": session.resolver_configuration()}
    if archive.mirror:
        files["/etc/apk/repositories"] = _repositories(request, archive.mirror, archive.branch)
        files |= {f"/etc/apk/keys/{name}": key for name, key in _keys(request).items()}

    def work(progress: Progress) -> dict[str, Any]:
        os.chroot(rootfs)
        os.chdir("/")
        if layers:
            unpacked = oci_image.unpack_layers(layers, keep_owners=keep_owners, progress=progress)
        else:
            unpacked = unpack.unpack(file, keep_owners=keep_owners, progress=progress)
        for name, content in files.items():
            _write(name, content)
        release = guest.os_release()
        return {
            "machines": unpacked.machines,
            "skipped": unpacked.skipped,
            "apk_arch": guest.read("/etc/apk/arch").decode(errors="replace").strip(),
            "distro": _word(release.get("ID", "")) or "unknown",
            "version": _word(release.get("VERSION_ID", "")),
        }

    with ui.task("unpacking") as progress:
        facts: dict[str, Any] = namespaces.call(work, id_map=namespaces.own_id_map(), progress=progress)
    if facts["skipped"]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in facts["skipped"].items())
        ui.note(f"left out of the archive: {kinds} (a session has its own /dev)")
    return facts


def _write(name: str, content: bytes) -> None:
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


def _run_inside(root: Root, qemu: Wanted, command: Sequence[str], what: str) -> None:
    """Run a command as root of the unfinished root; its output goes to stderr, it has no input.

    Signals to crossroot go to the command, as in any session; the exit status tells of one that ended it.
    """
    plan = session.plan(root, session.Options(user="root", cwd=False, qemu=qemu), [*_QUIET, *command])
    with ui.task(what):
        status = enter.run(plan, terminal=False)
    if status != 0:
        raise CrossrootError(
            f"{what} failed with status {status}",
            hint="its own output is above",
            exit_code=status if status in _INTERRUPTED else EXIT_FAILED,
        )
