"""The crates that exo_libp2p is linked of are those of the lock, and nothing else may be."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tools import crates, sbom


def test_list_names_crates_of_the_lock_with_their_checksums() -> None:
    lock = (crates.CRATE / "Cargo.lock").read_text()
    rows = json.loads(crates.LIST.read_text())
    for row in rows:
        assert f'name = "{row["name"]}"\nversion = "{row["version"]}"' in lock
        assert row["sha256"] in lock
        assert crates.is_allowed(row["license"])
    assert {"libp2p", "libp2p-gossipsub", "pyo3", "tokio"} <= {row["name"] for row in rows}
    assert not re.findall(r"source = \"git", lock)


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("MIT/Apache-2.0", True),
        ("GPL-3.0-only OR MIT", True),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", True),
        ("MIT AND GPL-3.0-only", False),
        ("MPL-2.0", False),
        ("", False),
    ],
)
def test_licence_needs_an_alternative_from_the_list(expression: str, allowed: bool) -> None:
    assert crates.is_allowed(expression) is allowed


def test_crate_that_does_not_come_from_the_registry_is_named() -> None:
    crate: dict[str, Any] = {"name": "x", "version": "1", "license": "MIT", "source": "git+https://example.org/x"}
    assert list(crates.problems([crate])) == ["x 1 comes from git+https://example.org/x, not from the registry"]
    assert list(crates.problems([{**crate, "license": None, "source": "registry+https://index"}])) == [
        "x 1 is under None, which is not allowed"
    ]


def test_sbom_names_every_crate() -> None:
    text = crates.LIST.read_text()
    purls = {part["purl"] for part in sbom.crates(text)}
    assert purls == {f"pkg:cargo/{row['name']}@{row['version']}" for row in json.loads(text)}
