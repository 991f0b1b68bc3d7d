"""What `create` and `lock` are asked for, as plain data, and what follows from it alone."""

from pathlib import Path

from crossroot.distros import alpine, debian
from crossroot.errors import CrossrootError
from crossroot.fetch import Digest
from crossroot.lock import Lock
from crossroot.profiles import Profile
from crossroot.record import Record
from crossroot.wanted import ANY, Wanted


class Request(Record):
    """What `create` is asked for. profile: already with the command line's --branch and --mirror in it.

    archive: a file or URL to unpack instead of the profile's minirootfs. digest: what the archive must have.
    lock: what the root has to be exactly; then the profile is the lock's own. allow_downgrade: take a release that is
    older than one the mirror has had before.
    """

    name: str
    profile: Profile
    archive: str | None = None
    digest: Digest | None = None
    replace: bool = False
    qemu: Wanted = ANY
    lock: Lock | None = None
    allow_downgrade: bool = False

    def packages(self) -> list[str]:
        """The packages to install, in exactly their versions if there is a lock."""
        if self.lock:
            return [f"{name}={pin.version}" for name, pin in self.lock.packages.items()]
        return list(self.profile.packages)

    def repositories(self, mirror: str, branch: str) -> bytes:
        """Content of /etc/apk/repositories."""
        return (
            alpine.repositories(mirror, branch) + "".join(f"{line}\n" for line in self.profile.repositories)
        ).encode()

    def keys(self) -> dict[str, bytes]:
        """The public keys of the profile, by their names; of Debian and Ubuntu its own keyring, if it has one."""
        if self.lock:
            return self.lock.keys
        profile, found = self.profile, {}
        named = {path.name: path for path in map(Path, profile.keys)}
        if profile.keyring and profile.distro in debian.DISTROS:
            named[debian.KEYRING_NAME] = Path(profile.keyring)
        for name, path in named.items():
            try:
                found[name] = path.read_bytes()
            except OSError as error:
                raise CrossrootError(
                    f"cannot read the key {path}: {error.strerror}", hint="check keys and keyring in the profile"
                ) from error
        return found
