"""The host's apt sources: read in both formats, and which of them are asked in which order."""

from pathlib import Path

import pytest

from crossroot import apt
from crossroot.apt import Release, Source

BOOKWORM = Release("debian", frozenset({"bookworm"}))
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def write(etc: Path, **files: str) -> Path:
    (etc / "sources.list.d").mkdir()
    for name, text in files.items():
        path = etc / "sources.list" if name == "main" else etc / "sources.list.d" / name.replace("_", ".")
        path.write_text(text)
    return etc


def test_one_line_entries_are_read(tmp_path: Path) -> None:
    text = """\
# deb http://old bookworm main
deb http://a/debian bookworm main contrib # comment
deb [signed-by=/k1.gpg,/k2.gpg arch=amd64] http://b/debian bookworm-updates main
deb-src http://a/debian bookworm main
   deb\thttp://c/debian\tsid main
nonsense
"""
    assert apt.read_sources(write(tmp_path, main=text)) == [
        Source("http://a/debian", ("bookworm",), ("main", "contrib")),
        Source("http://b/debian", ("bookworm-updates",), ("main",), "/k1.gpg /k2.gpg"),
        Source("http://c/debian", ("sid",), ("main",)),
    ]


def test_deb822_entries_are_read(tmp_path: Path) -> None:
    text = f"""\
# a comment
Types: deb deb-src
URIs: http://a/debian
 http://b/debian
# another
Suites: bookworm bookworm-updates
Components: main
Signed-By: {KEYRING}

Types: deb-src
URIs: http://a/debian
Suites: bookworm
Components: main
\t
Enabled: no
Types: deb
URIs: http://disabled
Suites: bookworm
Components: main


types: deb
uris: http://c/debian
suites: trixie
components: main
signed-by:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINB
 -----END PGP PUBLIC KEY BLOCK-----
"""
    first, second = apt.read_sources(write(tmp_path, debian_sources=text, x_disabled="deb http://x y main"))
    assert first == Source("http://a/debian http://b/debian", ("bookworm", "bookworm-updates"), ("main",), KEYRING)
    assert second.uris == "http://c/debian"
    assert second.text().endswith(
        "Signed-By: -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINB\n -----END PGP PUBLIC KEY BLOCK-----\n\n"
    )


def test_a_host_without_sources_has_none(tmp_path: Path) -> None:
    assert apt.read_sources(tmp_path) == []


HOST = [
    Source("http://a/debian", ("bookworm", "bookworm-updates"), ("main", "contrib"), KEYRING),
    Source("http://security/debian-security", ("bookworm-security",), ("main",), KEYRING),
    Source("http://vendor", ("bookworm",), ("stable",)),
    Source("http://node", ("nodistro",), ("main",)),
    Source("cdrom:[Debian]/", ("bookworm",), ("main",)),
    Source("http://a/debian", ("bookworm-backports",), ("main",), KEYRING),
]


def suites(stages: list[list[Source]]) -> list[list[tuple[str, tuple[str, ...]]]]:
    return [[(source.uris, source.suites) for source in stage] for stage in stages]


def test_first_the_hosts_own_release_with_its_updates() -> None:
    own = [
        ("http://a/debian", ("bookworm", "bookworm-updates")),
        ("http://security/debian-security", ("bookworm-security",)),
    ]
    assert suites(apt.stages(HOST, BOOKWORM, newer=False)) == [own]
    assert all(source.components == ("main",) for source in apt.stages(HOST, BOOKWORM, newer=False)[0])


def test_then_its_backports_and_newer_suites_of_the_same_archive() -> None:
    stages = apt.stages(HOST, BOOKWORM, newer=True)
    assert suites(stages)[1:] == [
        [("http://a/debian", (suite,))] for suite in ("bookworm-backports", "stable", "testing", "unstable")
    ]
    assert all(source.signed_by == KEYRING for stage in stages for source in stage)


@pytest.mark.parametrize("suite", ["sid", "unstable", "testing"])
def test_a_host_whose_sources_name_no_codename(suite: str) -> None:
    """os-release of testing and unstable both say the codename of the next release."""
    sources = [Source("http://a/debian", (suite,), ("main",))]
    stages = apt.stages(sources, Release("debian", frozenset({"forky"})), newer=False)
    assert suites(stages) == [[("http://a/debian", (suite,))]]


def test_a_newer_suite_on_the_host_is_left_for_those_who_ask_for_a_version() -> None:
    sources = [*HOST, Source("http://a/debian", ("testing",), ("main",))]
    assert apt.stages(sources, BOOKWORM, newer=False) == apt.stages(HOST, BOOKWORM, newer=False)


def test_on_ubuntu_it_is_universe() -> None:
    sources = [Source("http://u/ubuntu", ("noble", "noble-updates", "noble-backports"), ("main", "universe"))]
    stages = apt.stages(sources, Release("ubuntu", frozenset({"noble"})), newer=True)
    assert suites(stages) == [
        [("http://u/ubuntu", suite)] for suite in [("noble", "noble-updates"), ("noble-backports",), ("devel",)]
    ]
    assert {source.components for stage in stages for source in stage} == {("universe",)}
