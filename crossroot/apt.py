"""Packages of Debian and Ubuntu through apt itself, which verifies them, by any user and without installing them.

apt gets a configuration of our own after the host's (apt.conf(5), option -c): its lists and packages are kept in a
folder of ours, its sources are those of the host that have the distribution's own suites, its keyrings the host's.
Proxies and credentials stay the host's. Nothing of the host's state changes.
"""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from crossroot import fetch, osrelease, ui
from crossroot.errors import CrossrootError
from crossroot.pick import pick
from crossroot.record import Record

ETC = Path("/etc/apt")

# Suites that newer versions of packages come from, by the ID or ID_LIKE of os-release(5): names that each archive
# gives to whichever release it is at the time.
FROM_ALPINE = "fetch one from Alpine: crossroot emulator fetch ARCH --source alpine"
_NEWER = {"ubuntu": ("devel",), "debian": ("stable", "testing", "unstable")}
_COMPONENT = {"ubuntu": "universe", "debian": "main"}

# What the suites of a release's updates have after its name.
_FOR_RELEASE = re.compile(r"(-updates|-security|/updates)$")

# Hooks of the host (docker-clean, PackageKit) are for the host's own state.
_CONFIGURATION = """\
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::Cache "{folder}";
Dir::Cache::archives "{folder}/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "{folder}/crossroot.sources";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Acquire::GzipIndexes "true";
Acquire::Languages "none";
APT::Get::List-Cleanup "false";
#clear APT::Default-Release;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""


class Source(Record):
    """An entry of sources.list(5). signed_by: as there, a path or a key with its lines; "" for the host's default."""

    uris: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""

    def text(self) -> str:
        """The entry in deb822 format."""
        signed_by = f"Signed-By: {self.signed_by}\n" if self.signed_by else ""
        return (
            f"Types: deb\nURIs: {self.uris}\nSuites: {' '.join(self.suites)}\n"
            f"Components: {' '.join(self.components)}\nTargets: Packages\n{signed_by}\n"
        )


class Offer(Record):
    """A package that a source has. version: Debian's, 1:7.2+dfsg-7. suite: where it is, for messages."""

    name: str
    version: str
    suite: str


class Release(Record):
    """Of which release a host is. family: "ubuntu" or "debian", whose archive it uses. codenames: bookworm."""

    family: str
    codenames: frozenset[str]


def release() -> Release | None:
    """The release of Debian, Ubuntu or a derivative this host is; None for another distribution, or without apt."""
    fields = osrelease.host()
    names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    family = next((family for family in _NEWER if family in names), "")
    if not family or not all(shutil.which(program) for program in ("apt-get", "apt-cache", "dpkg-deb")):
        return None
    codenames = {fields.get(key, "") for key in ("VERSION_CODENAME", "UBUNTU_CODENAME")}
    return Release(family, frozenset(codenames - {""}))


def read_sources(etc: Path = ETC) -> list[Source]:
    """The host's sources of binary packages, in both formats of sources.list(5); disabled ones are left out."""
    found = []
    for file in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*.list"))]:
        with contextlib.suppress(FileNotFoundError):
            found += [source for line in file.read_text().splitlines() if (source := _parse_line(line))]
    for file in sorted((etc / "sources.list.d").glob("*.sources")):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        paragraphs = re.split(r"\n(?:[ \t]*\n)+", "\n".join(lines))
        found += [source for paragraph in paragraphs if (source := _parse_paragraph(paragraph))]
    return found


def _parse_line(line: str) -> Source | None:
    """`deb [signed-by=FILE arch=amd64] URI SUITE COMPONENT...`"""
    found = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?([^\s#]+)\s+([^\s#]+)([^#]*)", line)
    if not found:
        return None
    options = dict(option.split("=", 1) for option in (found[1] or "").split() if "=" in option)
    return Source(found[2], (found[3],), tuple(found[4].split()), options.get("signed-by", "").replace(",", " "))


def _parse_paragraph(paragraph: str) -> Source | None:
    """One entry in deb822 format."""
    fields = {}
    for field in re.split(r"\n(?![ \t])", paragraph.strip("\n")):
        key, _, value = field.partition(":")
        fields[key.strip().lower()] = value.strip()
    if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
        return None
    uris, suites, components = (fields.get(key, "").split() for key in ("uris", "suites", "components"))
    return Source(" ".join(uris), tuple(suites), tuple(components), fields.get("signed-by", ""))


def stages(sources: Sequence[Source], release: Release, *, newer: bool) -> list[list[Source]]:
    """The sources to look into, one stage after another: those of the host's own release; if `newer`, its backports,
    then each newer suite of the same archives."""
    component = _COMPONENT[release.family]
    usable = [
        source.but(components=(component,))
        for source in sources
        if component in source.components and not source.uris.startswith("cdrom:")
    ]
    suites = {suite for source in usable for suite in source.suites}
    # A host of testing or unstable may have either name in its sources.
    own = release.codenames & suites or {*_NEWER[release.family], "sid", "oldstable"} & suites
    first = [
        source.but(suites=mine)
        for source in usable
        if (mine := tuple(suite for suite in source.suites if _FOR_RELEASE.sub("", suite) in own))
    ]
    if not newer:
        return [first]
    archives = [source for source in usable if own.intersection(source.suites)]
    backports = tuple(f"{suite}-backports" for suite in sorted(own))
    return [first, *([each.but(suites=later) for each in archives] for later in [backports, *_later(release)])]


def _later(release: Release) -> list[tuple[str, ...]]:
    return [(suite,) for suite in _NEWER[release.family]]


class Apt:
    """apt with its state in a folder of ours; made by `opened`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems = ""  # what the last update complained about

    def update(self, sources: Sequence[Source]) -> None:
        """Fetch the lists of `sources`. A source that fails is left out: the lists of the others serve."""
        (self.folder / "crossroot.sources").write_text("".join(source.text() for source in sources))
        result = self._run("apt-get", "update")
        self.problems = _complaint(result)

    def offers(self, name: str) -> list[Offer]:
        """The versions of a package in the lists, newest first."""
        lines = self._run("apt-cache", "madison", name).stdout.splitlines()
        rows = [[cell.strip() for cell in line.split("|")] for line in lines]
        return [Offer(row[0], row[1], row[2].split()[1]) for row in rows if len(row) == 3 and row[0] == name]

    def download(self, offer: Offer) -> Path:
        """The package file, verified; it is kept until another version of it is fetched."""
        wanted = f"{offer.name}={offer.version}"
        digest = self._digest(wanted)
        archives = self.folder / "archives"
        for file in archives.glob(f"{offer.name}_*.deb"):
            # apt looks at no more than the size of a file that is there already.
            if _is(file, digest):
                return file
            file.unlink()
        result = self._run("apt-get", "download", wanted, cwd=archives)
        for file in archives.glob(f"{offer.name}_*.deb"):
            if _is(file, digest):
                return file
        raise CrossrootError(
            f"apt cannot download {wanted}: {_complaint(result)}", hint="check the network and /etc/apt"
        )

    def _digest(self, wanted: str) -> fetch.Digest:
        """The hash that apt's verified lists say a package has."""
        shown = self._run("apt-cache", "show", wanted).stdout
        found = re.search(r"^SHA256: ([0-9a-f]{64})$", shown, re.MULTILINE)
        if not found:
            raise CrossrootError(
                f"apt knows no SHA256 of {wanted}",
                hint=FROM_ALPINE,
            )
        return fetch.Digest("sha256", found[1])

    def _run(self, *command: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        program, *arguments = command
        return subprocess.run(
            [program, "-c", str(self.folder / "apt.conf"), "-q", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )


@contextmanager
def opened(folder: Path) -> Iterator[Apt]:
    """apt with its state in `folder`, which no other crossroot uses meanwhile."""
    for name in ("lists/partial", "archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            ui.note("another crossroot is using apt; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "apt.conf").write_text(_CONFIGURATION.format(folder=folder))
        yield Apt(folder)


def extract_file(deb: Path, names: Sequence[str], target: IO[bytes], *, limit: int) -> str:
    """Copy the first regular file of a package that is called one of `names` to `target`; gives its name, "" if none.

    deb: a verified package. names: without a slash at the start. limit: bytes it may have. The package is streamed,
    as that of all emulators unpacks to 465 MB.
    """
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            return pick(process.stdout, {f"./{name}" for name in names}, target, limit=limit).removeprefix("./")
        finally:
            process.kill()


def _is(file: Path, digest: fetch.Digest) -> bool:
    with fetch.open_local(file, None) as verified:
        return verified.matches(digest)


def _complaint(result: "subprocess.CompletedProcess[str]") -> str:
    """The errors apt printed, or else its warnings; "" if it did not complain."""
    lines = result.stderr.splitlines()
    for mark in ("E: ", "W: "):
        if said := [line.removeprefix(mark) for line in lines if line.startswith(mark)]:
            return fetch.shown("; ".join(said))
    return ""
