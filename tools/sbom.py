"""The software in the packages and their dependencies, as CycloneDX 1.5.

Ours, the bundled wheels, the crates of exo_libp2p, the libraries of the page, and packages of Debian.
python3 -m tools.sbom > dist/exo-rkllm.cdx.json
"""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from exo_rkllm import __version__

ROOT = Path(__file__).parent.parent
OWN = f"pkg:deb/exo-rkllm@{__version__}"
LICENSES = {"eclipse-zenoh": "EPL-2.0 OR Apache-2.0", "llguidance": "MIT"}
PINNED = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+)(?P<rest>(?:.*\\\n)*.*)$", re.MULTILINE)
DEPENDS = re.compile(r"(?P<name>[a-z0-9][a-z0-9+.-]+)(?: \((?P<relation>[<>=]+) (?P<version>[^)]+)\))?")


def bundled_wheels(text: str) -> Iterator[dict[str, Any]]:
    """One component for each project in vendored.txt, with the hash of each architecture's file."""
    for pin in PINNED.finditer(text):
        name, version = pin["name"], pin["version"]
        digests = re.findall(r"sha256:([0-9a-f]{64})", pin[0])
        yield {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "scope": "required",
            "licenses": [{"expression": LICENSES[name]}],
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in digests],
            "properties": [{"name": "exo-rkllm:how", "value": "bundled in /usr/lib/exo-rkllm/vendor as published"}],
        }


def crates(text: str) -> Iterator[dict[str, Any]]:
    """What exo_libp2p is linked of, from the list that tools/crates.py writes."""
    for crate in json.loads(text):
        purl = f"pkg:cargo/{crate['name']}@{crate['version']}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": crate["name"],
            "version": crate["version"],
            "purl": purl,
            "scope": "optional",
            "licenses": [{"expression": crate["license"]}],
            "hashes": [{"alg": "SHA-256", "content": crate["sha256"]}],
            "properties": [{"name": "exo-rkllm:how", "value": "linked into exo_libp2p, which joins exo 1.0.71"}],
        }


def page_libraries(text: str) -> Iterator[dict[str, Any]]:
    """What the status page carries in exo_rkllm/api/page/vendor, from the list that its build writes."""
    for library in json.loads(text):
        name, version = library["name"], library["version"]
        purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
            "scope": "required",
            "licenses": [{"license": {"id": library["license"]}}],
            "properties": [{"name": "exo-rkllm:how", "value": "bundled in the status page, built by tools/page"}],
        }


def dependencies(control: str) -> Iterator[dict[str, Any]]:
    """Depends of the package: packages of the distribution, with their minimum version and no hash."""
    field = re.search(r"^Package: exo-rkllm\n.*?^Depends:(.*?)^\S", control, re.MULTILINE | re.DOTALL)
    if field is None:
        raise ValueError("packaging/debian/control has no Depends for exo-rkllm.")
    names: set[str] = set()
    for clause in field[1].replace("\n", " ").split(","):
        for package in DEPENDS.finditer(re.sub(r"\$\{[^}]*\}", "", clause)):
            if package["name"] in names:
                continue
            names.add(package["name"])
            yield {
                "type": "library",
                "bom-ref": f"pkg:deb/debian/{package['name']}",
                "name": package["name"],
                "purl": f"pkg:deb/debian/{package['name']}",
                "scope": "required",
                "properties": [
                    {"name": "exo-rkllm:how", "value": "a dependency, installed by apt"},
                    {"name": "exo-rkllm:constraint", "value": clause.strip()},
                ],
            }


def document(epoch: int) -> dict[str, Any]:
    parts = [
        *bundled_wheels((ROOT / "packaging/vendored.txt").read_text()),
        *crates((ROOT / "native/exo-libp2p/crates.json").read_text()),
        *page_libraries((ROOT / "exo_rkllm/api/page/vendor/libraries.json").read_text()),
        *dependencies((ROOT / "packaging/debian/control").read_text()),
    ]
    own = {
        "type": "application",
        "bom-ref": OWN,
        "name": "exo-rkllm",
        "version": __version__,
        "purl": OWN,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        # The same content gets the same serial number.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(parts, sort_keys=True) + OWN)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).isoformat().replace("+00:00", "Z"),
            "component": own,
        },
        "components": parts,
        "dependencies": [{"ref": OWN, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


if __name__ == "__main__":
    json.dump(document(int(os.environ.get("SOURCE_DATE_EPOCH", "0"))), sys.stdout, indent=2)
    print()
