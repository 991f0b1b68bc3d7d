"""What `crossroot create` does, without typer."""

import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossroot import layout, paths, profiles, store, ui
from crossroot.cli import options
from crossroot.cli.recovery import recover
from crossroot.cli.sessions import check_policy, wanted_emulator
from crossroot.errors import EXIT_SIGNAL_BASE, UsageError
from crossroot.fetch import Digest
from crossroot.profiles import Profile

if TYPE_CHECKING:
    from crossroot.lock import Lock
    from crossroot.metadata import Root
    from crossroot.namespaces import Reporter
    from crossroot.request import Request

_OF_ONE_ROOT = ("--name", "--from", "--sha256", "--sha512")


def start(arguments: Sequence[str]) -> int | None:
    """Do `crossroot create ARGUMENTS`; None, and nothing is done, unless they are plainly right (see
    `options.parse`)."""
    parsed = options.parse(arguments, options.CREATE)
    return create(parsed.words, parsed.values) if parsed else None


def create(names: Sequence[str], values: Mapping[str, Any]) -> int:
    """Make the roots. names: of profiles. values: of `options.CREATE`. Raises CrossrootError."""
    hashes = [Digest(name, values[name]) for name in ("sha256", "sha512") if values[name] is not None]
    if len(hashes) > 1:
        raise UsageError("both --sha256 and --sha512 are given", hint="give one of them")
    if len(names) > 1:
        _refuse_for_several(values)
    lock = _read_lock(names, values) if values["locked"] is not None else None
    targets = [lock.profile] if lock else _load(names)
    requests = [_request(profile, values, hashes, lock) for profile in targets]
    recover()
    return _create_one(requests[0]) if len(requests) == 1 else _create_several(requests)


def _request(profile: Profile, values: Mapping[str, Any], hashes: Sequence[Digest], lock: "Lock | None") -> "Request":
    from crossroot.request import Request

    mirror, name = values["mirror"], values["name"]
    return Request(
        name=layout.check_name(profile.name if name is None else name),
        profile=profiles.on_branch(profile, values["branch"]).but(
            mirrors=profile.mirrors if mirror is None else (_check_mirror(mirror),),
            packages=profiles.with_packages(profile, values["package"]),
            binfmt=check_policy(values["binfmt"]) or profile.binfmt,
        ),
        archive=values["archive"],
        digest=hashes[0] if hashes else None,
        replace=values["force"],
        qemu=wanted_emulator(values["qemu"], values["qemu_sha256"], values["qemu_version"]),
        lock=lock,
        allow_downgrade=values["allow_downgrade"],
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


def _refuse_for_several(values: Mapping[str, Any]) -> None:
    """Raise UsageError if an option is given that can be about one root only."""
    for option in options.CREATE:
        if option.name in _OF_ONE_ROOT and values[option.key] is not None:
            raise UsageError(f"{option.name} is about one root, and several are named", hint="create them one by one")


def _load(names: Sequence[str]) -> list[Profile]:
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


def _read_lock(names: Sequence[str], values: Mapping[str, Any]) -> "Lock":
    """The lock; what else would say what to make has to be left out."""
    from crossroot import lock

    others = [values[key] for key in ("branch", "mirror", "archive", "sha256", "sha512")]
    if names or values["package"] or any(other is not None for other in others):
        raise UsageError(
            f"--locked {values['locked']} says all about the root",
            hint="leave out the profile, --branch, --mirror, --package, --from and the hashes",
        )
    return lock.read(Path(values["locked"]))


def _check_mirror(url: str) -> str:
    if not re.match("https?://[^/]", url):
        raise UsageError(f"'{url}' is not an http or https URL", hint="give a mirror that starts with https://")
    return url
