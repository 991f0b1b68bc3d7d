"""Handlers that come back after a restart: files for systemd-binfmt(8), in the format of binfmt.d(5).

OpenRC's service `binfmt` reads the same files.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crossroot import binfmt_rule
from crossroot.arch import Arch
from crossroot.binfmt import Entry
from crossroot.errors import CrossrootError

FOLDER = Path("/etc/binfmt.d")
# Highest priority first: a file hides those of the same name in the folders after it.
_FOLDERS = (FOLDER, *map(Path, ("/run/binfmt.d", "/usr/local/lib/binfmt.d", "/usr/lib/binfmt.d", "/lib/binfmt.d")))
_SYSTEMD_BINFMT = ("/usr/lib/systemd/systemd-binfmt", "/lib/systemd/systemd-binfmt")
_HEADER = "# Written by `crossroot binfmt register --persist`, removed by `crossroot binfmt unregister`.\n"


def path(arch: Arch) -> Path:
    """The file that registers crossroot's handler for `arch` at every start."""
    return FOLDER / f"{binfmt_rule.own_name(arch)}.conf"


def check_replaceable(arch: Arch) -> None:
    """Raise CrossrootError if there is a file of that name that is not as `write` leaves it."""
    file = path(arch)
    if _exists(file) and not _is_own(file, arch):
        raise CrossrootError(
            f"{file} is not as crossroot writes it: changed by hand, half-written, or somebody else's",
            hint="look at it, then replace it with --replace",
        )


@contextmanager
def written(arch: Arch, interpreter: Path, flags: str) -> Iterator[Path]:
    """Write the file for `arch` and give its path; if the block fails, what was there before comes back.

    Raises CrossrootError if it can't be written.
    """
    file = path(arch)
    before = file.read_bytes() if file.is_file() else None
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        _replace(file, _HEADER.encode() + binfmt_rule.rule(arch, str(interpreter), flags) + b"\n")
    except OSError as error:
        why = f"{file} cannot be written: {error.strerror}"
        raise CrossrootError(why, hint="register without --persist") from error
    try:
        yield file
    except BaseException:
        if before is None:
            file.unlink()
        else:
            _replace(file, before)
        raise


def _replace(file: Path, content: bytes) -> None:
    """Let the file have this content in one step, so that it is never seen half-written."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with unfinished.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), 0o644)
            os.fsync(stream.fileno())
        unfinished.replace(file)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def remove(arch: Arch, *, force: bool) -> Path | None:
    """Remove the file for `arch` and give its path; None if there is none.

    Raises CrossrootError if it is not as `write` leaves it, unless `force`.
    """
    file = path(arch)
    if not _exists(file):
        return None
    if not force and not _is_own(file, arch):
        raise CrossrootError(f"{file} is not as crossroot writes it", hint="look at it, then remove it with --force")
    file.unlink()
    return file


def persistent_arches(known: dict[str, Arch]) -> list[Arch]:
    """The arches of `known` that have a file of crossroot's."""
    return [arch for arch in known.values() if _exists(path(arch))]


def systemd_runs() -> bool:
    """Whether systemd is this system's init: sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def apply(file: Path) -> None:
    """Let systemd register the rules of one file; without that argument it would first remove every other entry.

    Raises CrossrootError if it fails.
    """
    program = next((path for path in _SYSTEMD_BINFMT if os.path.exists(path)), "systemd-binfmt")
    try:
        done = subprocess.run([program, str(file)], capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        raise CrossrootError("systemd runs, but has no systemd-binfmt", hint="install it (systemd-udev)") from error
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        raise CrossrootError(f"systemd-binfmt refused {file}: {said[0]}", hint=f"{program} {file}")


def start_advice(arch: Arch) -> str:
    """What this system's init needs in order to register the file at every start; "" if it does so already."""
    if systemd_runs():
        return ""
    if os.path.isdir("/run/openrc"):
        return "OpenRC registers it at start with: rc-update add binfmt boot"
    return f"nothing here reads {FOLDER} at start; let the init run then: crossroot binfmt register {arch.name}"


def later_files(arch: Arch) -> list[Path]:
    """Files that systemd applies after crossroot's and whose rules, being newer, win for `arch`."""
    own = path(arch).name
    later = [file for file in _effective_files() if file.name > own]
    return [file for file in later if any(entry.serves(arch) for entry in _rules(file))]


def file_of(name: str) -> Path | None:
    """The binfmt.d file that registers an entry of this name; None if there is none."""
    for file in _effective_files():
        if any(entry.name == name for entry in _rules(file)):
            return file
    return None


def _effective_files() -> list[Path]:
    """The files that count, in the order in which they are applied (binfmt.d(5))."""
    files: dict[str, Path] = {}
    for folder in _FOLDERS:
        for file in folder.glob("*.conf") if folder.is_dir() else ():
            files.setdefault(file.name, file)
    return [files[name] for name in sorted(files)]


def _rules(file: Path) -> list[Entry]:
    try:
        text = file.read_text(errors="surrogateescape")
    except OSError:
        return []  # it registers nothing for systemd, either
    lines = (line.strip() for line in text.splitlines())
    return [entry for line in lines if line[:1] not in ("", "#", ";") and (entry := _parse(line))]


def _parse(line: str) -> Entry | None:
    """A rule as the entry it would become; None if the kernel would refuse it or it goes by file name extension."""
    fields = line.split(line[0])
    if len(fields) != 8 or fields[2] != "M" or not fields[1] or not fields[6] or set(fields[7]) - set("POCF"):
        return None
    if not (fields[3] or "0").isdecimal():
        return None
    magic, mask = _bytes(fields[4]), _bytes(fields[5])
    return Entry(fields[1], True, fields[6], fields[7], int(fields[3] or "0"), magic.hex(), mask.hex())


def _bytes(text: str) -> bytes:
    r"""What the kernel reads from a magic or mask with \xHH in it."""
    raw = os.fsencode(text)
    return re.sub(rb"\\x([0-9a-fA-F]{2})", lambda match: bytes([int(match[1], 16)]), raw)


def _exists(file: Path) -> bool:
    return os.path.lexists(file)


def _is_own(file: Path, arch: Arch) -> bool:
    """Whether a file is complete and as `write` leaves it, with any interpreter and flags."""
    if file.is_symlink():
        return False
    text = file.read_text(errors="surrogateescape")
    rules = _rules(file)
    written = text.startswith(_HEADER) and text.endswith("\n") and len(text.splitlines()) == 2
    return written and [entry.name for entry in rules] == [binfmt_rule.own_name(arch)] and rules[0].serves(arch)
