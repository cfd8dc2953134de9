"""Which models the exo cluster is offered, and why another one is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from exo_rkllm.backends.registry import EngineSpec
from exo_rkllm.catalogue.card import Card, telling_names
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.cluster.serving import ModelState, Servable
from exo_rkllm.dispatch.placement import WINDOW, gigabytes
from exo_rkllm.dispatch.state import ModelNeeds
from exo_rkllm.dispatch.status import DispatchStatus, ModelStatus, ServingState

# A model that is just being closed is loaded again by the next task.
STATES: Mapping[ServingState, ModelState] = {
    "cold": "cold",
    "loading": "loading",
    "ready": "ready",
    "closing": "cold",
    "failed": "failed",
}
# As exo's own cards have them (captured 2026-06-22).
EXO_FAMILIES = ("qwen", "gemma", "llama", "glm", "minimax", "nemotron", "kimi", "deepseek", "step", "gpt-oss")
# Seconds until a model whose load was refused is offered again; each refusal after that doubles them.
FIRST_RETRY, LAST_RETRY = 10.0, 600.0


@dataclass(frozen=True, slots=True)
class MachineRoom:
    """What a board has for models; zero and empty mean not known."""

    soc: str = ""  # as model cards name it, such as rk3588
    memory: int = 0  # bytes that models can have at most
    windows: int = 0  # address windows of the NPU


def objection(entry: Entry, needs: ModelNeeds, room: MachineRoom) -> str:
    """Why this board can never answer with the model, as far as its card tells; empty if it can."""
    platform = entry.card.platform
    if needs.npu and needs.library and platform and room.soc and platform.lower() != room.soc:
        return f"{entry.id} is built for {platform.upper()}, and this board is {room.soc.upper()}."
    if room.memory and needs.memory > room.memory:
        return f"{entry.id} needs {gigabytes(needs.memory)} of memory, and this board has {gigabytes(room.memory)}."
    if room.windows and needs.npu > room.windows * WINDOW:
        return f"{entry.id} needs {gigabytes(needs.npu)} of NPU addresses, more than the driver has."
    return ""


def unavailable(needs: ModelNeeds, status: DispatchStatus) -> str:
    """Why nothing can be loaded now for a model with such needs; empty if it can."""
    lost = needs.npu > 0 and (status.npu_lost or needs.library)
    return status.unavailable_reason if lost else ""


def exo_family(card: Card) -> str:
    """The family as exo's cards name it, by which its dashboard chooses an icon; else the card's own word."""
    for name in map(str.lower, telling_names(card)):
        places = [(name.find(family), family) for family in EXO_FAMILIES if family in name]
        if places:
            return min(places)[1]
    return card.chat.family


def servable(entry: Entry, status: ModelStatus | None, engine: EngineSpec | None) -> Servable:
    """The model as the cluster is told of it: from its card, and from its engine once that has loaded it."""
    card = entry.card
    # Before the load an engine of files cannot tell whether this one sees; one without files says what it takes.
    images = engine is not None and engine.sees(entry) is True
    return Servable(
        id=entry.id,
        state="cold" if status is None else STATES[status.state],
        size=card.weights.size if card.weights else 0,
        layers=card.layers,
        hidden_size=card.hidden_size,
        kv_heads=card.kv_heads,
        context=entry.context if status is None else status.context,
        memory=card.memory if status is None else status.memory,
        family=exo_family(card),
        quantization=card.quantization,
        base_model=card.base_model,
        thinking=entry.reasons,
        tools=engine is not None and engine.tools,
        images=images if status is None or status.images is None else status.images,
        sampling=entry.sampling,
        folder=str(entry.folder),
        problem=status.error if status is not None and status.state == "failed" else "",
    )


def withheld(model: Servable, problem: str) -> Servable:
    return replace(model, state="failed", problem=problem)


class Retries:
    """When models whose load was refused are offered again: nobody but a task of the cluster may ever load them."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._delays: dict[str, float] = {}

    def refused(self, name: str, now: float) -> None:
        """A load of the model was refused, of which nobody knew yet, or of which another one has told already."""
        if now < self._until.get(name, now):
            return
        delay = min(2 * self._delays.get(name, FIRST_RETRY / 2), LAST_RETRY)
        self._delays[name], self._until[name] = delay, now + delay

    def tried(self, name: str, *, loaded: bool) -> None:
        """It is not refused any more; the next refusal pauses for longer unless it was loaded meanwhile."""
        self._until.pop(name, None)
        if loaded:
            self._delays.pop(name, None)

    def is_due(self, name: str, now: float) -> bool:
        """Whether a model whose load was refused is to be tried again."""
        if name not in self._until:
            self.refused(name, now)
        return now >= self._until[name]

    def deadline(self, now: float) -> float | None:
        return min((until for until in self._until.values() if until > now), default=None)
