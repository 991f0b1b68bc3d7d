"""The one error type of crossroot, and its exit codes.

Every failure a user can meet is a `CrossrootError`: what happened and why in `message`, what to type next in
`hint`. Only `crossroot.cli` catches it and turns it into a line on stderr and an exit status.
"""

import errno

# Exit codes of `run` and `shell` follow chroot(1), env(1) and `docker run`.
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SESSION_FAILED = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127
EXIT_SIGNAL_BASE = 128
EXIT_INTERRUPTED = 130

# What a process can run short of, with the cure. EAGAIN is fork(2)'s: no other call of ours lets it through.
_SHORTAGES = {
    errno.EMFILE: "allow more open files: ulimit -n 1024",
    errno.ENFILE: "end some programs: the whole system has too many open files",
    errno.EAGAIN: "end some of your processes, or allow more: ulimit -u unlimited",
    errno.ENOMEM: "free some memory, or allow more: ulimit -v unlimited",
}


class CrossrootError(Exception):
    """Something went wrong that the user should read about.

    message: one line, no trailing full stop, that says what happened and why.
    hint: what to do about it, best a command that can be typed; empty when there is nothing to advise.
    exit_code: the status crossroot exits with; `run` and `shell` turn 1 and 2 into 125.
    """

    def __init__(self, message: str, *, hint: str = "", exit_code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class UsageError(CrossrootError):
    """The command line, a profile or another configuration is wrong: exit code 2."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, exit_code=EXIT_USAGE)


def shortage_cure(error: BaseException | None) -> str:
    """What to do if `error`, or what it came from, is a lack of descriptors, processes or memory; else ""."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _SHORTAGES:
            return _SHORTAGES[error.errno]
        if is_out_of_memory(error):
            return _SHORTAGES[errno.ENOMEM]
        error = error.__cause__
    return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python had no memory, or the dynamic loader none for a library that a module needs (ld.so(8))."""
    return isinstance(error, MemoryError) or (isinstance(error, ImportError) and "failed to map" in str(error))
