"""The caller's side of a running session: pass on signals and the terminal, wait for the end.

On a terminal the session has a pseudo-terminal of its own, so that nothing inside can type into the caller's
(ioctl TIOCSTI). Here its master end is joined to the caller's terminal, which is raw meanwhile.
"""

import contextlib
import fcntl
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from dataclasses import dataclass

from crossroot.errors import EXIT_SIGNAL_BASE
from crossroot.namespaces import Child

FORWARDED = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTSTP,
        signal.SIGCONT,
    }
)
_CHUNK = 65536


@dataclass
class Line:
    """A pair of sockets over which pid 1 sends the master end of the session's terminal (unix(7), SCM_RIGHTS)."""

    receive: int
    send: int


def terminal_line() -> Line | None:
    """A line for a terminal if stdin and stdout are one and we are in its foreground; else None."""
    if not (os.isatty(0) and os.isatty(1)) or os.tcgetpgrp(0) != os.getpgrp():
        return None
    import socket

    receive, send = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return Line(receive.detach(), send.detach())


def until_end(child: Child, init: int, line: Line | None) -> int:
    """Attend to a running session and return its exit status. init: the host's pid of its pid 1."""
    os.close(child.channel)
    with _signals() as arrived:
        if line is None:
            return _wait(child.pid, init, arrived)
        master = _receive_master(line)
        with _raw_terminal() as terminal:
            return _Relay(child.pid, init, arrived, master, terminal).run()


def _receive_master(line: Line) -> int:
    import socket

    os.close(line.send)
    with socket.socket(fileno=line.receive) as link:
        master = socket.recv_fds(link, 16, 1)[1][0]
    os.set_blocking(master, False)
    return master


@contextlib.contextmanager
def _signals() -> Iterator[int]:
    """Let the numbers of arriving signals be readable, a byte each, from the descriptor given (signalfd-like).

    A signal that our caller ignores stays ignored, as under nohup(1).
    """
    arrived, wake = os.pipe()
    os.set_blocking(arrived, False)
    os.set_blocking(wake, False)
    before = {}
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (*FORWARDED, signal.SIGCHLD, signal.SIGWINCH):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, lambda *_: None)
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(arrived)
        os.close(wake)


def _read_signals(arrived: int) -> list[int]:
    """The signals that have arrived, in their order."""
    with contextlib.suppress(BlockingIOError):
        return list(os.read(arrived, 4096))
    return []


def _ended(pid: int) -> int | None:
    """The exit status of our child, or None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else EXIT_SIGNAL_BASE - code


def _forward(numbers: list[int], init: int) -> None:
    """Pass signals on, and stop as the session does, unless it was continued meanwhile."""
    stop = False
    for number in numbers:
        if number in FORWARDED:
            with contextlib.suppress(ProcessLookupError):  # it has just ended, which the next wait will tell
                os.kill(init, number)
        if number in (signal.SIGTSTP, signal.SIGCONT):
            stop = number == signal.SIGTSTP
    if stop:
        os.kill(os.getpid(), signal.SIGSTOP)


def _wait(pid: int, init: int, arrived: int) -> int:
    while (status := _ended(pid)) is None:
        select.select([arrived], [], [])
        _forward(_read_signals(arrived), init)
    return status


@contextlib.contextmanager
def _raw_terminal() -> Iterator["_Terminal"]:
    terminal = _Terminal(termios.tcgetattr(0))
    terminal.make_raw()
    try:
        yield terminal
    finally:
        terminal.restore()


@dataclass
class _Terminal:
    """The caller's terminal and the settings to give back to it."""

    settings: list[object]

    def make_raw(self) -> None:
        tty.setraw(0)

    def restore(self) -> None:
        termios.tcsetattr(0, termios.TCSADRAIN, self.settings)  # type: ignore[arg-type]


@dataclass
class _Relay:
    """Moves bytes between the caller's terminal and the session's until the session ends."""

    pid: int
    init: int
    arrived: int
    master: int
    terminal: _Terminal
    typed: bytes = b""  # read from the caller, not yet accepted by the session
    stdin_open: bool = True
    master_open: bool = True

    def run(self) -> int:
        self._resize()
        while (status := _ended(self.pid)) is None:
            self._step(None)
        while self.master_open and self._step(0):
            pass  # what the command wrote last
        os.close(self.master)
        return status

    def _step(self, timeout: float | None) -> bool:
        """Wait for something to happen and move it along; False if nothing did in time."""
        reading = [self.arrived]
        if self.stdin_open and len(self.typed) < _CHUNK:
            reading.append(0)
        if self.master_open:
            reading.append(self.master)
        writing = [self.master] if self.typed and self.master_open else []
        readable, writable, _ = select.select(reading, writing, [], timeout)
        if self.arrived in readable:
            self._on_signals(_read_signals(self.arrived))
        if self.master in readable:
            self._show()
        if 0 in readable:
            data = os.read(0, _CHUNK)
            self.stdin_open = bool(data)
            self.typed += data
        if writable:
            self.typed = self.typed[os.write(self.master, self.typed) :]
        return self.master in readable

    def _show(self) -> None:
        try:
            data = os.read(self.master, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.master_open = False  # EIO: the last slave was closed
            return
        while data:
            data = data[os.write(1, data) :]

    def _on_signals(self, numbers: list[int]) -> None:
        if signal.SIGTSTP in numbers:
            self.terminal.restore()
        _forward(numbers, self.init)
        if signal.SIGCONT in numbers:
            self.terminal.make_raw()
        if signal.SIGWINCH in numbers or signal.SIGCONT in numbers:
            self._resize()

    def _resize(self) -> None:
        """Give the session's terminal the size of the caller's (ioctl_tty(2))."""
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
