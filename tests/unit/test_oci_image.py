"""Finding the image for an arch, its verification, and layers over each other."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from crossroot import arch, oci, oci_image
from crossroot.errors import CrossrootError, UsageError
from crossroot.ui import no_progress

RISCV = {"os": "linux", "architecture": "riscv64"}


def tar(*entries: tuple[str, bytes | str | None]) -> bytes:
    """A tar of files (bytes), symbolic links (str) and folders (None)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime = 0o755, 1_000_000_000
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


class Layout:
    """An image layout in the making. files: names to contents."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        self.manifests: list[dict[str, Any]] = []

    def blob(self, content: bytes | Mapping[str, Any]) -> dict[str, Any]:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        sha256 = hashlib.sha256(data).hexdigest()
        self.files[f"blobs/sha256/{sha256}"] = data
        return {"digest": f"sha256:{sha256}", "size": len(data)}

    def image(self, platform: dict[str, str], *layers: bytes, named: str = "", told: bool = True) -> dict[str, Any]:
        """The descriptor of a new image. told: whether it says the platform, which its configuration does anyway."""
        manifest = {"config": self.blob(platform), "layers": [self.blob(layer) for layer in layers]}
        descriptor = {**self.blob(manifest), "mediaType": oci.MANIFEST}
        if told:
            descriptor["platform"] = platform
        return {**descriptor, "annotations": {oci.REF_NAME: named}} if named else descriptor

    def add(self, *arguments: Any, **options: Any) -> "Layout":
        self.manifests.append(self.image(*arguments, **options))
        return self

    def written(self, folder: Path) -> Path:
        files = {**self.files, "index.json": json.dumps({"manifests": self.manifests}).encode()}
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder


def contents(source: Path, name: str = "riscv64") -> list[bytes]:
    """The layers that are found in a folder or file for an arch."""
    if source.is_dir():
        return [layer.read() for layer in oci_image.layers(source, arch.find(name))]
    with source.open("rb") as file:
        return [layer.read() for layer in oci_image.layers(file, arch.find(name))]


# What the layout says


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("riscv64", {"os": "linux", "architecture": "riscv64"}),
        ("aarch64", {"os": "linux", "architecture": "arm64"}),
        ("x86", {"os": "linux", "architecture": "386"}),
        ("armv7", {"os": "linux", "architecture": "arm", "variant": "v7"}),
        ("armhf", {"os": "linux", "architecture": "arm", "variant": "v6"}),
    ],
)
def test_platforms_have_dockers_names(name: str, expected: dict[str, str]) -> None:
    assert oci.platform(arch.find(name)) == expected


def test_an_arch_without_a_platform_is_refused() -> None:
    with pytest.raises(UsageError, match="m68k"):
        oci.platform(arch.find("m68k"))


def test_the_configuration_says_how_to_run_it() -> None:
    image = oci.Image("arm", arch.find("armv7"), {"PATH": "/bin", "LANG": "C"}, "builder", "/bin/ash", 86400)
    files = oci.layout(image, oci.Layer("ab" * 32, 7, "cd" * 32))
    manifest = json.loads(files[f"blobs/sha256/{json.loads(files['index.json'])['manifests'][0]['digest'][7:]}"])
    config = json.loads(files[f"blobs/sha256/{manifest['config']['digest'][7:]}"])
    assert config["config"] == {"Env": ["PATH=/bin", "LANG=C"], "Cmd": ["/bin/ash"], "User": "builder"}
    assert (config["created"], config["variant"]) == ("1970-01-02T00:00:00Z", "v7")


# Which image


def test_the_image_for_the_arch_is_chosen(tmp_path: Path) -> None:
    layout = Layout().add(RISCV, b"riscv").add({"os": "linux", "architecture": "arm", "variant": "v6"}, b"v6")
    layout.add({"os": "linux", "architecture": "arm"}, b"v7").add({"os": "linux", "architecture": "arm64"}, b"arm64")
    layout.add({"os": "windows", "architecture": "amd64"}, b"windows").add(
        {"os": "linux", "architecture": "amd64"}, b"amd64"
    )
    source = layout.written(tmp_path)
    found = {name: contents(source, name) for name in ("riscv64", "armhf", "armv7", "aarch64", "x86_64")}
    assert found == {
        "riscv64": [b"riscv"],
        "armhf": [b"v6"],
        "armv7": [b"v7"],
        "aarch64": [b"arm64"],
        "x86_64": [b"amd64"],
    }


def test_the_variant_v8_of_arm64_is_the_usual_one(tmp_path: Path) -> None:
    platform = {"os": "linux", "architecture": "arm64", "variant": "v8"}
    assert contents(Layout().add(platform, b"v8").written(tmp_path), "aarch64") == [b"v8"]


def test_the_configuration_tells_the_platform_where_the_index_does_not(tmp_path: Path) -> None:
    assert contents(Layout().add(RISCV, b"a", told=False).written(tmp_path)) == [b"a"]


def test_an_index_may_lie_in_an_index(tmp_path: Path) -> None:
    layout = Layout()
    attestation = layout.image({"os": "unknown", "architecture": "unknown"}, b"no layer")
    inner = {"manifests": [layout.image(RISCV, b"inner"), attestation]}
    gone = {"mediaType": oci.INDEX, "digest": f"sha256:{'0' * 64}"}
    layout.manifests = [{**layout.blob(inner), "mediaType": oci.INDEX}, gone]
    assert contents(layout.written(tmp_path)) == [b"inner"]


def test_one_image_by_two_names_is_one(tmp_path: Path) -> None:
    layout = Layout().add(RISCV, b"a", named="latest").add(RISCV, b"a", named="v1")
    assert contents(layout.written(tmp_path)) == [b"a"]


def test_several_images_for_the_arch_are_named(tmp_path: Path) -> None:
    layout = Layout().add(RISCV, b"a", named="old").add(RISCV, b"b", named="new")
    with pytest.raises(CrossrootError, match="there are 2 images for linux/riscv64: old, new"):
        contents(layout.written(tmp_path))


def test_other_platforms_are_named(tmp_path: Path) -> None:
    layout = Layout().add({"os": "linux", "architecture": "arm", "variant": "v7"}, b"").add(RISCV, b"")
    with pytest.raises(CrossrootError, match="not for linux/s390x, only for linux/arm/v7, linux/riscv64"):
        contents(layout.written(tmp_path), "s390x")


# Verification


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_no_part_is_used_that_is_not_what_its_digest_says(tmp_path: Path, part: str) -> None:
    layout = Layout()
    layer = layout.blob(b"layer")["digest"]
    config = layout.blob(RISCV)["digest"]
    layout.add(RISCV, b"layer", told=False)
    digest = {"layer": layer, "config": config, "manifest": layout.manifests[0]["digest"]}[part]
    layout.files[f"blobs/sha256/{digest[7:]}"] += b" "
    with pytest.raises(CrossrootError, match=f"the image is damaged: .*{digest[7:]}"):
        contents(layout.written(tmp_path))


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    layout = Layout()
    digest = layout.blob(b"layer")["digest"]
    layout.add(RISCV, b"layer")
    del layout.files[f"blobs/sha256/{digest[7:]}"]
    with pytest.raises(CrossrootError, match=f"it lacks 'blobs/sha256/{digest[7:]}'"):
        contents(layout.written(tmp_path))


@pytest.mark.parametrize("digest", ["sha256:../../secret", "md5:00", "", "sha256:" + "A" * 64])
def test_a_digest_that_is_none_is_refused(tmp_path: Path, digest: str) -> None:
    layout = Layout()
    layout.manifests = [{"digest": digest, "platform": RISCV}]
    with pytest.raises(CrossrootError, match="which is no sha256"):
        contents(layout.written(tmp_path))


@pytest.mark.parametrize(
    "index",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"manifests": 5}',
        b'{"manifests": [5]}',
        b'{"manifests": [{"mediaType": "x"}]}',
        b"[" * 100_000,
    ],
)
def test_an_index_that_makes_no_sense_is_an_error_of_ours(tmp_path: Path, index: bytes) -> None:
    (tmp_path / "index.json").write_bytes(index)
    with pytest.raises(CrossrootError, match="the image is"):
        contents(tmp_path)


def test_an_endless_json_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "index.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CrossrootError, match="more than 4 MiB"):
        contents(tmp_path)


# The tar of docker save


def docker_tar(layers: list[bytes], links: bool = False, damage: bytes = b"") -> bytes:
    """What docker save wrote before version 25. links: the last layer by a link to a file elsewhere."""
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = json.dumps({**RISCV, "rootfs": {"diff_ids": diff_ids}}).encode()
    name = f"{hashlib.sha256(config).hexdigest()}.json"
    names = [f"{number:064}/layer.tar" for number in range(len(layers))]
    manifest = json.dumps([{"Config": name, "RepoTags": ["a:b"], "Layers": names}]).encode()
    files: list[tuple[str, bytes | str]] = [*zip(names, (layer + damage for layer in layers), strict=True)]
    if links:
        files[-1] = (names[-1], "../elsewhere/layer.tar")
        files.append(("elsewhere/layer.tar", layers[-1]))
    return tar(*files, (name, config), ("manifest.json", manifest))


@pytest.mark.parametrize("links", [False, True])
def test_the_tar_of_docker_save_has_its_layers(tmp_path: Path, links: bool) -> None:
    (tmp_path / "image.tar").write_bytes(docker_tar([b"low", b"high"], links))
    assert contents(tmp_path / "image.tar") == [b"low", b"high"]


def test_a_layer_of_docker_save_is_verified(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_tar([b"low", b"high"], damage=b"!"))
    with pytest.raises(CrossrootError, match=r"the image is damaged: '0+/layer.tar' has the sha256"):
        contents(tmp_path / "image.tar")


@pytest.mark.parametrize(
    ("first", "image"),
    [
        ("blobs/", True),
        ("./oci-layout", True),
        ("index.json", True),
        ("manifest.json", True),
        ("ab" * 32 + "/", True),
        ("ab" * 32 + ".json", True),
        ("bin/", False),
        ("blobs.txt", False),
        ("etc/index.json", False),
    ],
)
def test_an_image_is_told_from_a_rootfs_by_its_first_entry(first: str, image: bool) -> None:
    file = io.BytesIO(tar(("./", None), (first, None), ("bin/sh", b"")))
    assert oci_image.is_image(file) is image
    assert file.tell() == 0


# Layers


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, to be filled."""
    folder = tmp_path / "root"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def unpack(*archives: bytes) -> set[str]:
    """Unpack layers into the current directory: the paths of what is there then."""
    files: list[Any] = [io.BytesIO(archive) for archive in archives]
    oci_image.unpack_layers(files, keep_owners=False, progress=no_progress)
    return {str(path) for path in Path().rglob("*")}


LOW = tar(("etc", None), ("etc/a", b"low"), ("etc/b", b"low"), ("usr", None), ("usr/lib", None), ("usr/lib/c", b"low"))


def test_a_layer_adds_and_replaces(root: Path) -> None:
    assert unpack(LOW, tar(("etc/a", b"high"), ("new", b""))) == {
        "etc",
        "etc/a",
        "etc/b",
        "usr",
        "usr/lib",
        "usr/lib/c",
        "new",
    }
    assert (root / "etc/a").read_bytes() == b"high"


@pytest.mark.parametrize(
    ("high", "gone"),
    [
        ([("etc/.wh.a", b"")], {"etc/a"}),
        ([(".wh.usr", b"")], {"usr", "usr/lib", "usr/lib/c"}),
        ([("etc/.wh.nothing", b"")], set()),
        ([("etc/.wh..wh..opq", b"")], {"etc/a", "etc/b"}),
        ([("etc/.wh..wh..opq", b""), ("etc/b", b"high")], {"etc/a"}),
        ([("etc/b", b"high"), ("etc/.wh..wh..opq", b"")], {"etc/a"}),
        ([("etc/b", b"high"), ("etc/.wh.b", b"")], set()),
        ([("usr", b"a file now")], {"usr/lib", "usr/lib/c"}),
        ([("usr", "a link now")], {"usr/lib", "usr/lib/c"}),
        ([("etc/.wh..wh.plnk", b"aufs")], set()),
        ([("etc/.wh...", b""), ("etc/.wh..", b""), ("etc/.wh.", b"")], set()),
    ],
)
def test_a_layer_hides_what_is_below(root: Path, high: list[tuple[str, bytes | str]], gone: set[str]) -> None:  # noqa: ARG001
    everything = unpack(LOW)
    assert unpack(LOW, tar(*high)) == everything - gone


def test_whiteouts_of_the_lowest_layer_do_not_stay(root: Path) -> None:  # noqa: ARG001
    assert unpack(tar((".wh.a", b""), ("b", b""))) == {"b"}


def test_an_empty_layer_changes_nothing(root: Path) -> None:  # noqa: ARG001
    assert unpack(LOW, bytes(1024)) == unpack(LOW)


def test_folders_keep_the_times_of_their_layer(root: Path) -> None:
    unpack(LOW, tar(("etc", None), ("etc/.wh.a", b"")))
    assert (root / "etc").stat().st_mtime == 1_000_000_000


def test_a_deep_folder_is_hidden_too(root: Path) -> None:  # noqa: ARG001
    deep = "d/" * 1500
    assert unpack(tar((deep, None)), tar((".wh.d", b""), ("e", b""))) == {"e"}


def test_a_whiteout_does_not_follow_a_link(root: Path) -> None:
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "canary").touch()
    unpack(tar(("link", str(outside))), tar((".wh.link", b"")))
    assert os.listdir(outside) == ["canary"]
    assert not (root / "link").is_symlink()
