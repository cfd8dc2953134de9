"""What one loaded model keeps of conversations that others displace from its KV cache, by the library's prompt cache.

The library writes a file at the end of a run only. So what is hot is saved by the run itself where other conversations
are about, or else by a run of one token before the next conversation displaces it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from exo_rkllm.backends.ledger import EMPTY, CachedRun
from exo_rkllm.backends.prefix_plan import RECENT, PrefixPlan, PrefixSituation, SavedPrefix, plan, shared, superseded
from exo_rkllm.backends.prefix_store import PrefixStore, binding
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.runner.stream import RunDone
from exo_rkllm.runtime.ends import AFTER_ABORT, SPARES, findings

log = logging.getLogger(__name__)

NOTHING = PrefixPlan()
# Files of a load that the library did not write, or that spared nothing, before no more are made.
MOST_FAILURES = 3
# Tokens of an answer, for the size of the file of a run that has yet to give it.
ANSWER_TOKENS = 256
# The share of what a restored file should spare below which it has not worked.
LEAST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class PrefixProcess:
    """What the process allows that holds the model now. `binding` names file, library, context and adapters.

    `limits_runs`: a run may end after one token without an abort. `after_abort`: a selftest has loaded a file after an
    aborted run.
    """

    binding: str
    context: int
    load_seconds: float
    limits_runs: bool
    after_abort: bool = False


class EnginePrefixes:
    """Of one engine; without a store, or for a process that allows none, it plans nothing."""

    def __init__(self, store: PrefixStore | None, model: str) -> None:
        self._store = store
        self._model = model
        self._process: PrefixProcess | None = None
        self._aborted = False  # some run of this process
        self._failures = 0
        self._lasting = True  # whether what is hot will be continued
        self._background_at = -math.inf  # when a client last asked for itself, which displaces what is hot

    def started(self, process: PrefixProcess | None) -> None:
        """Another process holds the model now; None for one whose cache belongs to the runtime's own conversation."""
        self._process, self._aborted, self._failures = process, False, 0

    # ── before a run ─────────────────────────────────────────────────────────────────────────────

    def plan(
        self,
        job: RunnerJob,
        prompt: str | None,
        tokens: int,
        hot: CachedRun | None,
        adapter: str | None,
        *,
        lasting: bool,
        closing: bool = False,
        saves: bool = False,
    ) -> PrefixPlan:
        """`hot` is what the cache holds, made with `adapter`; `tokens` is about the length of the prompt. A process
        that is `closing` may be left with an aborted run; `saves`: the run that leaves `hot` writes its file itself."""
        store, process = self._store, self._process
        if store is None or process is None or self._failures >= MOST_FAILURES:
            return NOTHING
        text, now = job.output == "text" and prompt is not None and not job.arrays, time.monotonic()
        key = self._key(job.lora)
        hot = None if hot == EMPTY or adapter is None or not self._lasting else hot
        hot_saved = [] if adapter is None else store.of(self._key(adapter))
        if saves and hot is not None:
            hot_saved.append(SavedPrefix(Path(), "memory", 0, hot, key, self._model, now))
        situation = PrefixSituation(
            prompt=prompt or "" if text else "",
            tokens=tokens,
            hot=hot,
            clears=job.clear_first,
            saved=store.of(key) if text else (),
            hot_saved=hot_saved,
            now=now,
            room=process.context,
            lasting=lasting and text,
            rivals=not lasting or now - self._background_at < RECENT,
            may_stash=process.limits_runs or closing,
            may_restore=process.after_abort or not self._aborted,
            reload=process.load_seconds or None,
        )
        return plan(situation, store.costs(key))

    def begins(self, *, lasting: bool) -> None:
        """A run displaces what is hot by something that somebody will continue, or not."""
        self._lasting = lasting
        if not lasting:
            self._background_at = time.monotonic()

    def applied(self, job: RunnerJob, chosen: PrefixPlan, tokens: int) -> RunnerJob:
        """The job with what was planned for it."""
        if chosen.restore is not None and self._store is not None:
            self._store.touch(chosen.restore.path)
            job = replace(job, load_prompt_cache=str(chosen.restore.path), load_after_abort=self._may_load_after_abort)
        return self._saving(job, tokens + ANSWER_TOKENS) if chosen.save else job

    def stash(self, hot: CachedRun, adapter: str) -> RunnerJob | None:
        """The run that saves what is hot; None where there is no room for the file."""
        text = hot.prompt + hot.answer
        job = self._saving(RunnerJob(prompt=text, max_tokens=1, lora=adapter), hot.tokens)
        return job if job.save_prompt_cache else None

    def _saving(self, job: RunnerJob, tokens: int) -> RunnerJob:
        if self._store is None:
            return job
        reading = Path(job.load_prompt_cache) if job.load_prompt_cache else None
        part = self._store.part(self._store.costs(self._key(job.lora)).bytes(tokens), reading)
        return job if part is None else replace(job, save_prompt_cache=str(part))

    # ── after a run ──────────────────────────────────────────────────────────────────────────────

    async def stashed(self, job: RunnerJob, hot: CachedRun, done: RunDone, seconds: float) -> None:
        figures, store = done.figures, self._store
        self._note_abort(figures)
        if store is None:
            return
        key, prefill = self._key(job.lora), figures.get("prefill_ms", 0.0) / 1000
        store.measured(key, replace(store.costs(key), stash=prefill))
        await self._keep(job, hot, max(0.0, seconds - prefill))

    async def ended(
        self, job: RunnerJob, chosen: PrefixPlan, done: RunDone, run: CachedRun, cached: int, seconds: float
    ) -> None:
        """A run is over after so many seconds: `run` is what it has read and written, of which `cached` tokens were
        there before."""
        figures, store = done.figures, self._store
        self._note_abort(figures)
        if store is None or self._process is None or job.output != "text":
            return
        key, computed = self._key(job.lora), figures.get("prefill_tokens", 0)
        costs = store.costs(key)
        if not figures.get("aborted"):
            costs = costs.computed(computed, figures.get("prefill_ms", 0.0) / 1000)
        if (saved := chosen.restore) is not None:
            restored = figures.get("restored_ms")
            if restored is None:
                store.drop(saved.path)
            elif run.prompt_tokens - computed < LEAST_SHARE * shared(saved.run, run.prompt):
                self._fail(f"A restored conversation of {self._model} was computed again all the same.")
            else:
                costs = costs.loaded(saved.size, saved.tier, restored / 1000)
                store.count(self._model, restored=1, hit_tokens=cached)
        store.measured(key, costs)
        if job.save_prompt_cache:
            worked = sum(figures.get(name, 0.0) for name in ("prefill_ms", "generate_ms")) / 1000
            await self._keep(job, run, max(0.0, seconds - worked))

    async def left(self, job: RunnerJob, run: CachedRun) -> None:
        """A run that nobody listened to any more is over: the library writes its file all the same."""
        self._aborted = True
        if self._has_written(job):
            await self._keep(job, run, 0.0)
        else:
            self.forget(job)

    def _has_written(self, job: RunnerJob) -> bool:
        return bool(job.save_prompt_cache) and Path(job.save_prompt_cache).exists()

    def forget(self, job: RunnerJob) -> None:
        """What an unfinished run may have written."""
        if job.save_prompt_cache and self._store is not None:
            self._store.discard(Path(job.save_prompt_cache))

    async def _keep(self, job: RunnerJob, run: CachedRun, seconds: float) -> None:
        store = self._store
        if store is None or not job.save_prompt_cache:
            return
        part, key = Path(job.save_prompt_cache), self._key(job.lora)
        if not run.prompt_tokens:
            store.discard(part)
            return
        costs = store.costs(key)
        useless = [saved.path for saved in store.of(key) if superseded(saved, run, costs)]
        size = await store.keep(part, key, self._model, run, useless)
        if not size:
            self._fail(f"The runtime saved no conversation of {self._model}.")
        elif seconds:
            store.measured(key, costs.saved(run.tokens, size, seconds))

    # ── what this process allows ─────────────────────────────────────────────────────────────────

    @property
    def _may_load_after_abort(self) -> bool:
        return self._process is not None and self._process.after_abort

    def _key(self, adapter: str) -> str:
        return binding(self._process.binding if self._process else "", adapter)

    def _note_abort(self, figures: Mapping[str, Any]) -> None:
        self._aborted |= bool(figures.get("aborted"))

    def _fail(self, sentence: str) -> None:
        self._failures += 1
        if self._failures == MOST_FAILURES:
            log.warning("%s Until it is loaded again, none is kept.", sentence, extra={"model": self._model})


def prefix_process(
    model: Path, parts: object, session_facts: Mapping[str, Any], seconds: float
) -> PrefixProcess | None:
    """What a process that was loaded in so many seconds allows; None where a selftest found files useless."""
    known = findings(model)
    measured = known if known.get("runtime") == session_facts["release"] else {}
    if measured.get(SPARES) is False:
        return None
    return PrefixProcess(
        binding(parts),
        session_facts["context"],
        seconds,
        limits_runs="max_new_tokens_per_run" in session_facts["supports"],
        after_abort=measured.get(AFTER_ABORT) is True,
    )
