"""What goes wrong is said in one line with a hint, and leaves nothing behind."""

import dataclasses
import hashlib
import os
import shlex
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import NEEDS_ROOT
from tests.support import archives, expect, http
from tests.support.identity import Crossroot

GZIP = archives.COMPRESSIONS["tar.gz"]
NOWHERE = "http://192.0.2.1"  # an address for documentation (RFC 5737)


@pytest.fixture
def server() -> Iterator[http.Server]:
    with http.serve() as found:
        yield found


@pytest.fixture
def outside(crossroot: Crossroot) -> Iterator[Path]:
    """A folder of the identity's own outside of its store, which has to stay as it is."""
    folder = crossroot.tmp / "outside"
    folder.mkdir()
    os.chown(folder, crossroot.identity.uid, crossroot.identity.gid)
    (folder / "resolv.conf").write_text("precious")
    os.chown(folder / "resolv.conf", crossroot.identity.uid, crossroot.identity.gid)
    yield folder
    assert os.listdir(folder) == ["resolv.conf"]
    assert (folder / "resolv.conf").read_text() == "precious"


def write(crossroot: Crossroot, content: bytes) -> Path:
    path = crossroot.tmp / "archive"
    path.write_bytes(content)
    return path


def create_from(crossroot: Crossroot, content: bytes, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Try to create riscv64 from an archive with this content."""
    return crossroot.run("create", "riscv64", "--from", write(crossroot, content), *arguments)


def run_after(
    change: str, crossroot: Crossroot, *arguments: str | Path, after: str = ":", network: bool = True
) -> "subprocess.CompletedProcess[str]":
    """Run crossroot with mounts of its own that `change`, a shell script of root's, has changed.

    network: False for none, not even loopback. `after`: run there at the end, in sh, its output is the only one.
    """
    if os.geteuid() != 0:
        pytest.skip(NEEDS_ROOT)
    script = f'{change}\nset +e\n"$@"; status=$?\n{after}\nexit $status'
    namespaces = ["--mount", "--propagation", "private", *([] if network else ["--net"])]
    return subprocess.run(
        ["unshare", *namespaces, "sh", "-ec", script, "sh", *as_identity(crossroot, *arguments)],
        env=crossroot.identity.environment(crossroot.environment()),
        cwd=crossroot.tmp,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def as_identity(crossroot: Crossroot, *arguments: str | Path) -> list[str]:
    """The command line by which root runs crossroot as its identity."""
    who = crossroot.identity
    setpriv = ["setpriv", "--reuid", str(who.uid), "--regid", str(who.gid), "--clear-groups"]
    return [*setpriv, *crossroot.command(*arguments)]


def tmpfs(crossroot: Crossroot, path: Path, options: str) -> str:
    """A shell command that mounts a tmpfs on a new folder of the identity's."""
    who = crossroot.identity
    path.mkdir()
    return f"mount -t tmpfs -o mode=700,uid={who.uid},gid={who.gid},{options} tmpfs {shlex.quote(str(path))}"


def left_in(store: Path) -> str:
    """A shell command that lists what is in the store."""
    return f"cd {shlex.quote(str(store))} && find roots unfinished -mindepth 1"


# The mirror


def test_an_archive_of_another_hash_than_the_mirror_says(crossroot: Crossroot, server: http.Server) -> None:
    good = GZIP(archives.rootfs("riscv64", {"etc/motd": os.urandom(8)}))
    archives.serve_release(server, good)
    server.answers[archives.ARCHIVE] = [http.Answer(good[:-1] + b"x")]
    result = crossroot.run("create", "riscv64", "--mirror", server.url)
    assert "--mirror" in expect.error(result, f"wrong sha512: expected {hashlib.sha512(good).hexdigest()}, got ")
    expect.roots(crossroot.store)


@pytest.mark.slow
def test_a_mirror_that_dies_half_way_and_is_resumed_when_it_is_back(crossroot: Crossroot, server: http.Server) -> None:
    content = GZIP(archives.rootfs("riscv64", {"etc/noise": os.urandom(300_000)}))
    archives.serve_release(server, content)
    server.answers[archives.ARCHIVE] = [http.Answer(content, cut=100_000), http.Answer(status=503)]
    result = crossroot.run("create", "riscv64", "--mirror", server.url)
    assert "resumes" in expect.error(result, f"cannot download {server.url}{archives.ARCHIVE}: the server answers 503")
    expect.roots(crossroot.store)
    server.answers[archives.ARCHIVE] = [http.Answer(content)]
    crossroot.run("create", "riscv64", "--mirror", server.url, check=True)
    assert server.seen[-1].range == "bytes=100000-"


@pytest.mark.parametrize("missing", ["index", "archive"])
def test_what_the_mirror_does_not_have(missing: str, crossroot: Crossroot, server: http.Server) -> None:
    archives.serve_release(server, GZIP(archives.rootfs("riscv64", {"etc/motd": os.urandom(8)})))
    path = archives.INDEX if missing == "index" else archives.ARCHIVE
    del server.answers[path]
    result = crossroot.run("create", "riscv64", "--mirror", server.url)
    expect.error(result, f"{server.url}{path}: the server answers 404 Not Found")
    expect.roots(crossroot.store)


def test_a_branch_that_the_mirror_does_not_have(crossroot: Crossroot, server: http.Server) -> None:
    result = crossroot.run("create", "riscv64", "--mirror", server.url, "--branch", "v3.19")
    hint = expect.error(result, "no Alpine v3.19 for riscv64")
    assert hint == "Alpine has riscv64 since v3.20; try --branch v3.20, latest-stable or edge"
    result = crossroot.run("create", "riscv64", "--mirror", server.url, "--branch", "3.20")
    assert "v3.20" in expect.error(result, "'3.20' is not a branch of Alpine", 2)
    expect.roots(crossroot.store)


@pytest.mark.slow
def test_a_mirror_where_nobody_listens(crossroot: Crossroot) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = crossroot.run("create", "riscv64", "--mirror", f"http://127.0.0.1:{port}")
    assert "network" in expect.error(result, "no connection to the server (Connection refused)")
    expect.roots(crossroot.store)


@pytest.mark.slow
def test_no_route_to_the_mirror(crossroot: Crossroot) -> None:
    result = run_after(":", crossroot, "create", "riscv64", "--mirror", NOWHERE, network=False)
    assert "network" in expect.error(result, "no connection to the server (Network is unreachable)")
    expect.roots(crossroot.store)


@pytest.mark.slow
def test_a_mirror_whose_name_nobody_knows(crossroot: Crossroot) -> None:
    result = run_after(":", crossroot, "create", "riscv64", "--mirror", "http://mirror.invalid", network=False)
    assert "network" in expect.error(result, "the name of the server can't be resolved")
    expect.roots(crossroot.store)


# The archive


@pytest.mark.parametrize("kind", archives.COMPRESSIONS)
def test_an_archive_that_is_cut_short(kind: str, crossroot: Crossroot) -> None:
    content = archives.COMPRESSIONS[kind](archives.rootfs("riscv64", {"etc/noise": os.urandom(300_000)}))
    for length in (1, 200_000, len(content) - 5 if kind != "tar" else 300_001):
        hint = expect.error(create_from(crossroot, content[:length]), "the archive")
        assert hint
        expect.roots(crossroot.store)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "the archive is empty"),
        (b"<!DOCTYPE html>\n<html><body>Sign in to the network</body></html>\n", "it looks like a web page"),
        (b"PK\x03\x04" + bytes(100), "it looks like a zip archive"),
        (archives.make_tar({"README": b"hello"}), "holds no executable in bin or sbin, so it is no rootfs"),
        (archives.make_tar({"bin/sh": b"#!/bin/bash\n"}), "holds no executable in bin or sbin, so it is no rootfs"),
    ],
    ids=["empty", "web page", "zip", "no programs", "scripts alone"],
)
def test_an_archive_that_is_no_rootfs(content: bytes, text: str, crossroot: Crossroot) -> None:
    expect.error(create_from(crossroot, content), text)
    expect.roots(crossroot.store)


def test_an_archive_that_is_no_readable_file(crossroot: Crossroot) -> None:
    os.mkfifo(crossroot.tmp / "fifo")
    (crossroot.tmp / "loop").symlink_to("loop")
    for name in ("absent", "", "fifo", "loop", "/dev/zero"):
        result = crossroot.run("create", "riscv64", "--from", name, timeout=10)
        expect.error(result, f"cannot read {crossroot.tmp / name}")
        expect.roots(crossroot.store)


@pytest.mark.emulation
@pytest.mark.parametrize(
    ("held", "wanted"),
    [("riscv64", "aarch64"), ("aarch64", "riscv64"), ("armv7", "armhf"), ("armhf", "armv7"), ("x86_64", "x86")],
)
def test_a_rootfs_of_another_arch(held: str, wanted: str, crossroot: Crossroot) -> None:
    path = write(crossroot, archives.rootfs(held, {"etc/apk/arch": f"{held}\n".encode()}))
    result = crossroot.run("create", wanted, "--from", path)
    assert held in expect.error(result, f"{path} is a rootfs for {held}, not for {wanted}")
    expect.roots(crossroot.store)


# Hostile archives


@pytest.mark.parametrize(
    "where",
    [
        "etc",
        "etc/resolv.conf",
        "etc/apk",
        "etc/apk/repositories",
        "etc/os-release",
    ],
)
@pytest.mark.parametrize("climb", [False, True], ids=["absolute", "relative"])
def test_links_out_of_the_archive_lead_nowhere(
    where: str, climb: bool, crossroot: Crossroot, server: http.Server, outside: Path
) -> None:
    """Its own files, crossroot's (resolv.conf, repositories) and reading lead through the links."""
    target = outside / "resolv.conf" if where.endswith(("resolv.conf", "repositories", "os-release")) else outside
    link = f"{'../' * 40}{target}" if climb else str(target)
    files = {} if where == "etc/os-release" else {f"{where}/inside": b"", f"{where}/resolv.conf": b"overwritten"}
    if where.endswith(("resolv.conf", "repositories")):
        files = {}
    program = {"bin/true": archives.program("riscv64")}
    archives.serve_release(server, GZIP(archives.make_tar({**program, **files}, {where: link})))
    result = crossroot.run("create", "riscv64", "--mirror", server.url)
    if result.returncode == 0:
        assert "precious" not in crossroot.run("info", "riscv64").stdout
        expect.roots(crossroot.store, "riscv64")
        expected = f"{server.url}/v3.20/main\n{server.url}/v3.20/community\n"
        assert (crossroot.store / "roots/riscv64/rootfs/etc/apk/repositories").read_text() == expected
    else:
        expect.error(result, "cannot unpack")
        expect.roots(crossroot.store)


@pytest.mark.parametrize("name", ["../../../../outside/resolv.conf", "etc/../../../../outside/resolv.conf"])
def test_names_that_climb_are_refused(name: str, crossroot: Crossroot, outside: Path) -> None:
    assert outside.is_dir()
    result = create_from(crossroot, archives.rootfs("riscv64", {name: b"overwritten"}))
    expect.error(result, "the archive is unsafe")
    expect.roots(crossroot.store)


def test_absolute_names_are_of_the_new_root(crossroot: Crossroot, outside: Path) -> None:
    inside = archives.rootfs("riscv64", {f"{outside}/resolv.conf": b"inside"})
    assert create_from(crossroot, inside).returncode == 0
    assert (crossroot.store / f"roots/riscv64/rootfs{outside}/resolv.conf").read_text() == "inside"


def test_folders_in_the_place_of_files_that_crossroot_writes(crossroot: Crossroot) -> None:
    result = create_from(crossroot, archives.rootfs("riscv64", {"etc/resolv.conf/x": b""}))
    expect.error(result, "cannot write /etc/resolv.conf in the new root: Is a directory")
    expect.roots(crossroot.store)


@pytest.mark.parametrize(
    "content",
    [
        b'ID="\x1b]0;title\x07\x1b[31mred"\nVERSION_ID="1\x9b2J"\n',
        b"ID=$(touch /tmp/crossroot-canary)\nVERSION_ID=`id`\n",
        b"ID='open\nVERSION_ID=\xff\xfe\n=\n\0\n",
        b"ID=" + b"x" * (5 << 20),
        b"ID='a\nb'\nVERSION_ID='\xe2\x80\xae'\n",
    ],
    ids=["escapes", "commands", "not text", "huge", "lines"],
)
def test_what_an_archive_says_of_itself_does_no_harm(content: bytes, crossroot: Crossroot) -> None:
    path = write(crossroot, archives.rootfs("riscv64", {"etc/os-release": content}))
    result = crossroot.run("create", "riscv64", "--from", path, timeout=10)
    assert result.returncode == 0, result.stderr
    assert "crossroot: created riscv64: unknown " in result.stderr
    listed = crossroot.run("list", check=True).stdout + crossroot.run("info", "riscv64", check=True).stdout
    assert all(character.isprintable() for character in (result.stderr + listed).replace("\n", ""))
    assert not Path("/tmp/crossroot-canary").exists()


@pytest.mark.emulation
@pytest.mark.parametrize("kind", ["fifo", "huge", "link outside", "loop", "device", "not text"])
def test_a_hostile_passwd_neither_hangs_nor_fools_a_session(kind: str, crossroot: Crossroot, outside: Path) -> None:
    (outside / "resolv.conf").write_text("precious")
    entry = b"root:x:0:0:root:/:/bin/true\n"
    files = {"huge": entry + b"x:" * (4 << 20), "not text": b"\xff:\0:\n" + entry}
    links = {"link outside": str(outside / "resolv.conf"), "loop": "passwd", "device": "/dev/zero"}
    content = archives.rootfs(
        "riscv64",
        {"etc/passwd": files[kind]} if kind in files else {},
        {"etc/passwd": links[kind]} if kind in links else {},
    )
    assert create_from(crossroot, content).returncode == 0
    if kind == "fifo":
        (crossroot.store / "roots/riscv64/rootfs/etc/passwd").unlink()
        os.mkfifo(crossroot.store / "roots/riscv64/rootfs/etc/passwd")
    by_name = crossroot.run("run", "riscv64", "--", "/bin/true", timeout=20)
    assert by_name.returncode == ord("/"), by_name.stderr
    another = crossroot.run("run", "riscv64", "--user", "precious", "--", "/bin/true", timeout=20)
    expect.error(another, "the root has no user 'precious'", 125)
    expect.roots(crossroot.store, "riscv64")


# Names and options


@pytest.mark.parametrize("name", ["a/b", "../outside", "/tmp", "..", ".", "", "-x", "a\nb", "a b", "é", "x" * 64, "~"])
def test_impossible_names(name: str, crossroot: Crossroot) -> None:
    path = write(crossroot, archives.rootfs("riscv64"))
    result = crossroot.run("create", "riscv64", f"--name={name}", "--from", path)
    assert "letters" in expect.error(result, "name" if "/" not in name else "is a path, not a name", 2)
    for command in (["info"], ["remove"], ["rm", "--force"]):
        expect.error(crossroot.run(*command, "--", name), "name", 2)
    for command in (["run", "--", name, "true"], ["shell", "--", name]):
        expect.error(crossroot.run(*command), "name", 125)
    expect.roots(crossroot.store)
    assert path.exists()


@pytest.mark.parametrize(
    ("command", "text", "hint"),
    [
        ("create riscv65", "there is no profile 'riscv65'", "riscv64"),
        ("create linux/arm/v9", "'linux/arm/v9'", "profile list"),
        ("create", "no profile is named", "crossroot create riscv64"),
        ("info", "Missing argument 'NAME'", "crossroot info --help"),
        ("create riscv64 --mirorr x", "No such option: --mirorr", "crossroot create --help"),
        ("create riscv64 --mirror", "--mirror", "crossroot create --help"),
        ("create riscv64 --binfmt never", "'never' is no binfmt policy", "auto, host, private"),
        ("create riscv64 --mirror ftp://x", "'ftp://x' is not an http or https URL", "https://"),
        ("create riscv64 --mirror ''", "'' is not an http or https URL", "https://"),
        ("create riscv64 --branch ''", "'' is not a branch of Alpine", "latest-stable"),
        ("create riscv64 --from x --sha256 ''", "'' is not a sha256 hash", "64 hex digits"),
        ("create riscv64 --from x --sha512 123", "'123' is not a sha512 hash", "128 hex digits"),
        (f"create riscv64 --sha256 {'0' * 64} --sha512 {'0' * 128}", "both --sha256 and --sha512", "one of them"),
        ("creat riscv64", "No such command 'creat'", "crossroot --help"),
        ("remove", "Missing argument", "crossroot remove --help"),
        ("profile show nosuch", "there is no profile 'nosuch'", "profile list"),
        ("profile shwo x", "No such command 'shwo'", "crossroot profile --help"),
    ],
)
def test_wrong_usage(command: str, text: str, hint: str, crossroot: Crossroot) -> None:
    assert hint in expect.error(crossroot.run(*shlex.split(command)), text, 2)
    expect.roots(crossroot.store)


@pytest.mark.parametrize("command", ["run nosuch -- true", "run nosuch", "run", "shell nosuch", "run --nosuch x"])
def test_what_goes_wrong_before_a_session_is_125(command: str, crossroot: Crossroot) -> None:
    expect.error(crossroot.run(*command.split()), "", 125)
    expect.roots(crossroot.store)


@pytest.mark.parametrize("command", ["info nosuch", "remove nosuch", "rm --force nosuch"])
def test_there_is_no_such_root(command: str, crossroot: Crossroot) -> None:
    hint = expect.error(crossroot.run(*command.split()), f"there is no root nosuch in {crossroot.store}")
    assert hint == "crossroot create nosuch"


# The emulator


@pytest.mark.emulation
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["missing", pytest.param("dynamic", marks=pytest.mark.long)])
def test_no_usable_emulator_and_no_network_to_fetch_one(kind: str, crossroot: Crossroot) -> None:
    """The files of the host that are called like emulators are covered by something else."""
    crossroot = dataclasses.replace(crossroot, cache=crossroot.tmp / "cache")
    path = write(crossroot, archives.rootfs("riscv64"))
    cover = "/dev/null" if kind == "missing" else "/bin/true"
    folders = "/usr/bin /usr/local/bin /usr/libexec/qemu-user /usr/libexec/qemu-binfmt /usr/sbin /usr/local/sbin"
    hide = f"for file in {' '.join(f'{each}/qemu-riscv64*' for each in folders.split())}; do\n"
    hide += f'[ -e "$file" ] && mount --bind {cover} "$(realpath "$file")" || :; done'
    why = "no emulator for riscv64 on this host" if kind == "missing" else "is dynamically linked"
    result = run_after(hide, crossroot, "create", "riscv64", "--from", path, network=False)
    expect.error(result, "no emulator for riscv64 could be fetched")
    assert why in result.stderr
    expect.roots(crossroot.store)
    assert create_from(crossroot, archives.rootfs("riscv64")).returncode == 0
    result = run_after(hide, crossroot, "run", "riscv64", "--", "true", network=False)
    expect.error(result, "no emulator for riscv64 could be fetched", 125)


def test_a_named_emulator_that_is_none(crossroot: Crossroot) -> None:
    for file, text in (("/absent", "cannot be read"), ("/etc/passwd", "is not an ELF executable"), (".", "")):
        expect.error(crossroot.run("create", "riscv64", "--qemu", file), text)
        expect.roots(crossroot.store)


# The store


def test_a_store_on_a_read_only_file_system(crossroot: Crossroot) -> None:
    assert create_from(crossroot, archives.rootfs("riscv64")).returncode == 0
    store = shlex.quote(str(crossroot.store))
    freeze = f"mount --bind {store} {store}; mount -o remount,bind,ro {store}"
    for command in (["create", "riscv64", "--name", "b"], ["create", "riscv64", "--force"], ["rm", "riscv64"]):
        result = run_after(freeze, crossroot, *command, *(["--from", "archive"] if "create" in command else []))
        assert expect.error(result, "Read-only file system"), command
    assert run_after(freeze, crossroot, "list").returncode == 0
    result = run_after(freeze, crossroot, "run", "riscv64", "--", "true")
    assert "CROSSROOT_STORE" in expect.error(result, "Read-only file system", 125)
    expect.roots(crossroot.store, "riscv64")


def test_a_new_store_on_a_read_only_file_system(crossroot: Crossroot) -> None:
    write(crossroot, archives.rootfs("riscv64"))
    tmp = shlex.quote(str(crossroot.tmp))
    freeze = f"mount --bind {tmp} {tmp}; mount -o remount,bind,ro {tmp}; cd {tmp}"
    result = run_after(freeze, crossroot, "create", "riscv64", "--from", "archive")
    assert "CROSSROOT_STORE" in expect.error(result, f"{crossroot.store}: Read-only file system")
    assert not crossroot.store.exists()


@pytest.mark.parametrize("limit", ["size=2m", "nr_inodes=40"])
def test_a_full_disk(limit: str, crossroot: Crossroot) -> None:
    files = {f"etc/{number}": os.urandom(64_000) for number in range(50)}
    path = write(crossroot, archives.rootfs("riscv64", files))
    mount = tmpfs(crossroot, crossroot.store, limit)
    result = run_after(mount, crossroot, "create", "riscv64", "--from", path, after=left_in(crossroot.store))
    expect.error(result, "no space left while unpacking 'etc/")


def test_a_disk_that_is_full_when_crossroot_writes_its_own_files(crossroot: Crossroot) -> None:
    """At every page of room: in /etc/resolv.conf, in root.json, and before anything."""
    path = write(crossroot, archives.rootfs("riscv64"))
    mount = tmpfs(crossroot, crossroot.store, "size=1m")
    # The folder has to be a store before it is filled.
    first = shlex.join(as_identity(crossroot, "create", "riscv64", "--name", "a", "--from", path))
    store = shlex.quote(str(crossroot.store))
    for pages in range(6):
        fill = f"{store}/roots/a/fill"
        change = f"{mount}; {first} 2>/dev/null\n"
        change += f"dd if=/dev/zero of={fill} bs=4k 2>/dev/null || truncate -s -{4 * pages}k {fill}"
        after = f"ls -A {store}/unfinished; ls -A {store}/roots"
        result = run_after(change, crossroot, "create", "riscv64", "--name", "b", "--from", path, after=after)
        if result.returncode == 0:
            assert (result.stdout, pages > 2) == ("a\nb\n", True)
        else:
            assert result.stdout == "a\n"
            result.stdout = ""
            expect.error(result, "o space left")


def test_a_full_cache(crossroot: Crossroot, server: http.Server) -> None:
    archives.serve_release(server, GZIP(archives.rootfs("riscv64", {"etc/noise": os.urandom(300_000)})))
    mount = tmpfs(crossroot, crossroot.tmp / "cache", "size=100k")
    mount += f"; export CROSSROOT_CACHE={crossroot.tmp}/cache"
    result = run_after(mount, crossroot, "create", "riscv64", "--mirror", server.url)
    assert "CROSSROOT_CACHE" in expect.error(result, "cannot keep downloads in")
    expect.roots(crossroot.store)


@pytest.mark.emulation
def test_a_store_where_nothing_may_be_executed(crossroot: Crossroot) -> None:
    path = write(crossroot, archives.rootfs("riscv64"))
    mount = tmpfs(crossroot, crossroot.store, "noexec,nosuid,nodev")
    create = shlex.join(as_identity(crossroot, "create", "riscv64", "--from", path))
    result = run_after(f"{mount}; {create} 2>/dev/null", crossroot, "run", "riscv64", "--", "/bin/true")
    assert "noexec" in expect.error(result, "cannot execute /bin/true: Permission denied", 126)


@pytest.mark.emulation
def test_a_store_without_setuid_and_devices_will_do(crossroot: Crossroot) -> None:
    path = write(crossroot, archives.rootfs("riscv64"))
    mount = tmpfs(crossroot, crossroot.store, "nosuid,nodev")
    create = shlex.join(as_identity(crossroot, "create", "riscv64", "--from", path))
    result = run_after(f"{mount}; {create} 2>/dev/null", crossroot, "run", "riscv64", "--", "/bin/true")
    assert result.returncode == ord("/"), result.stderr


def test_a_store_that_is_a_file(crossroot: Crossroot) -> None:
    path = write(crossroot, archives.rootfs("riscv64"))
    crossroot.store.write_text("a file")
    for command in (["create", "riscv64", "--from", path], ["list"], ["rm", "riscv64"]):
        expect.error(crossroot.run(*command), str(crossroot.store))


def test_a_store_that_is_something_else(crossroot: Crossroot) -> None:
    path = write(crossroot, archives.rootfs("riscv64"))
    crossroot.store.mkdir()
    (crossroot.store / "thesis.txt").write_text("precious")
    result = crossroot.run("create", "riscv64", "--from", path)
    assert "CROSSROOT_STORE" in expect.error(result, "is not empty and not a store of crossroot")
    assert os.listdir(crossroot.store) == ["thesis.txt"]


# Removal


@pytest.mark.emulation
def test_a_folder_of_the_host_that_is_bound_into_a_root_survives_its_removal(
    crossroot: Crossroot, outside: Path
) -> None:
    assert create_from(crossroot, archives.rootfs("riscv64", {"mnt/x": b""})).returncode == 0
    inside = crossroot.store / "roots/riscv64/rootfs/mnt"
    bind = f"mount --bind {shlex.quote(str(outside))} {shlex.quote(str(inside))}"
    for command in (
        ["rm", "riscv64"],
        ["rm", "--force", "riscv64"],
        ["create", "riscv64", "--from", "archive", "--force"],
    ):
        result = run_after(bind, crossroot, *command)
        assert f"umount {inside}" in expect.error(result, f"something is mounted in {inside.parent.parent}: {inside}")
    expect.roots(crossroot.store, "riscv64")
    crossroot.run("rm", "riscv64", check=True)


def test_a_link_to_a_folder_of_the_host_is_not_followed_by_removal(crossroot: Crossroot, outside: Path) -> None:
    assert create_from(crossroot, archives.rootfs("riscv64")).returncode == 0
    root = crossroot.store / "roots/riscv64"
    (root / "rootfs/mnt").symlink_to(outside)
    crossroot.run("rm", "riscv64", check=True)
    expect.roots(crossroot.store)
    for place in ("roots/riscv64", "roots/riscv64/rootfs"):
        assert create_from(crossroot, archives.rootfs("riscv64")).returncode == 0
        (crossroot.store / place).rename(crossroot.tmp / "aside")
        (crossroot.store / place).symlink_to(outside)
        expect.error(crossroot.run("rm", "riscv64"), "left alone")
        (crossroot.store / place).unlink()
        (crossroot.tmp / "aside").rename(crossroot.store / place)
        crossroot.run("rm", "riscv64", check=True)


def test_a_mount_in_a_root_whose_name_starts_the_same_keeps_nothing(crossroot: Crossroot, outside: Path) -> None:
    content = archives.rootfs("riscv64", {"mnt/x": b""})
    for name in ("riscv", "riscv64", "riscv64-2"):
        assert create_from(crossroot, content, "--name", name).returncode == 0
    bind = f"mount --bind {shlex.quote(str(outside))} {shlex.quote(str(crossroot.store))}/roots/riscv64-2/rootfs/mnt"
    result = run_after(bind, crossroot, "rm", "riscv64", "riscv")
    assert result.returncode == 0, result.stderr
    expect.roots(crossroot.store, "riscv64-2")
