"""Roots of Debian from the archive that the host's apt uses, or mmdebstrap's own.

Where the arch does not matter it is the host's, whose root is made in a quarter of the time.
"""

import json
import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest

from crossroot import apt, arch
from crossroot.apt import Source
from crossroot.distros import debian
from crossroot.handlers import Handler
from tests.support import debian_archive, host, http
from tests.support.identity import Crossroot, Identity, new_folder
from tests.support.mirror import Mirror

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

NATIVE = f"debian-{arch.find(os.uname().machine).debian}"


@pytest.fixture(scope="module")
def native_root(identity: Identity, identity_folder: Path, mirror: Mirror) -> Crossroot:
    """crossroot with a Debian root of the host's arch called native, made by each identity."""
    tmp = new_folder(identity_folder, identity)
    instance = Crossroot(identity, mirror, tmp, tmp / "store", identity_folder / "cache")
    instance.run("create", NATIVE, "--name", "native", "--package", "hello", timeout=600, check=True)
    return instance


def inside(instance: Crossroot, name: str, script: str, **environment: str) -> str:
    """The output of a script in a root."""
    settings = [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
    result = instance.run("run", *settings, name, "--", "sh", "-c", script, timeout=600, check=True)
    return result.stdout


@pytest.mark.emulation
def test_a_foreign_root_is_made_and_runs(crossroot: Crossroot) -> None:
    target = arch.find(debian_archive.first_whole("riscv64", "aarch64"))
    name = f"debian-{target.debian}"
    created = crossroot.run("create", name, timeout=800, check=True)
    assert "installing essential packages" in created.stderr
    script = "uname -m; dpkg --print-architecture; dpkg --audit; getent passwd www-data; id -u; apt-get --version"
    lines = inside(crossroot, name, script).splitlines()
    assert lines[:2] == [target.uname, target.debian]
    assert lines[2].startswith("www-data:x:33:33:"), "dpkg finds fault with the packages"
    assert lines[3] == "0"
    facts = json.loads(crossroot.run("info", name, "--json", check=True).stdout)
    assert (facts["arch"], facts["distro"], facts["branch"]) == (target.name, "debian", "trixie")
    crossroot.run("remove", name, check=True)


def test_it_is_a_root_like_any_other(native_root: Crossroot) -> None:
    facts = json.loads(native_root.run("info", "native", "--json", check=True).stdout)
    assert (facts["distro"], facts["branch"], facts["version"]) == ("debian", "trixie", "13")
    assert facts["source"] == facts["mirror"] != ""
    assert facts["packages"] == ["hello"]
    assert inside(native_root, "native", "hello --greeting=ok; cat /etc/hostname").split() == ["ok", "localhost"]


def test_its_files_have_their_owners(native_root: Crossroot) -> None:
    listing = inside(native_root, "native", "stat -c '%U:%G %a' /etc/shadow /usr/bin/su /var/mail")
    assert listing.splitlines() == ["root:shadow 640", "root:root 4755", "root:mail 2775"]


def test_it_has_no_devices_of_its_own(native_root: Crossroot) -> None:
    assert list((native_root.store / "roots/native/rootfs/dev").iterdir()) == []


def test_packages_can_be_installed_in_it_and_start_no_services(native_root: Crossroot) -> None:
    settings = [f"--env={key}={value}" for key, value in debian.INSTALL_ENVIRONMENT.items()]
    command = debian.install_command(["cron"])
    result = native_root.run("run", *settings, "native", "--", *command, timeout=600, check=True)
    assert "policy-rc.d denied execution of start" in result.stdout + result.stderr
    assert inside(native_root, "native", "command -v crontab").strip() == "/usr/bin/crontab"


def test_an_unknown_suite_is_refused(crossroot: Crossroot) -> None:
    result = crossroot.run("create", NATIVE, "--branch", "trixi", timeout=120)
    assert result.returncode == 1
    assert "has no suite trixi\n  hint: check suite and mirrors" in result.stderr
    assert crossroot.run("list").stdout.splitlines()[1:] == []
    assert list((crossroot.store / "unfinished").iterdir()) == []


@pytest.mark.emulation
def test_an_arch_that_the_suite_has_not_is_refused(crossroot: Crossroot) -> None:
    result = crossroot.run("create", "debian-riscv64", "--branch", "bookworm", timeout=120)
    assert result.returncode == 1
    assert "Debian bookworm has no riscv64\n  hint: riscv64 is there since trixie" in result.stderr


def test_an_unknown_package_is_refused(crossroot: Crossroot) -> None:
    result = crossroot.run("create", NATIVE, "--package", "no-such-package", timeout=300)
    assert result.returncode == 1
    assert "Debian trixie has no package no-such-package for" in result.stderr
    assert list((crossroot.store / "roots").iterdir()) == []
    assert list((crossroot.store / "unfinished").iterdir()) == []


def test_a_mirror_that_does_not_answer_is_named(crossroot: Crossroot) -> None:
    result = crossroot.run("create", NATIVE, "--mirror", "http://127.0.0.1:9/debian", timeout=120)
    assert result.returncode == 1
    assert "127.0.0.1" in result.stderr


def test_a_keyring_without_the_key_of_the_suite_is_refused(crossroot: Crossroot) -> None:
    other = crossroot.tmp / "other.gpg"
    home = crossroot.tmp / "gnupg"
    script = (
        f"umask 077; mkdir {home}; export GNUPGHOME={home}; "
        "gpg --batch --quiet --passphrase '' --quick-gen-key other default default never && "
        f"gpg --export other > {other}; gpgconf --kill all"
    )
    crossroot.identity.run(["sh", "-c", script], check=True)
    profiles = crossroot.tmp / "config/crossroot/profiles"
    crossroot.identity.run(["mkdir", "-p", profiles], check=True)
    profile = f'extends = "{NATIVE}"\nkeyring = "{other}"\n'
    crossroot.identity.run(["tee", profiles / "strict.toml"], profile, check=True)
    environment = {"XDG_CONFIG_HOME": str(crossroot.tmp / "config")}
    result = crossroot.run("create", "strict", env=environment, timeout=120)
    assert result.returncode == 1
    assert f"{other} has no valid key for trixie" in result.stderr
    assert "debian-archive-keyring" in result.stderr


def test_a_killed_creation_leaves_nothing(crossroot: Crossroot) -> None:
    scratch = set(Path("/tmp").glob("mmdebstrap.*"))
    process = crossroot.popen("create", NATIVE, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr as output:
        for line in output:
            if b"installing essential packages" in line:
                break
        process.kill()
    assert process.wait() == -signal.SIGKILL
    # The fixture `host` looks whether anything of mmdebstrap is left.
    listed = crossroot.run("list", check=True)
    assert listed.stdout.splitlines()[1:] == []
    assert list((crossroot.store / "unfinished").iterdir()) == []
    assert set(Path("/tmp").glob("mmdebstrap.*")) == scratch


def test_an_interrupted_creation_ends_at_once(crossroot: Crossroot) -> None:
    process = crossroot.popen("create", NATIVE, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr as output:
        for line in output:
            if b"extracting archives" in line:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    host.wait_until(lambda: not list((crossroot.store / "unfinished").iterdir()))


@pytest.mark.parametrize("identity", ["root"], indirect=True)
def test_updates_that_do_not_fit_together_are_left_out(
    native_root: Crossroot, scratch: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    main = json.loads(native_root.run("info", "native", "--json", check=True).stdout)["mirror"]
    broken = scratch / "broken-updates"
    index = broken / "dists/trixie-updates/InRelease"
    index.parent.mkdir(parents=True)
    with urllib.request.urlopen(f"{main}/dists/trixie-updates/InRelease") as answer:
        index.write_bytes(answer.read())
    native = arch.find(os.uname().machine)
    packages = index.parent / f"main/binary-{native.debian}/Packages.xz"
    packages.parent.mkdir(parents=True)
    packages.write_bytes(b"of another day")
    recipe = debian.Recipe("debian", native, "trixie", ("main",), "minbase", ())
    rootfs = scratch / "updates-rootfs"
    rootfs.mkdir()
    monkeypatch.setattr(apt, "release", lambda: apt.Release("debian", frozenset({"trixie"})))
    with http.serve(broken) as server:
        updates = Source(server.url, ("trixie-updates",), ("main",))
        monkeypatch.setattr(apt, "read_sources", lambda: [Source(main, ("trixie",), ("main",)), updates])
        made = debian.bootstrap(recipe, rootfs, Handler("native"), None)
    assert made.mirror == main
    assert "trying again without trixie-updates" in capfd.readouterr().err
    assert "trixie-updates" not in (rootfs / "etc/apt/sources.list").read_text()
