"""Results as JUnit XML, read back by a parser."""

from xml.etree import ElementTree

from crossroot import junit
from crossroot.jobs import CANCELLED, DONE, ERROR, FAILED, State

STATES = [
    State("riscv64", DONE, 1.5, status=0),
    State("armv7", FAILED, 2.25, status=3),
    State("s390x", ERROR, 0.5, status=125, message='no <mirror> "here" & \x00 there', hint="try --mirror"),
    State("x86", CANCELLED, 0.1),
]


def test_each_end_has_its_element() -> None:
    text = junit.render("crossroot", STATES, {"armv7": b"one\ntwo & <three>\n\xff \x1b[31mred\x1b[0m ]]>\n"})
    root = ElementTree.fromstring(text)
    (suite,) = root
    assert root.tag == "testsuites"
    assert suite.attrib == {
        "name": "crossroot",
        "tests": "4",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
        "time": "4.350",
    }
    cases = {case.attrib["name"]: case for case in suite}
    assert list(cases) == ["riscv64", "armv7", "s390x", "x86"]
    assert all(case.tag == "testcase" and case.attrib["classname"] == "crossroot" for case in suite)
    assert [case.attrib["time"] for case in suite] == ["1.500", "2.250", "0.500", "0.100"]
    assert [[child.tag for child in case] for case in suite] == [[], ["failure", "system-out"], ["error"], ["skipped"]]
    assert cases["armv7"][0].attrib == {"message": "exit status 3"}
    assert cases["armv7"][1].text == "one\ntwo & <three>\n\ufffd \ufffd[31mred\ufffd[0m ]]>\n"
    assert cases["s390x"][0].attrib == {"message": 'no <mirror> "here" & \ufffd there'}
    assert cases["s390x"][0].text == "hint: try --mirror"


def test_it_is_in_utf8_and_says_so() -> None:
    text = junit.render("crossroot", STATES[:1], {"riscv64": "grüße 😀".encode()})
    assert text.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites>')
    assert text.endswith(b"</testsuites>\n")
    assert ElementTree.fromstring(text).findtext(".//system-out") == "grüße 😀"
