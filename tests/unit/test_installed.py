"""What apk, dpkg and apt have written down in a root."""

from pathlib import Path

import pytest

from crossroot import installed
from crossroot.installed import Pin
from tests.support.roots import in_root, write

pytestmark = pytest.mark.userns

STATUS = """\
Package: dpkg
Status: install ok installed
Architecture: riscv64
Version: 1.22
Description: Debian's
 Package: of packages

Package: tool
Status: install ok installed
Architecture: all
Version: 1:2.0-1

Package: lib
Status: install ok installed
Architecture: riscv64
Version: 3-1

Package: removed
Status: deinstall ok config-files
Architecture: riscv64
Version: 1
"""
LISTS = """\
Package: tool
Version: 1:1.0-1
Architecture: all
Filename: pool/old.deb
SHA256: 00

Package: tool
Architecture: all
Version: 1:2.0-1
Filename: pool/tool.deb
Size: 5
SHA256: AB
"""
STATES = """\
Package: lib
Architecture: riscv64
Auto-Installed: 1

Package: tool
Architecture: riscv64
Auto-Installed: 0

"""


@pytest.fixture
def debian(tmp_path: Path) -> Path:
    write(tmp_path, "var/lib/dpkg/status", STATUS)
    write(tmp_path, "var/lib/apt/lists/mirror_dists_trixie_main_binary-riscv64_Packages", LISTS)
    write(tmp_path, "var/lib/apt/extended_states", STATES)
    return tmp_path


def test_debs_have_their_digests_out_of_the_lists(debian: Path) -> None:
    found = in_root(debian, lambda: {name: [pin.version, pin.digest, pin.path] for name, pin in look().items()})
    assert found == {
        "dpkg:riscv64": ["1.22", "", ""],
        "tool:all": ["1:2.0-1", "ab", "pool/tool.deb"],
        "lib:riscv64": ["3-1", "", ""],
    }


def look() -> dict[str, Pin]:
    return installed.look().packages


def test_what_came_for_others_was_not_asked_for(debian: Path) -> None:
    assert in_root(debian, lambda: installed.look().world) == ["dpkg:riscv64", "tool:all"]


def test_what_was_asked_for_can_be_said(debian: Path) -> None:
    in_root(debian, lambda: installed.set_world(["lib:riscv64", "dpkg:riscv64"]))
    states = (debian / "var/lib/apt/extended_states").read_text()
    assert states == "Package: tool\nArchitecture: riscv64\nAuto-Installed: 1\n\n"
    assert in_root(debian, lambda: installed.look().world) == ["dpkg:riscv64", "lib:riscv64"]


@pytest.mark.parametrize("folder", ["lib/apk/db", "usr/lib/apk/db"])
def test_what_apk_installed_is_read_but_not_what_is_virtual(folder: str, tmp_path: Path) -> None:
    text = "C:Q1a=\nP:one\nV:1.0-r0\nD:C:x\nF:usr\nR:P:odd\n\nC:Q1b=\nP:.deps\nV:0\n\nC:Q1c=\nP:two\nV:2-r1"
    write(tmp_path, f"{folder}/installed", text)
    found = in_root(tmp_path, lambda: {name: pin.version for name, pin in look().items()})
    assert found == {"one": "1.0-r0", "two": "2-r1"}
