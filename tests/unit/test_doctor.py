"""Parts of doctor that need no broken machine."""

import os
from pathlib import Path

import pytest

from crossroot import doctor
from crossroot.doctor import Finding


@pytest.mark.parametrize(
    ("release", "level"),
    [("6.18.44-fc", "ok"), ("5.12.0", "ok"), ("5.11.22-generic", "problem"), ("4.19", "problem"), ("10.0-rc1", "ok")],
)
def test_the_kernel_has_to_be_new_enough(monkeypatch: pytest.MonkeyPatch, release: str, level: str) -> None:
    own = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((own[0], own[1], release, own[3], own[4])))
    assert doctor._kernel().level == level


def test_only_problems_keep_it_from_working() -> None:
    assert doctor.works([Finding("a", "ok", ""), Finding("b", "warning", "")])
    assert not doctor.works([Finding("a", "ok", ""), Finding("b", "problem", "")])


def test_a_store_that_is_not_there_yet_is_judged_by_where_it_will_be(tmp_path: Path) -> None:
    finding = doctor._folder("store", tmp_path / "not" / "yet")
    assert str(tmp_path / "not/yet") in finding.what
    assert not (tmp_path / "not").exists()


def test_a_store_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finding = doctor._folder("store", tmp_path / "file")
    assert (finding.level, finding.cause) == ("problem", f"{tmp_path}/file is no folder")
