"""What a token costs in the callback, by the way its result is read; and in the session, which chose one of them."""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.rig import LIBRARY, board
from bench.table import Row, show
from exo_rkllm.runtime import marshal
from exo_rkllm.runtime.abi.shared import RKLLMCallback
from exo_rkllm.runtime.abi.shared import RKLLMResult121 as Result
from exo_rkllm.runtime.blackbox import redirected
from exo_rkllm.runtime.session import Library, LoadParams, PromptInput, RunSpec, Session
from simulator.model_file import SimModel, write

ROUNDS = 7
TOKENS = 200_000
Listener = Callable[[Any], object]


def on_token(*_token: object) -> Any:
    """Whoever listens costs the same in every row."""


def nothing(_result: Any) -> int:
    return 0


def contents(result: Any) -> object:
    made = result.contents
    return on_token(made.text or b"", made.token_id, False)


def item(result: Any) -> object:
    made = result[0]
    return on_token(made.text or b"", made.token_id, False)


def from_address(address: int) -> object:
    result = Result.from_address(address)
    return on_token(result.text or b"", result.token_id, False)


def unpacked() -> Listener:
    unpack, room, text_at = struct.Struct("qi").unpack_from, ctypes.c_char * 12, ctypes.string_at

    def listen(address: int) -> object:
        text, token = unpack(room.from_address(address))
        return on_token(text_at(text) if text else b"", token, False)

    return listen


def same_address() -> Listener:
    seen, result = 0, Result()

    def listen(address: int) -> object:
        nonlocal seen, result
        if address != seen:
            seen, result = address, Result.from_address(address)
        return on_token(result.text or b"", result.token_id, False)

    return listen


POINTER, ADDRESS = ctypes.POINTER(Result), ctypes.c_void_p
VARIANTS: tuple[tuple[str, Any, Listener], ...] = (
    ("a callback that does nothing, address", ADDRESS, nothing),
    ("a callback that does nothing, POINTER", POINTER, nothing),
    ("POINTER, .contents", POINTER, contents),
    ("POINTER, [0]", POINTER, item),
    ("address, from_address", ADDRESS, from_address),
    ("address, struct.unpack_from and string_at", ADDRESS, unpacked()),
    ("address, struct kept while it stays the same", ADDRESS, same_address()),
)


class Bare:
    """The library with a callback of ours and nothing else around it."""

    def __init__(self, library: Library, params: LoadParams, kind: Any, listen: Listener) -> None:
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, kind, ctypes.c_void_p, ctypes.c_int)

        def on_result(result: Any, _userdata: object, state: int) -> int:
            if state == 0:
                listen(result)
            return 0

        self._callback = prototype(on_result)
        self._struct = RKLLMCallback()
        ctypes.cast(ctypes.byref(self._struct), ctypes.POINTER(ctypes.c_void_p))[0] = ctypes.cast(
            self._callback, ctypes.c_void_p
        )
        self._handle = ctypes.c_void_p()
        self._library = library
        self._input = marshal.inputs_of(library.generation, library.features, params, [PromptInput("hi")])
        self._infer = marshal.infer_param_of(library.generation, library.features, params, RunSpec())
        param = marshal.param_of(library.generation, params, params.max_context_len, params.cpus)
        library.functions["rkllm_init"](ctypes.byref(self._handle), ctypes.byref(param), ctypes.byref(self._struct))

    def run(self) -> None:
        self._library.functions["rkllm_run"](self._handle, self._input, ctypes.byref(self._infer), None)

    def close(self) -> None:
        self._library.functions["rkllm_destroy"](self._handle)


def microseconds(run: Callable[[], object]) -> list[float]:
    """A token's, one figure a round."""
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        found.append((time.perf_counter() - began) / TOKENS * 1e6)
    return found


def main() -> None:
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        board(Path(folder))
        model = write(Path(folder) / "m.rkllm", SimModel(reply="word ", endless=True, max_context=2 * TOKENS))
        params = LoadParams(str(model), 2 * TOKENS, max_new_tokens=TOKENS, cpus=(0, 1, 2, 3))
        library = Library.open(LIBRARY)
        with redirected() as box:
            for name, kind, listen in VARIANTS:
                with closing(Bare(library, params, kind, listen)) as bare:
                    rows.append(Row(name, "µs", microseconds(bare.run)))
            with closing(Session.open(library, params, box)) as session:
                prompt = PromptInput("hi")
                rows.append(
                    Row("the session", "µs", microseconds(lambda: session.run(prompt, on_token)), "1.5 over the first")
                )
    show("a token in the callback, the simulated library's own work included", rows)
