"""Linux before 6.7: a user namespace can have no handlers of its own.

    with old_kernel.simulated() as begin:
        ...  # fork; begin() in the child: from then on it, and all that come of it, are on such a kernel

A seccomp filter hands each fsopen(2) to this process, which refuses those of binfmt_misc in other user namespaces than
that in which it all began (seccomp_unotify(2)).
"""

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.support import inject, zygote

_FSOPEN = 430  # on every architecture


@contextmanager
def simulated() -> Iterator[Callable[[], None]]:
    """Such a kernel, for the child that calls what the block gets."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    supervisor = threading.Thread(target=_supervise, args=[ours])

    def begin() -> None:
        listener = zygote.install(inject.filter_of(_FSOPEN))
        socket.send_fds(its, [str(_user_namespace("self")).encode()], [listener])
        os.close(listener)
        its.close()

    with ours, its:
        supervisor.start()
        try:
            yield begin
        finally:
            its.close()
            supervisor.join()


def _supervise(link: socket.socket) -> None:
    """Answer until all processes with the filter are gone."""
    text, descriptors, _, _ = socket.recv_fds(link, 64, 1)
    if not text:
        return
    (listener,) = descriptors
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while dict(poll.poll())[listener] & select.POLLIN:
        call = inject.receive(listener)
        if call is not None:
            inject.answer(listener, call, errno.EPERM if _is_refused(call, int(text)) else 0)
    os.close(listener)


def _is_refused(call: inject.Call, host: int) -> bool:
    with open(f"/proc/{call.caller}/mem", "rb") as memory:
        memory.seek(call.arguments[0])
        name = memory.read(len(b"binfmt_misc\0"))
    return name == b"binfmt_misc\0" and _user_namespace(str(call.caller)) != host


def _user_namespace(pid: str) -> int:
    return os.stat(f"/proc/{pid}/ns/user").st_ino
