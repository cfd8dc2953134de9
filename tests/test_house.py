"""The house keeps its shape: imports go downwards only, and the runner's child stays small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "exo_rkllm"

# Lowest first. A module may import its own room and the rooms of lower rows, not those of its own row.
ROWS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("schema", "socs", "files"),
    ("config", "sampling", "log", "privileges"),
    ("runtime", "board"),
    ("rknn",),
    ("runner", "helper"),
    ("vision",),
    ("backends",),
    ("client",),
    ("plugins",),
    ("chat",),
    ("catalogue", "structure"),
    ("dispatch",),
    ("assembly",),
    ("models", "detection"),
    ("classic",),
    ("api", "cluster", "engine"),
    ("exo_engine", "metrics"),
    ("daemon", "doctor"),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
# The package's own name holds the version only, so every room may read it.
FREE = {"exo_rkllm", "exo_rkllm.__version__"}


def rooms_imported(source: str) -> set[str]:
    """Rooms that a module's text imports, wherever in the text the import stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            inside = node.module == "exo_rkllm"
            names = [f"exo_rkllm.{alias.name}" if inside else node.module for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("exo_rkllm.") and name not in FREE}
    return found


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    room = room_of(path)
    assert room in RANK, f"{room} has no place in the house: give it a row in {Path(__file__).name}"
    for other in rooms_imported(path.read_text()):
        assert other == room or RANK[other] < RANK[room], f"{room} must not import {other}"


def modules_imported(source: str, modules: Collection[str]) -> set[str]:
    """Which of the package's modules a module's text imports from, wherever in the text the import stands."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    names = [(str(node.module), f"{node.module}.{alias.name}") for node in nodes for alias in node.names]
    return {inner if inner in modules else outer for outer, inner in names}


def circle(imports: dict[str, set[str]]) -> set[str]:
    """What is left when modules that import nothing else are taken away, again and again."""
    left = dict(imports)
    while leaves := [name for name, others in left.items() if not others & left.keys() - {name}]:
        for name in leaves:
            del left[name]
    return set(left)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Whoever reads one of them has to read them all; an import inside a function only hides that."""
    sources = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in MODULES
    }
    assert circle({name: modules_imported(text, sources) for name, text in sources.items()}) == set()


def test_circle_of_imports_would_be_seen() -> None:
    sources = {
        "exo_rkllm.chat.template": "from exo_rkllm.chat.chat_format import TemplateSource",
        "exo_rkllm.chat.chat_format": "def f():\n    from exo_rkllm.chat import template, formats",
        "exo_rkllm.chat.formats": "import ast",
    }
    imports = {name: modules_imported(text, sources) for name, text in sources.items()}
    assert circle(imports) == {"exo_rkllm.chat.template", "exo_rkllm.chat.chat_format"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_relative_imports(path: Path) -> None:
    levels = [node.level for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    assert not any(levels), "absolute imports only: a reader sees the room in the line"


def test_import_scan_finds_every_import() -> None:
    assert rooms_imported("def f():\n    from exo_rkllm.api import openai") == {"api"}
    assert rooms_imported("from exo_rkllm import daemon, __version__") == {"daemon"}


def imported_by(statement: str) -> set[str]:
    """Modules in memory after one statement in a fresh interpreter."""
    code = f"{statement}\nimport sys; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_command_line_imports_nothing_heavy() -> None:
    assert not imported_by("import exo_rkllm.cli") & {"asyncio", "numpy", "aiohttp", "ctypes", "jinja2"}


def test_counting_imports_no_prometheus_client() -> None:
    """It is for scrapes: each start of the daemon took a fiftieth longer."""
    assert "prometheus_client" not in imported_by("import exo_rkllm.metrics.serving")


@pytest.mark.parametrize("address", ["fdab0000", "fde40000", "27700000", "22000000", "/dev/dri/card1", "renderD129"])
def test_hardware_addresses_stand_only_in_tables(address: str) -> None:
    """Others looked for fdab0000.npu by name, and found nothing on any other SoC."""
    tables = {PACKAGE / "socs.py", PACKAGE / "doctor" / "probes.py"}  # the SoCs; what to look for on a board
    assert not [path for path in MODULES if path not in tables and address in path.read_text()]


# ── one builder ──────────────────────────────────────────────────────────────────────────────────

BUILT_HERE = {
    "Catalogue",
    "PluginContributions",
    "from_plugins",
    "EngineRegistry",
    "EngineHost",
    "engine_host",
    "Dispatcher",
}
# Where a class is defined it may also name itself.
OWN = {"backends/host.py": {"EngineHost"}, "catalogue/contributions.py": {"PluginContributions"}}


def calls(source: str) -> set[str]:
    """Names that are called, as they are or as an attribute of something."""
    functions = [one.func for one in ast.walk(ast.parse(source)) if isinstance(one, ast.Call)]
    return {one.id for one in functions if isinstance(one, ast.Name)} | {
        one.attr for one in functions if isinstance(one, ast.Attribute)
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_assembly_builds_catalogue_engines_and_dispatcher(path: Path) -> None:
    name = str(path.relative_to(PACKAGE))
    if name != "assembly.py":
        assert not (calls(path.read_text()) & BUILT_HERE) - OWN.get(name, set())


def test_another_builder_would_be_seen() -> None:
    assert "Dispatcher" in calls("from exo_rkllm.dispatch import dispatcher\nx = dispatcher.Dispatcher(find=None)")


def test_every_class_name_stands_for_one_thing() -> None:
    """Two classes of one name cost every reader a look at the import; the ABI's generations share theirs by nature."""
    places: dict[str, list[str]] = {}
    for path in MODULES:
        if "abi" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}
