"""The rows of models in the daemon's status, each made again only where its model or the state of that has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any, TypeAlias

from exo_rkllm.backends.base import JSON
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.choice import BoardRoom
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.dispatch.status import ModelStatus

Values: TypeAlias = Mapping[str, JSON]

IDLE = ModelStatus(name="", engine="", state="cold", since=0.0)


class ModelRows:
    """A row that has not changed is the same object as before."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[tuple[Entry, ModelStatus, Values], dict[str, Any]]] = {}

    def of(
        self,
        entries: Iterable[Entry],
        statuses: Iterable[ModelStatus],
        board: Values,
        sees: Callable[[Entry], bool | None],
    ) -> list[dict[str, Any]]:
        """Those of the catalogue, then those that were asked for and are gone from it.

        `sees` tells whether a model takes images, as far as it is known before the load.
        """
        asked_for = {model.name: model for model in statuses}
        facts = {name: board.get(name) for name in ("soc", "memory_total")}
        former, self._rows = self._rows, {}
        for entry in entries:
            status = asked_for.pop(entry.id, IDLE)
            cause = entry, status, facts
            kept = former.get(entry.id)
            if kept is None or kept[0] != cause:
                kept = cause, _model_value(entry, status, facts, sees=sees(entry))
            self._rows[entry.id] = kept
        return [*(row for _, row in self._rows.values()), *map(_status_value, asked_for.values())]


def _model_value(entry: Entry, status: ModelStatus, board: Values, *, sees: bool | None) -> dict[str, Any]:
    card = entry.card
    return {
        **_status_value(status),
        "name": entry.id,
        "engine": entry.engine,
        "title": card.name or entry.id,
        "quantization": card.quantization,
        "platform": card.platform,
        "context": status.context or card.context,
        "images": sees if status.images is None else status.images,
        "size": card.weights.size if card.weights else 0,
        "unfit": unfit(card, board),
    }


def unfit(card: Card, board: Values) -> str:
    """Why this board would refuse the model, from its card alone; empty where nothing speaks against it."""
    soc, memory = board.get("soc"), board.get("memory_total")
    size = card.weights.size if card.weights else 0
    if card.platform and isinstance(soc, str) and soc and card.platform.upper() != soc.upper().removesuffix("S"):
        return f"It is built for {card.platform.upper()}, and this board is {soc}."
    return BoardRoom(memory=memory if isinstance(memory, int) else None).unfit(size)


def _status_value(status: ModelStatus) -> dict[str, Any]:
    return {**asdict(status), "title": status.name, "quantization": "", "platform": "", "size": 0, "unfit": ""}


def differences(before: Values, now: Values) -> dict[str, Any] | None:
    """The fields of a status that differ from an earlier one's, of the models only those that do; None where others
    came, went or moved."""
    changed: dict[str, Any] = {name: value for name, value in now.items() if value != before.get(name)}
    if "models" in changed:
        pairs = list(zip(_rows(before), _rows(now), strict=False))
        if len(_rows(before)) != len(_rows(now)) or any(old["name"] != new["name"] for old, new in pairs):
            return None
        changed["models"] = [new for old, new in pairs if new is not old and new != old]
    return changed


def _rows(status: Values) -> list[dict[str, Any]]:
    rows: Any = status["models"]
    return list(rows)
