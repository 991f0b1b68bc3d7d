"""Sessions on a real terminal: tmux, with a shell of the host in it that runs crossroot."""

import contextlib
import os
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.host import read_of, wait_until
from tests.support.identity import Crossroot

pytestmark = pytest.mark.emulation

PROMPT = "host> "


@dataclass(frozen=True)
class Terminal:
    """A window of 80 columns and 24 lines, in which a shell of the host runs."""

    crossroot: Crossroot
    socket: str

    def tmux(self, *words: str) -> str:
        environment = {"TMUX_TMPDIR": str(self.crossroot.tmp), "PS1": PROMPT, **self.crossroot.environment()}
        command = ["tmux", "-L", self.socket, "-f", "/dev/null", *words]
        return self.crossroot.identity.run(command, env=environment, cwd=self.crossroot.tmp, check=True).stdout

    def type(self, line: str) -> None:
        """Type a line and press Enter."""
        self.tmux("send-keys", "-l", line)
        self.press("Enter")

    def press(self, key: str) -> None:
        self.tmux("send-keys", key)

    def screen(self) -> str:
        """What was shown until now, without the spaces at the ends of lines, in as many lines as were written."""
        return self.tmux("capture-pane", "-p", "-J", "-S", "-")

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen().splitlines()]

    def wait_for(self, line: str) -> None:
        """Wait until a whole line of the screen is this."""
        try:
            wait_until(lambda: line in self.lines(), timeout=8)
        except AssertionError:
            raise AssertionError(f"no line {line!r} on the screen:\n{self.screen()}") from None

    def wait_for_prompt(self, prompt: str) -> None:
        """Wait until the last line that is not empty is a prompt."""
        try:
            wait_until(lambda: self.screen().rstrip().endswith(prompt.rstrip()), timeout=8)
        except AssertionError:
            raise AssertionError(f"no prompt {prompt!r} at the end of the screen:\n{self.screen()}") from None

    def run(self, *arguments: str) -> None:
        """Type a crossroot command."""
        self.type(shlex.join(self.crossroot.command(*arguments)))

    def resize(self, columns: int, rows: int) -> None:
        self.tmux("resize-window", "-x", str(columns), "-y", str(rows))


@contextlib.contextmanager
def terminal_of(crossroot: Crossroot) -> Iterator[Terminal]:
    terminal = Terminal(crossroot, f"test-{os.getpid()}")
    variables = [f"{name}={value}" for name, value in crossroot.environment().items()]
    options = [word for variable in variables for word in ("-e", variable)]
    terminal.tmux("new-session", "-d", "-x", "200", "-y", "24", *options, f"PS1='{PROMPT}' exec sh")
    try:
        terminal.wait_for_prompt(PROMPT)
        yield terminal
    finally:
        terminal.tmux("kill-server")


@pytest.fixture
def terminal(shared_root: Crossroot) -> Iterator[Terminal]:
    """A terminal with the prompt of a host's shell."""
    with terminal_of(shared_root) as made:
        yield made


@pytest.fixture
def shell(terminal: Terminal) -> Terminal:
    """A terminal with the prompt of a login shell in the root."""
    terminal.run("shell", "riscv64", "--no-cwd")
    terminal.wait_for_prompt("# ")
    return terminal


def test_the_shell_has_a_terminal_of_its_own(shell: Terminal) -> None:
    shell.type("tty; stty size; ls /dev/pts; uname -m; echo $-")
    shell.wait_for("riscv64")
    lines = shell.lines()
    assert "/dev/pts/0" in lines
    assert "24 200" in lines
    shell.wait_for_prompt("# ")
    assert "can't access tty" not in shell.screen()
    assert any("m" in line and "i" in line for line in shell.lines() if line.isalpha() and len(line) <= 6)


def test_the_status_comes_back_and_the_terminal_is_as_before(terminal: Terminal) -> None:
    terminal.type("stty -g > before")
    terminal.run("shell", "riscv64", "--no-cwd")
    terminal.wait_for_prompt("# ")
    terminal.type("stty -echo raw; exit 37")
    terminal.wait_for_prompt(PROMPT)
    terminal.type("echo status $?; stty -g | cmp - before && echo unchanged")
    terminal.wait_for("status 37")
    terminal.wait_for("unchanged")


def test_job_control(shell: Terminal) -> None:
    shell.type("sleep 50 &")
    shell.type("jobs")
    shell.wait_for("[1]+  Running                    sleep 50")
    shell.type("sleep 60")
    wait_until(lambda: "sleep 60" in shell.screen())
    shell.tmux("run-shell", "sleep 0.3")
    shell.press("C-z")
    shell.wait_for("^Z[2]+  Stopped                    sleep 60")
    shell.type("fg")
    shell.wait_for("sleep 60")
    shell.press("C-c")
    shell.wait_for_prompt("# ")
    shell.type("kill %1; wait; echo over $?")
    wait_until(lambda: any(line.startswith("over ") for line in shell.lines()))


def test_interrupt_reaches_the_command_and_not_the_session(shell: Terminal) -> None:
    shell.type("echo go; sleep 50")
    shell.wait_for("go")
    shell.press("C-c")
    shell.wait_for_prompt("# ")
    shell.type("echo status $?")
    shell.wait_for("status 130")


def test_interrupt_ends_a_run_with_its_status(terminal: Terminal) -> None:
    terminal.run("run", "riscv64", "--", "sh", "-c", "echo go; exec sleep 50")
    terminal.wait_for("go")
    terminal.press("C-c")
    terminal.wait_for_prompt(PROMPT)
    terminal.type("echo status $?")
    terminal.wait_for("status 130")


def test_a_resize_reaches_the_session(shell: Terminal) -> None:
    shell.type("trap 'stty size' WINCH; echo set")
    shell.wait_for("set")
    shell.resize(131, 37)
    wait_until(lambda: shell.tmux("display-message", "-p", "#{pane_width}").strip() == "131")
    shell.type("stty size")
    shell.wait_for("37 131")


def test_a_fast_writer_loses_nothing(terminal: Terminal) -> None:
    terminal.tmux("set-option", "-g", "history-limit", "50000")
    terminal.tmux("new-window", f"PS1='{PROMPT}' exec sh")  # the limit holds for new windows
    terminal.wait_for_prompt(PROMPT)
    terminal.run("run", "riscv64", "--", "seq", "1", "20000")
    terminal.wait_for_prompt(PROMPT)
    terminal.wait_for("20000")
    numbers = [line for line in terminal.lines() if line.isdecimal()]
    assert numbers == [str(number) for number in range(1, 20001)]


def test_with_stdout_elsewhere_there_is_no_terminal_but_stdin_still_is(terminal: Terminal) -> None:
    command = shlex.join(terminal.crossroot.command("run", "riscv64", "--", "sh", "-c", "test -t 0; echo $?; cat"))
    terminal.type(f"{command} > out; echo status $?")
    out = terminal.crossroot.tmp / "out"
    wait_until(lambda: out.exists() and out.read_text() == "0\n")
    terminal.type("typed")
    terminal.press("C-d")
    terminal.wait_for("status 0")
    assert out.read_text() == "0\ntyped\n"


def test_stderr_can_go_elsewhere(terminal: Terminal) -> None:
    command = shlex.join(terminal.crossroot.command("run", "riscv64", "--", "sh", "-c", "tty; echo error >&2"))
    terminal.type(f"{command} 2> err; echo status $?")
    terminal.wait_for("status 0")
    assert "/dev/pts/0" in terminal.lines()
    assert (terminal.crossroot.tmp / "err").read_text() == "error\n"


def test_in_the_background_it_leaves_the_terminal_alone(terminal: Terminal) -> None:
    command = shlex.join(terminal.crossroot.command("run", "riscv64", "--", "sh", "-c", "sleep 0.3; echo done"))
    terminal.type(f"{command} & wait $!; echo status $?")
    terminal.wait_for("status 0")
    assert "done" in terminal.lines()


def test_a_command_that_asks_for_a_password_like_input_gets_it_unseen(terminal: Terminal) -> None:
    terminal.run("run", "riscv64", "--", "sh", "-c", "stty -echo; echo ask; read word; stty echo; echo got ${#word}")
    terminal.wait_for("ask")
    terminal.type("secret")
    terminal.wait_for("got 6")
    assert "secret" not in terminal.screen()


def test_a_user_of_the_root_owns_the_terminal(terminal: Terminal) -> None:
    terminal.run(
        "run", "riscv64", "--user", "guest", "--", "sh", "-c", "stat -c %U $(tty); echo x > /dev/tty && echo ok"
    )
    terminal.wait_for("guest")
    terminal.wait_for("ok")


def test_a_killed_crossroot_ends_the_shell(shell: Terminal) -> None:
    window = shell.tmux("display-message", "-p", "#{pane_pid}").strip()
    os.kill(int(read_of(int(window), f"task/{window}/children")), signal.SIGKILL)
    shell.wait_for_prompt(PROMPT)
