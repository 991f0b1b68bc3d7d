"""Run a planned session: namespaces, mounts, pivot_root, identity, exec; and give back the command's status.

Three processes: crossroot itself (the caller's terminal and signals, see `crossroot.attend`), a child that has
entered the user namespace and waits, and pid 1 of the new pid namespace, which makes the mounts, starts the
command, forwards signals and reaps. Each is killed when the one before it dies, so that SIGKILL of crossroot ends
everything inside.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import termios

from crossroot import attend, binfmt_rule, confinement, guest, linux, mounts, namespaces, ui
from crossroot.errors import (
    EXIT_NOT_EXECUTABLE,
    EXIT_NOT_FOUND,
    EXIT_SESSION_FAILED,
    EXIT_SIGNAL_BASE,
    CrossrootError,
)
from crossroot.linux import signal
from crossroot.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from crossroot.guest import Identity
    from crossroot.namespaces import Child, Reporter
    from crossroot.session import Session

_NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS


class _Channels(Record):
    """Sockets to the caller, -1 for none. line: for the terminal. tree: for what an ephemeral session leaves.

    typed: see `attend.Line`.
    """

    line: int
    tree: int
    typed: bool


def run(
    session: Session,
    *,
    terminal: bool = True,
    started: Callable[[int], None] = lambda _: None,
    left: Callable[[int], None] | None = None,
) -> int:
    """Enter the session, run its command to the end, and return the exit status for crossroot.

    The status is the command's own, or 128 + n when signal n ended it. On a terminal the command gets a
    pseudo-terminal of its own (see `attend.terminal_line`); else stdin, stdout and stderr are passed on as they are.
    terminal: False never makes one. started: called with the host's pid of the session's pid 1. left: called at the
    end with a descriptor of the tree that an ephemeral session has left. Raises CrossrootError if the session or its
    command could not be started; its exit_code is 126 or 127 where the command is the reason.
    """
    line = attend.terminal_line() if terminal else None
    flags = _NAMESPACES | (0 if session.network else linux.CLONE_NEWNET)
    tree, tree_send = linux.socket_pair() if left else (-1, -1)
    channels = _Channels(line.send if line else -1, tree_send, bool(line and line.typed))
    seen, see = os.pipe()  # closed when `started` has seen pid 1, which must be there until then
    child = namespaces.spawn(
        lambda reporter: _outer(session, channels, reporter, seen, see), id_map=session.id_map, flags=flags
    )
    os.close(seen)
    if left:
        os.close(tree_send)
    try:
        init = _await_start(child)
        started(init)
    except BaseException:
        namespaces.kill(child)
        raise
    finally:
        os.close(see)
    status = attend.until_end(child, init, line)
    if left and (descriptor := linux.receive_descriptor(tree)) is not None:
        left(descriptor)
        os.close(descriptor)
    return status


def _await_start(child: Child) -> int:
    """Wait until the command is executed; the host's pid of the session's pid 1."""
    received = namespaces.messages(child)
    for message in received:
        if "note" in message:
            ui.note(message["note"])
    namespaces.raise_error(received)
    for message in received:
        if "init" in message:
            return int(message["init"])
    raise CrossrootError("the session ended before its command was started", hint="see `dmesg`")


def _outer(session: Session, channels: _Channels, reporter: Reporter, seen: int, see: int) -> int:
    """Fork pid 1 and exit as it does. Runs in the session's namespaces but outside its pid namespace.

    seen: reaps pid 1 only when the other end of this pipe, `see`, is closed.
    """
    os.close(see)
    if not session.network:
        linux.loopback_up()
    alive, held = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(held)
        _be_init(session, channels, reporter, alive)
    os.close(alive)
    reporter.send(init=init)
    reporter.close()
    os.read(seen, 1)
    return _exit_status(os.waitpid(init, 0)[1])


def _exit_status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else EXIT_SIGNAL_BASE - code


def _be_init(session: Session, channels: _Channels, reporter: Reporter, alive: int) -> NoReturn:
    """Pid 1: leaves by os._exit only, and takes everything in its pid namespace with it."""
    status = EXIT_SESSION_FAILED
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {*attend.FORWARDED, signal.SIGCHLD})
        linux.die_with_parent(signal.SIGKILL)
        os.set_blocking(alive, False)
        if not _parent_lives(alive):
            os._exit(status)
        status = _init(session, channels, reporter)
    except BaseException as error:
        reporter.error(error)
    finally:
        sys.stderr.flush()
        os._exit(status)


def _parent_lives(alive: int) -> bool:
    """Whether the parent still holds the other end; it may have died before die_with_parent took effect."""
    try:
        return os.read(alive, 1) != b""
    except BlockingIOError:
        return True


def _init(session: Session, channels: _Channels, reporter: Reporter) -> int:
    try:
        linux.make_mounts_private()
    except OSError as error:
        raise namespaces.refused_namespace(error, user=session.id_map is not None) from error
    linux.keep_secrets()
    _enter_root(session, channels, reporter)
    linux.set_hostname(session.hostname)
    identity = guest.identity(session.user)
    slave = _new_terminal(channels.line, identity) if channels.line >= 0 else None
    command = os.fork()
    if command == 0:
        _be_command(session, identity, slave, reporter, controlling=channels.typed)
    reporter.close()
    if slave is not None:
        os.close(slave)
    return _reap_until(command)


def _enter_root(session: Session, channels: _Channels, reporter: Reporter) -> None:
    """Make the session's mounts and let the rootfs become "/"; nothing of the host's tree stays in sight."""
    table = None
    if session.handler.scope == "private":
        table = binfmt_rule.new_private_table(session.arch, session.handler.emulator)
    rootfs = _rootfs(session)
    prepared = mounts.prepare(session.mounts, say=lambda note: reporter.send(note=note))
    linux.move_mount(rootfs, session.rootfs)
    os.chdir(session.rootfs)
    linux.pivot_root(".", ".")
    linux.detach(".")
    os.chdir("/")
    if channels.tree >= 0:
        linux.send_descriptor(channels.tree, linux.open_tree("/", recursive=False))
    mounts.attach(prepared)
    if table is not None:
        # The handlers live as long as their file system is mounted somewhere.
        linux.move_mount(table, "/proc/sys/fs/binfmt_misc")
        os.close(table)


def _rootfs(session: Session) -> int:
    """What is to become "/", detached."""
    try:
        if session.overlay:
            from crossroot import overlay  # only ephemeral sessions need it

            return overlay.over(session.rootfs, session.overlay)
        return linux.open_tree(session.rootfs)
    except OSError as error:
        raise CrossrootError(f"cannot enter {session.rootfs}: {error.strerror}") from error


def _new_terminal(line: int, identity: Identity) -> int:
    """Open a pseudo-terminal in the session's own /dev/pts and send its master end to the caller's side."""
    master, slave = os.openpty()
    os.fchown(slave, identity.uid, -1)
    linux.send_descriptor(line, master)
    os.close(master)
    return slave


def _reap_until(command: int) -> int:
    """Forward signals and reap orphans until the command has ended; its status, as a shell would say it."""
    while True:
        number = signal.sigwait({*attend.FORWARDED, signal.SIGCHLD})
        if number != signal.SIGCHLD:
            _forward(number, command)
            continue
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == command:
                return _exit_status(status)
            if pid == 0:
                break


def _forward(number: int, command: int) -> None:
    """Pass a signal on: those a terminal sends to the command's whole process group, others to the command."""
    if number == signal.SIGTSTP:
        number = signal.SIGSTOP  # the group is orphaned (its leader made a session), so SIGTSTP would be ignored
    if number in (signal.SIGINT, signal.SIGQUIT, signal.SIGSTOP, signal.SIGCONT):
        os.killpg(command, number)
    else:
        os.kill(command, number)


def _be_command(
    session: Session, identity: Identity, slave: int | None, reporter: Reporter, *, controlling: bool
) -> NoReturn:
    """Become the command; what goes wrong before that is reported, with 126 or 127 where exec failed.

    slave, controlling: its terminal, if it has one, and whether that is to control it (/dev/tty, job control).
    """
    status = EXIT_SESSION_FAILED
    try:
        os.setsid()
        if slave is not None:
            _take_terminal(slave, controlling=controlling)
        if session.narrow:
            linux.set_personality(linux.PER_LINUX32)
        confinement.confine(strict=session.strict)
        if session.no_new_privileges:
            linux.no_new_privileges()
        _become(identity, session)
        _change_folder(session.workdir, identity)
        for number in signal.valid_signals():
            if signal.getsignal(number) not in (None, signal.SIG_DFL):
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        linux.close_on_exec_from(3)
        _execute(session, identity)
    except CrossrootError as error:
        status = error.exit_code
        reporter.error(error)
    except BaseException as error:
        reporter.error(error)
    finally:
        os._exit(status)


def _take_terminal(slave: int, *, controlling: bool) -> None:
    """Make the pseudo-terminal those of stdin, stdout and stderr that were a terminal, and the controlling one."""
    if controlling:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for descriptor in (0, 1, 2):
        if os.isatty(descriptor):
            os.dup2(slave, descriptor)


def _become(identity: Identity, session: Session) -> None:
    try:
        if session.id_map is None or not session.id_map.single:
            os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
    except OSError as error:
        raise CrossrootError(
            f"cannot become user {session.user}: its ids are not mapped into this root",
            hint="give yourself subordinate ids in /etc/subuid and /etc/subgid, enough for this one",
        ) from error


def _change_folder(workdir: str, identity: Identity) -> None:
    if not workdir:
        try:
            os.chdir(identity.home)
        except OSError:
            os.chdir("/")  # as login(1) does when there is no home
        return
    try:
        os.chdir(workdir)
    except OSError as error:
        hint = "name an existing folder with --workdir, or bind one with --bind"
        raise CrossrootError(f"cannot work in {workdir} inside the root: {error.strerror}", hint=hint) from error


def _execute(session: Session, identity: Identity) -> NoReturn:
    env = {"HOME": identity.home, **session.env}
    command = session.command or (session.shell or identity.shell, "-l")
    failure: OSError | None = None
    for path in _candidates(command[0], env.get("PATH", "")):
        try:
            os.execve(path, command, env)
        except OSError as error:
            # As execvp(3): go on looking, but remember that something was found and could not be executed.
            if failure is None or error.errno not in (errno.ENOENT, errno.ENOTDIR):
                failure = error
    raise _exec_error(command[0], failure)


def _candidates(program: str, path: str) -> list[str]:
    if "/" in program:
        return [program]
    return [os.path.join(folder or ".", program) for folder in path.split(":")]


def _exec_error(program: str, failure: OSError | None) -> CrossrootError:
    if failure is None or failure.errno in (errno.ENOENT, errno.ENOTDIR):
        if "/" in program and os.path.lexists(program):
            message = f"{program} is there, but its interpreter (first line or ELF loader) is not"
            return CrossrootError(message, hint="install what provides it", exit_code=EXIT_NOT_FOUND)
        return CrossrootError(
            f"the root has no command '{program}'",
            hint="install the package that provides it, or give a path below /",
            exit_code=EXIT_NOT_FOUND,
        )
    hint = ""
    if failure.errno == errno.ENOEXEC:
        hint = "it is for another arch than the root, or a script without a #! line"
    elif failure.errno == errno.EACCES:
        hint = "check its mode, and that no file system above it is mounted noexec"
    return CrossrootError(f"cannot execute {program}: {failure.strerror}", hint=hint, exit_code=EXIT_NOT_EXECUTABLE)
