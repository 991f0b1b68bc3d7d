"""Where the native apk comes from: the mirror's signed static one, else the minirootfs for the host's arch."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from crossroot import apk, arch
from crossroot.distros import apk_native
from crossroot.errors import CrossrootError
from tests.support import apk_repository, archives, http
from tests.support.apk_repository import Key, Package

HOST = arch.find(os.uname().machine)
STATIC = Package("apk-tools-static", "2.14.4-r0", HOST.name, {"sbin/apk.static": b"static program"})
LOADER = f"lib/ld-musl-{HOST.name}.so.1"
BRANCH = "v3.20"
MAIN = f"{BRANCH}/main"


@dataclass(frozen=True)
class Alpine:
    """A mirror in `folder`, and a cache."""

    server: http.Server
    folder: Path
    key: Key
    cache: Path

    def publish(self, package: Package, key: Key | None = None) -> None:
        apk_repository.write(self.folder / MAIN, [package], key or self.key)

    def publish_minirootfs(self, files: dict[str, bytes]) -> None:
        archive = archives.COMPRESSIONS["tar.gz"](archives.make_tar(files))
        where = f"{BRANCH}/releases/{HOST.name}"
        index = archives.index(archive).replace(b"riscv64", HOST.name.encode())
        name = f"alpine-minirootfs-{archives.VERSION}-{HOST.name}.tar.gz"
        self.server.answers[f"/{where}/latest-releases.yaml"] = [http.Answer(index)]
        self.server.answers[f"/{where}/{name}"] = [http.Answer(archive)]

    def find(self, branch: str = BRANCH) -> apk_native.NativeApk:
        return apk_native.find([self.server.url], branch, self.cache, {})


@pytest.fixture
def alpine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Alpine]:
    key = apk_repository.new_key()
    keys = tmp_path / "keys" / HOST.name
    keys.mkdir(parents=True)
    (keys / key.name).write_bytes(key.public)
    monkeypatch.setattr(apk, "KEYS", tmp_path / "keys")
    with http.serve(tmp_path / "mirror") as server:
        yield Alpine(server, tmp_path / "mirror", key, tmp_path / "cache")


def left(alpine: Alpine) -> list[str]:
    tools = alpine.cache / "tools"
    return [path.name for path in tools.iterdir() if not path.name.endswith(".lock")] if tools.exists() else []


def test_the_signed_static_apk_is_taken_and_kept(alpine: Alpine) -> None:
    alpine.publish(STATIC)
    tool = alpine.find()
    program = tool.folder / "sbin/apk.static"
    assert program.read_bytes() == b"static program"
    assert program.stat().st_mode & 0o777 == 0o755
    assert tool.command("/where") == ["/where/sbin/apk.static"]
    seen = len(alpine.server.seen)
    assert alpine.find() == tool
    assert len(alpine.server.seen) == seen
    assert left(alpine) == [f"apk-{HOST.name}-{BRANCH}"]


def test_a_branch_that_moves_on_is_asked_again_after_a_month(alpine: Alpine) -> None:
    apk_repository.write(alpine.folder / "edge/main", [STATIC], alpine.key)
    tool = alpine.find("edge")
    newer = replace(STATIC, version="3.0-r0", files={"sbin/apk.static": b"newer"})
    apk_repository.write(alpine.folder / "edge/main", [newer], alpine.key)
    assert (alpine.find("edge").folder / "sbin/apk.static").read_bytes() == b"static program"
    os.utime(tool.folder, (0, time.time() - 31 * 24 * 3600))
    assert (alpine.find("edge").folder / "sbin/apk.static").read_bytes() == b"newer"
    assert left(alpine) == [f"apk-{HOST.name}-edge"]


def test_a_static_apk_with_a_wrong_signature_is_refused(alpine: Alpine) -> None:
    alpine.publish(STATIC, key=apk_repository.new_key("stranger.rsa.pub"))
    with pytest.raises(CrossrootError, match="signed with an unknown key"):
        alpine.find()
    assert left(alpine) == []


def test_a_static_apk_that_was_changed_is_refused(alpine: Alpine) -> None:
    alpine.publish(STATIC)
    path = alpine.folder / MAIN / HOST.name / STATIC.file
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(CrossrootError, match="is damaged"):
        alpine.find()
    assert left(alpine) == []


def test_without_a_static_apk_that_of_the_minirootfs_is_run_by_its_own_loader(alpine: Alpine) -> None:
    alpine.publish(replace(STATIC, name="other"))
    alpine.publish_minirootfs({"sbin/apk": b"dynamic program", LOADER: b"loader"})
    tool = alpine.find()
    assert (tool.folder / "sbin/apk").read_bytes() == b"dynamic program"
    libraries = "/where/lib:/where/usr/lib"
    assert tool.command("/where") == [f"/where/{LOADER}", "--library-path", libraries, "/where/sbin/apk"]


def test_a_minirootfs_without_an_apk_is_refused(alpine: Alpine) -> None:
    alpine.publish_minirootfs({"bin/sh": b""})
    with pytest.raises(CrossrootError, match="has no apk"):
        alpine.find()
    assert left(alpine) == []


def test_where_neither_can_be_had_the_mirror_is_named(alpine: Alpine) -> None:
    shutil.rmtree(alpine.folder, ignore_errors=True)
    with pytest.raises(CrossrootError, match=alpine.server.url):
        alpine.find()
    assert left(alpine) == []
