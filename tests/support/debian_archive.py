"""Which arches can be had from the Debian archive right now."""

import functools
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from crossroot import apt, arch
from crossroot.distros import debian

SUITE = debian.DEFAULT_SUITE["debian"]
NOTES: list[str] = []  # for the end of the test run


def first_whole(*names: str) -> str:
    """The first of these arches, by Alpine's names, that roots of Debian can be made of; the first one if none can.

    A mirror that is being updated has the index of an arch from another day than the Release file that vouches for it,
    and apt refuses that. It can stay so for hours.
    """
    found = next((name for name in names if _whole(name)), names[0])
    if found != names[0]:
        note = f"the archive's index of Debian {SUITE} for {names[0]} is another than its Release file says"
        NOTES[:] = dict.fromkeys([*NOTES, f"{note}, so roots for {found} were made instead"])
    return found


def download(names: Sequence[str], arch: str, folder: Path) -> dict[str, Path]:
    """The files of packages of SUITE by their names, verified by apt. arch: Debian's name. folder: a new one."""
    for part in ("etc/apt", "lists/partial", "archives/partial", "packages"):
        (folder / part).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    source = folder / "etc/apt/sources.list"
    source.write_text(f"deb [signed-by={keyring} arch={arch}] {_archive()} {SUITE} main\n")
    settings = {
        "APT::Architecture": arch,
        "APT::Sandbox::User": "root",
        "Dir::Etc::SourceList": str(source),
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": str(folder / "lists"),
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": str(folder),
    }
    apt_get = ["apt-get", "-qq", *(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))]
    subprocess.run([*apt_get, "update"], check=True)
    subprocess.run([*apt_get, "download", *names], cwd=folder / "packages", check=True)
    return {file.name.partition("_")[0]: file for file in (folder / "packages").iterdir()}


@functools.cache
def _whole(name: str) -> bool:
    base = _archive()
    index = f"main/binary-{arch.find(name).debian}/Packages.xz"
    if not base:
        return True  # nothing is known of the archive that mmdebstrap takes by itself
    try:
        with urllib.request.urlopen(f"{base}/dists/{SUITE}/InRelease", timeout=60) as answer:
            size = re.search(rf"^ [0-9a-f]{{64}} +(\d+) {index}$", answer.read().decode(), re.MULTILINE)
        request = urllib.request.Request(f"{base}/dists/{SUITE}/{index}", method="HEAD")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return size is not None and answer.headers["Content-Length"] == size[1]
    except urllib.error.URLError:
        return False


def _archive() -> str:
    """The URI of the archive that the host uses; "" if it uses none of Debian."""
    host = apt.release()
    names = host.codenames if host and host.family == "debian" else frozenset()
    uris = [source.uris.split()[0] for source in apt.read_sources() if names.intersection(source.suites)]
    return uris[0].rstrip("/") if uris else ""
