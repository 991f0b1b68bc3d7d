"""Rules and entries of binfmt_misc as text, and files for systemd-binfmt."""

from collections.abc import Callable
from pathlib import Path

import pytest

from crossroot import arch as arches
from crossroot import binfmt, binfmt_conf, binfmt_rule, binfmt_status, elf
from crossroot.binfmt import Entry
from crossroot.errors import CrossrootError


def entry(name: str = "e", *, enabled: bool = True, magic: str = "", mask: str = "", offset: int = 0) -> Entry:
    return Entry(name, enabled, "/q", "POF", offset, magic, mask)


def own_entry(name: str) -> Entry:
    facts = arches.find(name).elf
    return entry(name, magic=facts.magic, mask=facts.mask)


def table_with(folder: Path, **files: str) -> Path:
    for name, text in {"register": "", "status": "enabled\n", **files}.items():
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", arches.ALL)
def test_an_arch_is_served_by_its_own_rule_only(name: str) -> None:
    arch = arches.find(name)
    serving = {each for each in arches.ALL if own_entry(each).serves(arch)}
    assert serving == ({"armhf", "armv7"} if name in ("armhf", "armv7") else {name})


def test_a_rule_holds_magic_and_mask_as_the_kernel_wants_them() -> None:
    line = binfmt_rule.rule(arches.find("riscv64"), "/usr/bin/qemu", "POF").decode()
    magic = r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xf3\x00"
    mask = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
    assert line == f":crossroot-riscv64:M:0:{magic}:{mask}:/usr/bin/qemu:POF"


def test_a_path_with_colons_gets_another_delimiter() -> None:
    line = binfmt_rule.rule(arches.find("riscv64"), "/a:b,c", "F", "name").decode()
    assert line.startswith(";name;M;0;")
    assert line.endswith(";/a:b,c;F")


@pytest.mark.parametrize("path", ["/a\nb", "/:,;|%"])
def test_a_path_no_rule_can_hold_is_refused(path: str) -> None:
    with pytest.raises(CrossrootError, match="cannot be written into a binfmt_misc rule"):
        binfmt_rule.rule(arches.find("riscv64"), path, "F")


@pytest.mark.parametrize(
    ("facts", "start", "matches"),
    [
        ({"magic": "4142"}, b"AB", True),
        ({"magic": "4142"}, b"AC", False),
        ({"magic": "4142", "mask": "ff00"}, b"AC", True),
        ({"magic": "42", "offset": 1}, b"AB", True),
        ({"magic": "42", "offset": 1}, b"BA", False),
        ({"magic": "410000"}, b"A", True),  # the kernel compares with a buffer of zeros
        ({"magic": "4142"}, b"A", False),
        ({"magic": ""}, b"A", False),  # by file name extension
    ],
)
def test_matching_is_the_kernels(facts: dict[str, object], start: bytes, matches: bool) -> None:
    assert entry(**facts).matches(start) is matches  # type: ignore[arg-type]


def test_entries_are_read_as_the_kernel_prints_them(tmp_path: Path) -> None:
    text = "enabled\ninterpreter /usr/bin/qemu x\nflags: POCF\noffset 0\nmagic 7f45\nmask ffff\n"
    extension = "disabled\ninterpreter /bin/x\nflags: \nextension .jar\n"
    found = {each.name: each for each in binfmt.entries(table_with(tmp_path, a=text, b=extension))}
    assert found["a"] == Entry("a", True, "/usr/bin/qemu x", "POCF", 0, "7f45", "ffff")
    assert found["b"] == Entry("b", False, "/bin/x", "", 0, "", "")


def test_without_a_table_there_are_no_entries(tmp_path: Path) -> None:
    assert binfmt.entries(tmp_path) == []


def test_a_disabled_table_is_not_enabled(tmp_path: Path) -> None:
    assert binfmt.enabled(table_with(tmp_path))
    (tmp_path / "status").write_text("disabled\n")
    assert not binfmt.enabled(tmp_path)


@pytest.mark.parametrize("name", ["status", "register", "", ".", "..", "../x"])
def test_what_is_no_entry_is_never_written_to(tmp_path: Path, name: str) -> None:
    table = table_with(tmp_path)
    with pytest.raises(CrossrootError, match="no entry of binfmt_misc"):
        binfmt.remove(name, table)
    assert (table / "status").read_text() == "enabled\n"


def test_the_newest_enabled_entry_wins() -> None:
    newest_first = [entry("c", enabled=False), entry("b"), entry("a")]
    winner = binfmt_status.winning(newest_first)
    assert winner is not None
    assert winner.name == "b"
    assert binfmt_status.winning([entry("c", enabled=False)]) is None


# --- binfmt.d ---------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Folders in place of /etc/binfmt.d and /usr/lib/binfmt.d."""
    etc, lib = tmp_path / "etc", tmp_path / "lib"
    lib.mkdir()
    monkeypatch.setattr(binfmt_conf, "FOLDER", etc)
    monkeypatch.setattr(binfmt_conf, "_FOLDERS", (etc, lib))
    return etc, lib


def test_a_failure_brings_back_the_file_of_before(folders: tuple[Path, Path]) -> None:
    m68k = arches.find("m68k")
    file = binfmt_conf.path(m68k)
    with pytest.raises(KeyboardInterrupt), binfmt_conf.written(m68k, Path("/a"), "F"):
        assert file.exists()
        raise KeyboardInterrupt
    assert list(folders[0].iterdir()) == []
    with binfmt_conf.written(m68k, Path("/a"), "F"):
        before = file.read_text()
    with pytest.raises(ValueError, match="x"), binfmt_conf.written(m68k, Path("/b"), "F"):
        assert "/b" in file.read_text()
        raise ValueError("x")
    assert file.read_text() == before
    assert list(folders[0].iterdir()) == [file]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text[:-20],
        lambda text: text[:0],
        lambda text: text + ":x:M:0:a::/b:\n",
        lambda text: text.replace("m68k", "sh4"),
        lambda text: text.partition("\n")[2],
    ],
    ids=["no newline", "half", "empty", "one more rule", "another name", "no header"],
)
def test_only_a_whole_file_of_our_own_may_be_replaced(folders: tuple[Path, Path], change: Callable[[str], str]) -> None:
    m68k = arches.find("m68k")
    with binfmt_conf.written(m68k, Path("/a"), "POF") as file:
        binfmt_conf.check_replaceable(m68k)
    file.write_text(change(file.read_text()))
    with pytest.raises(CrossrootError, match="is not as crossroot writes it"):
        binfmt_conf.check_replaceable(m68k)
    with pytest.raises(CrossrootError, match="is not as crossroot writes it"):
        binfmt_conf.remove(m68k, force=False)
    assert binfmt_conf.remove(m68k, force=True) == file
    assert binfmt_conf.remove(m68k, force=False) is None
    assert list(folders[0].iterdir()) == []


def test_a_link_is_not_followed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    target = tmp_path / "target"
    folders[0].mkdir()
    with binfmt_conf.written(arches.find("m68k"), Path("/a"), "F") as file:
        target.write_text(file.read_text())
    file.unlink()
    file.symlink_to(target)
    with pytest.raises(CrossrootError, match="is not as crossroot writes it"):
        binfmt_conf.check_replaceable(arches.find("m68k"))


def test_files_are_searched_as_binfmt_d_says(folders: tuple[Path, Path]) -> None:
    etc, lib = folders
    etc.mkdir()
    m68k = arches.find("m68k")
    (lib / "qemu-m68k.conf").write_bytes(
        b"# x\n; y\n\n" + binfmt_rule.rule(m68k, "/q", "F", "lib-m68k") + b"\nbroken:\n:\n"
    )
    (lib / "a.conf").write_bytes(binfmt_rule.rule(m68k, "/q", "F", "early"))
    assert binfmt_conf.file_of("lib-m68k") == lib / "qemu-m68k.conf"
    assert binfmt_conf.file_of("m68k") is None
    assert binfmt_conf.later_files(m68k) == [lib / "qemu-m68k.conf"]
    assert binfmt_conf.later_files(arches.find("hppa")) == []
    (etc / "qemu-m68k.conf").symlink_to("/dev/null")  # which hides the one of the same name
    assert binfmt_conf.file_of("lib-m68k") is None
    assert binfmt_conf.later_files(m68k) == []


@pytest.mark.parametrize(
    "line", [":n:M:0:a::/b:Q", ":n:E:0:a::/b:", "::M:0:a::/b:", ":n:M:x:a::/b:", ":n:M:0:a::", ":n:M:0:a:::"]
)
def test_lines_the_kernel_would_refuse_or_that_have_no_magic_count_for_nothing(
    folders: tuple[Path, Path], line: str
) -> None:
    (folders[1] / "x.conf").write_text(line + "\n")
    assert binfmt_conf.file_of("n") is None


def test_probe_programs_fit_into_what_the_kernel_compares() -> None:
    assert all(len(elf.probe_program(arch)) <= 256 for arch in arches.ALL.values())
