"""One loaded model: everything that the library offers, typed, for every generation of it.

`run` blocks and calls back on the thread that called it. `abort` may be called from anywhere; everything else waits for
nobody and says so. A failure raises an error with the library's own reason in it.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from exo_rkllm.errors import LoadError, NotSupported, RunError, UsageError
from exo_rkllm.runtime import failures, marshal
from exo_rkllm.runtime.abi.shared import RKLLMCallback, RKLLMCrossAttnParam, RKLLMLoraAdapter
from exo_rkllm.runtime.blackbox import LogTail
from exo_rkllm.runtime.callback import ActiveRun, Embed, Tokenize, embed_callback, result_callback, tokenizer_callback
from exo_rkllm.runtime.library import Library
from exo_rkllm.runtime.log import facts as facts_of
from exo_rkllm.runtime.log import stages
from exo_rkllm.runtime.memory import floats, text, token_ids, zeroed
from exo_rkllm.runtime.run import PAUSE, RELEASE, OnBatch, OnRows, OnToken, RunCollector, batch_of, rows_of
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


def _printed(stats: RunStats, lines: Sequence[str]) -> RunStats:
    """Runtimes before 1.2.1 tell a run's figures in their log only, from level 1 on."""
    rows = stages(lines)
    if not {"Prefill", "Generate"} <= rows.keys():
        return stats
    (prefill_ms, prefill), (generate_ms, _) = rows["Prefill"], rows["Generate"]
    if stats.aborted and stats.generate_ms is not None:
        generate_ms = stats.generate_ms  # theirs goes on until the abort took effect
    return replace(stats, prefill_tokens=prefill, prefill_ms=prefill_ms, generate_ms=generate_ms, source="runtime")


def _context_of(path: str) -> int:
    from exo_rkllm.runtime import modelfile  # 1 MB in a model's process, needed only where nobody says the context

    return modelfile.context_of(path) or DEFAULT_CONTEXT


class Session:
    """Made by `open`. One run at a time; closing it frees the model."""

    def __init__(self, library: Library, params: LoadParams, log: LogTail) -> None:
        self.library = library
        self.params = params
        self._log = log
        self._context = failures.Context(params.model_path, library.version)
        self._handle = ctypes.c_void_p()
        # Held while the library works on this handle: it takes one call at a time (reference 2.8).
        self._busy = threading.Lock()
        # Guards `_turn.run` against an abort that would hit the next run.
        self._guard = threading.Lock()
        self._running: RunCollector | None = None
        self._runner = 0
        self._turn = ActiveRun(self._new_run(_ignore, PLAIN))
        self._callbacks: list[Any] = []
        # What the library may still read after the call that handed it over.
        self._kept: dict[str, Any] = {}
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
        allowed = os.sched_getaffinity(0)
        cpus = params.cpus or (default_cpus(None, allowed, os.cpu_count() or 1) if features.has("cpus") else ())
        self._context = failures.Context(params.model_path, self.library.version, frozenset(cpus), frozenset(allowed))
        param = marshal.param_of(generation, params, context, cpus)
        self._kept["param"] = param
        mark = self._log.mark()
        status = self.library.functions["rkllm_init"](
            ctypes.byref(self._handle), ctypes.byref(param), self._callback_argument(tokenize, embed)
        )
        lines = self._log.since(mark)
        if self._turn.run.error is not None:
            raise self._turn.run.error
        # Older releases said 0 for a model that then aborted the process in its first run (reference 2.1).
        if status != 0 or not self._handle.value or failures.proves_failure(lines):
            self._handle.value = None
            name = self._context.words(())["model"]
            raise failures.failure(lines, self._context, f"loading {name}", LoadError)
        self.facts = self._facts(lines, context, cpus)

    def _callback_argument(self, tokenize: Tokenize | None, embed: Embed | None) -> Any:
        """The third argument of init: a function up to 1.2.3, a struct of three since."""
        features = self.library.features
        result = result_callback(self.library.generation, self._turn)
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
            callbacks.tokenizer_callback = tokenizer_callback(tokenize, self._turn)
        if embed is not None:
            callbacks.embed_callback = embed_callback(embed, self._turn)
        self._callbacks.append(callbacks)
        return ctypes.byref(callbacks)

    def _facts(self, lines: Sequence[str], context: int, cpus: tuple[int, ...]) -> SessionFacts:
        told = asdict(facts_of(lines))
        told |= {"release": self.library.version, "cpus": told["cpus"] or cpus}
        generation, supports = self.library.generation.name, self.library.features.names()
        return SessionFacts(**told, generation=generation, context=context, supports=supports)

    # ── running ──────────────────────────────────────────────────────────────────────────────────

    def run(self, inputs: Input, on_token: OnToken, spec: RunSpec = PLAIN, on_rows: OnRows | None = None) -> RunStats:
        """Until the answer is over. `on_token(text, token, waiting)` is called on this thread, once a token.

        It may answer PAUSE. What it raises stops the run and is raised here. Hidden states and logits go to `on_rows`.
        """
        with self._alone("a run"):
            run, arguments = self._prepare([inputs], on_token, spec, on_rows)
            return self._run(run, "rkllm_run", arguments)

    def run_batch(
        self,
        inputs: Sequence[Input],
        on_batch: OnBatch,
        spec: RunSpec = PLAIN,
    ) -> RunStats:
        """As `run`, for a model that was loaded with n_batch above 1: all elements advance together."""
        self.library.features.require("n_batch")
        if spec.mode != "generate":
            raise NotSupported("Hidden states and logits cannot be had from a batch.", "Load the model with n_batch 1.")
        with self._alone("a run"):
            run, arguments = self._prepare(inputs, _ignore, spec, None)
            run.rare = batch_of(self.library.generation, on_batch, run, len(inputs))
            return self._run(run, "rkllm_run", arguments)

    def run_async(
        self, inputs: Input, on_token: OnToken, spec: RunSpec = PLAIN, on_rows: OnRows | None = None
    ) -> AsyncRun:
        """As `run`, on a thread of the library's. Reported broken or hanging before 1.2.2 (reference 2.7): prefer
        `run` on a thread of your own."""
        self._take_alone("a run")
        try:
            run, arguments = self._prepare([inputs], on_token, spec, on_rows)
            mark = self._begin(run)
            status = self._call("rkllm_run_async", *arguments)
        except BaseException:
            self._end()
            self._busy.release()
            raise
        if status != 0:
            run.failed = True
            run.heard_end.set()
        return AsyncRun(run, lambda: self._finish_async(run, mark, arguments))

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
        return RunCollector(self.library.features, self._abort_running, on_token, keep_history=spec.keep_history)

    def _run(self, run: RunCollector, function: str, arguments: tuple[Any, ...]) -> RunStats:
        mark = self._begin(run)
        try:
            status = self._call(function, *arguments)
        finally:
            self._end()
        return self._outcome(run, status, mark)

    def _begin(self, run: RunCollector) -> int:
        mark = self._log.mark()
        with self._guard:
            self._turn.run = self._running = run
            self._runner = threading.get_ident()
        return mark

    def _end(self) -> None:
        """From here on an abort finds nothing to abort."""
        with self._guard:
            run, self._running, self._runner = self._running, None, 0
        if run is not None:
            run.settle()

    def _outcome(self, run: RunCollector, status: int, mark: int) -> RunStats:
        stats = run.stats()
        if run.aborted or run.error is not None:
            self._forget()
        if run.error is not None:
            raise run.error
        if (status != 0 or run.failed) and not run.aborted:
            raise failures.failure(self._log.since(mark), self._context, "a run", RunError)
        return stats if stats.prefill_tokens is not None else _printed(stats, self._log.since(mark))

    def _finish_async(self, run: RunCollector, mark: int, arguments: tuple[Any, ...]) -> RunStats:
        """FINISH comes from the library's thread, which has still to end. `arguments` are what it reads until then."""
        until = time.monotonic() + ASYNC_END_SECONDS
        while self.is_running() and time.monotonic() < until:
            time.sleep(0.001)
        self._end()
        try:
            return self._outcome(run, 0, mark)
        finally:
            self._busy.release()
            del arguments

    def _forget(self) -> None:
        """What a stopped run leaves in the KV cache is undefined for the next one (reference 2.8)."""
        if self.library.supports("clear_kv"):
            self._call("rkllm_clear_kv_cache", 0, *self._no_ranges())

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
            if self._runner != threading.get_ident():
                self._call("rkllm_abort")
                return True
        # Inside the callback the library must not be called (reference 2.8).
        run.stop_elsewhere()
        return True

    def _abort_running(self) -> None:
        with self._guard:
            if self._running is not None:
                self._call("rkllm_abort")

    def is_running(self) -> bool:
        """What the library says. Its header had it the wrong way round until 1.2.3: 1 means running (reference 2.8)."""
        return self._call("rkllm_is_running") == 1

    # ── the KV cache ─────────────────────────────────────────────────────────────────────────────

    def clear_kv(self, *, keep_system_prompt: bool = False, ranges: Sequence[tuple[int, int]] | None = None) -> None:
        """All of it, or `[start, end)` of each element while a run is paused."""
        features = self.library.features
        features.require("clear_kv")
        if ranges is None:
            self._do("clearing the KV cache", "rkllm_clear_kv_cache", int(keep_system_prompt), *self._no_ranges())
            return
        features.require("clear_kv_range")
        if len(ranges) != self.params.n_batch:
            raise UsageError(f"{self.params.n_batch} ranges are needed, one an element, and {len(ranges)} were given.")
        column = ctypes.c_int * len(ranges)
        starts, ends = (column(*positions) for positions in zip(*ranges, strict=True))
        self._do("clearing a range of the KV cache", "rkllm_clear_kv_cache", int(keep_system_prompt), starts, ends)

    def _no_ranges(self) -> tuple[None, ...]:
        return (None, None) if self.library.supports("clear_kv_range") else ()

    def kv_size(self) -> tuple[int, ...]:
        """Positions in use, one figure an element of the batch."""
        self.library.features.require("kv_cache_size")
        sizes = (ctypes.c_int * self.params.n_batch)()
        self._do("reading the size of the KV cache", "rkllm_get_kv_cache_size", sizes)
        return tuple(sizes)

    def load_prompt_cache(self, path: str) -> None:
        """Reused by the prompts that begin as the saved one did."""
        self._do("loading the prompt cache", "rkllm_load_prompt_cache", os.fsencode(marshal.text_free_of_nul(path)))

    def release_prompt_cache(self) -> None:
        self._do("releasing the prompt cache", "rkllm_release_prompt_cache")

    # ── the model's surroundings ─────────────────────────────────────────────────────────────────

    def load_lora(self, name: str, path: str, scale: float = 1.0) -> None:
        """Once an adapter; a run chooses it by its name. There is no way to unload one."""
        adapter = RKLLMLoraAdapter(os.fsencode(marshal.text_free_of_nul(path)), text("The adapter's name", name), scale)
        self._kept[f"lora {name}"] = adapter
        self._do(f"loading the LoRA adapter {name}", "rkllm_load_lora", ctypes.byref(adapter))

    def set_chat_template(self, system_prompt: str, prefix: str, postfix: str) -> None:
        """Replaces the model's own template for the life of the session; three empty texts switch templates off."""
        self.library.features.require("set_chat_template")
        texts = [text("The template", part) for part in (system_prompt, prefix, postfix)]
        self._keep_and_do("template", texts, "setting the chat template", "rkllm_set_chat_template")

    def set_function_tools(self, system_prompt: str, tools: str, tool_response: str) -> None:
        """`tools` is the JSON array of an OpenAI request, `tool_response` the tag around a tool's answer."""
        self.library.features.require("function_tools")
        texts = [text("The tools", part) for part in (system_prompt, tools, tool_response)]
        self._keep_and_do("tools", texts, "setting the function tools", "rkllm_set_function_tools")

    def _keep_and_do(self, what: str, texts: list[bytes], doing: str, function: str) -> None:
        self._do(doing, function, *texts)
        self._kept[what] = texts

    def set_cross_attn(self, k: Buffer, v: Buffer, mask: Buffer, positions: Sequence[int]) -> None:
        """Encoder keys and values, one mask value and one position a token (shapes: reference 2.14)."""
        self.library.features.require("cross_attention")
        count = len(positions)
        parameters = RKLLMCrossAttnParam(
            floats("The keys", k, count), floats("The values", v, count), floats("The mask", mask, count),
            ctypes.cast(token_ids(positions), ctypes.POINTER(ctypes.c_int32)), count,
        )  # fmt: skip
        self._kept["cross attention"] = parameters
        self._do("setting cross attention", "rkllm_set_cross_attn_params", ctypes.byref(parameters))

    # ── the end ──────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Free the model. A run that is active is aborted first; where it does not end, its memory stays until the
        process does, since freeing it under a run would crash."""
        if not self._handle.value:
            return
        self.abort()
        if not self._busy.acquire(timeout=CLOSE_SECONDS):
            raise RunError(
                f"The runtime did not end its run within {CLOSE_SECONDS:.0f} s, so its model was not freed.",
                "End the process",
            )
        try:
            if self._handle.value:
                self._call("rkllm_destroy")
                self._handle.value = None
        finally:
            self._busy.release()

    # ── calls ────────────────────────────────────────────────────────────────────────────────────

    def _take_alone(self, what: str) -> None:
        if not self._busy.acquire(blocking=False):
            raise RunError(
                f"The model {self._context.words(())['model']} is busy with a run, so {what} cannot begin.",
                "Wait for its end, or abort it",
            )

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        self._take_alone(what)
        try:
            yield
        finally:
            self._busy.release()

    def _call(self, function: str, *arguments: Any) -> int:
        if not self._handle.value:
            raise RunError("The session is closed.", "Open another one")
        return self.library.functions[function](self._handle, *arguments)

    def _do(self, doing: str, function: str, *arguments: Any) -> None:
        """A call that is not a run: alone, and with the reason where it fails."""
        with self._alone(doing):
            mark = self._log.mark()
            if self._call(function, *arguments) != 0:
                raise failures.failure(self._log.since(mark), self._context, doing, RunError)


class AsyncRun:
    """A run on the library's thread. Until `wait` has returned, the session takes nothing else but `abort`."""

    def __init__(self, run: RunCollector, finish: Callable[[], RunStats]) -> None:
        self._run = run
        self._finish: Callable[[], RunStats] | None = finish

    def wait(self, timeout: float | None = None) -> RunStats:
        """What `run` would return or raise; once."""
        if not self._run.heard_end.wait(timeout):
            raise RunError("The run has not ended yet.", "Wait longer, or abort it")
        finish, self._finish = self._finish, None
        if finish is None:
            raise RunError("This run was waited for already.", "Keep what wait returned")
        return finish()
