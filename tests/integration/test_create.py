"""`crossroot create` to the end, and what the other commands then say of the root."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import pty
import select
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossroot import __version__
from tests.support import apk_repository, archives, expect, http
from tests.support.identity import Crossroot, Identity

# The keys of `list --json` are fixed: scripts of users depend on them.
FACTS = [
    *("name", "format", "arch", "distro", "branch", "version", "source", "sha512", "mirror", "created", "id_map"),
    *("env", "binds", "user", "shell", "qemu_cpu", "qemu_version", "binfmt", "packages", "crossroot_version"),
    *("accelerate", "ccache", "distcc", "repositories", "keys", "rootfs", "snapshots"),
]
# Those that `info` has besides: how sessions are emulated, and which there are.
MORE_FACTS = ["sessions", "handler", "emulator", "emulator_version", "emulator_cpu"]


@pytest.fixture
def server() -> Iterator[http.Server]:
    with http.serve() as found:
        yield found


@pytest.fixture
def cold(crossroot: Crossroot) -> Crossroot:
    """crossroot with an empty cache too."""
    return dataclasses.replace(crossroot, cache=crossroot.tmp / "cache")


def write_profile(crossroot: Crossroot, text: str, name: str = "mine") -> dict[str, str]:
    """Write a profile of the user's own; the environment in which crossroot finds it."""
    folder = crossroot.tmp / "config/crossroot/profiles"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(crossroot.tmp / "config")}


def write_archive(crossroot: Crossroot, content: bytes, name: str = "archive") -> Path:
    path = crossroot.tmp / name
    path.write_bytes(content)
    return path


def info(crossroot: Crossroot, name: str) -> dict[str, object]:
    facts: dict[str, object] = json.loads(crossroot.run("info", name, "--json", check=True).stdout)
    return facts


# From a mirror


@pytest.mark.emulation
def test_every_arch_of_the_mirror_runs(crossroot: Crossroot) -> None:
    for name in crossroot.mirror.arches:
        result = crossroot.run("create", name, "--mirror", crossroot.mirror.url, timeout=120, check=True)
        assert result.stdout == ""
        crossroot.run("run", name, "--", "true", check=True)
    expect.roots(crossroot.store, *crossroot.mirror.arches)


@pytest.mark.alpine
def test_a_root_of_alpine_is_what_its_mirror_says(crossroot: Crossroot) -> None:
    crossroot.create("riscv64", "--branch", "v3.20")
    facts = info(crossroot, "riscv64")
    rootfs = crossroot.store / "roots/riscv64/rootfs"
    repositories = (rootfs / "etc/apk/repositories").read_text().splitlines()
    assert repositories == [f"{crossroot.mirror.url}/v3.20/{part}" for part in ("main", "community")]
    assert (rootfs / "etc/resolv.conf").read_bytes() == Path("/etc/resolv.conf").read_bytes()
    assert facts["branch"] == "v3.20"
    assert str(facts["version"]).startswith("3.20.")
    assert facts["mirror"] == crossroot.mirror.url
    assert f"VERSION_ID={facts['version']}" in (rootfs / "etc/os-release").read_text()


@pytest.mark.alpine
def test_owners_and_modes_are_those_of_alpine(crossroot: Crossroot) -> None:
    crossroot.create("riscv64")
    result = crossroot.run("run", "riscv64", "--", "stat", "-c", "%U:%G %a", "/tmp", "/etc/shadow", "/", check=True)
    assert result.stdout.splitlines() == ["root:root 1777", "root:shadow 640", "root:root 755"]


@pytest.mark.emulation
@pytest.mark.parametrize("alias", ["arm64", "linux/arm64"])
def test_a_root_made_by_another_name_of_its_arch_has_alpines_name_and_answers_to_the_other(
    alias: str, crossroot: Crossroot
) -> None:
    if "aarch64" not in crossroot.mirror.arches:
        pytest.fail("the mirror of the tests has no aarch64")
    crossroot.create(alias)
    expect.roots(crossroot.store, "aarch64")
    assert info(crossroot, alias)["name"] == "aarch64"
    assert crossroot.run("run", alias, "--", "uname", "-m").stdout == "aarch64\n"
    assert crossroot.run("shell", alias, input="uname -m\n").stdout == "aarch64\n"
    crossroot.run("remove", alias, check=True)
    expect.roots(crossroot.store)


def test_a_root_that_is_called_like_another_arch_is_found_by_its_own_name(
    crossroot: Crossroot, server: http.Server
) -> None:
    archives.serve_release(server, archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64")))
    crossroot.run("create", "riscv64", "--name", "arm64", "--mirror", server.url, check=True)
    assert info(crossroot, "arm64")["arch"] == "riscv64"
    crossroot.run("rm", "arm64", check=True)
    expect.error(crossroot.run("info", "arm64"), f"there is no root aarch64 in {crossroot.store}")


def test_the_second_creation_takes_the_archive_from_the_cache(cold: Crossroot, server: http.Server) -> None:
    archives.serve_release(server, archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64")))
    cold.run("create", "riscv64", "--mirror", server.url, check=True)
    del server.answers[archives.ARCHIVE]
    cold.run("create", "riscv64", "--name", "second", "--mirror", server.url, check=True)
    assert server.paths().count(archives.ARCHIVE) == 1


def test_an_archive_of_known_hash_needs_no_server_the_second_time(cold: Crossroot) -> None:
    content = archives.rootfs("riscv64")
    arguments = ["--from", "", "--sha256", hashlib.sha256(content).hexdigest()]
    with http.serve() as server:
        server.answers["/rootfs"] = [http.Answer(content)]
        arguments[1] = f"{server.url}/rootfs"
        cold.run("create", "riscv64", *arguments, check=True)
    cold.run("create", "riscv64", "--name", "second", *arguments, check=True)
    expect.roots(cold.store, "riscv64", "second")


def test_mirrors_are_tried_in_order(cold: Crossroot, server: http.Server) -> None:
    content = archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64"))
    archives.serve_release(server, content)
    with http.serve() as lacking_all, http.serve() as lacking_the_archive:
        lacking_the_archive.answers[archives.INDEX] = [http.Answer(archives.index(content))]
        urls = [lacking_all.url, lacking_the_archive.url, server.url]
        env = write_profile(cold, f'arch = "riscv64"\nmirrors = {json.dumps(urls)}\n')
        cold.run("create", "mine", env=env, check=True)
        assert lacking_all.paths() and lacking_the_archive.paths()
    assert server.paths() == [archives.ARCHIVE]
    assert info(cold, "mine")["arch"] == "riscv64"


def test_a_mirror_on_the_command_line_replaces_those_of_the_profile(crossroot: Crossroot, server: http.Server) -> None:
    archives.serve_release(server, archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64")))
    with http.serve() as other:
        env = write_profile(crossroot, f'arch = "riscv64"\nmirrors = ["{other.url}"]\n')
        crossroot.run("create", "mine", "--mirror", f"{server.url}/", env=env, check=True)
        assert other.paths() == []


def test_passwords_in_urls_are_not_shown_or_kept(crossroot: Crossroot, server: http.Server) -> None:
    server.answers["/rootfs"] = [http.Answer(archives.rootfs("riscv64"))]
    url = server.url.replace("//", "//me:secret@") + "/rootfs"
    result = crossroot.run("create", "riscv64", "--from", url, check=True)
    assert "secret" not in result.stderr
    assert info(crossroot, "riscv64")["source"] == f"{server.url}/rootfs"


# From an archive


@pytest.mark.parametrize("kind", archives.COMPRESSIONS)
def test_an_archive_is_known_by_its_content(kind: str, crossroot: Crossroot) -> None:
    content = archives.COMPRESSIONS[kind](archives.rootfs("riscv64", {"etc/motd": kind.encode()}))
    path = write_archive(crossroot, content, "misleading.zip")
    crossroot.run("create", "riscv64", "--from", path, check=True)
    facts = info(crossroot, "riscv64")
    assert (crossroot.store / "roots/riscv64/rootfs/etc/motd").read_text() == kind
    assert (facts["source"], facts["sha512"]) == (str(path), hashlib.sha512(content).hexdigest())
    assert (facts["distro"], facts["version"], facts["mirror"], facts["branch"]) == ("small", "1.0", "", "")


def test_an_archive_may_be_named_relative_to_the_current_folder_or_the_home(crossroot: Crossroot) -> None:
    write_archive(crossroot, archives.rootfs("riscv64"))
    crossroot.run("create", "riscv64", "--from", "archive", check=True)
    crossroot.run(
        "create", "riscv64", "--name", "b", "--from", "~/archive", env={"HOME": str(crossroot.tmp)}, check=True
    )
    expect.roots(crossroot.store, "b", "riscv64")


def test_an_archive_can_be_a_url(crossroot: Crossroot, server: http.Server) -> None:
    content = archives.rootfs("riscv64")
    server.answers["/rootfs"] = [http.Answer(content)]
    url = f"{server.url}/rootfs"
    crossroot.run("create", "riscv64", "--from", url, "--sha512", hashlib.sha512(content).hexdigest(), check=True)
    assert info(crossroot, "riscv64")["source"] == url


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("where", ["file", "url"])
def test_a_given_hash_has_to_be_that_of_the_archive(
    where: str, algorithm: str, crossroot: Crossroot, server: http.Server
) -> None:
    content = archives.rootfs("riscv64", {"etc/motd": os.urandom(8)})
    server.answers["/rootfs"] = [http.Answer(content)]
    source = f"{server.url}/rootfs" if where == "url" else write_archive(crossroot, content)
    right, wrong = (hashlib.new(algorithm, data).hexdigest() for data in (content, b"else"))
    result = crossroot.run("create", "riscv64", "--from", source, f"--{algorithm}", wrong)
    expect.error(result, f"wrong {algorithm}: expected {wrong}, got {right}")
    expect.roots(crossroot.store)
    crossroot.run("create", "riscv64", "--from", source, f"--{algorithm}", right.upper(), check=True)


def test_a_pinned_hash_beats_that_of_the_mirror(crossroot: Crossroot, server: http.Server) -> None:
    content = archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64", {"etc/motd": os.urandom(8)}))
    archives.serve_release(server, content)
    right, wrong = (hashlib.sha512(data).hexdigest() for data in (content, b"else"))
    text = 'extends = "riscv64"\nmirrors = ["{}"]\nsha512 = "{}"\n'
    env = write_profile(crossroot, text.format(server.url, wrong))
    expect.error(crossroot.run("create", "mine", env=env), f"wrong sha512: expected {wrong}, got {right}")
    expect.roots(crossroot.store)
    env = write_profile(crossroot, text.format(server.url, right))
    crossroot.run("create", "mine", env=env, check=True)
    before, requests = info(crossroot, "mine"), len(server.seen)
    crossroot.run("create", "mine", "--force", env=env, check=True)
    assert len(server.seen) == requests, "the archive is in the cache, and known to be the right one"
    assert {**info(crossroot, "mine"), "created": before["created"]} == before
    elsewhere = text.format("http://127.0.0.1:9", right)
    result = crossroot.run("create", "mine", "--force", env=write_profile(crossroot, elsewhere))
    expect.error(result, "no connection to the server")


# Replacing


def test_force_replaces_the_whole_tree(crossroot: Crossroot) -> None:
    old = write_archive(crossroot, archives.rootfs("riscv64", {"etc/old": b"", "etc/motd": b"old"}), "old")
    new = write_archive(crossroot, archives.rootfs("riscv64", {"etc/new": b"", "etc/motd": b"new"}), "new")
    etc = crossroot.store / "roots/riscv64/rootfs/etc"
    crossroot.run("create", "riscv64", "--from", old, check=True)
    result = crossroot.run("create", "riscv64", "--from", new)
    assert "--force" in expect.error(result, "the root riscv64 exists already")
    assert (etc / "motd").read_text() == "old"
    crossroot.run("create", "riscv64", "--from", new, "--force", check=True)
    assert sorted(os.listdir(etc)) == ["motd", "new", "os-release", "passwd", "resolv.conf"]
    assert (etc / "motd").read_text() == "new"
    expect.roots(crossroot.store, "riscv64")


def test_a_replacement_that_fails_leaves_the_root_as_it_was(crossroot: Crossroot) -> None:
    old = write_archive(crossroot, archives.rootfs("riscv64", {"etc/motd": b"old"}), "old")
    crossroot.run("create", "riscv64", "--from", old, check=True)
    broken = write_archive(crossroot, archives.rootfs("riscv64", {"etc/big": bytes(1 << 20)})[:9999], "broken")
    expect.error(crossroot.run("create", "riscv64", "--from", broken, "--force"), "cut short")
    assert (crossroot.store / "roots/riscv64/rootfs/etc/motd").read_text() == "old"
    expect.roots(crossroot.store, "riscv64")


# Signatures


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GNUPGHOME with a key of its own."""
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    _gpg(home, "--quick-generate-key", "releases@example.org", "ed25519", "sign", "never")
    return home


def _gpg(home: Path, *arguments: str | Path, input: bytes = b"") -> bytes:
    command = ["gpg", "--homedir", str(home), "--batch", "--passphrase", "", *map(str, arguments)]
    output = subprocess.run(command, input=input, capture_output=True, check=True).stdout
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    return output


@pytest.mark.parametrize("case", ["good", "of something else", "missing", "by another key"])
def test_a_keyring_demands_a_good_signature(
    case: str, signer: Path, crossroot: Crossroot, server: http.Server, tmp_path: Path
) -> None:
    content = archives.COMPRESSIONS["tar.gz"](archives.rootfs("riscv64"))
    archives.serve_release(server, content)
    if case != "missing":
        signature = _gpg(signer, "--detach-sign", input=b"else" if case == "of something else" else content)
        server.answers[f"{archives.ARCHIVE}.asc"] = [http.Answer(signature)]
    keyring = write_archive(crossroot, _gpg(signer, "--export"), "keyring.gpg")
    if case == "by another key":
        _gpg(tmp_path, "--quick-generate-key", "other@example.org", "ed25519", "sign", "never")
        keyring.write_bytes(_gpg(tmp_path, "--export"))
    env = write_profile(crossroot, f'extends = "riscv64"\nmirrors = ["{server.url}"]\nkeyring = "{keyring}"\n')
    result = crossroot.run("create", "mine", env=env)
    if case == "good":
        assert result.returncode == 0, result.stderr
        expect.roots(crossroot.store, "mine")
    else:
        expect.error(result, "the mirror has no signature" if case == "missing" else "is not good")
        expect.roots(crossroot.store)


# Hooks and packages


@pytest.mark.emulation
def test_hooks_run_in_the_new_root_in_order(crossroot: Crossroot) -> None:
    hooks = ["echo $(id -u) $PWD >/first; echo out; echo err >&2", "cat /first - >/second; uname -m >>/second"]
    env = write_profile(crossroot, f'extends = "riscv64"\nhooks = {json.dumps(hooks)}\n')
    result = crossroot.run("create", "mine", "--mirror", crossroot.mirror.url, env=env, input="unread", check=True)
    assert (crossroot.store / "roots/mine/rootfs/second").read_text() == "0 /root\nriscv64\n"
    assert result.stdout == ""
    assert "\nout\nerr\n" in result.stderr


@pytest.mark.emulation
def test_a_hook_that_fails_shows_why_and_leaves_nothing(crossroot: Crossroot) -> None:
    hooks = ["\n  false | true  # [/red]\n echo this is why >&2\n false\n touch /never", "echo and not this"]
    env = write_profile(crossroot, f'extends = "riscv64"\nhooks = {json.dumps(hooks)}\n')
    result = crossroot.run("create", "mine", "--mirror", crossroot.mirror.url, env=env)
    expect.error(result, "the hook 'false | true  # [/red]' failed with status 1")
    assert "this is why" in result.stderr
    assert "not this" not in result.stderr.replace(hooks[1], "")
    expect.roots(crossroot.store)


@pytest.mark.emulation
@pytest.mark.alpine
@pytest.mark.slow
def test_packages_come_from_the_mirror_verified(crossroot: Crossroot, tmp_path: Path) -> None:
    key = apk_repository.new_key()
    script = b"#!/bin/sh\nuname -m >/was-on\n"
    package = apk_repository.Package(
        "hello", "1.0-r0", "riscv64", {"usr/bin/hello": b"#!/bin/sh\necho hello\n"}, {"post-install": script}
    )
    apk_repository.write(tmp_path / "v3.20/main", [package], key)
    apk_repository.write(tmp_path / "v3.20/community", [dataclasses.replace(package, name="other")], key)
    with http.serve(tmp_path) as server:
        archives.serve_release(server, alpine_with_key(crossroot, key))
        env = write_profile(crossroot, f'extends = "riscv64"\nmirrors = ["{server.url}"]\npackages = ["hello"]\n')
        crossroot.run("create", "mine", env=env, check=True)
        assert crossroot.run("run", "mine", "--", "hello").stdout == "hello\n"
        assert (crossroot.store / "roots/mine/rootfs/was-on").read_text() == "riscv64\n"
        assert info(crossroot, "mine")["packages"] == ["hello"]

        stranger = apk_repository.new_key("stranger.rsa.pub")
        apk_repository.write(tmp_path / "v3.20/main", [package], stranger)
        result = crossroot.run("create", "mine", "--name", "other", env=env)
    expect.error(result, "installing hello failed: ")
    assert "UNTRUSTED" in result.stderr
    expect.roots(crossroot.store, "mine")


def alpine_with_key(crossroot: Crossroot, key: apk_repository.Key) -> bytes:
    """The minirootfs of the mirror with one more key in it."""
    crossroot.create("riscv64", "--name", "probe")
    source = info(crossroot, "probe")["sha512"]
    crossroot.run("remove", "probe", check=True)
    blob = (crossroot.cache / f"blobs/sha512/{source}").read_bytes()
    buffer = io.BytesIO(gzip.decompress(blob))
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        entry = tarfile.TarInfo(f"etc/apk/keys/{key.name}")
        entry.size = len(key.public)
        tar.addfile(entry, io.BytesIO(key.public))
    return gzip.compress(buffer.getvalue(), compresslevel=1)


# What is said


def test_the_id_map_of_the_caller_is_kept_with_the_root(crossroot: Crossroot) -> None:
    path = write_archive(crossroot, archives.rootfs("riscv64"))
    crossroot.run("create", "riscv64", "--from", path, check=True)
    recorded = info(crossroot, "riscv64")["id_map"]
    identity = crossroot.identity
    if identity.kind == "root":
        assert recorded is None
        return
    assert recorded == map_by_the_files(identity)
    owner = (crossroot.store / "roots/riscv64/rootfs/bin/true").stat()
    assert (owner.st_uid, owner.st_gid) == (identity.uid, identity.gid)


def map_by_the_files(identity: Identity) -> dict[str, list[list[int]]]:
    """The id map of a user by the files of subordinate ids."""

    def rows(file: str, own: int) -> list[list[int]]:
        fields = [line.split(":") for line in Path(file).read_text().splitlines()]
        ((start, count),) = [(int(line[1]), int(line[2])) for line in fields if line[0] == identity.name]
        return [[0, own, 1], [1, start, count]]

    return {"uids": rows("/etc/subuid", identity.uid), "gids": rows("/etc/subgid", identity.gid)}


def test_without_a_terminal_progress_is_plain_lines(crossroot: Crossroot, server: http.Server) -> None:
    server.answers["/rootfs"] = [http.Answer(archives.rootfs("riscv64"))]
    result = crossroot.run("create", "riscv64", "--from", f"{server.url}/rootfs", check=True)
    assert result.stdout == ""
    rootfs = crossroot.store / "roots/riscv64/rootfs"
    assert result.stderr.splitlines() == [
        f"crossroot: downloading {server.url}/rootfs",
        "crossroot: unpacking",
        f"crossroot: created riscv64: small 1.0 for riscv64 in {rootfs}",
        "crossroot: enter it with: crossroot shell riscv64",
    ]


def on_a_terminal(crossroot: Crossroot, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, str, bytes]:
    """Run crossroot with a terminal as stderr: its status, what came there, and its stdout."""
    master, slave = pty.openpty()
    process = crossroot.popen(*arguments, stderr=slave, env=env or {})
    os.close(slave)
    shown = b""
    with process, os.fdopen(master, "rb", buffering=0) as terminal:
        while process.poll() is None or select.select([terminal], [], [], 0)[0]:
            try:
                shown += terminal.read(4096) if select.select([terminal], [], [], 0.05)[0] else b""
            except OSError:  # EIO: nobody has the other end any more
                break
        assert process.stdout is not None
        stdout = process.stdout.read()
    return process.returncode, shown.decode(), stdout


def test_on_a_terminal_progress_is_live_and_goes_away(crossroot: Crossroot, server: http.Server) -> None:
    server.answers["/rootfs"] = [http.Answer(archives.rootfs("riscv64"))]
    status, shown, stdout = on_a_terminal(crossroot, "create", "riscv64", "--from", f"{server.url}/rootfs")
    assert (status, stdout) == (0, b""), shown
    assert "\x1b[2K" in shown  # lines are cleared
    assert "unpacking: done" in shown


@pytest.mark.emulation
def test_what_looks_like_markup_is_shown_as_it_is(crossroot: Crossroot) -> None:
    env = write_profile(crossroot, 'extends = "riscv64"\nhooks = ["[ -d /etc ] && echo [/bold] >/etc/motd"]\n')
    status, shown, _ = on_a_terminal(crossroot, "create", "mine", "--mirror", crossroot.mirror.url, env=env)
    assert status == 0, shown
    assert "[ -d /etc ] && echo [/bold]" in shown


def test_list_and_info_are_json_of_a_fixed_shape(crossroot: Crossroot) -> None:
    assert json.loads(crossroot.run("list", "--json", check=True).stdout) == []
    path = write_archive(crossroot, archives.rootfs("riscv64"))
    crossroot.run("create", "riscv64", "--from", path, check=True)
    (listed,) = json.loads(crossroot.run("list", "--json", check=True).stdout)
    assert list(listed) == FACTS
    assert list(info(crossroot, "riscv64")) == [*FACTS, *MORE_FACTS]
    assert listed["crossroot_version"] == __version__
    table = crossroot.run("list", check=True).stdout.splitlines()
    assert table[0].split() == ["NAME", "ARCH", "SYSTEM", "CREATED", "SNAPSHOTS", "ROOTFS"]
    assert table[1].split()[:2] == ["riscv64", "riscv64"]
    told = crossroot.run("info", "riscv64", check=True).stdout.splitlines()
    assert [line.partition(":")[0] for line in told] == [*FACTS, *MORE_FACTS]


# Commands besides


def test_profiles_are_listed_shown_found_and_checked(crossroot: Crossroot) -> None:
    env = write_profile(crossroot, 'extends = "riscv64"\ndescription = "my own"\n')
    listed = {
        profile["name"]: profile for profile in json.loads(crossroot.run("profile", "list", "--json", env=env).stdout)
    }
    assert listed["mine"]["description"] == "my own"
    assert "riscv64" in listed
    file = crossroot.tmp / "config/crossroot/profiles/mine.toml"
    assert crossroot.run("profile", "path", "mine", env=env, check=True).stdout == f"{file}\n"
    shown = crossroot.run("profile", "show", "mine", env=env, check=True).stdout
    assert tomllib.loads(shown)["description"] == "my own"
    assert crossroot.run("profile", "check", "mine", file, env=env, check=True).stdout == f"mine: ok\n{file}: ok\n"
    file.write_text('extends = "riscv64"\ndescriptoin = "my own"\n')
    result = crossroot.run("profile", "check", "mine", env=env)
    assert "description" in expect.error(result, f"{file}:2", 2)


def test_the_version_is_printed(crossroot: Crossroot) -> None:
    result = crossroot.run("--version", check=True)
    assert (result.stdout, result.stderr) == (f"crossroot {__version__}\n", "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_do_not_matter(closed: str, crossroot: Crossroot) -> None:
    path = write_archive(crossroot, archives.rootfs("riscv64"))

    def status(*arguments: str | Path) -> int:
        command = ["sh", "-c", f'"$@" {closed}', "sh", *crossroot.command(*arguments)]
        return crossroot.identity.run(command, env=crossroot.environment()).returncode

    assert status("create", "riscv64", "--from", path) == 0
    assert status("list") == 0
    assert status("run", "riscv64", "--", "/bin/true") == ord("/")


COMMANDS = ["", "create", "shell", "run", "list", "info", "remove", "rm", "profile list", "profile show"]


@pytest.mark.parametrize("command", [*COMMANDS, "profile path", "profile check"])
def test_the_help_of_each_command_has_an_example(command: str, crossroot: Crossroot) -> None:
    result = crossroot.run(*command.split(), "--help", check=True)
    assert "Example" in result.stdout
    assert f"crossroot {command}".replace(" rm", " r").strip() in result.stdout.partition("Example")[2]


def test_completion_completes_roots_and_profiles(crossroot: Crossroot) -> None:
    # The shell is that from which crossroot is called.
    command = crossroot.command("--show-completion")
    script = crossroot.identity.run(["bash", "-c", '"$@"; exit $?', "bash", *command], check=True).stdout
    assert "COMPREPLY" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    path = write_archive(crossroot, archives.rootfs("riscv64"))
    crossroot.run("create", "riscv64", "--name", "my-root", "--from", path, check=True)

    def complete(*words: str) -> list[str]:
        env = {"COMP_WORDS": " ".join(["crossroot", *words]), "COMP_CWORD": str(len(words))}
        return crossroot.run(env={"_CROSSROOT_COMPLETE": "complete_bash", **env}).stdout.split()

    assert complete("run", "my") == ["my-root"]
    assert complete("create", "riscv") == ["riscv64"]
    assert "create" in complete("cr")
