"""Generate docs/seed-conformance.md from the tests: `python -m tests.seeds.page`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.seeds.rows import SEEN, TABLES, WHY_NOT

REPOSITORY = Path(__file__).parent.parent.parent
PAGE = REPOSITORY / "docs/seed-conformance.md"
HEAD = """# The five seed documents, and the tests that hold them

This project was created from five documents: a draft of a plugin system for classic exo, its guide for plugin
authors, an abstraction over engines, InfiniLM's models from other packages, and vLLM's plugin system. Each row is a
statement from one of them that this package must fulfil, with the tests that verify it, and the version of exo itself
in which it was seen, with the date. Where that column is empty, the tests prove it on a host made for them.
`python -m tests.seeds.page` generates this page from the tests, and a test fails when it is out of date.
"""


def marked_tests(tests: Path = REPOSITORY / "tests") -> Mapping[tuple[str, str], list[str]]:
    """The tests of each statement, as `file::test`."""
    by_statement: dict[tuple[str, str], list[str]] = {}
    for path in sorted(tests.rglob("test_*.py")):
        for test in ast.walk(ast.parse(path.read_text())):
            if isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                for statement in _marks(test):
                    by_statement.setdefault(statement, []).append(f"{path.relative_to(tests)}::{test.name}")
    return by_statement


def _marks(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.seed":
            table, row = (ast.literal_eval(argument) for argument in mark.args)
            yield table, row


def page() -> str:
    by_statement = marked_tests()
    parts = [HEAD]
    for number, table in TABLES.items():
        parts.append(f"\n## {table.title}\n\n| statement | verified by | seen in exo |\n|---|---|---|\n")
        for row in table.rows:
            tests = "<br>".join(f"`{test}`" for test in by_statement.get((number, row), ()))
            seen = "<br>".join(SEEN.get((number, row), ()))
            parts.append(f"| {_plain(row)} | {tests or WHY_NOT.get((number, row), '**nothing yet**')} | {seen} |\n")
    return "".join(parts)


def _plain(row: str) -> str:
    return row.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page())
