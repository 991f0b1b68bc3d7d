"""The caller's side of a running session: pass on signals and the terminal, wait for the end.

On a terminal the session has a pseudo-terminal of its own, so that nothing inside can read from the caller's, change
its settings or type into it (ioctl TIOCSTI). Here its master end is joined to the caller's terminal, which is raw
meanwhile; where the session is not to read from the terminal, only what it writes is shown.
"""

from __future__ import annotations

import fcntl
import os
import select
import termios
import tty

from crossroot import linux
from crossroot.errors import EXIT_SIGNAL_BASE
from crossroot.linux import signal
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

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


class Line(Record):
    """A pair of sockets over which pid 1 sends the master end of the session's terminal (unix(7), SCM_RIGHTS).

    shown: the descriptor of the caller's terminal that shows what the session writes. typed: whether what is typed
    there goes to the session.
    """

    receive: int
    send: int
    shown: int
    typed: bool


def terminal_line() -> Line | None:
    """A line for the caller's terminal, if one of the standard streams is one and may not be handed over as it is.

    With stdin and stdout, in the foreground, the session is typed into. With stdin and not stdout, None: the session
    reads from the terminal itself, when it wants to, as others do that are in the foreground too (`run … | less`). Else
    it only writes, so that it does not overhear what is typed for others, such as a password.
    """
    terminals = [descriptor for descriptor in (1, 2, 0) if os.isatty(descriptor)]
    if not terminals:
        return None
    foreground = os.isatty(0) and _in_foreground()
    if foreground and not os.isatty(1):
        return None
    return Line(*linux.socket_pair(), terminals[0], foreground)


def _in_foreground() -> bool:
    """Whether we may read from the terminal that stdin is, and nobody else does."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return True  # it is not our controlling terminal, as after su -c, so it knows of no foreground


def until_end(child: Child, init: int, line: Line | None) -> int:
    """Attend to a running session and return its exit status. init: the host's pid of its pid 1."""
    os.close(child.channel)
    signals = Signals((*FORWARDED, signal.SIGCHLD, signal.SIGWINCH))
    try:
        master = _receive_master(line) if line else None
        if line is None or master is None:
            return _wait(child.pid, init, signals)
        if not line.typed:
            _leave_output_as_it_is(master)
            return _Relay(child.pid, init, signals, master, line.shown, None).run()
        terminal = _Terminal()
        terminal.make_raw()
        try:
            return _Relay(child.pid, init, signals, master, line.shown, terminal).run()
        finally:
            terminal.restore()
    finally:
        signals.close()


def _leave_output_as_it_is(master: int) -> None:
    """Let the session's terminal change nothing of what is written: the caller's, which is not raw, does that."""
    settings = termios.tcgetattr(master)
    settings[1] &= ~termios.OPOST
    termios.tcsetattr(master, termios.TCSANOW, settings)


def _receive_master(line: Line) -> int | None:
    """The master end, or None if the session was killed before it sent it."""
    os.close(line.send)
    master = linux.receive_descriptor(line.receive)
    if master is not None:
        os.set_blocking(master, False)
    return master


class Signals:
    """Signals of these numbers that have arrived can be read from the descriptor `arrived`, as with signalfd(2).

    A signal that our caller ignores stays ignored, as under nohup(1).
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.arrived, self._wake = os.pipe()
        self._unread: list[int] = []
        os.set_blocking(self.arrived, False)
        os.set_blocking(self._wake, False)
        self._before = {}
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, lambda *_: None)

    def read(self) -> list[int]:
        """The numbers of those that have arrived since, in their order."""
        numbers = self._look()
        self._unread = []
        return numbers

    def _look(self) -> list[int]:
        """What `read` will give."""
        try:
            self._unread += os.read(self.arrived, 4096)
        except BlockingIOError:
            pass
        return self._unread

    def stop(self) -> None:
        """Stop this process as SIGTSTP does, unless SIGCONT has arrived; returns when it is continued.

        No SIGCONT is overlooked: one that came before the stop is pending can be read, and a later one takes the
        pending stop away (signal(7)). In an orphaned process group SIGTSTP has no effect, so SIGSTOP is used there.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        if signal.SIGCONT in self._look():
            signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # which drops it
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
        if signal.SIGCONT not in self._look():
            os.kill(os.getpid(), signal.SIGSTOP)
        signal.signal(signal.SIGTSTP, before)

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self.arrived)
        os.close(self._wake)


def _ended(pid: int) -> int | None:
    """The exit status of our child, or None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    if done == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else EXIT_SIGNAL_BASE - code


def _wait(pid: int, init: int, signals: Signals) -> int:
    while (status := _ended(pid)) is None:
        select.select([signals.arrived], [], [])
        _pass_on(signals, init, None)
    return status


def _pass_on(signals: Signals, init: int, terminal: _Terminal | None) -> list[int]:
    """Send the session the signals that have arrived, and stop and go on as it does; gives their numbers.

    terminal: the caller's, if it is raw, which it is not to be while we are stopped.
    """
    passed = []
    while numbers := signals.read():
        passed += numbers
        for number in numbers:
            if number in FORWARDED:
                try:
                    os.kill(init, number)
                except ProcessLookupError:
                    pass  # it has just ended, which the next wait will tell
        if [number for number in numbers if number in (signal.SIGTSTP, signal.SIGCONT)][-1:] == [signal.SIGTSTP]:
            if terminal:
                terminal.restore()
            signals.stop()
            if terminal:
                terminal.make_raw()
    return passed


class _Terminal:
    """The caller's terminal and the settings to give back to it."""

    def __init__(self) -> None:
        self._settings = termios.tcgetattr(0)

    def make_raw(self) -> None:
        tty.setraw(0)

    def restore(self) -> None:
        termios.tcsetattr(0, termios.TCSADRAIN, self._settings)


class _Relay:
    """Moves bytes between the caller's terminal and the session's until the session ends.

    shown: the descriptor to write to. terminal: None if nothing is read.
    """

    def __init__(
        self, pid: int, init: int, signals: Signals, master: int, shown: int, terminal: _Terminal | None
    ) -> None:
        self.pid = pid
        self.init = init
        self.signals = signals
        self.master = master
        self.shown = shown
        self.terminal = terminal
        self.typed = b""  # read from the caller, not yet accepted by the session
        self.stdin_open = terminal is not None
        self.master_open = True

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
        reading = [self.signals.arrived]
        if self.stdin_open and len(self.typed) < _CHUNK:
            reading.append(0)
        if self.master_open:
            reading.append(self.master)
        writing = [self.master] if self.typed and self.master_open else []
        readable, writable, _ = select.select(reading, writing, [], timeout)
        if self.signals.arrived in readable:
            numbers = _pass_on(self.signals, self.init, self.terminal)
            if signal.SIGWINCH in numbers or signal.SIGCONT in numbers:
                self._resize()
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
            data = data[os.write(self.shown, data) :]

    def _resize(self) -> None:
        """Give the session's terminal the size of the caller's (ioctl_tty(2))."""
        size = fcntl.ioctl(self.shown, termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)
