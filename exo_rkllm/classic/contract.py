"""The class that an engine of classic exo derives from: exo's own where there is one, else one of the same shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Ids = np.ndarray[Any, Any]


class Stand(ABC):
    """What the host calls without asking whether it is there, besides what it tests for (classic-plugin 2.2)."""

    @abstractmethod
    async def encode(self, shard: Any, prompt: str) -> Ids: ...

    @abstractmethod
    async def sample(self, x: Ids, temp: float = 0.0, top_p: float = 1.0) -> Ids: ...

    @abstractmethod
    async def decode(self, shard: Any, tokens: Any) -> str: ...

    @abstractmethod
    async def infer_tensor(
        self, request_id: str, shard: Any, input_data: Ids, inference_state: dict[str, Any] | None = None
    ) -> tuple[Ids, dict[str, Any] | None]: ...

    @abstractmethod
    async def load_checkpoint(self, shard: Any, path: str | None) -> None: ...


def host_class() -> type[Any]:
    """An `exo` that is another project has no such module."""
    try:
        from exo.inference.inference_engine import InferenceEngine  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return Stand
    found: type[Any] = InferenceEngine
    return found
