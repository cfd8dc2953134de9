"""The functions that the library calls. The first is called at every token: the hottest lines of this program."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from exo_rkllm.errors import RunError
from exo_rkllm.runtime.abi.shared import CallState, Generation, LLMGetEmbedCallback, LLMTokenizerCallback
from exo_rkllm.runtime.memory import view_of
from exo_rkllm.runtime.run import RunCollector

NORMAL, WAITING = int(CallState.NORMAL), int(CallState.WAITING)
FAILED = -1

# Text of which ids are wanted; and ids of which embeddings are, with the room for their float32 rows.
Tokenize: TypeAlias = "Callable[[bytes], Sequence[int]]"
Embed: TypeAlias = "Callable[[Sequence[int], memoryview[float]], None]"


class ActiveRun:
    """Whose turn it is. The library takes its callbacks at init, so what a run wants is swapped in behind them."""

    __slots__ = ("run",)

    def __init__(self, run: RunCollector) -> None:
        self.run = run


def result_callback(generation: Generation, turn: ActiveRun) -> Any:
    """One ctypes function for all runs of a session.

    The result lies at the same address again and again, so its struct is made once. Over a callback that does nothing
    that costs 0.3 µs a token, against 0.4 to 0.5 with a new struct or a typed pointer and 0.9 with struct.unpack
    (bench/callback.py, Python 3.10).
    """
    result_at = generation.result.from_address
    last_address: Any = None
    result: Any = None

    def on_result(address: Any, _userdata: object, state: int) -> int:
        nonlocal last_address, result
        run = turn.run
        try:
            if state > WAITING or run.rare is not None:
                return _rare(run, generation, address, state)
            if address != last_address:
                result = result_at(address)
                last_address = address
            token = result.token_id
            if token in run.ends:
                run.end_token = token
                return run.over("stop")
            run.tokens += 1
            text = result.text
            answer = run.on_token(text, token, state == WAITING) if text else run.silent(token, state == WAITING)
            if answer:
                return run.verdict(answer)
            if run.tokens == run.limit:
                return run.over("length")
        except BaseException as error:  # noqa: BLE001 - C cannot carry it to the caller
            return run.fail(error)
        return 0

    return generation.result_callback(on_result)


def _rare(run: RunCollector, generation: Generation, address: Any, state: int) -> int:
    if state in {CallState.FINISH, CallState.ERROR} or run.rare is None:
        return run.state(None if address is None else generation.result.from_address(address), state)
    answer = run.rare(address, state)
    return run.verdict(answer) if answer else 0


def _check_room(count: int, most: int) -> None:
    if count > most:
        raise RunError(f"The tokenizer gave {count} ids, and the runtime has room for {most}.")


def tokenizer_callback(tokenize: Tokenize, turn: ActiveRun) -> Any:
    """For models without a tokenizer of their own. The text has no NUL at its end (reference 2.14)."""

    def on_text(_userdata: object, text: int, length: int, room: Any, most: int) -> int:
        try:
            ids = tokenize(ctypes.string_at(text, length))
            _check_room(len(ids), most)
            ctypes.memmove(room, (ctypes.c_int32 * len(ids))(*ids), len(ids) * ctypes.sizeof(ctypes.c_int32))
        except BaseException as error:  # noqa: BLE001 - C cannot carry it to the caller
            turn.run.note(error)
            return FAILED
        return len(ids)

    return LLMTokenizerCallback(on_text)


def embed_callback(embed: Embed, turn: ActiveRun) -> Any:
    """For models without embeddings of their own: fill `size` bytes with one float32 row a token."""

    def on_ids(_userdata: object, ids: Any, count: int, room: int, size: int) -> int:
        try:
            with view_of(room, size, writable=True) as raw, raw.cast("f") as view:
                embed(ids[:count], view)
        except BaseException as error:  # noqa: BLE001 - C cannot carry it to the caller
            turn.run.note(error)
            return FAILED
        return 0

    return LLMGetEmbedCallback(on_ids)
