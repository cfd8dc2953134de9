"""Simulated `.rkllm` files: what the model is, what it answers, how fast, and what goes wrong.

The container follows the real one's published outline (a GGUF v3 header with masked magic and strings,
numbers in clear, a tensor directory, the toolkit's footer as the last bytes) with a mask of our own.

    python -m simulator.model_file demo.rkllm --reply 'Hello {user}' --decode-tps 20
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from exo_rkllm.board.speeds import speeds
from simulator import tokenizer

ECHO = "{user}"
DEFAULT_REPLY = (
    "This is [[a simulated model|an imitated model|a pretended model]] on a simulated NPU, so there is no real "
    "[[thought|thinking|knowledge]] behind this [[answer|reply|text]]. You asked: {asked}"
)
DEFAULT_TOOL_REPLY = "The tool said: {user}"

PLATFORMS = ("RK3588", "RK3576", "RK3562", "RV1126B")  # rkllm.platform; only 0 = RK3588 is known of real files
ACTIONS = ("segv", "bus", "abort", "kill", "exit", "hang", "stall", "garbage", "error")
PLACES = ("init", "destroy", "prefill", "token")
FAULT = re.compile(rf"({'|'.join(ACTIONS)})(:\d+)?@(({'|'.join(PLACES[:-1])})|token:\d+)")

MASK = bytes((167 * i + 91) % 256 for i in range(256))  # our own, the real container has another one
UNSIGNED_ENDS = ("1.2.2", "1.2.3")  # toolkits whose end ids 1.3.0 misreads (EOS, rknn-llm issue 534)
FOOTER = "rkllm-toolkit version: "


@dataclass(frozen=True, slots=True)
class Template:
    system: str
    prefix: str
    postfix: str
    eos: str
    bos: str


TEMPLATES = {
    "chatml": Template(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|im_end|>",
        "<|endoftext|>",
    ),
    "llama3": Template(
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant.<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|begin_of_text|>",
    ),
    "gemma": Template(
        "",
        "<start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        "<end_of_turn>",
        "<|endoftext|>",
    ),
    "none": Template("", "", "", "<|endoftext|>", "<|endoftext|>"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimModel:
    """A situation. The defaults are a small chat model for an RK3588 that any runtime from 1.1.4 on loads.

    Replies may hold `{user}` (the last user message), `{asked}` (its first 160 bytes), `{prompt}`, `{media}`
    (how many images), `{sees}` (colours and places in them), `{encoder}` (cross attention tokens) and
    `[[one|of|these]]`, which sampling decides.
    """

    # ── what the file says about itself ──
    name: str = "Simulated-0.5B"
    architecture: str = "qwen2"
    platform: str = "RK3588"
    npu_cores: int = 3
    toolkit: str = "1.1.4"  # "" leaves the footer out
    dtype: str = "W8A8"
    max_context: int = 4096
    layers: int = 24
    heads: int = 14
    kv_heads: int = 2
    head_dim: int = 64
    embedding_length: int = 64
    template: str = "chatml"
    vision: bool = False
    vision_patch: int = 14  # pixels, of which a token has two by two
    has_tokenizer: bool = True
    has_embedding: bool = True
    size: int = 2 << 20  # bytes of the file, sparse
    # ── what it answers ──
    reply: str | bytes = DEFAULT_REPLY
    rules: tuple[tuple[str, str], ...] = ()  # (part of the last user message or of the prompt, reply)
    tool_reply: str = DEFAULT_TOOL_REPLY  # when the last turn brings a tool's result
    thinking: str = ""  # said first, between <think> and </think>, unless thinking is switched off
    endless: bool = False  # never ends by itself: the reply starts over
    seed: int = 8  # the default answer then begins with its plainest wording
    split_multibyte: bool = False  # bytes of a character come one by one as NORMAL, without WAITING
    continues: bool = False  # goes on from what of the answer stands behind the prompt
    error_rate: float = 0.0  # the share of tokens that are others than the answer's
    clock: bool = False  # each token's text is the monotonic clock in ns, read just before its callback
    finish_text: str = ""  # text that the FINISH call carries, NULL without
    logits_last_only: bool = False  # GET_LOGITS gives the last row only
    embedding_outputs: int = 1  # image embeddings are so many times as wide (Qwen3-VL's deep stack)
    # ── how fast; 0 = no delay ──
    speed: str = ""  # a name of `exo_rkllm.board.speeds`, for what is not given below
    prefill_base_ms: float = 0.0
    prefill_tps: float = 0.0
    decode_tps: float = 0.0
    load_seconds: float = 0.0
    abort_delay_ms: int = 0
    # ── what goes wrong ──
    faults: tuple[str, ...] = ()  # "segv@token:5", "exit:3@init", "stall:500@prefill", see FAULT
    faults_on: str = ""  # the version that they strike, all without
    pads_on: str = ""  # the version that answers "[PAD151935]" without end
    ignore_abort: bool = False
    error_style: Literal["both", "return", "callback"] = "both"  # how a failed run shows
    false_success: Literal["", "abort", "null"] = ""  # init gives 0 and the first run aborts, or the handle is NULL
    npu_bytes: int = 0  # 0 = the file's size; loading fails when over RKLLM_SIM_NPU_BYTES
    full_domains: tuple[int, ...] = ()  # IOMMU domains without room
    malloc_bytes: int = 0  # memory that is really taken and touched
    # ── where boards were measured to differ (README.md: rows); None = as this version was measured, or assumed ──
    window_shifts: bool | None = None  # row 1: with n_keep -1 too, so that only max_new_tokens bounds an answer
    end_event: bool | None = None  # row 2: an empty NORMAL event with the end token before FINISH
    counts_first: bool | None = None  # row 3: perf's generate_tokens counts the first token
    overlong: Literal["both", "return", "callback"] | None = None  # row 4: as error_style, for prompts that do not fit
    saves_on_abort: bool | None = None  # row 5: the prompt cache file of an aborted run is written
    saves_any_run: bool | None = None  # row 6: and that of embedding inputs and of logits
    saves_hybrid: bool | None = None  # row 6b: and that of qwen35
    saves_answer: bool | None = None  # row 6c: the file holds the answer too, not the prompt alone
    load_after_abort_crashes: bool | None = None  # row 7: the run after loading a file in a process that aborted
    appends_to_loaded: bool | None = None  # row 8: with keep_history, loaded positions are the history
    cache_fixed_bytes: int | None = None  # row 9: what stands in the file before the values; -1 = 4 a token id + 7627
    vectors_finish: bool | None = None  # row 10: hidden and logits runs: an empty call, the data, FINISH; or the data
    vector_residue_ms: float | None = None  # row 11: added to prefills by each vector run until a clear
    resume_reads: bool | None = None  # row 12: after a pause the new prompt is read, then the answer goes on
    abort_in_prefill: bool | None = None  # row 13: looked for every 128 tokens, or after the prefill only
    decode_slowdown: float | None = None  # row 16: share of the rate that is lost with 1000 positions
    reads_unsigned_ends: bool | None = None  # row 17: end ids that the file keeps as UINT32
    warns_of_reuse: bool | None = None  # row 18: a line where a linear-attention model cannot reuse what is cached
    conflict: Literal["", "submit", "hang"] | None = None  # row 19: while another process is on RKLLM_SIM_NPU_FILE
    unsigned_ends: bool | None = None  # the file's own: None = as the toolkit wrote them, UINT32 in 1.2.2 and 1.2.3

    def __post_init__(self) -> None:
        for fault in self.faults:
            if not FAULT.fullmatch(fault):
                raise ValueError(f"no fault: {fault!r}, expected ACTION[:NUMBER]@PLACE")
        for name, known in (("platform", PLATFORMS), ("template", TEMPLATES), ("speed", ("", *speeds()))):
            if getattr(self, name) not in known:
                raise ValueError(f"no {name}: {getattr(self, name)!r}")

    def paced(self) -> SimModel:
        """The same with the named speed's numbers in place of what was left at 0."""
        if not self.speed:
            return self
        speed = speeds()[self.speed]
        return dataclasses.replace(
            self,
            speed="",
            prefill_base_ms=self.prefill_base_ms or speed.prefill_base_ms,
            prefill_tps=self.prefill_tps or speed.prefill_tps,
            decode_tps=self.decode_tps or speed.decode_tps,
            decode_slowdown=speed.decode_slowdown if self.decode_slowdown is None else self.decode_slowdown,
            npu_bytes=self.npu_bytes or int(speed.memory_mb * (1 << 20)),
        )


# Fields that stand in the file as `sim.` + their name.
SIM_FIELDS = (
    *(
        "reply",
        "tool_reply",
        "thinking",
        "endless",
        "seed",
        "split_multibyte",
        "continues",
        "error_rate",
        "clock",
        "finish_text",
        "logits_last_only",
    ),
    *("embedding_outputs", "prefill_base_ms", "prefill_tps", "decode_tps", "load_seconds", "abort_delay_ms"),
    *(
        "faults",
        "faults_on",
        "pads_on",
        "ignore_abort",
        "error_style",
        "false_success",
        "npu_bytes",
        "full_domains",
        "malloc_bytes",
        "dtype",
    ),
    *("window_shifts", "end_event", "counts_first", "overlong", "saves_on_abort", "saves_any_run", "saves_hybrid"),
    *("saves_answer", "load_after_abort_crashes", "appends_to_loaded", "cache_fixed_bytes", "vectors_finish"),
    *("vector_residue_ms", "resume_reads", "abort_in_prefill", "decode_slowdown", "reads_unsigned_ends"),
    *("warns_of_reuse", "conflict"),
)

U32, I32, F32, BOOL, STRING, ARRAY, I64, F64 = 4, 5, 6, 7, 8, 9, 11, 12  # GGUF value types
PACKED = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", I64: "<q", F64: "<d"}
Value: TypeAlias = "str | bytes | int | float | bool | Sequence[str | bytes] | Sequence[int]"


def masked(data: bytes) -> bytes:
    mask = (MASK * (len(data) // 256 + 1))[: len(data)]
    return (int.from_bytes(data, "little") ^ int.from_bytes(mask, "little")).to_bytes(len(data), "little")


def _string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + masked(data)


def _scalar(kind: int, value: object) -> bytes:
    if isinstance(value, (str, bytes)):
        return _string(value)
    return struct.pack(PACKED[kind], value)


def _entry(key: str, kind: int, value: Value) -> bytes:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        items = b"".join(_scalar(kind, item) for item in value)
        return _string(key) + struct.pack("<IIQ", ARRAY, kind, len(value)) + items
    return _string(key) + struct.pack("<I", kind) + _scalar(kind, value)


def _kind(value: object) -> int:
    """The GGUF type of a `sim.` value, an array's item type."""
    if isinstance(value, tuple):
        return _kind(value[0]) if value else STRING
    kinds = {bool: BOOL, int: I64, float: F64, str: STRING, bytes: STRING}
    return kinds[type(value)]


def _tokenizer_entries(template: Template, end_kind: int) -> Iterator[tuple[str, int, Value]]:
    pieces = tokenizer.pieces()
    texts = [f"<0x{piece[0]:02X}>".encode() if kind == tokenizer.BYTE else piece for piece, kind in pieces]
    yield "tokenizer.ggml.model", STRING, "gpt2"
    yield "tokenizer.ggml.tokens", STRING, texts
    yield "tokenizer.ggml.token_type", I32, [kind for _, kind in pieces]
    yield "tokenizer.ggml.bos_token_id", U32, tokenizer.token(template.bos)
    yield "tokenizer.ggml.eos_token_id", end_kind, tokenizer.token(template.eos)
    ends = dict.fromkeys((template.eos, "<|endoftext|>"))
    yield "tokenizer.ggml.eos_token_ids", end_kind, [tokenizer.token(end) for end in ends]


def entries(model: SimModel) -> Iterator[tuple[str, int, Value]]:
    """Every key of the file with its type and value, in the file's order."""
    arch, template = model.architecture, TEMPLATES[model.template]
    yield "general.architecture", STRING, arch
    yield "general.name", STRING, model.name
    yield "general.file_type", U32, 7
    yield "rkllm.version", STRING, model.toolkit
    yield "rkllm.platform", U32, PLATFORMS.index(model.platform)
    yield "rkllm.core_num", U32, model.npu_cores
    yield "rkllm.max_context", U32, model.max_context
    yield "rkllm.model_name", STRING, model.name
    yield "rkllm.has_embedding", BOOL, model.has_embedding
    yield "rkllm.has_tokenizer", BOOL, model.has_tokenizer
    yield "rkllm.chat_template.system", STRING, template.system
    yield "rkllm.chat_template.pre", STRING, template.prefix
    yield "rkllm.chat_template.post", STRING, template.postfix
    if model.vision:
        yield "rkllm.vision.spatial_merge_size", U32, 2
        yield "rkllm.vision.spatial_patch_size", U32, model.vision_patch
    yield f"{arch}.vocab_size", U32, len(tokenizer.pieces())
    yield f"{arch}.context_length", U32, model.max_context
    yield f"{arch}.embedding_length", U32, model.embedding_length
    yield f"{arch}.block_count", U32, model.layers
    yield f"{arch}.attention.head_count", U32, model.heads
    yield f"{arch}.attention.head_count_kv", U32, model.kv_heads
    yield f"{arch}.attention.key_length", U32, model.head_dim
    if model.has_tokenizer:
        old = model.toolkit in UNSIGNED_ENDS if model.unsigned_ends is None else model.unsigned_ends
        yield from _tokenizer_entries(template, U32 if old else I32)
    for field in SIM_FIELDS:
        if (value := getattr(model, field)) is not None:
            yield f"sim.{field}", _kind(value), value
    yield "sim.rules.match", STRING, [match for match, _ in model.rules]
    yield "sim.rules.reply", STRING, [reply for _, reply in model.rules]


def write(path: Path, model: SimModel) -> Path:
    """Writes the model to `path` and returns it."""
    model = model.paced()
    values = [_entry(*entry) for entry in entries(model)]
    header = bytes(byte ^ MASK[i] for i, byte in enumerate(b"GGUF"))
    footer = f"{FOOTER}{model.toolkit}".encode() if model.toolkit else b""

    tensor = _string("token_embd.weight") + struct.pack("<I", 1)
    before = len(header) + 20 + sum(map(len, values)) + len(tensor) + 20
    data = max(model.size - before - len(footer), 64)
    padding = -before % 32  # GGUF: tensor data begin at the next multiple of 32, and offsets count from there
    tensor += struct.pack("<QIQ", data - padding, 24, 0)  # 24 = int8
    with path.open("wb") as file:
        file.write(header + struct.pack("<IQQ", 3, 1, len(values)))
        file.writelines(values)
        file.write(tensor)
        file.seek(data, 1)
        file.write(footer)
        file.truncate()
    return path


# ── the command line ─────────────────────────────────────────────────────────────────────────────


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="simulator.model_file", description="Write a simulated .rkllm file.")
    parser.add_argument("out", type=Path)
    for field in dataclasses.fields(SimModel):
        flag = f"--{field.name.replace('_', '-')}"
        if field.name == "rules":
            parser.add_argument("--rule", dest="rules", nargs=2, action="append", metavar=("MATCH", "REPLY"))
        elif field.name == "faults":
            parser.add_argument("--fault", dest="faults", action="append", metavar="ACTION@PLACE")
        elif field.name == "full_domains":
            parser.add_argument("--full-domain", dest="full_domains", action="append", type=int, metavar="N")
        elif isinstance(field.default, bool) or field.type == "bool | None":
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
        else:
            kinds = {"int | None": int, "float | None": float}
            kind = str if isinstance(field.default, (str, bytes)) else type(field.default)
            kind = kind if field.default is not None else kinds.get(str(field.type), str)
            parser.add_argument(flag, type=kind)
    return parser


def main(args: Sequence[str] | None = None) -> int:
    """Writes one model file from flags, one for every field of `SimModel`."""
    given = {name: value for name, value in vars(_arguments().parse_args(args)).items() if value is not None}
    out = given.pop("out")
    for name in ("rules", "faults", "full_domains"):
        if name in given:
            given[name] = tuple(tuple(item) if name == "rules" else item for item in given[name])
    try:
        model = SimModel(**given)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(write(out, model))
    return 0


if __name__ == "__main__":
    sys.exit(main())
