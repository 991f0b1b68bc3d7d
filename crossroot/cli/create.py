"""`crossroot create`."""

import dataclasses
import re
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crossroot import layout, paths, profiles, store, ui
from crossroot.cli import complete
from crossroot.cli.session_commands import Binfmt, Qemu, QemuSha256, QemuVersion
from crossroot.cli.sessions import check_policy, wanted_emulator
from crossroot.errors import EXIT_SIGNAL_BASE, UsageError
from crossroot.fetch import Digest
from crossroot.profiles import Profile
from crossroot.wanted import Wanted

if TYPE_CHECKING:
    from crossroot.lock import Lock
    from crossroot.metadata import Root
    from crossroot.namespaces import Reporter
    from crossroot.request import Request


def create(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PROFILE...]",
            help="Profiles, or architectures by any of their names.",
            autocompletion=complete.profiles,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="N", help="Name of the root. Default: that of the profile.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option(metavar="B", help="Branch of Alpine, or suite of Debian or Ubuntu.")
    ] = None,
    mirror: Annotated[str | None, typer.Option(metavar="URL", help="Mirror to use instead of the profile's.")] = None,
    package: Annotated[
        list[str] | None, typer.Option(metavar="P", help="Install this package, too. Repeatable.")
    ] = None,
    archive: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="FILE|URL", help="Unpack this: a rootfs as tar, also gz, xz, bz2, zst; a container image."
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(metavar="H", help="What the archive must have.")] = None,
    sha512: Annotated[str | None, typer.Option(metavar="H", help="What the archive must have.")] = None,
    locked: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead of PROFILE: make the root of `crossroot lock` again.")
    ] = None,
    binfmt: Binfmt = "",
    qemu: Qemu = "",
    qemu_sha256: QemuSha256 = "",
    qemu_version: QemuVersion = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a root of that name.")] = False,
    allow_downgrade: Annotated[
        bool, typer.Option("--allow-downgrade", help="Take an older release than the mirror has had before.")
    ] = False,
) -> int:
    """Bootstrap roots: download, verify, unpack, configure.

    Several are made side by side. One that fails leaves the others alone, and is told by the exit status.

    \b
    Examples:
      crossroot create riscv64
      crossroot create riscv64 aarch64 armv7 --package build-base
      crossroot create aarch64 --name arm-edge --branch edge
      crossroot create debian-riscv64 --package gcc --package make
      crossroot create armv7 --from rootfs.tar.xz --sha256 9f86d0…
      crossroot create --locked riscv64.lock
    """
    # An option that is given but empty, by an unset variable of a script for instance, is not one left out.
    hashes = [
        Digest(algorithm, value) for algorithm, value in (("sha256", sha256), ("sha512", sha512)) if value is not None
    ]
    if len(hashes) > 1:
        raise UsageError("both --sha256 and --sha512 are given", hint="give one of them")
    if len(names or ()) > 1:
        _refuse_for_several({"--name": name, "--from": archive, "--sha256": sha256, "--sha512": sha512})
    lock = _read_lock(locked, (names or None, branch, mirror, package, archive, *hashes)) if locked else None
    wanted = wanted_emulator(qemu, qemu_sha256, qemu_version)
    requests = [
        dataclasses.replace(
            _request(loaded, name, branch, mirror, package or (), archive, hashes, binfmt, wanted, lock, force),
            allow_downgrade=allow_downgrade,
        )
        for loaded in ([lock.profile] if lock else _load(names))
    ]
    for sentence in store.recover(paths.store()):
        ui.note(sentence)
    return _create_one(requests[0]) if len(requests) == 1 else _create_several(requests)


def _request(
    loaded: Profile,
    name: str | None,
    branch: str | None,
    mirror: str | None,
    packages: Sequence[str],
    archive: str | None,
    hashes: Sequence[Digest],
    binfmt: str,
    qemu: Wanted,
    lock: "Lock | None",
    force: bool,
) -> "Request":
    from crossroot.request import Request

    chosen = dataclasses.replace(
        profiles.on_branch(loaded, branch),
        mirrors=loaded.mirrors if mirror is None else (_check_mirror(mirror),),
        packages=profiles.with_packages(loaded, packages),
        binfmt=check_policy(binfmt) or loaded.binfmt,
    )
    return Request(
        name=layout.check_name(loaded.name if name is None else name),
        profile=chosen,
        archive=archive,
        digest=hashes[0] if hashes else None,
        replace=force,
        qemu=qemu,
        lock=lock,
    )


def _create_one(request: "Request") -> int:
    from crossroot import bootstrap

    root = bootstrap.create(request, paths.store(), paths.cache())
    _tell(root)
    ui.note(f"enter it with: crossroot shell {root.name}")
    return 0


def _create_several(requests: Sequence["Request"]) -> int:
    """Make all roots, each in a process of its own; the worst of their statuses."""
    import tempfile

    from crossroot import bootstrap, capacity, job_display, jobs

    def make(request: "Request", _: "Reporter") -> int:
        _tell(bootstrap.create(request, paths.store(), paths.cache()))
        return 0

    bootstrap.prepare()
    live = sys.stderr.isatty()
    with ExitStack() as files:
        logs = {request.name: files.enter_context(tempfile.TemporaryFile(buffering=0)) for request in requests}
        todo = [
            jobs.Job(request.name, partial(make, request), logs[request.name], jobs.CREATING) for request in requests
        ]
        with job_display.display(list(logs), sys.stderr.buffer, live=live) as display:
            # Creations wait for the network more than they compute.
            states, ended_by = jobs.run(todo, 2 * capacity.jobs_at_once(), display)
        job_display.report(states, logs, shown=not live)
    for sentence in store.recover(paths.store()):  # of those that did not end in time
        ui.note(sentence)
    return EXIT_SIGNAL_BASE + ended_by if ended_by else jobs.worst(states)


def _tell(root: "Root") -> None:
    system = f"{root.distro} {root.version}".strip()
    ui.note(f"created {root.name}: {system} for {root.arch} in {root.rootfs}")


def _refuse_for_several(options: dict[str, str | None]) -> None:
    """Raise UsageError if an option is given that can be about one root only."""
    for option, value in options.items():
        if value is not None:
            raise UsageError(f"{option} is about one root, and several are named", hint="create them one by one")


def _load(names: Sequence[str] | None) -> list[Profile]:
    if not names:
        raise UsageError("no profile is named", hint="crossroot create riscv64, or: crossroot create --locked FILE")
    loaded = [profiles.load(name, paths.profile_folders()) for name in names]
    return only_once(loaded)


def only_once(loaded: list[Profile]) -> list[Profile]:
    """The profiles as they are. Raises UsageError for one that is named twice."""
    names = [profile.name for profile in loaded]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]} is named twice", hint="name each profile once")
    return loaded


def _read_lock(file: Path, others: Sequence[object]) -> "Lock":
    """The lock; `others`, what else would say what to make, have to be left out."""
    from crossroot import lock

    if any(other is not None for other in others):
        raise UsageError(
            f"--locked {file} says all about the root",
            hint="leave out the profile, --branch, --mirror, --package, --from and the hashes",
        )
    return lock.read(file)


def _check_mirror(url: str) -> str:
    if not re.match("https?://[^/]", url):
        raise UsageError(f"'{url}' is not an http or https URL", hint="give a mirror that starts with https://")
    return url
