"""One entry into a root, planned: everything a session needs to know, as plain data (run by `crossroot.enter`)."""

from __future__ import annotations

import os
import pwd

from crossroot import arch as arches
from crossroot import handlers, mounts, namespaces
from crossroot.errors import CrossrootError, UsageError
from crossroot.mounts import Bind, Content
from crossroot.record import Record
from crossroot.wanted import ANY, Wanted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from crossroot.arch import Arch
    from crossroot.handlers import Handler
    from crossroot.metadata import Root
    from crossroot.mounts import Step
    from crossroot.namespaces import IdMap

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")

# The current folder is not bound when it is one of these, or lies below one of the second row: the root has its own.
_SYSTEM_FOLDERS = ("/", "/home", "/media", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/var")
_SYSTEM_TREES = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
)
_SOURCE_TREES = ("/usr/src", "/usr/local/src")


class Options(Record):
    """What the caller of `run` and `shell` may ask for. Empty means: as the root's profile says.

    ephemeral: the size of what the session may change, which is lost at its end, see `overlay.check_size`; "" for a
    session that changes the root itself. keep: the root to make of what an ephemeral session leaves, "" for none.
    accelerate: a level, see the module of that name; None for the root's own. ccache: also where the root does not say
    so. nesting: let containers be made inside.
    """

    binds: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    user: str = ""
    workdir: str = ""
    network: bool = True
    cwd: bool = True
    binfmt: str = ""
    qemu: Wanted = ANY
    ephemeral: str = ""
    keep: str = ""
    accelerate: int | None = None
    ccache: bool = False
    nesting: bool = False
    no_new_privileges: bool = False


class Session(Record):
    """A session, ready to be entered. workdir: "" for the user's home. command: () for a login shell.
    shell: "" for the user's own. env: without HOME, which the root's /etc/passwd decides. overlay: see
    `Options.ephemeral`. strict: see `confinement.confine`."""

    rootfs: str
    hostname: str
    arch: Arch
    handler: Handler
    id_map: IdMap | None
    mounts: tuple[Step, ...]
    network: bool
    user: str
    workdir: str
    shell: str
    command: tuple[str, ...]
    env: dict[str, str]
    overlay: str = ""
    strict: bool = False
    no_new_privileges: bool = False

    @property
    def narrow(self) -> bool:
        """Whether the host's CPU runs the arch in its 32-bit mode, where uname has to be told (personality(2))."""
        return self.handler.scope == "native" and self.arch.name in ("x86", "armhf", "armv7", "armeb")


def plan(root: Root, options: Options, command: Sequence[str]) -> Session:
    """Decide on everything a session in `root` needs; tries handlers, changes nothing.

    Raises UsageError for a malformed option, CrossrootError if nothing on this host runs the root's arch or the
    root belongs to another id map.
    """
    binds = [parse_bind(text) for text in (*root.binds, *options.binds)]
    env = dict(parse_env(text) for text in options.env)
    arch = arches.find(root.arch)
    handler = handlers.choose(
        arch,
        options.binfmt or root.binfmt,
        options.qemu,
        root.qemu_version,
        mirrors=[root.mirror] if root.mirror and root.distro == "alpine" else [],
    )
    folder = bound_cwd() if options.cwd else ""
    id_map = _id_map(root, handler)
    steps = mounts.standard()
    steps += [] if options.nesting else mounts.masks()
    if options.network and (resolver := resolver_configuration()):
        steps.append(Content(resolver, "/etc/resolv.conf"))
    # Binds come last: whatever links the root has, nothing is made in a folder of the host but places for binds.
    steps += [Bind(folder, folder)] if folder else []
    steps += binds
    return Session(
        rootfs=root.rootfs_folder,
        hostname=root.name[:64],
        arch=arch,
        handler=handler,
        id_map=id_map,
        mounts=tuple(steps),
        network=options.network,
        user=options.user or root.user,
        workdir=options.workdir or folder,
        shell=root.shell,
        command=tuple(command),
        env={**environment(root, handler), **env},
        overlay=options.ephemeral,
        strict=root.id_map is not None and not options.nesting,
        # Where one id is all there is, setuid could give nothing.
        no_new_privileges=options.no_new_privileges or (id_map is not None and id_map.single),
    )


def _id_map(root: Root, handler: Handler) -> IdMap | None:
    """The map of the session's user namespace: that of the root; root's own one for private handlers."""
    own = namespaces.own_id_map()
    if root.id_map != own:
        raise CrossrootError(
            f"the root {root.name} was created under another id map, so its files have other owners now",
            hint=namespaces.single_id_reason() or f"check /etc/subuid and /etc/subgid, or create {root.name} again",
        )
    if own is None and handler.scope == "private":
        return namespaces.identity_map()
    return own


def environment(root: Root, handler: Handler) -> dict[str, str]:
    """A session's clean environment, before --env: of the caller's only TERM and the proxies."""
    env = {"TERM": os.environ.get("TERM", "dumb"), "LANG": "C.UTF-8", "PATH": PATH}
    for name in (*_PROXIES, *(name.upper() for name in _PROXIES)):
        if name in os.environ:
            env[name] = os.environ[name]
    if cpu := handlers.cpu(handler, root.qemu_cpu):
        env["QEMU_CPU"] = cpu
    return {**env, **root.env}


def parse_env(text: str) -> tuple[str, str]:
    """K=V as a pair; K alone takes its value from the caller's environment. Raises UsageError."""
    key, equals, value = text.partition("=")
    if not key or "\0" in text:
        raise UsageError(f"'{text}' is no environment setting", hint="write --env NAME=VALUE")
    if not equals:
        if key not in os.environ:
            raise UsageError(f"the environment has no {key} to pass on", hint=f"write --env {key}=VALUE")
        value = os.environ[key]
    return key, value


def parse_bind(text: str) -> Bind:
    """SRC[:DST[:ro]] as a bind; DST is SRC where it is omitted. Raises UsageError."""
    source, *rest = text.split(":")
    target = rest[0] if rest and rest[0] else ""
    if not source or len(rest) > 2 or (len(rest) == 2 and rest[1] not in ("ro", "rw")):
        raise UsageError(f"'{text}' is no bind", hint="write --bind SRC[:DST[:ro]]")
    path = os.path.abspath(os.path.expanduser(source))
    target = os.path.normpath(target or path)
    if not target.startswith("/") or target.strip("/") == "":
        raise UsageError(
            f"the target of the bind '{text}' must be an absolute path below /", hint="write --bind SRC:/DST"
        )
    if not os.path.exists(path):
        raise CrossrootError(f"cannot bind {path}: no such file or folder", hint="create it, or correct --bind")
    return Bind(path, target, readonly=rest[1:] == ["ro"])


def bound_cwd() -> str:
    """The current folder, if it is one to show in a session; "" for /, a home itself, and system folders."""
    try:
        folder = os.getcwd()
    except FileNotFoundError:
        return ""  # it was deleted
    within_system = any(folder == tree or folder.startswith(tree + "/") for tree in _SYSTEM_TREES)
    within_source = any(folder.startswith(tree + "/") for tree in _SOURCE_TREES)
    if folder in _SYSTEM_FOLDERS or folder in _homes() or os.path.dirname(folder) == "/home":
        return ""
    return "" if within_system and not within_source else folder


def _homes() -> set[str]:
    """The homes of the caller, and of who called sudo, as getcwd(2) would say them."""
    homes = {os.path.expanduser("~")}
    sudo_uid = os.environ.get("SUDO_UID", "")
    for uid in {os.getuid(), int(sudo_uid) if sudo_uid.isdecimal() else 0}:
        try:
            homes.add(pwd.getpwuid(uid).pw_dir)
        except KeyError:
            continue  # a uid without a name has no home
    return {os.path.realpath(home) for home in homes}


def resolver_configuration() -> bytes:
    """The content of the host's resolv.conf, wherever its link leads; b"" if there is none."""
    try:
        with open("/etc/resolv.conf", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
