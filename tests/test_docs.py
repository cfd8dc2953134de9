"""Documents say what the code does: verbs, links, and nothing of a machine they were written on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from exo_rkllm.cli import VERBS

ROOT = Path(__file__).parent.parent
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "build", "node_modules"} & set(path.parts))


def test_the_readme_lists_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert f"| `exo-rkllm {verb.name}` | {verb.summary} |" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
