"""The caller's side of a session: what the integration tests do not reach."""

import os

import pytest

from crossroot import attend
from crossroot.namespaces import Child


@pytest.mark.timeout(20)
def test_a_session_that_was_killed_before_it_sent_its_terminal_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "isatty", lambda _: True)
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp())
    line = attend.terminal_line()
    assert line
    channel, end = os.pipe()
    os.close(end)
    pid = os.fork()
    if pid == 0:
        os._exit(137)
    assert attend.until_end(Child(pid, channel), pid, line) == 137
