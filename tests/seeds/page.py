"""docs/seed-conformance.md, made from the tests: `python -m tests.seeds.page`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.seeds.rows import TABLES, WHY_NOT

REPOSITORY = Path(__file__).parent.parent.parent
PAGE = REPOSITORY / "docs/seed-conformance.md"
HEAD = """# What the five documents ask for, and what holds it

This project was created from five documents: a draft of a plugin system for classic exo, its guide for plugin authors,
an abstraction over engines, InfiniLM's models of other packages, and vLLM's plugin system. Every statement of theirs
that this package has to make true is a row here, with the tests that hold it. The page is made from the tests:
`python -m tests.seeds.page` writes it, and a test fails where it is not what the tests say.
"""


def marked(tests: Path = REPOSITORY / "tests") -> Mapping[tuple[str, str], list[str]]:
    """Tests by the statements that they are marked with."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        for test in ast.walk(ast.parse(path.read_text())):
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                for row in _marks(test):
                    found.setdefault(row, []).append(f"{path.relative_to(tests)}::{test.name}")
    return found


def _marks(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.seed":
            table, row = (ast.literal_eval(argument) for argument in mark.args)
            yield table, row


def page() -> str:
    found = marked()
    parts = [HEAD]
    for number, table in TABLES.items():
        parts.append(f"\n## {table.title}\n\n| statement | held by |\n|---|---|\n")
        for row in table.rows:
            tests = "<br>".join(f"`{test}`" for test in found.get((number, row), ()))
            parts.append(f"| {_plain(row)} | {tests or WHY_NOT.get((number, row), '**nothing yet**')} |\n")
    return "".join(parts)


def _plain(row: str) -> str:
    return row.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
