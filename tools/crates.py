"""The crates that exo_libp2p is linked of: where they come from, under which licences, and their texts.

python3 -m tools.crates           checks native/exo-libp2p/crates.json against cargo's own account
python3 -m tools.crates --write   writes it anew
python3 -m tools.crates --texts   prints the licences of all of them
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CRATE = ROOT / "native/exo-libp2p"
LIST = CRATE / "crates.json"
TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")
# Licences that may be carried with ours; a crate needs one of its alternatives from here.
ALLOWED = {
    "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-1-Clause", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT",
    "Unicode-3.0", "Unlicense", "Zlib", "0BSD", "CC0-1.0", "MIT-0",
}  # fmt: skip
FROM_REGISTRY = re.compile(r"registry\+https://\S+")


def cargo(*words: str) -> str:
    return subprocess.run(["cargo", *words, "--locked"], cwd=CRATE, capture_output=True, text=True, check=True).stdout


def linked(target: str) -> set[tuple[str, str]]:
    """Name and version of all whose code is in the library: no build scripts, no macros, no feature that is off."""
    lines = cargo("tree", "--edges", "normal,no-proc-macro", "--target", target, "--prefix", "none", "--format", "{p}")
    found = {re.match(r"(\S+) v(\S+)", line) for line in lines.splitlines()}
    return {(match[1], match[2]) for match in found if match and match[1] != CRATE.name}


def is_allowed(expression: str) -> bool:
    """Whether every part of an expression of licences has an alternative that is allowed."""
    parts = re.sub(r"[()]", "", expression.replace("/", " OR ")).split(" AND ")
    return all(any(one.strip() in ALLOWED for one in part.split(" OR ")) for part in parts)


def problems(packages: list[dict[str, Any]]) -> Iterator[str]:
    for package in packages:
        name = f"{package['name']} {package['version']}"
        if not is_allowed(package["license"] or ""):
            yield f"{name} is under {package['license']}, which is not allowed"
        if not FROM_REGISTRY.fullmatch(package["source"] or ""):
            yield f"{name} comes from {package['source']}, not from the registry"


def crates() -> list[dict[str, Any]]:
    """cargo's account of those of all targets, by name and version."""
    account = json.loads(cargo("metadata", "--format-version", "1"))
    packages = {(package["name"], package["version"]): package for package in account["packages"]}
    return [packages[key] for key in sorted(set().union(*map(linked, TARGETS)))]


def listed(packages: list[dict[str, Any]]) -> str:
    lock = (CRATE / "Cargo.lock").read_text()
    checksums = {
        (name, version): digest
        for name, version, digest in re.findall(
            r'name = "(\S+)"\nversion = "(\S+)"\nsource = .*\nchecksum = "(\w+)"', lock
        )
    }
    rows = [
        {
            "name": package["name"],
            "version": package["version"],
            "license": " ".join(package["license"].replace("/", " OR ").split()),
            "sha256": checksums[package["name"], package["version"]],
        }
        for package in packages
    ]
    return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n]\n"


def texts(packages: list[dict[str, Any]]) -> str:
    """Each text once, with the crates that it stands for."""
    names: dict[str, list[str]] = {}
    for package in packages:
        folder = Path(package["manifest_path"]).parent
        for path in sorted(folder.glob("*")):
            if re.match(r"(?i)(licen[cs]e|copying|unlicense|notice)", path.name) and path.is_file():
                text = path.read_text(errors="replace").strip()
                names.setdefault(text, []).append(f"{package['name']} {package['version']}")
    return "\n\n".join(f"{'=' * 80}\n{', '.join(ones)}\n{'=' * 80}\n\n{text}" for text, ones in names.items()) + "\n"


def main() -> int:
    packages = crates()
    wrong = list(problems(packages))
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    if "--texts" in sys.argv:
        print(texts(packages), end="")
    elif "--write" in sys.argv:
        LIST.write_text(listed(packages))
    elif LIST.read_text() != listed(packages):
        print(f"{LIST.relative_to(ROOT)} is not what cargo says: python3 -m tools.crates --write", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
