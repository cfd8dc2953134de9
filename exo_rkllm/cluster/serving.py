"""What the cluster node needs of the daemon: models to offer, answers to tasks, facts about the board."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from exo_rkllm.backends.base import GenerationEvent, GenerationRequest, Sampling

ModelState: TypeAlias = Literal["cold", "loading", "warming", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Servable:
    """A model that this board answers for. Zero and empty mean not known."""

    id: str
    state: ModelState = "cold"
    size: int = 0  # bytes of the model file
    layers: int = 0
    hidden_size: int = 0
    kv_heads: int = 0
    context: int = 0
    memory: int = 0  # bytes it takes while it is loaded
    family: str = ""
    quantization: str = ""
    base_model: str = ""
    thinking: bool = False
    images: bool = False
    tools: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    folder: str = ""
    progress: float = 0.0  # of a load, 0 to 1
    problem: str = ""  # why it is `failed`


@dataclass(frozen=True, slots=True)
class NodeDescription:
    """What the dashboard of exo shows about a node."""

    name: str
    model: str = "Rockchip board"
    chip: str = "Rockchip NPU"
    os_version: str = "Linux"
    os_build: str = ""


@dataclass(frozen=True, slots=True)
class BoardGauges:
    """What exo's dashboard shows of a machine at work; None is not known here."""

    memory_total: int = 0
    npu_load: float = 0.0  # 0 to 1, the mean of the cores
    celsius: float | None = None
    watts: float | None = None


def disk_usage(folder: Path) -> tuple[int, int] | None:
    """Bytes of the disk that the folder is on: all, and those that are free."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.total, usage.free


class ModelServing(Protocol):
    """Serves the cluster's tasks from the common queue, beside all other requests."""

    def offers(self) -> AsyncGenerator[tuple[Servable, ...], None]:
        """All models that can be served, at once and again whenever one of them changes."""

    def generate(self, request: GenerationRequest, *, client: str) -> AsyncGenerator[GenerationEvent, None]:
        """Pieces as they come, then one Finish; failures raise an `ExoRkllmError`. Closing it ends the run."""

    async def load(self, model: str) -> None:
        """Bring a model into memory because the cluster launched it; failures show in `offers`."""
