"""Installed packages as pip leaves them: modules, and metadata with entry points, in a folder for the module path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shelf:
    """The folder; processes find it through PYTHONPATH."""

    folder: Path

    def add(
        self, package: str, entry_points: Mapping[str, Mapping[str, str]], version: str = "1.0", **modules: str
    ) -> None:
        info = self.folder / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
            for group, points in entry_points.items()
        ]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(text)


# One package for each way to go wrong, and two that go right: what a family and an engine are is in the example.
REGISTERS = """\
from exo_rkllm.plugins import ModelSpec, register_model
SPEC = ModelSpec(model_type="zorg", template="zorg[{{ messages[-1].content }}]", stop=("<zorg>",))
def register():
    register_model(SPEC)
"""
ECHO = """\
from exo_rkllm.backends.dummy import DummyEngine
from exo_rkllm.backends.registry import EngineSpec
SPEC = EngineSpec("echo", "says it again", make=lambda model, host: DummyEngine(model), formats=(".echo",))
"""
RAISES = "print('I talk')\nraise RuntimeError('no such luck')\n"
TWICE = """\
from exo_rkllm.plugins import register_model
def register():
    for _ in range(2):
        register_model(model_type="twin", backend_model_type="qwen3")
"""
CONFLICTS = """\
from exo_rkllm.plugins import register_model
def register():
    register_model(model_type="zorg", template="mine")
"""
HANGS = """\
import time
time.sleep(2)
from exo_rkllm.backends.dummy import DummyEngine
from exo_rkllm.backends.registry import EngineSpec
SPEC = EngineSpec("slow", "comes late", make=lambda model, host: DummyEngine(model))
"""


def every_sort(shelf: Shelf) -> None:
    shelf.add("zorg", {"exo_rkllm.plugins": {"a-zorg": "zorg:register"}}, zorg=REGISTERS)
    shelf.add("echo", {"exo_rkllm.backends": {"echo": "echo_engine:SPEC"}}, echo_engine=ECHO)
    shelf.add("raises", {"exo_rkllm.plugins": {"b-raises": "raises:register"}}, raises=RAISES)
    shelf.add("twice", {"exo_rkllm.general_plugins": {"c-twice": "twice:register"}}, twice=TWICE)
    shelf.add("conflicts", {"exo_rkllm.plugins": {"d-conflicts": "conflicts:register"}}, conflicts=CONFLICTS)
    shelf.add("hangs", {"exo_rkllm.backends": {"slow": "hangs:SPEC"}}, hangs=HANGS)


STATES = {
    "a-zorg": "used",
    "b-raises": "failed",
    "c-twice": "used",
    "d-conflicts": "conflict",
    "echo": "used",
    "slow": "used",
}
