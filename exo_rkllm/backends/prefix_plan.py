"""Which saved prefix a run starts from, and what is saved for later: pure decisions from measured times.

A prefix is the beginning of a prompt that the KV cache holds, or a file that the vendor's library wrote of it. Keeping
one costs a file written and read again; losing one costs its prefill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from exo_rkllm.backends.ledger import CachedRun

TierName: TypeAlias = Literal["memory", "disk"]

# The most that any published model takes: 4B and 8B of Qwen3 (board-facts 2).
TOKEN_BYTES = 147_472.0
# Bytes a second until they are measured: a copy in memory on an RK3588, and an SD card.
SAVE_SPEED = 500e6
LOAD_SPEED: Mapping[TierName, float] = {"memory": 1e9, "disk": 40e6}
# The share that a new measurement takes in the mean.
WEIGHT = 0.5
# Runs that computed fewer tokens say little about the speed of long ones, and fewer are not worth a file.
LEAST_TOKENS = 32
# Seconds after which a conversation that nobody has continued is no reason to save every answer of another one.
RECENT = 600.0


class SavedPrefix(NamedTuple):
    """A file of the library's. `used` is the moment of its last use, on the monotonic clock."""

    path: Path
    tier: TierName
    size: int
    run: CachedRun
    key: str
    model: str
    used: float


@dataclass(frozen=True, slots=True)
class PrefixCosts:
    """What one model's prefixes cost, as measured lately."""

    prefill: float = 0.0  # seconds a token; 0 until a prompt was computed, and then nothing is worth keeping
    token_bytes: float = TOKEN_BYTES
    stash: float = 0.0  # seconds of the run that only saves, without the file
    save_speed: float = SAVE_SPEED
    load_speed: Mapping[TierName, float] = field(default_factory=lambda: LOAD_SPEED)

    def bytes(self, tokens: int) -> int:
        return round(tokens * self.token_bytes)

    def save(self, size: int) -> float:
        return size / self.save_speed

    def load(self, size: int, tier: TierName) -> float:
        return size / self.load_speed[tier]

    def worth_keeping(self, tokens: int, size: int) -> bool:
        """Whether computing so many tokens again takes longer than writing and reading a file of that size."""
        return tokens * self.prefill > self.save(size) + self.load(size, "memory")

    # ── what was measured ────────────────────────────────────────────────────────────────────────

    def computed(self, tokens: int, seconds: float) -> PrefixCosts:
        if tokens < LEAST_TOKENS:
            return self
        return replace(self, prefill=_mean(self.prefill, seconds / tokens))

    def saved(self, tokens: int, size: int, seconds: float) -> PrefixCosts:
        speed = _mean(self.save_speed, size / max(seconds, 1e-3))
        return replace(self, token_bytes=size / max(1, tokens), save_speed=speed)

    def loaded(self, size: int, tier: TierName, seconds: float) -> PrefixCosts:
        speed = _mean(self.load_speed[tier], size / max(seconds, 1e-3))
        return replace(self, load_speed={**self.load_speed, tier: speed})


def _mean(before: float, measured: float) -> float:
    return (1 - WEIGHT) * before + WEIGHT * measured if before else measured


@dataclass(frozen=True, slots=True)
class PrefixSituation:
    """What the decision is made on. `hot` is what the KV cache holds, None where that is not known, and a run that
    `clears` reuses nothing of it. `hot_saved` are files that may hold it, `saved` those that the run may start from.

    `may_stash`: a run that only saves is possible. `may_restore`: a file can be loaded into this process. `reload` is
    what another process takes, into which it can be loaded in any case; None rules that out. `lasting` is False for a
    prompt that nobody will continue, and `rivals` are about that leave no file. `tokens` is about the length of the
    prompt, and `room` the tokens that the context has.
    """

    prompt: str
    tokens: int
    hot: CachedRun | None
    saved: Sequence[SavedPrefix]
    hot_saved: Sequence[SavedPrefix]
    now: float
    room: int
    clears: bool = False
    lasting: bool = True
    rivals: bool = False
    may_stash: bool = True
    may_restore: bool = True
    reload: float | None = None


@dataclass(frozen=True, slots=True)
class PrefixPlan:
    """`stash` the hot prefix before the run, `restore` a file for it (in a fresh process), `save` at its end."""

    stash: bool = False
    restore: SavedPrefix | None = None
    fresh: bool = False
    save: bool = False


def plan(at: PrefixSituation, costs: PrefixCosts) -> PrefixPlan:
    """What to do around one run."""
    reused = 0 if at.hot is None or at.clears else shared(at.hot, at.prompt)
    restore, fresh = _restored(at, costs, reused)
    displaced, stash = False, False
    if at.hot is not None:
        lost = at.hot.tokens - (0 if restore is not None else reused)
        kept = max((shared(saved.run, at.hot.prompt + at.hot.answer) for saved in at.hot_saved), default=0)
        displaced = costs.worth_keeping(lost, costs.bytes(at.hot.tokens))
        loss = min(lost, at.hot.tokens - kept)
        worth = costs.worth_keeping(loss, costs.bytes(at.hot.tokens)) and loss * costs.prefill > costs.stash
        stash = at.may_stash and worth and at.hot.tokens + 1 < at.room
    rivals = at.rivals or displaced or any(_rivals(saved, at, costs) for saved in at.saved)
    save = at.lasting and rivals and costs.worth_keeping(at.tokens, costs.bytes(at.tokens))
    return PrefixPlan(stash, restore, fresh, save)


def shared(run: CachedRun, prompt: str) -> int:
    """About how many tokens of the prompt a run's positions serve for."""
    return run.tokens_within(run.shared_with(prompt))


def _restored(at: PrefixSituation, costs: PrefixCosts, reused: int) -> tuple[SavedPrefix | None, bool]:
    """The file that spares most, if one spares more than it costs, and whether it takes a fresh process."""
    extra = 0.0 if at.may_restore else at.reload
    if extra is None:
        return None, False
    best, most = None, 0.0
    for saved in at.saved:
        spared = shared(saved.run, at.prompt) - reused
        if spared < LEAST_TOKENS:
            continue
        gain = spared * costs.prefill - costs.load(saved.size, saved.tier) - extra
        if gain > most:
            best, most = saved, gain
    return best, best is not None and not at.may_restore


def _rivals(saved: SavedPrefix, at: PrefixSituation, costs: PrefixCosts) -> bool:
    """Whether the file is of another conversation, which somebody is about to continue."""
    others = saved.run.tokens - shared(saved.run, at.prompt)
    return at.now - saved.used < RECENT and costs.worth_keeping(others, costs.bytes(others))


@dataclass(frozen=True, slots=True)
class PrefixTally:
    """What became of one model's conversations since the daemon started, and what is kept of them now.

    `hit_tokens` were in restored files and not computed again; `evicted` files had no room any more.
    """

    files: int = 0
    bytes: int = 0
    saved: int = 0
    restored: int = 0
    hit_tokens: int = 0
    evicted: int = 0


NO_PREFIXES = PrefixTally()


def superseded(saved: SavedPrefix, by: CachedRun, costs: PrefixCosts) -> bool:
    """Whether a longer prefix makes this file useless: what it has beyond that one is not worth a file."""
    beyond = saved.run.tokens - shared(saved.run, by.prompt + by.answer)
    return not costs.worth_keeping(beyond, costs.bytes(saved.run.tokens))
