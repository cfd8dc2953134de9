"""One loaded model: everything that the library offers, typed, for every generation of it.

`run` blocks and calls back on the thread that called it. `abort` may be called from anywhere; everything else waits for
nobody and says so. A failure raises an error with the library's own reason in it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from exo_rkllm.errors import NotSupported, RunError, UsageError
from exo_rkllm.runtime import failures, marshal
from exo_rkllm.runtime.abi.shared import RKLLMCallback, RKLLMCrossAttnParam, RKLLMLoraAdapter
from exo_rkllm.runtime.blackbox import LogTail
from exo_rkllm.runtime.callback import ActiveRun, Embed, Tokenize, embed_callback, result_callback, tokenizer_callback
from exo_rkllm.runtime.handle import Handle
from exo_rkllm.runtime.library import Library
from exo_rkllm.runtime.log import facts as facts_of
from exo_rkllm.runtime.log import with_log_figures
from exo_rkllm.runtime.memory import floats, text, token_ids, zeroed
from exo_rkllm.runtime.run import (
    NO_ENDS,
    PAUSE,
    RELEASE,
    AsyncRun,
    OnBatch,
    OnRows,
    OnToken,
    RunCollector,
    batch_of,
    rows_of,
)
from exo_rkllm.runtime.values import (
    AudioEmbeds,
    Buffer,
    EmbedInput,
    ImageEmbeds,
    Input,
    LoadParams,
    MultimodalInput,
    PromptInput,
    RunSpec,
    RunStats,
    SessionFacts,
    TokenInput,
    VideoEmbeds,
)
from exo_rkllm.socs import default_cpus

__all__ = [
    "PAUSE", "RELEASE", "AsyncRun", "AudioEmbeds", "EmbedInput", "ImageEmbeds", "Input", "Library", "LoadParams",
    "MultimodalInput", "OnBatch", "OnRows", "OnToken", "PromptInput", "RunSpec", "RunStats",
    "Session", "SessionFacts", "TokenInput", "VideoEmbeds",
]  # fmt: skip

# The converter's own default (reference 2.2), for files that do not say theirs.
DEFAULT_CONTEXT = 4096
# How long `close` waits for a run that it aborted; the slowest abort anybody reported took 1.4 s (reference 2.8).
CLOSE_SECONDS = 5.0
# How long the thread of an async run may take to end once it has said FINISH.
ASYNC_END_SECONDS = 5.0
PLAIN = RunSpec()


def _ignore(*_token: object) -> None:
    """Nobody listens: between the runs, and where results are taken whole."""


def _context_of(path: str) -> int:
    from exo_rkllm.runtime import modelfile  # 1 MB in a model's process, needed only where nobody says the context

    return modelfile.context_of(path) or DEFAULT_CONTEXT


class Session:
    """Made by `open`. One run at a time; closing it frees the model."""

    def __init__(self, library: Library, params: LoadParams, log: LogTail) -> None:
        self.library = library
        self.params = params
        self._log = log
        cpus = params.cpus
        allowed = os.sched_getaffinity(0)
        if not cpus and library.supports("cpus"):
            cpus = default_cpus(None, allowed, os.cpu_count() or 1)
        self._cpus = cpus
        context = failures.Context(params.model_path, library.version, frozenset(cpus), frozenset(allowed))
        self._handle = Handle(library, context, log)
        # Guards `_active.run` against an abort that would hit the next run.
        self._guard = threading.Lock()
        self._running: RunCollector | None = None
        self._aborted = False  # some run of this process
        self._ends = NO_ENDS if params.ignore_eos_token else frozenset(params.end_tokens)
        self._active = ActiveRun(self._new_run(_ignore, PLAIN))
        self._callbacks: list[Any] = []
        # What the library may still read after the call that handed it over.
        self._references: dict[str, Any] = {}
        self.facts = SessionFacts(library.version, library.generation.name, 0, (), library.features.names())

    @classmethod
    def open(
        cls,
        library: Library,
        params: LoadParams,
        log: LogTail,
        tokenizer_callback: Tokenize | None = None,
        embed_callback: Embed | None = None,
    ) -> Session:
        """Load the model, or raise the sentence that says why not."""
        session = cls(library, params, log)
        session._load(tokenizer_callback, embed_callback)
        return session

    # ── loading ──────────────────────────────────────────────────────────────────────────────────

    def _load(self, tokenize: Tokenize | None, embed: Embed | None) -> None:
        features, generation, params = self.library.features, self.library.generation, self.params
        marshal.check_params(params, features)
        context = params.max_context_len or _context_of(params.model_path)
        if not 0 < params.max_new_tokens <= context:
            # Without a limit an answer may never end: past the context the window shifts, and the model goes on.
            self.params = params = replace(params, max_new_tokens=context)
        param = marshal.param_of(generation, params, context, self._cpus)
        self._references["param"] = param
        try:
            lines = self._handle.init(param, self._callback_argument(tokenize, embed))
        finally:
            if self._active.run.error is not None:  # a callback's own error is the cause of whatever followed
                raise self._active.run.error
        self.facts = self._facts(lines, context)

    def _callback_argument(self, tokenize: Tokenize | None, embed: Embed | None) -> Any:
        """The third argument of init: a function up to 1.2.3, a struct of three since."""
        features = self.library.features
        result = result_callback(self.library.generation, self._active)
        self._callbacks.append(result)
        if tokenize is not None:
            features.require("tokenizer_callback")
        if embed is not None:
            features.require("embed_callback")
        if not features.has("tokenizer_callback"):
            return result
        callbacks = zeroed(RKLLMCallback)[0]
        callbacks.result_callback = result
        if tokenize is not None:
            callbacks.tokenizer_callback = tokenizer_callback(tokenize, self._active)
        if embed is not None:
            callbacks.embed_callback = embed_callback(embed, self._active)
        self._callbacks.append(callbacks)
        return ctypes.byref(callbacks)

    def _facts(self, lines: Sequence[str], context: int) -> SessionFacts:
        told = asdict(facts_of(lines))
        told |= {"release": self.library.version, "cpus": told["cpus"] or self._cpus}
        generation, supports = self.library.generation.name, self.library.features.names()
        return SessionFacts(**told, generation=generation, context=context, supports=supports)

    # ── running ──────────────────────────────────────────────────────────────────────────────────

    def run(self, inputs: Input, on_token: OnToken, spec: RunSpec = PLAIN, on_rows: OnRows | None = None) -> RunStats:
        """Until the answer is over: at its end token, at `spec.max_new_tokens`, or when the library says so.

        `on_token(text, token, waiting)` is called on this thread, once a token; the end token is none.
        It may answer PAUSE. What it raises stops the run and is raised here. Hidden states and logits go to `on_rows`.
        """
        with self._handle.alone("a run"):
            run, arguments = self._prepare([inputs], on_token, spec, on_rows)
            return self._run(run, "rkllm_run", arguments)

    def run_batch(self, inputs: Sequence[Input], on_batch: OnBatch, spec: RunSpec = PLAIN) -> RunStats:
        """As `run`, for a model that was loaded with n_batch above 1: all elements advance together."""
        self.library.features.require("n_batch")
        if spec.mode != "generate":
            raise NotSupported("Hidden states and logits cannot be had from a batch.", "Load the model with n_batch 1.")
        with self._handle.alone("a run"):
            run, arguments = self._prepare(inputs, _ignore, spec, None)
            run.rare = batch_of(self.library.generation, on_batch, run, len(inputs))
            return self._run(run, "rkllm_run", arguments)

    def run_async(
        self, inputs: Input, on_token: OnToken, spec: RunSpec = PLAIN, on_rows: OnRows | None = None
    ) -> AsyncRun:
        """As `run`, on a thread of the library's. Reported broken or hanging before 1.2.2 (reference 2.7): prefer
        `run` on a thread of your own."""
        self._handle.take("a run")
        try:
            run, arguments = self._prepare([inputs], on_token, spec, on_rows)
            mark = self._begin(run)
            status = self._handle.call("rkllm_run_async", *arguments)
        except BaseException:
            self._end()
            self._handle.lock.release()
            raise
        if status != 0:
            run.failed = True
            run.heard_end.set()
        return AsyncRun(run, self.is_running, lambda: self._finish_async(run, mark, arguments))

    def _prepare(
        self, inputs: Sequence[Input], on_token: OnToken, spec: RunSpec, on_rows: OnRows | None
    ) -> tuple[RunCollector, tuple[Any, ...]]:
        generation, features = self.library.generation, self.library.features
        if len(inputs) != self.params.n_batch:
            raise UsageError(
                f"The model was loaded for batches of {self.params.n_batch}, and {len(inputs)} inputs were given.",
                "Give as many, or load it with another n_batch.",
            )
        array = marshal.inputs_of(generation, features, self.params, inputs)
        infer = marshal.infer_param_of(generation, features, self.params, spec)
        run = self._new_run(on_token, spec)
        if spec.mode != "generate":
            if on_rows is None:
                raise UsageError(f"A run for {spec.mode} needs somebody who takes the rows.")
            run.rare = rows_of(generation, on_rows, run)
        return run, (array, ctypes.byref(infer), None)

    def _new_run(self, on_token: OnToken, spec: RunSpec) -> RunCollector:
        return RunCollector(
            self.library.features,
            self._abort_inside,
            on_token,
            keep_history=spec.keep_history,
            ends=self._ends,
            limit=0 if spec.max_new_tokens is None else max(0, spec.max_new_tokens),
        )

    def _run(self, run: RunCollector, function: str, arguments: tuple[Any, ...]) -> RunStats:
        mark = self._begin(run)
        try:
            status = self._handle.call(function, *arguments)
        finally:
            self._end()
        return self._outcome(run, status, mark)

    def _begin(self, run: RunCollector) -> int:
        mark = self._log.mark()
        with self._guard:
            self._active.run = self._running = run
        return mark

    def _end(self) -> None:
        """From here on an abort finds nothing to abort."""
        with self._guard:
            run, self._running = self._running, None
        if run is not None:
            run.settle()

    def _outcome(self, run: RunCollector, status: int, mark: int) -> RunStats:
        stats = run.stats()
        if run.aborted or run.error is not None:
            self._forget()
        if run.error is not None:
            raise run.error
        if (status != 0 or run.failed) and not run.aborted:
            raise self._handle.failure("a run", self._log.since(mark))
        return stats if stats.prefill_tokens is not None else with_log_figures(stats, self._log.since(mark))

    def _finish_async(self, run: RunCollector, mark: int, arguments: tuple[Any, ...]) -> RunStats:
        """FINISH comes from the library's thread, which has still to end. `arguments` are what it reads until then."""
        until = time.monotonic() + ASYNC_END_SECONDS
        while self.is_running() and time.monotonic() < until:
            time.sleep(0.001)
        if not run.heard_end.is_set():
            run.failed = any(line.startswith("E ") for line in self._log.since(mark))
        self._end()
        try:
            return self._outcome(run, 0, mark)
        finally:
            self._handle.lock.release()
            del arguments

    def _forget(self) -> None:
        """What a stopped run leaves in the KV cache is undefined for the next one (reference 2.8)."""
        self._aborted = True
        if self.library.supports("clear_kv"):
            self._handle.call("rkllm_clear_kv_cache", 0, *self._no_ranges())

    # ── beside a run ─────────────────────────────────────────────────────────────────────────────

    def abort(self) -> bool:
        """From any thread, or inside a callback: end the run that is active. False where none is."""
        with self._guard:
            run = self._running
            if run is None:
                return False
            if not run.aborted:
                run.aborted = True
                run.drain()
            self._handle.call("rkllm_abort")
        return True

    def _abort_inside(self) -> None:
        """In the callback of the run, which therefore can't end meanwhile: without the guard, which another thread may
        hold while it waits for the library."""
        self._handle.call("rkllm_abort")

    def is_running(self) -> bool:
        """What the library says. Its header had it the wrong way round until 1.2.3: 1 means running (reference 2.8)."""
        return self._handle.call("rkllm_is_running") == 1

    # ── the KV cache ─────────────────────────────────────────────────────────────────────────────

    def clear_kv(self, *, keep_system_prompt: bool = False, ranges: Sequence[tuple[int, int]] | None = None) -> None:
        """All of it, or `[start, end)` of each element while a run is paused."""
        features = self.library.features
        features.require("clear_kv")
        if ranges is None:
            self._handle.do(
                "clearing the KV cache", "rkllm_clear_kv_cache", int(keep_system_prompt), *self._no_ranges()
            )
            return
        features.require("clear_kv_range")
        if len(ranges) != self.params.n_batch:
            raise UsageError(f"{self.params.n_batch} ranges are needed, one an element, and {len(ranges)} were given.")
        column = ctypes.c_int * len(ranges)
        starts, ends = (column(*positions) for positions in zip(*ranges, strict=True))
        self._handle.do(
            "clearing a part of the KV cache", "rkllm_clear_kv_cache", int(keep_system_prompt), starts, ends
        )

    def _no_ranges(self) -> tuple[None, ...]:
        return (None, None) if self.library.supports("clear_kv_range") else ()

    def kv_size(self) -> tuple[int, ...]:
        """Positions in use, one figure an element of the batch."""
        self.library.features.require("kv_cache_size")
        sizes = (ctypes.c_int * self.params.n_batch)()
        self._handle.do("reading the size of the KV cache", "rkllm_get_kv_cache_size", sizes)
        return tuple(sizes)

    def load_prompt_cache(self, path: str, *, after_abort: bool = False) -> None:
        """Reused by prompts that begin alike; keep_history goes on behind it. `after_abort`: somebody has tried it."""
        if self._aborted and not after_abort:  # measured on 1.2.3 (board-facts 2); nobody tried others
            raise UsageError(
                "A run was stopped in this process, and a prompt cache that is loaded then crashes the next one.",
                "Load the model again, and its prompt cache before the first run.",
            )
        file = os.fsencode(marshal.text_free_of_nul(path))
        self._handle.do("loading the prompt cache", "rkllm_load_prompt_cache", file)

    def release_prompt_cache(self) -> None:
        self._handle.do("releasing the prompt cache", "rkllm_release_prompt_cache")

    # ── the model's surroundings ─────────────────────────────────────────────────────────────────

    def load_lora(self, name: str, path: str, scale: float = 1.0) -> None:
        """Once an adapter; a run chooses it by its name. There is no way to unload one."""
        adapter = RKLLMLoraAdapter(os.fsencode(marshal.text_free_of_nul(path)), text("The adapter's name", name), scale)
        self._references[f"lora {name}"] = adapter
        self._handle.do(f"loading the LoRA adapter {name}", "rkllm_load_lora", ctypes.byref(adapter))

    def set_chat_template(self, system_prompt: str, prefix: str, postfix: str) -> None:
        """Replaces the model's own template for the life of the session; three empty texts switch templates off."""
        self.library.features.require("set_chat_template")
        texts = [text("The template", part) for part in (system_prompt, prefix, postfix)]
        self._handle.do("setting the chat template", "rkllm_set_chat_template", *texts)
        self._references["template"] = texts

    def set_function_tools(self, system_prompt: str, tools: str, tool_response: str) -> None:
        """`tools` is the JSON array of an OpenAI request, `tool_response` the tag around a tool's answer."""
        self.library.features.require("function_tools")
        texts = [text("The tools", part) for part in (system_prompt, tools, tool_response)]
        self._handle.do("setting the function tools", "rkllm_set_function_tools", *texts)
        self._references["tools"] = texts

    def set_cross_attn(self, k: Buffer, v: Buffer, mask: Buffer, positions: Sequence[int]) -> None:
        """Encoder keys and values, one mask value and one position a token (shapes: reference 2.14)."""
        self.library.features.require("cross_attention")
        count = len(positions)
        parameters = RKLLMCrossAttnParam(
            floats("The keys", k, count), floats("The values", v, count), floats("The mask", mask, count),
            ctypes.cast(token_ids(positions), ctypes.POINTER(ctypes.c_int32)), count,
        )  # fmt: skip
        self._references["cross attention"] = parameters
        self._handle.do("setting cross attention", "rkllm_set_cross_attn_params", ctypes.byref(parameters))

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Free the model. A run that is active is aborted first; where it does not end, its memory stays until the
        process does, since freeing it under a run would crash."""
        if not self._handle.open:
            return
        self.abort()
        if not self._handle.lock.acquire(timeout=CLOSE_SECONDS):
            raise RunError(
                f"The runtime did not end its run within {CLOSE_SECONDS:.0f} s, so its model was not freed.",
                "End the process",
            )
        try:
            if self._handle.open:
                self._handle.destroy()
        finally:
            self._handle.lock.release()
