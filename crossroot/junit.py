"""Results of jobs as JUnit XML, which CI services show as tests.

There is no standard of it; this is what https://github.com/testmoapp/junitxml found services to agree on.
"""

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from crossroot import jobs
from crossroot.jobs import State

# What XML 1.0 cannot hold, section 2.2.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
# The element for each end that is no success.
_ELEMENTS = {jobs.FAILED: "failure", jobs.ERROR: "error", jobs.CANCELLED: "skipped"}


def render(suite: str, states: Sequence[State], output: Mapping[str, bytes]) -> bytes:
    """One test suite with a test case for each job. output: what each has said, by its name."""
    ends = [state.phase for state in states]
    counts = {
        "tests": len(ends),
        "failures": ends.count(jobs.FAILED),
        "errors": ends.count(jobs.ERROR),
        "skipped": ends.count(jobs.CANCELLED),
    }
    root = ElementTree.Element("testsuites")
    time = f"{sum(state.seconds for state in states):.3f}"
    attributes = {"name": suite, "time": time, **{key: str(count) for key, count in counts.items()}}
    element = ElementTree.SubElement(root, "testsuite", attributes)
    for state in states:
        _add_case(element, suite, state, output.get(state.name, b""))
    ElementTree.indent(root)
    return f"{_HEAD}{ElementTree.tostring(root, encoding='unicode')}\n".encode()


def _add_case(parent: ElementTree.Element, suite: str, state: State, output: bytes) -> None:
    attributes = {"classname": suite, "name": state.name, "time": f"{state.seconds:.3f}"}
    case = ElementTree.SubElement(parent, "testcase", attributes)
    if state.phase in _ELEMENTS:
        message = {jobs.FAILED: f"exit status {state.status}", jobs.ERROR: state.message}.get(state.phase, state.phase)
        reason = ElementTree.SubElement(case, _ELEMENTS[state.phase], {"message": _clean(message)})
        if state.hint:
            reason.text = _clean(f"hint: {state.hint}")
    if output:
        ElementTree.SubElement(case, "system-out").text = _clean(output.decode(errors="replace"))


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
