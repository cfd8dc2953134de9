"""The libraries of the page are those that npm gives, their licences are named, and the page stays small."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
from pathlib import Path

from tests.page.npm import ROOT, installed
from tools import sbom

PAGE = ROOT / "exo_rkllm/api/page"
VENDOR = PAGE / "vendor"
LARGEST = 400_000  # bytes that a browser loads for everything, fonts for formulas included


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_libraries_are_what_npm_builds(tmp_path: Path) -> None:
    folder = installed()
    subprocess.run(["node", "build.js", "--out", str(tmp_path / "vendor")], cwd=folder, check=True, timeout=120)
    assert files(tmp_path / "vendor") == files(VENDOR), "cd tools/page && npm ci && npm run build"


def test_every_library_has_its_licence_text_and_a_line_in_the_bill_of_materials() -> None:
    texts = (VENDOR / "LICENSES.txt").read_text()
    listed = {part["purl"] for part in sbom.document(0)["components"]}
    libraries = json.loads((VENDOR / "libraries.json").read_text())
    assert {"preact", "markdown-it", "highlight.js", "katex"} <= {library["name"] for library in libraries}
    for library in libraries:
        assert f"{library['name']} {library['version']} ({library['license']})" in texts
        assert f"pkg:npm/{library['name'].replace('@', '%40')}@{library['version']}" in listed


def test_page_is_small() -> None:
    sent = {name: len(body if name.endswith(".woff2") else gzip.compress(body)) for name, body in files(PAGE).items()}
    loaded = {name: size for name, size in sent.items() if not name.endswith((".txt", ".json"))}
    assert sum(loaded.values()) <= LARGEST, loaded


def test_page_asks_nobody_else_and_makes_no_markup_of_strings() -> None:
    """What our own modules do. The libraries are seen at work: by the policy, in Chromium."""
    for path in PAGE.glob("*.*"):
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|\beval\b", text), (
            path.name
        )
