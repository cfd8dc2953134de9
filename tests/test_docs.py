"""Documents name what exists: verbs, links, files, modules, and the classes and functions of the code."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from exo_rkllm.cli import VERBS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "exo_rkllm"
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "build", "node_modules"} & set(path.parts))
NAMING_CODE = ("docs/architecture.md", "docs/glossary.md", "docs/rkllm-binding.md")
CODE = re.compile(r"`([^`\n]+)`")
FILE = re.compile(r"(?:[\w.{},-]+/)+[\w.-]+\.(?:py|c|h|toml|txt|yml|json|service|socket|mount|rules)")
DOTTED = re.compile(r"exo_rkllm(?:\.\w+)+(?::\w+)?")
# `Name`, `Name.member` and `function()`.
CLASS = re.compile(r"([A-Z]\w*[a-z]\w*)(?:\.(\w+)(?:\(\))?)?")
FUNCTION = re.compile(r"(_?[a-z]\w*)\(\)")
# Files of other machines, of exo itself, and of a reader's own.
ELSEWHERE = re.compile(r"src/exo/|etc/|usr/|run/|proc/|sys/|dev/|conf\.d/|exo-rkllm/|path/")


def _pages(names: tuple[str, ...]) -> list[Path]:
    return [ROOT / name for name in names]


def _words(page: Path) -> list[str]:
    return [str(word) for word in CODE.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))]


def _definitions() -> tuple[dict[str, set[str]], set[str]]:
    """Classes of the package with their members, and all functions."""
    classes: dict[str, set[str]] = {}
    functions: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, set()).update(_members(node))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.add(node.name)
            elif isinstance(node, ast.Assign | ast.AnnAssign):  # type aliases
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Name):
                        classes.setdefault(target.id, set())
    return classes, functions


def _members(node: ast.ClassDef) -> set[str]:
    members = {item.name for item in ast.walk(node) if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    for item in node.body:
        if isinstance(item, ast.Assign | ast.AnnAssign):
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            members |= {target.id for target in targets if isinstance(target, ast.Name)}
    return members


def test_readme_lists_every_verb() -> None:
    readme = (ROOT / "README.md").read_text()
    for verb in VERBS:
        others = "".join(f", `{alias}`" for alias in verb.aliases)
        assert f"| `exo-rkllm {verb.name}`{others} | {verb.summary} |" in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_named_file_and_module_exists(page: Path) -> None:
    for word in _words(page):
        path = word.strip("/")
        if FILE.fullmatch(path) and "{" not in path and not ELSEWHERE.match(path):
            places = (ROOT, PACKAGE, page.parent, page.parent.parent)
            assert any((place / path).exists() for place in places), f"{page.relative_to(ROOT)} names {word}"
        if match := DOTTED.fullmatch(word):
            assert _resolves(match[0]), f"{page.relative_to(ROOT)} names {word}"


def _resolves(name: str) -> bool:
    """Entry-point groups (exo_rkllm.plugins, exo_rkllm.backends ...) are modules, too, except vLLM's name."""
    module, _, attribute = name.partition(":")
    if module == "exo_rkllm.general_plugins":
        return True
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError:
        parent, _, attribute = module.rpartition(".")
        found = importlib.import_module(parent)
    return not attribute or hasattr(found, attribute)


@pytest.mark.parametrize("page", _pages(NAMING_CODE), ids=lambda page: page.stem)
def test_every_named_class_and_function_exists(page: Path) -> None:
    classes, functions = _definitions()
    for word in _words(page):
        if match := CLASS.fullmatch(word):
            name, member = match.groups()
            assert name in classes, f"{page.relative_to(ROOT)} names {word}"
            assert not member or member in classes[name], f"{page.relative_to(ROOT)} names {word}"
        elif match := FUNCTION.fullmatch(word):
            assert match[1] in functions, f"{page.relative_to(ROOT)} names {word}"


def test_readme_links_to_every_page_once() -> None:
    listed = re.findall(r"\((docs/[\w-]+\.md)\):", (ROOT / "README.md").read_text().partition("## Documentation")[2])
    assert len(listed) == len(set(listed))
    text = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        if page.name != "seed-conformance.md":  # a page of the tests
            assert f"(docs/{page.name})" in text, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_below_usr_share_is_one_that_the_package_installs(page: Path) -> None:
    rows = [line.split() for line in (ROOT / "packaging/debian/exo-rkllm.install").read_text().splitlines()]
    installed = {f"/{row[1]}{path.name}" for row in rows if row for path in ROOT.glob(row[0])}
    for path in re.findall(r"/usr/share/exo-rkllm/[\w./-]*\w", page.read_text()):
        assert path in installed, f"{page.relative_to(ROOT)} names {path}"


def test_entry_points_of_the_manual_are_the_examples() -> None:
    manual = (ROOT / "docs/writing-plugins.md").read_text()
    example = (ROOT / "docs/examples/exo-rkllm-parrot/pyproject.toml").read_text()
    entry_points = re.findall(r'^[\w-]+ = "exo_rkllm_parrot\.\w+:\w+"$', manual, re.MULTILINE)
    assert entry_points
    assert all(line in example for line in entry_points)


def test_glossary_defines_each_word_once() -> None:
    words = re.findall(r"^\| (.+?) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words = [word for word in words if word not in ("word", "---")]
    assert len(words) == len(set(words))
