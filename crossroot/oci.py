"""OCI images as words on paper: the platform of an arch, and the small files of an image layout.

The specification is opencontainers/image-spec v1.0: image-layout.md, manifest.md, config.md, annotations.md.
"""

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from crossroot.arch import Arch
from crossroot.errors import UsageError

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
BLOBS = "blobs/sha256"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(frozen=True)
class Image:
    """What an image says of itself. created: seconds since the epoch. user: "" or "root" for root."""

    name: str
    arch: Arch
    env: dict[str, str]
    user: str
    shell: str
    created: int


@dataclass(frozen=True)
class Layer:
    """A layer that has been written. sha256, size: of the file; diff_id: the sha256 of the tar in it. All hex."""

    sha256: str
    size: int
    diff_id: str


def platform(arch: Arch) -> dict[str, str]:
    """os, architecture and perhaps variant of an arch. Raises UsageError if OCI has no name for it."""
    if not arch.docker:
        raise UsageError(
            f"container images know no platform for {arch.name}", hint="crossroot export --format tar makes an archive"
        )
    return dict(zip(("os", "architecture", "variant"), arch.docker.split("/"), strict=False))


def layout(image: Image, layer: Layer) -> dict[str, bytes]:
    """The files of an image layout by their names in it, but for the layer, which is BLOBS/layer.sha256."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(image.created))
    config = _json(
        {
            "created": created,
            **platform(image.arch),
            "config": {
                "Env": [f"{name}={value}" for name, value in image.env.items()],
                "Cmd": [image.shell],
                **({"User": image.user} if image.user not in ("", "root") else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}"]},
            "history": [{"created": created, "created_by": "crossroot export"}],
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(_CONFIG, config),
            "layers": [{"mediaType": _LAYER, "digest": f"sha256:{layer.sha256}", "size": layer.size}],
        }
    )
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {
                **_descriptor(MANIFEST, manifest),
                "platform": platform(image.arch),
                "annotations": {REF_NAME: image.name},
            }
        ],
    }
    return {
        _blob(config): config,
        _blob(manifest): manifest,
        "index.json": _json(index),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
    }


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def _blob(content: bytes) -> str:
    return f"{BLOBS}/{hashlib.sha256(content).hexdigest()}"


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
