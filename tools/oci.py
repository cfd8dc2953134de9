"""The container's image as an OCI archive, from a root file system and the Containerfile, without a container engine.

    python -m tools.oci run CONTAINERFILE                       prints what its RUN does
    python -m tools.oci suite CONTAINERFILE                     prints the Debian release that it starts from
    python -m tools.oci archive CONTAINERFILE ARCH ROOT.tar OUT

The same inputs give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shlex
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from exo_rkllm import __version__

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MEDIA = "application/vnd.oci.image"
BLOCK = 1 << 20


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Name and value of each line of a Containerfile."""
    for line in text.replace("\\\n", "").splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, value = line.partition(" ")
            yield name, value.strip()


def configuration(text: str) -> dict[str, Any]:
    """What a Containerfile says of running the image. HEALTHCHECK has no place in an OCI image."""
    said = dict(instructions(text))
    environment = [part for name, value in instructions(text) if name == "ENV" for part in shlex.split(value)]
    return {
        "User": said["USER"],
        "Env": [PATH, *environment],
        "Entrypoint": json.loads(said["ENTRYPOINT"]),
        "Cmd": json.loads(said["CMD"]),
        "ExposedPorts": {f"{said['EXPOSE']}/tcp": {}},
        "Volumes": {said["VOLUME"]: {}},
        "StopSignal": said["STOPSIGNAL"],
        "Labels": {"org.opencontainers.image.version": __version__, "org.opencontainers.image.licenses": "Apache-2.0"},
    }


def suite(text: str) -> str:
    found = re.fullmatch(r"debian:([a-z]+)-slim", dict(instructions(text))["FROM"])
    if found is None:
        raise SystemExit("The Containerfile starts from no Debian release.")
    return found[1]


def archive(text: str, architecture: str, root: Path, out: Path, epoch: int) -> None:
    """Writes `out`: one image, named exo-rkllm:VERSION, whose only layer is the tar file `root`."""
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, tarfile.open(out, "w") as tar:
        layer, plain = Path(folder) / "layer", hashlib.sha256()
        with root.open("rb") as source, layer.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
            while block := source.read(BLOCK):
                plain.update(block)
                packed.write(block)
        created = datetime.fromtimestamp(epoch, timezone.utc).isoformat()
        config = {
            "created": created,
            "architecture": architecture,
            "os": "linux",
            "config": configuration(text),
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain.hexdigest()}"]},
            "history": [{"created": created, "created_by": "packaging/image"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{MEDIA}.manifest.v1+json",
            "config": _blob(tar, _json(config), f"{MEDIA}.config.v1+json", epoch),
            "layers": [_file(tar, layer, f"{MEDIA}.layer.v1.tar+gzip", epoch)],
        }
        names = {
            "org.opencontainers.image.ref.name": __version__,
            "io.containerd.image.name": f"exo-rkllm:{__version__}",
        }
        entry = {
            **_blob(tar, _json(manifest), f"{MEDIA}.manifest.v1+json", epoch),
            "platform": {"architecture": architecture, "os": "linux"},
            "annotations": names,
        }
        index = {"schemaVersion": 2, "mediaType": f"{MEDIA}.index.v1+json", "manifests": [entry]}
        _add(tar, "index.json", _json(index), epoch)
        _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}', epoch)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _blob(tar: tarfile.TarFile, content: bytes, media: str, epoch: int) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    _add(tar, f"blobs/sha256/{digest}", content, epoch)
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(content)}


def _file(tar: tarfile.TarFile, path: Path, media: str, epoch: int) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
        size = file.tell()
        file.seek(0)
        tar.addfile(_info(f"blobs/sha256/{digest.hexdigest()}", size, epoch), file)
    return {"mediaType": media, "digest": f"sha256:{digest.hexdigest()}", "size": size}


def _add(tar: tarfile.TarFile, name: str, content: bytes, epoch: int) -> None:
    tar.addfile(_info(name, len(content), epoch), io.BytesIO(content))


def _info(name: str, size: int, epoch: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = size, epoch
    return info


def main(verb: str, containerfile: str, *rest: str) -> None:
    text = Path(containerfile).read_text()
    if verb == "run":
        print(*(value for name, value in instructions(text) if name == "RUN"), sep="\n")
    elif verb == "suite":
        print(suite(text))
    else:
        architecture, root, out = rest
        archive(text, architecture, Path(root), Path(out), int(os.environ["SOURCE_DATE_EPOCH"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
