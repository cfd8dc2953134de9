"""Results that the simulator never gives and a library may: made by hand, taken by the real callback."""

from __future__ import annotations

import ctypes
import pickle
from typing import Any

import pytest

from exo_rkllm.errors import RunError
from exo_rkllm.runtime import abi
from exo_rkllm.runtime.abi.shared import CallState, Generation
from exo_rkllm.runtime.callback import ActiveRun, result_callback
from exo_rkllm.runtime.features import Features
from exo_rkllm.runtime.run import RunCollector, rows_of
from exo_rkllm.runtime.session import LoadParams, PromptInput, Session
from tests.runtime.abi_check import GENERATIONS, kinds
from tests.runtime.answers import SINCE_1_3_0, Answer, ask
from tests.runtime.conftest import Load

NORMAL, WAITING, FINISH, ERROR = (int(state) for state in list(CallState)[:4])


class Caller:
    """Calls the callback of a generation as the library does: with a C function pointer and an address."""

    def __init__(self, release: str, *, keep_history: bool = False) -> None:
        self.generation: Generation = abi.load(release)
        self.heard = Answer()
        self.aborts: list[None] = []
        features = Features(release)
        self.run = RunCollector(
            features, lambda: self.aborts.append(None), self.heard.on_token, keep_history=keep_history
        )
        self._callback: Any = result_callback(self.generation, ActiveRun(self.run))

    def __call__(self, state: int, **fields: Any) -> int:
        result: Any = self.generation.result(**fields)
        answer = self._callback(ctypes.addressof(result), None, state)
        return answer or 0

    def nothing(self, state: int) -> int:
        return self._callback(None, None, state) or 0


def hidden(generation: Generation, count: int, width: int) -> Any:
    """Hidden states 1, 2, 3 ... of this shape; always six of them in memory."""
    values = (ctypes.c_float * 6)(1, 2, 3, 4, 5, 6)
    block = kinds(generation.result)["last_hidden_layer"]
    return block(ctypes.cast(values, ctypes.POINTER(ctypes.c_float)), width, count)


every = pytest.mark.parametrize("release", GENERATIONS)


@every
def test_text_may_be_null_and_may_be_empty(release: str) -> None:
    call = Caller(release)
    assert call(NORMAL, text=None, token_id=7) == 0
    assert call(NORMAL, text=b"", token_id=8) == 0
    call.run.settle()
    assert call.heard.pieces == [(b"", 7, False), (b"", 8, False)]


@every
def test_result_struct_may_move_between_callbacks(release: str) -> None:
    """Each call at another address, and then the first one again."""
    call = Caller(release)
    texts = [b"%d" % number for number in range(50)]
    for text in texts:
        call(NORMAL, text=text, token_id=1)
    assert call.heard.text == "".join(map(bytes.decode, texts))


@every
@pytest.mark.parametrize("state", [FINISH, ERROR])
def test_the_end_may_come_without_a_result(release: str, state: int) -> None:
    call = Caller(release)
    assert call.nothing(state) == 0
    assert call.run.heard_end.is_set()
    assert call.run.failed is (state == ERROR)
    assert call.run.stats().source == "measured"


@every
def test_text_at_the_end_is_not_told_again(release: str) -> None:
    """It is empty or the last token's, depending on the release; the vendor's own demo ignores it."""
    call = Caller(release)
    call(NORMAL, text=b"all", token_id=1)
    call(FINISH, text=b"all", token_id=1)
    assert call.heard.text == "all"


@every
def test_a_state_that_no_release_sends_is_ignored(release: str) -> None:
    call = Caller(release)
    assert call(9) == 0
    assert call.heard.pieces == []


@pytest.mark.parametrize("release", GENERATIONS[3:])
def test_statistics_of_zeros_are_none(release: str) -> None:
    """After an abort the numbers may be missing (reference 2.5)."""
    call = Caller(release)
    call(NORMAL, text=b"a", token_id=1)
    call(FINISH)
    stats = call.run.stats()
    assert (stats.source, stats.prefill_tokens, stats.generate_tokens) == ("measured", None, 1)


@every
def test_rows_may_come_with_a_token(release: str) -> None:
    """One forward step with its logits: what people ask for most in this place (reference 2.6)."""
    call = Caller(release)
    call.run.rare = rows_of(call.generation, call.heard.on_rows, call.run)
    rows = hidden(call.generation, 2, 3)
    assert call(NORMAL, text=b"yes", token_id=4, last_hidden_layer=rows) == 0
    assert call.heard.pieces == [(b"yes", 4, False)]
    assert call.heard.rows == [("hidden", 2, 3, [1, 2, 3, 4, 5, 6])]


@every
@pytest.mark.parametrize(("count", "width"), [(0, 3), (2, 0), (-1, 3)])
def test_rows_without_a_size_are_none(release: str, count: int, width: int) -> None:
    call = Caller(release)
    call.run.rare = rows_of(call.generation, call.heard.on_rows, call.run)
    assert call(NORMAL, last_hidden_layer=hidden(call.generation, count, width)) == 0
    assert call.heard.rows == []


def test_rows_that_somebody_still_holds_are_an_error() -> None:
    """Told at once, not by a crash when the library has freed them."""
    call = Caller("1.3.0")
    kept: list[pickle.PickleBuffer] = []
    call.run.rare = rows_of(call.generation, lambda *rows: kept.append(pickle.PickleBuffer(rows[3])), call.run)
    call(NORMAL, last_hidden_layer=hidden(call.generation, 1, 2))
    assert isinstance(call.run.error, BufferError)
    kept[0].release()


# ── functions that answer as the simulator's never do ────────────────────────────────────────────


def replaced(session: Session, name: str, function: Any) -> None:
    session.library.functions[name] = function  # type: ignore[index]  # a dict


def test_an_asynchronous_run_that_does_not_begin(load: Load) -> None:
    session = load("1.2.3", reply="ok")
    begins = session.library.functions["rkllm_run_async"]
    replaced(session, "rkllm_run_async", lambda *_: -1)
    with pytest.raises(RunError, match="failed at a run, without a reason"):
        session.run_async(PromptInput("x"), lambda *_: None).wait(5)
    replaced(session, "rkllm_run_async", begins)
    assert ask(session, "x").text == "ok"


@pytest.mark.parametrize("release", SINCE_1_3_0)
def test_a_callback_that_fails_inside_init(load: Load, release: str, caught: Any) -> None:
    def tokenize(text: bytes) -> list[int]:
        raise KeyError(text)

    library = load(release).library

    def init(_handle: Any, _param: Any, callbacks: Any) -> int:
        room = (ctypes.c_int32 * 8)()
        text = ctypes.create_string_buffer(b"hi")
        return int(callbacks._obj.tokenizer_callback(None, ctypes.addressof(text), 2, room, 8))

    library.functions["rkllm_init"] = init  # type: ignore[index]  # a dict
    with pytest.raises(KeyError, match="hi"):
        Session.open(library, LoadParams("/models/m.rkllm"), caught(), tokenize)
