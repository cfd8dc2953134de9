"""One loaded model: everything the library offers, typed, with the reason when something fails."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from ctypes import c_int, c_void_p, pointer
from pathlib import Path
from typing import Any, TypeAlias

from exo_rkllm.errors import ExoRkllmError, LoadError, RunError
from exo_rkllm.runtime import fill
from exo_rkllm.runtime.abi import common
from exo_rkllm.runtime.blackbox import BlackBox
from exo_rkllm.runtime.library import Library
from exo_rkllm.runtime.log import Facts, explain, facts
from exo_rkllm.runtime.values import CrossAttention, Input, LoadParams, RunSpec, RunStats

# Text bytes, token id, and whether the bytes wait for the rest of a character; a returned 1 pauses, 2 drops the buffer.
OnToken: TypeAlias = Callable[[bytes, int, bool], int | None]
# "hidden" or "logits", rows, width, and float32s that are the library's: copy them before returning.
OnRows: TypeAlias = Callable[[str, int, int, memoryview], None]
# With several inputs: for each its text and token id, in order; a negative id is one that has ended.
OnBatch: TypeAlias = Callable[[Sequence[tuple[bytes, int]]], int | None]


class Session:
    """One handle. One run at a time; `abort` and `is_running` may come from another thread."""

    def __init__(self, library: Library, params: LoadParams, box: BlackBox) -> None:
        self.library = library
        self.params = params
        self.facts = Facts()
        self._box = box
        self._calls = library.functions
        self._handle = c_void_p()
        self._busy = threading.Lock()
        self._run = _Run()
        self._kept: list[Any] = []
        self._seen = 0
        self._last: Any = None

    @classmethod
    def open(cls, library: Library, params: LoadParams, box: BlackBox) -> Session:
        session = cls(library, params, box)
        filled = fill.load_params(library, params)
        callback = library.layout.ResultCallback(session._on_result)
        argument: Any = callback
        if hasattr(library.layout, "Callback"):
            argument = pointer(library.layout.Callback(result_callback=callback))
        session._kept = [filled, callback, argument]
        code = session._calls["rkllm_init"](ctypes.byref(session._handle), filled.reference, argument)
        lines = box.peek()
        # 0 with no handle, and 0 with only errors printed, have both been seen (reference 2.1).
        if code != 0 or not session._handle:
            raise session._reason(LoadError(f"The runtime refused {params.model_path}.", "exo-rkllm inspect FILE"))
        session.facts = facts(lines)
        return session

    def run(
        self,
        inputs: Input | Sequence[Input],
        on_token: OnToken,
        spec: RunSpec = RunSpec(),
        on_rows: OnRows | None = None,
        on_batch: OnBatch | None = None,
    ) -> RunStats:
        """Blocks until the answer ends; callbacks come on this thread, and what they raise ends the run."""
        batch = list(inputs) if isinstance(inputs, Sequence) else [inputs]
        filled, infer = fill.run_inputs(self.library, batch), fill.run_params(self.library, spec)
        with self._busy:
            self._run = run = _Run(on_token, on_rows, on_batch, len(batch))
            code = self._calls["rkllm_run"](self._handle, filled.reference, infer.reference, None)
        if run.error is not None:
            raise run.error
        if code != 0 or run.failed:
            raise self._reason(RunError("The runtime failed while answering.", "Its last words: exo-rkllm logs"))
        return run.stats()

    # ── any thread ───────────────────────────────────────────────────────────────────────────────

    def abort(self) -> bool:
        """Asks the current run to end; it may take a second (reference 2.8). True where the library agreed."""
        return bool(self._calls["rkllm_abort"](self._handle) == 0)

    def is_running(self) -> bool:
        return bool(self._calls["rkllm_is_running"](self._handle) == 1)

    # ── between runs ─────────────────────────────────────────────────────────────────────────────

    def clear_kv(self, *, keep_system: bool = False, ranges: Sequence[tuple[int, int]] = ()) -> None:
        """All of the cache, or, in a paused run, `[start, end)` of each batch element."""
        self.library.need("clearing the KV cache")
        if ranges:
            self.library.need("clearing a range of the KV cache")
        arguments: list[Any] = [int(keep_system)]
        if self.library.supports("clearing a range of the KV cache"):
            starts, ends = zip(*ranges, strict=True) if ranges else ((), ())
            arguments += [(c_int * len(ranges))(*starts), (c_int * len(ranges))(*ends)] if ranges else [None, None]
        self._call("rkllm_clear_kv_cache", *arguments, doing="clearing the KV cache")

    def kv_size(self) -> list[int]:
        """Positions in use, one figure for each batch element."""
        self.library.need("KV cache size")
        sizes = (c_int * max(1, self.params.n_batch))()
        self._call("rkllm_get_kv_cache_size", sizes, doing="reading the KV cache's size")
        return list(sizes)

    def load_lora(self, adapter: str, path: str, scale: float = 1.0) -> None:
        struct = common.LoraAdapter(path.encode(), adapter.encode(), scale)
        self._call("rkllm_load_lora", ctypes.byref(struct), doing=f"loading the LoRA adapter {adapter}")

    def load_prompt_cache(self, path: str) -> None:
        self._call("rkllm_load_prompt_cache", str(Path(path)).encode(), doing="loading the prompt cache")

    def release_prompt_cache(self) -> None:
        self._call("rkllm_release_prompt_cache", doing="releasing the prompt cache")

    def set_chat_template(self, system_prompt: str, prefix: str, postfix: str) -> None:
        self.library.need("chat template")
        texts = (system_prompt.encode(), prefix.encode(), postfix.encode())
        self._call("rkllm_set_chat_template", *texts, doing="setting the chat template")

    def set_function_tools(self, system_prompt: str, tools: str, tool_response: str) -> None:
        self.library.need("function tools")
        texts = (system_prompt.encode(), tools.encode(), tool_response.encode())
        self._call("rkllm_set_function_tools", *texts, doing="setting the function tools")

    def set_cross_attention(self, state: CrossAttention) -> None:
        self.library.need("cross attention")
        filled = fill.Filled(common.CrossAttnParam)
        fill.cross_attention(filled, state)
        self._kept.append(filled)
        self._call("rkllm_set_cross_attn_params", filled.reference, doing="setting the encoder's state")

    def close(self) -> None:
        """Frees the model; a second call does nothing."""
        handle, self._handle = self._handle, c_void_p()
        if handle:
            self._calls["rkllm_destroy"](handle)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    def _call(self, name: str, *arguments: Any, doing: str) -> None:
        with self._busy:
            code = self._calls[name](self._handle, *arguments)
        if code != 0:
            raise self._reason(RunError(f"The runtime failed while {doing}.", "Its last words: exo-rkllm logs"))

    def _reason(self, otherwise: ExoRkllmError) -> ExoRkllmError:
        return explain(self._box.peek(), self.params.model_path, otherwise)

    def _on_result(self, result: int | None, _userdata: int | None, state: int) -> int:
        """The library's callback. `run.token` is the hot path; all else happens a few times a run."""
        run = self._run
        try:
            if state <= common.State.WAITING:
                if result is None or run.error is not None:
                    return 0
                return self._on_token(run, result, state)
            if state == common.State.FINISH:
                run.finish(self._view(result).perf if result and self.library.supports("performance figures") else None)
            elif state == common.State.ERROR:
                run.failed = True
            elif result:
                self._rows(run, self._view(result))
        except BaseException as error:  # noqa: BLE001 - nothing may pass through C; `run` raises it
            run.error = error
            # The library must not be called from inside its callback, and without this it would go on to the end.
            threading.Thread(target=self.abort, daemon=True).start()
        return 0

    def _on_token(self, run: _Run, result: int, state: int) -> int:
        view = self._view(result)
        run.tokens += 1
        if run.first is None:
            run.first = time.monotonic()
        if run.on_batch is not None:
            every = (self.library.layout.Result * run.width).from_address(result)
            return run.on_batch([(item.text or b"", item.token_id) for item in every]) or 0
        if run.on_rows is not None and self._rows(run, view):
            return 0
        return run.on_token(view.text or b"", view.token_id, state == common.State.WAITING) or 0

    def _view(self, address: int) -> Any:
        """The library reuses one address for a whole run, so the view of it is made once."""
        if address != self._seen:
            self._seen, self._last = address, self.library.layout.Result.from_address(address)
        return self._last

    def _rows(self, run: _Run, view: Any) -> bool:
        """True where the callback carried rows rather than a token."""
        hidden, logits = view.last_hidden_layer, getattr(view, "logits", None)
        if hidden.hidden_states and hidden.num_tokens:
            kind, rows, width, address = "hidden", hidden.num_tokens, hidden.embd_size, hidden.hidden_states
        elif logits is not None and logits.logits and logits.num_tokens:
            kind, rows, width, address = "logits", logits.num_tokens, logits.vocab_size, logits.logits
        else:
            return False
        if run.on_rows is not None:
            run.on_rows(kind, rows, width, _floats(address, rows * width))
        return True


def _floats(address: int, count: int) -> memoryview:
    return memoryview((ctypes.c_float * count).from_address(address)).cast("B")


class _Run:
    """What one run's callbacks write down."""

    __slots__ = (
        "began",
        "ended",
        "error",
        "failed",
        "first",
        "on_batch",
        "on_rows",
        "on_token",
        "perf",
        "tokens",
        "width",
    )

    def __init__(
        self,
        on_token: OnToken = lambda _text, _token, _waiting: 0,
        on_rows: OnRows | None = None,
        on_batch: OnBatch | None = None,
        width: int = 1,
    ) -> None:
        self.on_token, self.on_rows, self.on_batch, self.width = on_token, on_rows, on_batch, width
        self.tokens = 0
        self.failed = False
        self.error: BaseException | None = None
        self.perf: tuple[Any, ...] | None = None
        self.began = time.monotonic()
        self.first: float | None = None
        self.ended: float | None = None

    def finish(self, perf: Any) -> None:
        self.ended = time.monotonic()
        if perf is not None:
            names = ("prefill_time_ms", "prefill_tokens", "generate_time_ms", "generate_tokens", "memory_usage_mb")
            self.perf = tuple(getattr(perf, name) for name in names)

    def stats(self) -> RunStats:
        ended = self.ended or time.monotonic()
        if self.perf is not None and any(self.perf[:4]):
            prefill_ms, prefill, generate_ms, generated, memory = self.perf
            return RunStats(self.tokens, prefill, prefill_ms, generated, generate_ms, memory, measured=True)
        first = ended if self.first is None else self.first
        return RunStats(self.tokens, 0, (first - self.began) * 1000, self.tokens, (ended - first) * 1000)
