"""Where a model goes: RAM as measured, and the NPU's address windows."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from exo_rkllm.backends.base import Model
from exo_rkllm.dispatch.state import DispatchState, ModelState
from exo_rkllm.errors import OutOfMemory

# "About 3.9 GiB usable per IOMMU domain" of the 32-bit window (reference npu-platform, memory).
WINDOW = int(3.9 * (1 << 30))


@dataclass(frozen=True, slots=True)
class Fits:
    domain: int | None


@dataclass(frozen=True, slots=True)
class Evict:
    """Idle models whose end makes room."""

    models: frozenset[str]


@dataclass(frozen=True, slots=True)
class Await:
    """Models that are busy now, and whose end makes room."""

    models: frozenset[str]


Plan: TypeAlias = Fits | Evict | Await | OutOfMemory


def windows(size: int) -> int:
    """Address windows that a model of this size spreads over, upwards from its base domain."""
    return max(1, -(-size // WINDOW))


def free_domain(model: ModelState, loaded: Iterable[ModelState], domains: int, lowest: int = 0) -> int | None:
    """The base domain for a model: a window of its own where there is one, else the first with enough room.

    From `lowest` upwards, except where the card names another one or the model is too large for what is there.
    """
    left = [WINDOW] * domains
    for other in loaded:
        rest = other.needs.npu
        for index in range(other.domain or 0, domains):
            taken = min(rest, WINDOW)
            left[index] -= taken
            rest -= taken
    count = windows(model.needs.npu)
    last = model.needs.npu - WINDOW * (count - 1)
    lowest = min(lowest, max(0, domains - count))
    bases = range(lowest, domains - count + 1) if model.needs.domain is None else [model.needs.domain]
    for own in (True, False):
        for base in bases:
            span = left[base : base + count]
            # It fills every window but the last, so only the last one may be shared.
            empty = all(room == WINDOW for room in (span if own else span[:-1]))
            if len(span) == count and empty and span[-1] >= last:
                return base
    return None


def evictable(model: ModelState, claim: int) -> bool:
    """Nothing runs on it, and nobody waits for it who came before `claim`."""
    return not model.running and (model.queue.oldest is None or model.queue.oldest > claim)


def plan(state: DispatchState, name: str, available: int) -> Plan:
    """What has to happen before `name` can be loaded, given the bytes that the system has available."""
    model = state.models[name]
    loaded = [other for other in state.models.values() if other.phase == "ready" and other.name != name]
    movable = sorted((other for other in loaded if not state.pinned(other)), key=lambda other: other.last_used)
    idle = [other for other in movable if evictable(other, model.claim)]

    def fits(without: Sequence[ModelState]) -> Fits | None:
        stay = [other for other in loaded if other not in without]
        free = available - state.limits.reserve + sum(other.memory_needed for other in without)
        if model.memory_needed > max(0, free) or 0 < state.limits.max_loaded <= len(stay):
            return None
        if model.needs.npu == 0:
            return Fits(None)
        on_npu = [other for other in stay if other.needs.npu]
        domain = free_domain(model, on_npu, state.limits.domains, state.limits.lowest_domain)
        return None if domain is None else Fits(domain)

    def smallest(candidates: Sequence[ModelState]) -> frozenset[str] | None:
        """The longest unused first, and none that does not help."""
        chosen: list[ModelState] = []
        for candidate in candidates:
            if fits(chosen):
                break
            chosen.append(candidate)
        if not fits(chosen):
            return None
        for candidate in list(chosen):
            if fits(without := [other for other in chosen if other is not candidate]):
                chosen = without
        return frozenset(other.name for other in chosen)

    if now := fits([]):
        return now
    if victims := smallest(idle):
        return Evict(victims)
    if victims := smallest([*idle, *(other for other in movable if other not in idle)]):
        return Await(victims)
    return refusal(state, model, loaded, available)


def refusal(state: DispatchState, model: ModelState, loaded: Sequence[ModelState], available: int) -> OutOfMemory:
    """The sentence with the figures, and what the reader could do about them."""
    free = max(0, available - state.limits.reserve)
    movable = sum(other.memory_needed for other in loaded if not state.pinned(other))
    if model.memory_needed > free + movable:
        sentence = f"{model.name} needs {gigabytes(model.memory_needed)} of memory and {gigabytes(free)} are free"
        sentence += f", {gigabytes(free + movable)} with nothing else loaded." if movable else "."
    elif 0 < state.limits.max_loaded <= len(loaded):
        sentence = f"{model.name} would be one model more than models.max_loaded = {state.limits.max_loaded} allows."
    else:
        sentence = (
            f"{model.name} needs {gigabytes(model.needs.npu)} of NPU addresses, "
            f"and the driver's {state.limits.domains} windows of {gigabytes(WINDOW)} have no room."
        )
    pinned = [other for other in loaded if state.pinned(other)]
    if not pinned:
        return OutOfMemory(sentence, "Stop other programs, or take a smaller model, quantisation or context.")
    one = max(pinned, key=lambda other: other.memory_needed)
    return OutOfMemory(
        sentence,
        f"{one.name} is pinned; unloading it frees {gigabytes(one.memory_needed)}: exo-rkllm unload {one.name}",
    )


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def placed(model: Model, domain: int | None) -> Model:
    """The model as its engine gets it: with the domain that was chosen for it, where it takes one."""
    if domain is None:
        return model
    model = copy.copy(model)
    model.domain = domain
    return model
