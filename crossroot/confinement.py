"""What is taken from the command of a session before it starts, beyond the namespaces that it is in.

As in Docker's and podman's containers: a seccomp filter, few capabilities, and no way to the host's abstract sockets.
"""

import errno

from crossroot import linux, seccomp

# What packages and builds need (capabilities(7)); all of them reach no further than the user namespace.
_CAPABILITIES = frozenset(
    {
        0,  # CHOWN
        1,  # DAC_OVERRIDE
        3,  # FOWNER
        4,  # FSETID
        5,  # KILL
        6,  # SETGID
        7,  # SETUID
        8,  # SETPCAP
        10,  # NET_BIND_SERVICE
        13,  # NET_RAW, which ping(8) wants to have
        18,  # SYS_CHROOT
        31,  # SETFCAP
    }
)


def confine(*, strict: bool) -> None:
    """Confine this process, and all that come of it, from its next exec on. Needs root of the user namespace.

    strict: as a boundary, with neither the capability to mount nor new user namespaces, where that would come back;
    else only what no build has a use for is taken.
    """
    if strict:
        linux.drop_capabilities(_CAPABILITIES)
    _leave_abstract_sockets()
    seccomp.install(strict=strict)


def _leave_abstract_sockets() -> None:
    """They belong to the network namespace, which is the host's: an X server or a message bus may listen there."""
    try:
        linux.leave_abstract_sockets()
    except OSError as error:
        # Linux before 6.12: an unknown call, one that is switched off, or a structure of a later version.
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.E2BIG, errno.EINVAL, errno.EPERM):
            raise
