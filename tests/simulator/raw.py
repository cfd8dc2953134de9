"""The library's C interface in its barest form, for tests of the library itself.

Structs are bytes with values packed at the offsets of the reference's table 1.4, so that a mistake in the
project's typed binding cannot hide one in the simulator.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from ctypes import c_char_p, c_float, c_int, c_int32, c_uint64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path

GENERATIONS = {"1.1.4": 2.0, "1.2.0": 3.0, "1.2.1b1": 3.5, "1.2.3": 4.0, "1.3.0": 5.0, "1.3.1": 6.0, "9.9.0": 6.0}
NORMAL, WAITING, FINISH, ERROR, G2_HIDDEN = range(5)
PROMPT, TOKEN, EMBED, MULTIMODAL = range(4)
GENERATE, HIDDEN, LOGITS = range(3)
SLACK = 512  # bytes behind every struct, so that no test reads past its own memory by accident

RESULT = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
TOKENIZER = ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_int32, ctypes.POINTER(c_int32), c_int32)
EMBEDDING = ctypes.CFUNCTYPE(c_int, c_void_p, ctypes.POINTER(c_int32), c_uint64, c_void_p, c_uint64)

_SAMPLING = ("top_k", "top_p", "temperature", "repeat_penalty", "frequency_penalty", "presence_penalty",
  "mirostat", "mirostat_tau", "mirostat_eta")  # fmt: skip
_FORMATS = {name: "<i" if name in ("top_k", "mirostat") else "<f" for name in _SAMPLING}
DEFAULTS: dict[str, float] = dict(zip(_SAMPLING, (40, 0.9, 0.8, 1.1, 0.0, 0.0, 0, 5.0, 0.1), strict=True))


def sampling_bytes(values: dict[str, float]) -> bytes:
    return b"".join(struct.pack(_FORMATS[name], values[name]) for name in _SAMPLING)


@dataclass(frozen=True)
class Perf:
    prefill_ms: float
    prefill_tokens: int
    generate_ms: float
    generate_tokens: int
    memory_mb: float


@dataclass(frozen=True)
class Event:
    """One call of the result callback, copied out of the library's memory."""

    state: int
    text: bytes | None
    token: int
    rows: list[list[float]] = field(default_factory=list)
    logits: bool = False
    perf: Perf | None = None


@dataclass
class Run:
    status: int
    events: list[Event]

    @property
    def states(self) -> list[int]:
        return [event.state for event in self.events]

    @property
    def answer(self) -> list[Event]:
        """The events of the answer: neither FINISH nor the end token's own, which is empty."""
        said = [event for event in self.events if event.state in (NORMAL, WAITING)]
        return said[:-1] if said and (said[-1].state, said[-1].text) == (NORMAL, b"") else said

    @property
    def text(self) -> str:
        return b"".join(event.text or b"" for event in self.events).decode()

    @property
    def tokens(self) -> list[int]:
        return [event.token for event in self.events if event.state in (NORMAL, WAITING)]

    @property
    def perf(self) -> Perf:
        found = self.events[-1].perf
        assert found is not None
        return found

    @property
    def rows(self) -> list[list[float]]:
        return next(event.rows for event in self.events if event.rows)


@dataclass(frozen=True)
class Media:
    """An embedding for a multimodal input; `items` of `tokens` rows each."""

    data: Sequence[float]
    tokens: int
    items: int = 1
    frames: int = 1
    width: int = 0
    height: int = 0
    start: bytes = b"<|vision_start|>"
    end: bytes = b"<|vision_end|>"
    content: bytes = b"<|image_pad|>"


class Runtime:
    """One loaded library. What C keeps pointers to is kept alive here for as long."""

    def __init__(self, path: Path, version: str) -> None:
        self.version = version
        self.gen = GENERATIONS[version]
        self.lib = ctypes.CDLL(str(path))
        self.kept: list[object] = []
        self.events: list[Event] = []
        self.on_event: Callable[[Event], object] = lambda _: 0
        self.batch = 1
        self.lanes: list[list[Event]] = []
        for name in ("rkllm_run", "rkllm_run_async"):
            getattr(self.lib, name).argtypes = [c_void_p, c_void_p, c_void_p, c_void_p]
        for name in ("destroy", "abort", "is_running", "release_prompt_cache"):
            getattr(self.lib, f"rkllm_{name}").argtypes = [c_void_p]

    # ── structs ──

    def keep(self, data: bytes) -> int:
        memory = ctypes.create_string_buffer(data, len(data) + SLACK)
        self.kept.append(memory)
        return ctypes.addressof(memory)

    def floats(self, values: Sequence[float]) -> int:
        return self.keep(struct.pack(f"<{len(values)}f", *values))

    def param(self, model: Path | str, **fields: float | str | bytes) -> int:
        """Address of an RKLLMParam; fields by name."""
        values: dict[str, float] = dict(context=2048, max_new=-1, n_keep=-1, skip_special=1, ignore_eos=0, domain=0,
          embed_flash=1, cpus=4, mask=0xF0, n_batch=1, cross_attention=0, is_async=0, **DEFAULTS)  # fmt: skip
        tags = [self.keep(bytes(fields.pop(name, b""))) for name in ("img_start", "img_end", "img_content")]  # type: ignore[arg-type]
        unknown = set(fields) - set(values)
        assert not unknown, unknown
        values.update(fields)  # type: ignore[arg-type]
        self.batch = int(values["n_batch"])
        data = bytearray(SLACK)
        struct.pack_into(
            "<Qii", data, 0, self.keep(str(model).encode()), int(values["context"]), int(values["max_new"])
        )
        sampling = sampling_bytes(values)
        data[16:20] = sampling[:4]
        rest = 20
        if self.gen >= 3:
            struct.pack_into("<i", data, 20, int(values["n_keep"]))
            rest = 24
        data[rest : rest + 32] = sampling[4:]
        flags = [values["skip_special"], *([values["ignore_eos"]] if self.gen >= 5 else []), values["is_async"]]
        data[rest + 32 : rest + 32 + len(flags)] = bytes(int(flag) for flag in flags)
        extend = 60 if self.gen >= 5 else 88 if self.gen >= 3 else 80
        if self.gen < 5:
            struct.pack_into("<QQQ", data, extend - 24, *tags)
        struct.pack_into("<i", data, extend, int(values["domain"]))
        if self.gen >= 3:
            struct.pack_into("<bb", data, extend + 4, int(values["embed_flash"]), int(values["cpus"]))
            struct.pack_into("<I", data, extend + 8, int(values["mask"]))
        if self.gen >= 4:
            data[extend + 12 : extend + 14] = bytes((int(values["n_batch"]), int(values["cross_attention"])))
        return self.keep(bytes(data))

    def inputs(
        self,
        text: str | Sequence[str] | None = None,
        *,
        tokens: Sequence[int] | None = None,
        embed: Sequence[float] | None = None,
        rows: int = 0,
        media: Sequence[Media | None] = (),
        role: bytes | None = b"user",
        thinking: bool = False,
    ) -> int:
        """Address of an array of RKLLMInput, one for each text."""
        texts = [text] if text is None or isinstance(text, str) else list(text)
        union = 16 if self.gen >= 4 else 8
        size = {2.0: 32, 3.0: 32, 3.5: 56, 4.0: 64, 5.0: 160, 6.0: 208}[self.gen]
        data = b""
        for each in texts:
            one = bytearray(size)
            prompt = self.keep((each or "").encode() + b"\0")
            kind = MULTIMODAL if media else TOKEN if tokens is not None else EMBED if embed is not None else PROMPT
            if self.gen >= 4:
                struct.pack_into("<QB3xI", one, 0, 0 if role is None else self.keep(role + b"\0"), thinking, kind)
            else:
                struct.pack_into("<I", one, 0, kind)
            if tokens is not None:
                ids = self.keep(struct.pack(f"<{len(tokens)}i", *tokens))
                struct.pack_into("<QQ", one, union, ids, len(tokens))
            elif embed is not None:
                struct.pack_into("<QQ", one, union, self.floats(embed), rows)
            else:
                struct.pack_into("<Q", one, union, prompt)
            for number, medium in enumerate(media):
                if medium is not None:
                    self._medium(one, union, number, medium)
            data += bytes(one)
        return self.keep(data)

    def _medium(self, one: bytearray, union: int, number: int, m: Media) -> None:
        at = union + (8, 72, 144)[number]
        struct.pack_into("<QQ", one, at, self.floats(m.data), m.tokens)
        if self.gen < 3.5:
            return
        if self.gen < 5:
            struct.pack_into("<QQQ", one, at + 16, m.items, m.width, m.height)
            return
        tags = [self.keep(tag + b"\0") for tag in (m.start, m.end, m.content)]
        if number == 1:
            struct.pack_into("<7Q", one, at + 16, m.frames, m.items, *tags, m.width, m.height)
        elif number == 0:
            struct.pack_into("<6Q", one, at + 16, m.items, *tags, m.width, m.height)
        else:
            struct.pack_into("<4Q", one, at + 16, m.items, *tags)

    def infer(
        self,
        mode: int = GENERATE,
        *,
        lora: bytes | None = None,
        save: str | None = None,
        keep_history: int = 0,
        max_new: int = 0,
        sampling: dict[str, float] | None = None,
    ) -> int:
        data = bytearray(64)
        struct.pack_into("<I", data, 0, mode)
        if lora is not None:
            struct.pack_into("<Q", data, 8, self.keep(struct.pack("<Q", self.keep(lora + b"\0"))))
        if save is not None:
            cache = struct.pack("<i4xQ", 1, self.keep(save.encode() + b"\0") if save else 0)
            struct.pack_into("<Q", data, 16, self.keep(cache))
        if self.gen >= 5:
            if sampling is not None:
                struct.pack_into("<Q", data, 24, self.keep(sampling_bytes({**DEFAULTS, **sampling})))
            struct.pack_into("<ii", data, 32, keep_history, max_new)
        elif self.gen >= 3:
            struct.pack_into("<i", data, 24, keep_history)
        return self.keep(bytes(data))

    # ── calls ──

    def _read(self, address: int, state: int) -> Event:
        at = address
        text, token = ctypes.cast(at, ctypes.POINTER(c_char_p))[0], c_int32.from_address(at + 8).value
        rows: list[list[float]] = []
        logits = False
        for offset in (16, 32) if self.gen >= 3 else (16,):
            pointer, width, count = struct.unpack("<Qii", ctypes.string_at(at + offset, 16))
            if pointer and width and count:
                values = (c_float * (width * count)).from_address(pointer)
                rows = [list(values[i * width : (i + 1) * width]) for i in range(count)]
                logits = offset == 32
        perf = None
        if self.gen >= 4 and state == FINISH:
            perf = Perf(*struct.unpack("<fifif", ctypes.string_at(at + 48, 20)))
        return Event(state, text, token, rows, logits, perf)

    def _on_result(self, result: int, _userdata: int | None, state: int) -> int:
        size = 72 if self.gen >= 4 else 48 if self.gen >= 3 else 32
        events = [self._read(result + lane * size, state) for lane in range(self.batch)]
        self.lanes.append(events)
        self.events.append(events[0])
        answer = self.on_event(events[0])
        return answer if isinstance(answer, int) else 0

    def init(
        self,
        param: int,
        tokenizer: Callable[[bytes], Sequence[int]] | None = None,
        embedding: Callable[[list[int]], int] | None = None,
    ) -> tuple[int, int | None]:
        """Status and handle of rkllm_init."""
        callback = RESULT(self._on_result)
        self.kept.append(callback)
        handle = c_void_p()
        third: object = callback
        if self.gen >= 5:
            pointers = [ctypes.cast(callback, c_void_p).value, None, None, None, None, None]
            if tokenizer is not None:
                pointers[2] = self._tokenizer(tokenizer)
            if embedding is not None:
                pointers[4] = self._embedding(embedding)
            third = (c_void_p * 6)(*pointers)
            self.kept.append(third)
        self.lib.rkllm_init.argtypes = [c_void_p, c_void_p, c_void_p]
        status = self.lib.rkllm_init(ctypes.byref(handle), param, ctypes.cast(third, c_void_p))  # type: ignore[arg-type]
        return status, handle.value

    def _tokenizer(self, function: Callable[[bytes], Sequence[int]]) -> int | None:
        def call(_userdata: int, text: int, length: int, ids: object, most: int) -> int:
            found = function(ctypes.string_at(text, length))
            for at, each in enumerate(found[:most]):
                ids[at] = each  # type: ignore[index]
            return len(found)

        self.kept.append(TOKENIZER(call))
        return ctypes.cast(self.kept[-1], c_void_p).value  # type: ignore[arg-type]

    def _embedding(self, function: Callable[[list[int]], int]) -> int | None:
        def call(_userdata: int, ids: object, count: int, rows: int, length: int) -> int:
            ctypes.memset(rows, 0, length)
            return function(ids[:count])  # type: ignore[index]

        self.kept.append(EMBEDDING(call))
        return ctypes.cast(self.kept[-1], c_void_p).value  # type: ignore[arg-type]

    def open(self, model: Path | str, **fields: float | str | bytes) -> int:
        """The handle of a model that must load."""
        status, handle = self.init(self.param(model, **fields))
        assert status == 0
        assert handle is not None
        return handle

    def run(self, handle: int | None, inputs: int, infer: int | None = None) -> Run:
        self.events, self.lanes = [], []
        status = self.lib.rkllm_run(handle, inputs, self.infer() if infer is None else infer, None)
        return Run(status, self.events)

    def ask(self, handle: int | None, text: str = "Hello", **infer: object) -> Run:
        return self.run(handle, self.inputs(text), self.infer(**infer))  # type: ignore[arg-type]

    def call(self, name: str, *arguments: object) -> int:
        """Any other exported function; bytes become texts, None becomes NULL."""
        function = getattr(self.lib, f"rkllm_{name}")
        function.argtypes = None
        ready = [c_void_p(a) if isinstance(a, int) and a > 0xFFFF else a for a in arguments]
        return int(function(*ready))

    def close(self, handle: int) -> None:
        assert self.lib.rkllm_destroy(handle) == 0
