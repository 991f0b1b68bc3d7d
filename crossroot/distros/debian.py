"""Debian and Ubuntu: a root made by mmdebstrap, and the installation of packages in one by its own apt.

mmdebstrap runs in mode root, as root of a user namespace where the root's owners are mapped (real root's: itself) and
where the handler for the arch is registered, with mount and pid namespaces of its own. So it works in the same way for
root and an ordinary user, needs no handler of the host, and whatever it mounts or starts goes with the namespaces. Its
own mode unshare would hide our handler behind a user namespace of other ids, and a chrootless one knows few packages.
"""

import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

from crossroot import apt, binfmt, binfmt_rule, fetch, guest, handlers, linux, namespaces, ui
from crossroot.arch import Arch
from crossroot.errors import CrossrootError, UsageError
from crossroot.handlers import Handler
from crossroot.namespaces import IdMap
from crossroot.record import Record

DISTROS = ("debian", "ubuntu")
DEFAULT_SUITE = {"debian": "trixie", "ubuntu": "noble"}
DEFAULT_COMPONENTS = {"debian": ("main",), "ubuntu": ("main", "universe")}
DEFAULT_VARIANT = "minbase"
EXTRACT = "extract"  # mmdebstrap's variant that only unpacks packages and what they depend on, for tool roots
ARCHIVES = "/var/lib/crossroot-archives"  # in a root of that variant: the names of the packages' files
VARIANTS = ("apt", "buildd", "essential", "important", "minbase", "required", "standard")  # of mmdebstrap

# The ones of debootstrap, "" for its default, which is mmdebstrap's important.
_DEBOOTSTRAP_VARIANTS = {"apt": "minbase", "essential": "minbase", "required": "minbase", "minbase": "minbase"}
_DEBOOTSTRAP_VARIANTS |= {"buildd": "buildd", "important": "", "standard": ""}

_KEYRINGS = {
    "debian": Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}
_KEYRING_PACKAGES = {"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}
_FIRST_SUITE = {("debian", "riscv64"): "trixie", ("debian", "loongarch64"): "forky"}
KEYRING_NAME = "crossroot.gpg"
_OWN_KEYRING = f"/etc/apt/keyrings/{KEYRING_NAME}"  # in a root: that of the profile

# Suites without updates of their own.
_ROLLING = ("sid", "unstable", "experimental", "rc-buggy")

_NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
_INDEX_LIMIT = 4 << 20  # bytes of an InRelease; Debian's has 140 KiB
_TAIL = 64 << 10  # bytes of output in which the reason of a failure is looked for

# Scripts of packages ask invoke-rc.d(8) to start daemons, which asks this program: 101 is "don't".
_POLICY = b"#!/bin/sh\n# A root has no init: packages start no services here.\nexit 101\n"

SOURCES = "/etc/apt/sources.list"
_POLICY_FILE = "/usr/sbin/policy-rc.d"

_INSTALL_MMDEBSTRAP = "apt install mmdebstrap; on other distributions the package is called so, too"

# An ordinary user's PATH may lack sbin.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What packages call without depending on it: hare assembles and links with binutils.
_COMPANIONS = {"hare": ("binutils",)}

# In a session, to install packages: no questions (debconf(7)).
INSTALL_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true"}


class Recipe(Record):
    """What to bootstrap; the fields are keys of a profile. mirrors: (), and keyring: "", for the usual ones.

    keep_lists: whether apt's lists of packages stay in the root.
    """

    distro: str
    arch: Arch
    suite: str
    components: tuple[str, ...]
    variant: str
    packages: tuple[str, ...]
    mirrors: tuple[str, ...] = ()
    keyring: str = ""
    qemu_cpu: str = ""
    keep_lists: bool = False

    @property
    def trusted(self) -> Path:
        """The keyring that the archive's signature is checked with."""
        return Path(self.keyring) if self.keyring else _KEYRINGS[self.distro]


class Made(Record):
    """What was made. mirror: URL that the packages came from. version: of the release, "" where it has none."""

    mirror: str
    version: str


class Exact(Record):
    """What a root consists of exactly. repository: a folder with the packages, of which all are installed.

    sources: lines of the root's sources.list. keyring: the own one that they name, b"" for none. seconds: since the
    epoch; scripts of packages that ask for the time are told this one.
    """

    repository: Path
    sources: tuple[str, ...]
    keyring: bytes
    seconds: int


class _Source(Record):
    """A suite of an archive: the main one, its updates or its security updates. uri: above dists/."""

    uri: str
    suite: str


def install_command(packages: Sequence[str]) -> list[str]:
    """The command that installs `packages` in a session, to be run as root with INSTALL_ENVIRONMENT.

    It fetches the lists of packages first, as a new root has none.
    """
    script = 'apt-get -q update && exec apt-get -qy --no-install-recommends install -- "$@"'
    return ["/bin/sh", "-c", script, "sh", *with_companions(packages)]


def with_companions(packages: Sequence[str]) -> list[str]:
    """Packages, and those without which some of them are of no use."""
    return [*packages, *(other for name in packages for other in _COMPANIONS.get(name, ()))]


def bootstrap(recipe: Recipe, rootfs: Path, handler: Handler, id_map: IdMap | None) -> Made:
    """Fill the empty folder `rootfs`. id_map: of the user namespace for it, None for the caller's own.

    What mmdebstrap says goes to stderr. Raises CrossrootError if it fails, with the cause where it can be told.
    """
    _check(recipe, id_map)
    sources = _sources(recipe)
    try:
        _run(recipe, rootfs, sources, handler, id_map)
    except _OutOfSync as error:
        if len(sources) < 2:
            raise
        # Mirrors are copied suite by suite, and those of the updates change daily.
        left_out = " and ".join(source.suite for source in sources[1:])
        ui.note(f"{error.message}; trying again without {left_out}, which the new root will not know either")
        namespaces.call(lambda _: _empty(rootfs), id_map=id_map)
        _run(recipe, rootfs, sources[:1], handler, id_map)
    return _configure(recipe, rootfs, id_map)


def rebuild(recipe: Recipe, exact: Exact, rootfs: Path, handler: Handler, id_map: IdMap | None) -> Made:
    """Fill the empty folder `rootfs` with exactly the packages of a repository, which were verified by their digests.

    recipe: its packages are the names of all. Else as `bootstrap`.
    """
    _check_ids(recipe, id_map)
    _run(recipe, rootfs, [], handler, id_map, exact)
    return _configure(recipe, rootfs, id_map, exact)


def archives(recipe: Recipe) -> tuple[str, ...]:
    """URIs of the archives that the recipe's mirrors, or the host's own apt, are; without asking them."""
    if recipe.mirrors:
        return recipe.mirrors
    host = apt.release()
    return tuple(source.uri for source in _of_host(recipe, host, apt.read_sources())) if host else ()


class _OutOfSync(CrossrootError):
    """A mirror whose files do not fit together."""


def _check(recipe: Recipe, id_map: IdMap | None) -> None:
    """Raise CrossrootError for what cannot work, before anything is fetched."""
    name = recipe.distro.capitalize()
    if not recipe.arch.debian:
        raise UsageError(f"{name} has no {recipe.arch.name}", hint="`crossroot profile list` shows what there is")
    _check_ids(recipe, id_map)
    if recipe.keyring and not recipe.trusted.is_file():
        raise CrossrootError(f"there is no keyring {recipe.trusted}", hint="check keyring in the profile")
    if not recipe.trusted.is_file():
        raise CrossrootError(
            f"without {recipe.trusted} nothing of {name} can be verified",
            hint=f"apt install {_KEYRING_PACKAGES[recipe.distro]}",
        )


def _check_ids(recipe: Recipe, id_map: IdMap | None) -> None:
    if id_map is not None and id_map.single:
        raise CrossrootError(
            f"the files of a {recipe.distro.capitalize()} root have many owners, and you have a single id",
            hint=namespaces.single_id_reason(),
        )


# Where packages come from


def _sources(recipe: Recipe) -> list[_Source]:
    """What to install from, the suite itself first; none for what mmdebstrap takes by itself."""
    if recipe.mirrors:
        return [_Source(_answering(recipe), recipe.suite)]
    host = apt.release()
    return _of_host(recipe, host, apt.read_sources()) if host else []


def _of_host(recipe: Recipe, host: apt.Release, sources: Sequence[apt.Source]) -> list[_Source]:
    """The archives that a host of the same distribution uses itself, with its updates and security updates.

    None for Ubuntu, which has other archives for other arches.
    """
    if recipe.distro != "debian" or host.family != "debian":
        return []
    pockets = [""] if recipe.suite in _ROLLING else ["", "-updates", "-security"]
    uris = {
        suite.removeprefix(codename): source.uris.split()[0]
        for source in sources
        for suite in source.suites
        for codename in host.codenames
        if suite.startswith(codename) and "main" in source.components
    }
    return [_Source(uris[pocket], recipe.suite + pocket) for pocket in pockets if pocket in uris] if "" in uris else []


def _answering(recipe: Recipe) -> str:
    """The first mirror of the recipe that has the suite. Raises CrossrootError if there is none."""
    mirrors = [mirror.rstrip("/") for mirror in recipe.mirrors]
    errors = []
    for mirror in mirrors:
        try:
            fetch.read_small(f"{mirror}/dists/{recipe.suite}/InRelease", limit=_INDEX_LIMIT)
            return mirror
        except CrossrootError as error:
            errors.append(error)
    if all(isinstance(error, fetch.NotFound) for error in errors):
        raise _no_suite(recipe, " and ".join(map(fetch.shown, mirrors)))
    raise CrossrootError("; ".join(error.message for error in errors), hint=errors[0].hint)


def _no_suite(recipe: Recipe, where: str) -> CrossrootError:
    suites = "stable ones such as trixie, testing and sid" if recipe.distro == "debian" else "such as noble or jammy"
    return CrossrootError(
        f"{where} has no suite {recipe.suite}", hint=f"check suite and mirrors in the profile; suites are {suites}"
    )


# Running mmdebstrap


def _run(
    recipe: Recipe,
    rootfs: Path,
    sources: Sequence[_Source],
    handler: Handler,
    id_map: IdMap | None,
    exact: Exact | None = None,
) -> None:
    """Run mmdebstrap in its namespaces. Raises CrossrootError if it fails, _OutOfSync if a mirror is to blame."""
    command = _exact_command(recipe, rootfs, exact) if exact else _command(recipe, rootfs, sources)
    # Beside the rootfs and not in /tmp, so that what a killed mmdebstrap leaves there goes with the unfinished root.
    scratch = rootfs.parent / "tmp"
    environment = _environment(recipe, handler) | {"TMPDIR": str(scratch)}
    if exact:
        environment["SOURCE_DATE_EPOCH"] = str(exact.seconds)

    def work(_: ui.Progress) -> list[int | str]:
        scratch.mkdir()
        if handler.scope == "private":
            table = binfmt_rule.new_private_table(recipe.arch, handler.emulator)
            linux.move_mount(table, str(binfmt.TABLE))  # in our own mount namespace
            os.close(table)
        try:
            return list(_run_aloud(command, environment))
        finally:
            shutil.rmtree(scratch)

    where = "the packages of the lock" if exact else fetch.shown(sources[0].uri) if sources else "its usual mirror"
    ui.note(f"{Path(command[0]).name}: {recipe.distro} {recipe.suite} for {recipe.arch.name} from {where}")
    status, output = namespaces.call(work, id_map=id_map, flags=_NAMESPACES)
    if status != 0:
        raise _explained(recipe, Path(command[0]).name, status, output)


def _run_aloud(command: Sequence[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run a command as pid 1 of the pid namespace, its output copied to stderr; its status and last output.

    On a terminal it writes to one, too, and so shows its progress bars.
    """
    reader, writer = os.openpty() if os.isatty(2) else os.pipe()
    if os.isatty(2):
        termios.tcsetwinsize(writer, termios.tcgetwinsize(2))
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
        env=environment,
        cwd="/",
        preexec_fn=lambda: linux.die_with_parent(signal.SIGKILL),
    )
    os.close(writer)
    tail = b""
    while data := _read(reader):
        os.write(2, data)
        tail = (tail + data)[-_TAIL:]
    os.close(reader)
    return process.wait(), tail.decode(errors="replace")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 8192)
    except OSError as error:
        if error.errno == errno.EIO:  # how the master of a pseudo-terminal tells its end
            return b""
        raise


def _command(recipe: Recipe, rootfs: Path, sources: Sequence[_Source]) -> list[str]:
    if program := shutil.which("mmdebstrap", path=_PATH):
        return _mmdebstrap(program, recipe, rootfs, sources)
    program = shutil.which("debootstrap", path=_PATH)
    if program and os.geteuid() == 0 and recipe.variant != EXTRACT:
        return _debootstrap(program, recipe, rootfs, sources)
    why = "is only of use to root" if program else "neither"
    raise CrossrootError(
        f"mmdebstrap, which makes roots of {recipe.distro}, is not installed (debootstrap {why})",
        hint=_INSTALL_MMDEBSTRAP,
    )


def _mmdebstrap(program: str, recipe: Recipe, rootfs: Path, sources: Sequence[_Source]) -> list[str]:
    packages = with_companions(recipe.packages)
    if recipe.variant != EXTRACT:
        packages.insert(0, "apt")  # Ubuntu's minbase is without it, and it is to install more
    simulated = f'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --simulate install {shlex.join(packages)}'
    options = [
        *_options(recipe, packages),
        # It looks for these only after minutes of emulation, so that a misspelt name would be told late.
        f"--extract-hook={simulated} >/dev/null",
    ]
    if recipe.variant == EXTRACT:
        options.append(f'--extract-hook=ls "$1/var/cache/apt/archives" > "$1{ARCHIVES}"')
    if not sources:
        options.append(f"--keyring={recipe.trusted}")
    if recipe.keep_lists:
        options.append("--skip=cleanup/apt/lists")
    # With the option signed-by the root's own apt trusts this keyring, and no other, for the archive.
    lines = [
        f"deb [signed-by={recipe.trusted}] {source.uri} {source.suite} {' '.join(recipe.components)}"
        for source in sources
    ]
    return [program, *options, recipe.suite, str(rootfs), *lines]


def _exact_command(recipe: Recipe, rootfs: Path, exact: Exact) -> list[str]:
    program = shutil.which("mmdebstrap", path=_PATH)
    if program is None:
        raise CrossrootError(
            "mmdebstrap, which makes roots of exactly the packages of a lock, is not installed",
            hint=_INSTALL_MMDEBSTRAP,
        )
    options = [
        *_options(recipe, recipe.packages),
        # apt's other user may not be allowed to read the repository, and has another number on each host.
        """--setup-hook=echo 'APT::Sandbox::User "root";' >>"$MMDEBSTRAP_APT_CONFIG\"""",
    ]
    return [program, *options, recipe.suite, str(rootfs), f"deb [trusted=yes] copy:{exact.repository} ./"]


def _options(recipe: Recipe, packages: Sequence[str]) -> list[str]:
    return [
        "--mode=root",
        "--format=directory",
        f"--variant={recipe.variant}",
        f"--architectures={recipe.arch.debian}",
        f"--components={','.join(recipe.components)}",
        # It would ask arch-test, which need not be there; the handler was tried by us.
        "--skip=check/qemu",
        # It tries a new sysfs first, which a user namespace does not get, and complains.
        "--skip=chroot/mount/sys",
        # A root can be made again, so there is no need to wait for the disk after each file.
        "--dpkgopt=force-unsafe-io",
        f"--include={','.join(packages)}",
    ]


def _debootstrap(program: str, recipe: Recipe, rootfs: Path, sources: Sequence[_Source]) -> list[str]:
    options = [
        f"--arch={recipe.arch.debian}",
        f"--components={','.join(recipe.components)}",
        f"--keyring={recipe.trusted}",
        "--merged-usr",
    ]
    if variant := _DEBOOTSTRAP_VARIANTS[recipe.variant]:
        options.append(f"--variant={variant}")
    if recipe.packages:
        options.append(f"--include={','.join(with_companions(recipe.packages))}")
    return [program, *options, recipe.suite, str(rootfs), *(source.uri for source in sources[:1])]


def _environment(recipe: Recipe, handler: Handler) -> dict[str, str]:
    """Of mmdebstrap, and so of the scripts of packages: nothing of the caller's but the proxies."""
    proxies = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    for scheme in ("http", "https"):
        # mmdebstrap's apt reads no configuration of the host, which may have the only way to a mirror.
        if f"{scheme}_proxy" not in proxies and (proxy := _apt_proxy(scheme)):
            proxies[f"{scheme}_proxy"] = proxy
    environment = {"PATH": _PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")}
    environment["container"] = "lxc"  # debootstrap then binds device nodes where it cannot make them
    if cpu := handlers.cpu(handler, recipe.qemu_cpu):
        environment["QEMU_CPU"] = cpu
    return environment | proxies


def _apt_proxy(scheme: str) -> str:
    """The proxy in the configuration of the host's apt, "" if there is none."""
    if shutil.which("apt-config", path=_PATH) is None:
        return ""
    command = ["apt-config", "dump", "--no-empty", "--format", "%v", f"Acquire::{scheme}::Proxy"]
    proxy = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return "" if proxy == "DIRECT" else proxy


# Errors, by what apt says


def _explained(recipe: Recipe, program: str, status: int, output: str) -> CrossrootError:
    """The error for a failure of mmdebstrap."""
    name = recipe.distro.capitalize()
    if found := re.search(r"(Could not connect|Could not resolve|Temporary failure resolving)[^\r\n]*", output):
        return CrossrootError(
            f"a mirror of {name} cannot be reached: {found[0]}",
            hint="check the network and proxy, or name a mirror with --mirror URL",
        )
    if re.search(r"NO_PUBKEY|EXPKEYSIG|REVKEYSIG|is not signed|Missing key|signature by unknown key", output):
        package = _KEYRING_PACKAGES[recipe.distro]
        cure = "check keyring in the profile" if recipe.keyring else f"apt install --only-upgrade {package}"
        return CrossrootError(
            f"{recipe.trusted} has no valid key for {recipe.suite}, it may be too old for it",
            hint=f"{cure}; or get the {package} of {recipe.suite} and name its keyring in the profile",
        )
    if found := re.search(r"Release file for (\S+) is expired", output):
        return CrossrootError(
            f"{fetch.shown(found[1])} has expired: the mirror is not updated any more, or it is a snapshot",
            hint="name another mirror with --mirror URL",
        )
    if "does not have a Release file" in output:
        return _no_suite(recipe, "the mirror")
    if re.search(r"did not find any ind|doesn't support architecture", output):
        since = _FIRST_SUITE.get((recipe.distro, recipe.arch.name), "")
        return CrossrootError(
            f"{name} {recipe.suite} has no {recipe.arch.debian}",
            hint=f"{recipe.arch.debian} is there since {since}" if since else "choose another suite in the profile",
        )
    if found := re.search(r"Unable to locate package (\S+)|Package '?([^\s']+)'? has no installation cand", output):
        return CrossrootError(
            f"{name} {recipe.suite} has no package {found[1] or found[2]} for {recipe.arch.debian}",
            hint="check its name, and whether it is in one of the components " + ", ".join(recipe.components),
        )
    if re.search(r"Mirror sync in progress|Hash Sum mismatch", output):
        return _OutOfSync(
            "the mirror is being updated, its files do not fit together",
            hint="try again later, or name another mirror with --mirror URL",
        )
    if "No space left on device" in output:
        return CrossrootError("no space left on the disk of the store", hint="free some, or set CROSSROOT_STORE")
    return CrossrootError(f"{program} failed with status {status}", hint="its own output is above")


# The finished root


def _configure(recipe: Recipe, rootfs: Path, id_map: IdMap | None, exact: Exact | None = None) -> Made:
    """What is left to do in the new root, by a child that is confined to it."""
    keyring = exact.keyring if exact else recipe.trusted.read_bytes() if recipe.keyring else b""

    def work(_: ui.Progress) -> list[str]:
        os.chroot(rootfs)
        os.chdir("/")
        if os.path.isdir("/dev"):  # unpacked packages alone have none
            _empty(Path("/dev"))  # a session has its own
        guest.write("/etc/hostname", b"localhost\n")  # not the host's
        guest.write(_POLICY_FILE, _POLICY)
        os.chmod(_POLICY_FILE, 0o755)
        sources = guest.read(SOURCES).decode()
        if exact:
            sources = "".join(f"{line}\n" for line in exact.sources)
        if keyring:
            guest.write(_OWN_KEYRING, keyring)
            sources = sources.replace(f"signed-by={recipe.trusted}]", f"signed-by={_OWN_KEYRING}]")
        guest.write(SOURCES, sources.encode())
        found = re.search(r"^deb (?:\[[^]]*\] )?(\S+)", sources, re.MULTILINE)
        return [found[1] if found else "", guest.os_release().get("VERSION_ID", "")]

    mirror, version = namespaces.call(work, id_map=id_map)
    return Made(fetch.shown(mirror), version)


def _empty(folder: Path) -> None:
    """Delete everything in a folder, but not the folder."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
