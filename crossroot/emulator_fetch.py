"""Get a static qemu-user without installing anything: from Debian's or Ubuntu's archive, from Alpine, or from a file.

Each way verifies what it got, each emulator has to run the probe program, and only then it is published in the cache
(see `crossroot.emulator` for the layout) by one rename. Nothing here needs root.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossroot import apk, apt, binfmt, binfmt_rule, elf, emulator, fetch, namespaces, probe, ui
from crossroot.arch import Arch
from crossroot.arch import find as find_arch
from crossroot.distros.alpine import DEFAULT_BRANCH, DEFAULT_MIRROR
from crossroot.emulator import Emulator
from crossroot.errors import CrossrootError, UsageError
from crossroot.tasks import task

SOURCES = ("apt", "alpine")

_LARGEST = 512 << 20  # bytes an emulator may have; that of Debian 13 has 12 MB
_TIMEOUT = 20  # seconds
_PACKAGES = ("qemu-user-static", "qemu-user")  # Debian's, older name first; the static one has the file wanted


class ProbeFailed(CrossrootError):
    """An emulator is what it should be, and yet does not run programs."""


@dataclass(frozen=True)
class Wish:
    """What to fetch. version: see `emulator.satisfies`. source: one of SOURCES, "" for all in a sensible order.
    mirrors: of Alpine; without any, its own. branch: of Alpine, "" for latest-stable, and edge if `version` asks
    for something newer. Someone who names a mirror or branch wants Alpine first."""

    arch: Arch
    version: str = ""
    source: str = ""
    mirrors: Sequence[str] = ()
    branch: str = ""


@dataclass(frozen=True)
class _Origin:
    """Where a file comes from. source: apt, alpine or file. package: its name and version; of a file, path or URL."""

    source: str
    package: str


def ensure(
    arch: Arch,
    explicit: str | Path | None = None,
    version: str = "",
    *,
    sha256: str = "",
    cache: Path,
    mirrors: Sequence[str] = (),
) -> Path:
    """The emulator for `arch`: what `emulator.find` finds, or else one that is fetched now, which is announced.

    explicit: the path or, with `sha256`, the URL of one. version: see `emulator.satisfies`. mirrors: as for `Wish`.
    Raises CrossrootError if there is none and none can be had.
    """
    if explicit is not None and "://" in str(explicit):
        return add(arch, str(explicit), sha256, cache=cache).path.resolve()
    if explicit is not None:
        return emulator.find(arch, Path(explicit))
    emulator.check_request(version)
    try:
        return emulator.find(arch, version=version, cache=cache)
    except CrossrootError as error:
        ui.note(f"{error.message}; fetching one")
    wish = Wish(arch, version, mirrors=mirrors)
    with _staging(arch, cache) as staging:
        for each in emulator.fetched(arch, cache):  # by another process, while this one waited for the lock
            if emulator.satisfies(each.version, version) and not emulator.why_unusable(each.path):
                return each.path.resolve()
        return _fetch(wish, staging, cache).path.resolve()


def fetch_emulator(wish: Wish, *, cache: Path) -> Emulator:
    """Fetch an emulator and publish it; gives it, or an older one that goes on being used as the new one fails.

    Raises CrossrootError that names each source with its cause, UsageError for a wish that can't be.
    """
    emulator.check_request(wish.version)
    if wish.source not in ("", *SOURCES):
        raise UsageError(f"'{wish.source}' is no source of emulators", hint=f"give {' or '.join(SOURCES)}")
    with _staging(wish.arch, cache) as staging:
        return _fetch(wish, staging, cache)


def _fetch(wish: Wish, staging: Path, cache: Path) -> Emulator:
    """What the first source gives that has it, published."""
    errors: list[CrossrootError] = []
    for source in _order(wish):
        if errors:
            ui.note(f"{errors[-1].message}; trying {source}")
        try:
            origin = _GET[source](wish, staging, cache)
            return _publish(wish, origin, staging, cache)
        except CrossrootError as error:
            errors.append(error)
    return _previous(wish, errors, cache)


def add(arch: Arch, source: str, sha256: str, *, cache: Path) -> Emulator:
    """Keep the emulator at `source`, a path, or an http(s) URL that needs `sha256`, among the fetched ones.

    Gives the one that is there already if it has that hash. Raises CrossrootError if it can't be had or is not usable.
    """
    digest = fetch.Digest("sha256", sha256) if sha256 else None
    remote = "://" in source
    if remote and digest is None:
        raise UsageError(
            f"nothing says which file {fetch.shown(source)} has to be", hint="give its hash with --sha256 HEX"
        )
    for each in emulator.fetched(arch, cache):
        if digest and emulator.info(each).get("sha256") == digest.value:
            return each
    with _staging(arch, cache) as staging:
        if remote:
            with task(f"fetching {fetch.shown(source)}") as progress:
                file = fetch.download([source], digest, cache=cache, progress=progress)
        else:
            file = fetch.open_local(Path(source), digest)
        with file, _staged(arch, staging).open("wb") as target:
            shutil.copyfileobj(file.file, target)
        origin = _Origin("file", fetch.shown(source) if remote else str(Path(source).absolute()))
        return _publish(Wish(arch), origin, staging, cache)


def _order(wish: Wish) -> list[str]:
    """The sources to try, best first."""
    if wish.source:
        return [wish.source]
    here = ["apt"] if apt.release() else []
    named = bool(wish.branch) or (bool(wish.mirrors) and list(wish.mirrors) != [DEFAULT_MIRROR])
    return ["alpine", *here] if named else [*here, "alpine"]


def _previous(wish: Wish, errors: Sequence[CrossrootError], cache: Path) -> Emulator:
    """An emulator of before, if all that is wrong with the new one is that it fails the probe; else an error."""
    if any(isinstance(error, ProbeFailed) for error in errors):
        for each in emulator.fetched(wish.arch, cache):
            if emulator.satisfies(each.version, wish.version):
                causes = "; ".join(error.message for error in errors)
                ui.note(f"{causes}; it is not kept, and qemu {each.version} goes on being used for {wish.arch.name}")
                return each
    causes = "; ".join(error.message for error in errors)
    raise CrossrootError(
        f"no emulator for {wish.arch.name} could be fetched: {causes}",
        hint=next((error.hint for error in errors if error.hint), emulator.install_hint(wish.arch)),
    )


# --- from Alpine ------------------------------------------------------------------------------------------


def _from_alpine(wish: Wish, staging: Path, cache: Path) -> _Origin:  # noqa: ARG001
    """Stage the emulator from the first mirror and branch that has it, in the package for the host's own arch."""
    host = find_arch(os.uname().machine)
    keys = apk.keys(host)
    branches = [wish.branch or DEFAULT_BRANCH] + ["edge"] * bool(wish.version and not wish.branch)
    errors = []
    for branch in branches:
        for mirror in wish.mirrors or [DEFAULT_MIRROR]:
            repository = f"{mirror.rstrip('/')}/{branch}/community/{host.name}"
            try:
                return _from_repository(wish, repository, host, keys, staging)
            except CrossrootError as error:
                errors.append(error)
    raise CrossrootError("; ".join(error.message for error in errors), hint=errors[0].hint)


def _from_repository(wish: Wish, repository: str, host: Arch, keys: dict[str, bytes], staging: Path) -> _Origin:
    where = f"{fetch.shown(repository)}/APKINDEX.tar.gz"
    index = apk.read_index(fetch.read_small(f"{repository}/APKINDEX.tar.gz", limit=apk.LARGEST_INDEX), keys, where)
    name = f"qemu-{wish.arch.qemu}"
    there = [package for package in index if package.name == name and package.arch == host.name]
    package = max(
        (each for each in there if emulator.satisfies(each.version.partition("-")[0], wish.version)),
        key=lambda each: emulator.numbers(each.version),
        default=None,
    )
    if package is None:
        have = f"only {', '.join(each.version for each in there)} of {name}" if there else f"no {name}"
        wanted = f", not version {wish.version}" if there else ""
        raise CrossrootError(
            f"{fetch.shown(repository)} has {have}{wanted}", hint="try --branch edge, another --mirror, or --source apt"
        )
    url = f"{repository}/{package.file}"
    # Only its signature says whether it is the right file: so it is no blob of the cache, but gone afterwards.
    with (
        task(f"fetching {package.file} from {fetch.shown(repository)}") as progress,
        fetch.download([url], None, cache=staging, size=package.size, progress=progress) as file,
        _staged(wish.arch, staging).open("wb") as target,
    ):
        apk.verify_package(file.file, keys, package, fetch.shown(url))
        apk.extract_file(file.file, f"usr/bin/{name}", target, limit=_LARGEST, where=fetch.shown(url))
    return _Origin("alpine", f"{package.name} {package.version}")


# --- from Debian and Ubuntu -------------------------------------------------------------------------------


def _from_apt(wish: Wish, staging: Path, cache: Path) -> _Origin:
    """Stage the emulator from the first suite that has a version that will do: the host's own, its backports, newer."""
    release = apt.release()
    if release is None:
        raise CrossrootError(
            "this host is no Debian or Ubuntu with apt",
            hint=apt.FROM_ALPINE,
        )
    problems: list[str] = []
    seen: list[str] = []
    with apt.opened(cache / "apt") as packages:
        for sources in apt.stages(apt.read_sources(), release, newer=bool(wish.version)):
            if not sources:
                continue
            ui.note(f"asking apt for qemu in {', '.join(suite for source in sources for suite in source.suites)}")
            packages.update(sources)
            problems.append(packages.problems)
            for offer in _offers(packages, seen, wish.version):
                if _stage_from_deb(wish.arch, packages, offer, staging):
                    return _Origin("apt", f"{offer.name} {offer.version}")
    said = "; ".join(filter(None, problems))
    have = f"has only {', '.join(dict.fromkeys(seen))}" if seen else "has no qemu-user"
    wanted = f", not version {wish.version}" if seen and wish.version else ""
    raise CrossrootError(
        f"the archive of this host {have}{wanted}" + (f" ({said})" if said else ""),
        hint=f"look at /etc/apt/sources.list and /etc/apt/sources.list.d, or {apt.FROM_ALPINE}",
    )


def _offers(packages: apt.Apt, seen: list[str], version: str) -> Iterator[apt.Offer]:
    """Packages that may hold the emulator in a version that will do, newest first; all versions are added to `seen`."""
    for name in _PACKAGES:
        offers = packages.offers(name)
        seen += [_upstream(offer.version) for offer in offers]
        fitting = [offer for offer in offers if emulator.satisfies(_upstream(offer.version), version)]
        yield from fitting[:1]


def _upstream(version: str) -> str:
    """The version of qemu in one of Debian's: 7.2 in 1:7.2+dfsg-7 (deb-version(7))."""
    numbers = emulator.numbers(version.partition(":")[2] or version)
    return ".".join(map(str, numbers))


def _stage_from_deb(arch: Arch, packages: apt.Apt, offer: apt.Offer, staging: Path) -> bool:
    """Stage the emulator from a package; gives whether it has a static one. Since Debian 13, qemu-user-static holds
    nothing but links to qemu-user; before, that one is linked dynamically."""
    ui.note(f"fetching {offer.name} {offer.version} from {offer.suite} with apt")
    deb = packages.download(offer)
    file = _staged(arch, staging)
    with file.open("wb") as target:
        found = apt.extract_file(
            deb, [f"usr/bin/qemu-{arch.qemu}-static", f"usr/bin/qemu-{arch.qemu}"], target, limit=_LARGEST
        )
    if not found:
        return False
    header = elf.read(file)
    return header is not None and header.static


_GET: dict[str, Callable[[Wish, Path, Path], _Origin]] = {"apt": _from_apt, "alpine": _from_alpine}


# --- tried, then published --------------------------------------------------------------------------------


@contextmanager
def _staging(arch: Arch, cache: Path) -> Iterator[Path]:
    """A new folder beside the fetched emulators for `arch`, locked against other processes."""
    if emulator.runs_on_host(arch):
        raise UsageError(f"{arch.name} is this host's own arch and is never emulated", hint="name another one")
    with emulator.locked(arch, cache) as folder:
        for left in folder.glob(".new-*"):  # of a process that was killed, as the lock is ours
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as staging:
            yield Path(staging)


def _staged(arch: Arch, staging: Path) -> Path:
    return staging / f"qemu-{arch.qemu}"


def _publish(wish: Wish, origin: _Origin, staging: Path, cache: Path) -> Emulator:
    """Check and try the staged emulator, then move it to its place."""
    arch, file = wish.arch, _staged(wish.arch, staging)
    file.chmod(0o755)
    what = f"the emulator of {origin.package}"
    if problem := emulator.why_unusable(file):
        noexec = "noexec" in problem
        raise CrossrootError(f"{what} {problem}", hint="set CROSSROOT_CACHE to another folder" if noexec else "")
    version = emulator.version_of(file)
    if not version:
        raise CrossrootError(f"{what} does not tell a version, so it is no qemu-user that works here")
    if not emulator.satisfies(version, wish.version):
        raise CrossrootError(f"{what} has version {version}, not {wish.version}")
    if problem := why_it_fails(arch, file):
        raise ProbeFailed(f"{what}, qemu {version}, does not run {arch.name} programs: {problem}")
    with fetch.open_local(file, None) as verified:
        facts = {"version": version, "sha256": verified.sha256, **dataclasses.asdict(origin)}
    place = emulator.folder(arch, cache) / version
    finished = staging / "finished"
    finished.mkdir()
    file.rename(finished / file.name)
    (finished / "info.json").write_text(json.dumps(facts, indent=2) + "\n")
    if place.exists():  # the same version in another build; sessions that run keep the file they have open
        place.rename(staging / "before")
    finished.chmod(0o755)
    finished.rename(place)
    ui.note(f"qemu {version} for {arch.name} is ready: {place / file.name}")
    return Emulator(version, place / file.name)


def why_it_fails(arch: Arch, file: Path) -> str:
    """Why an emulator does not run the probe program of `arch`; "" if it does.

    It is tried as the handler of a user namespace, in an empty chroot, as sessions will use it; on kernels without
    private handlers it is run directly.
    """
    if not binfmt.private_possible():
        return _fails_directly(arch, file)
    id_map = namespaces.own_single_map() or namespaces.identity_map()
    return str(namespaces.call(lambda _: _fails_privately(arch, file), id_map=id_map))


def _fails_privately(arch: Arch, file: Path) -> str:
    """`why_it_fails`, in a user namespace of its own."""
    table = binfmt_rule.new_private_table(arch, str(file))
    try:
        verdict = probe.run(arch)
    finally:
        os.close(table)
    return verdict.problem or ("" if verdict.keeps_argv0 else "it loses argv[0]")


def _fails_directly(arch: Arch, file: Path) -> str:
    import subprocess

    with tempfile.NamedTemporaryFile(prefix="crossroot-probe-") as program:
        program.write(elf.probe_program(arch))
        program.flush()
        os.fchmod(program.fileno(), 0o700)  # qemu refuses what the user may not execute, without a word
        try:
            command = [str(file), "-0", "*", program.name]
            result = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return f"it did not finish within {_TIMEOUT} s"
    said = result.stderr.strip().splitlines()
    return "" if result.returncode == ord("*") else f"it exited with {result.returncode}: {(said or [''])[-1]}"
