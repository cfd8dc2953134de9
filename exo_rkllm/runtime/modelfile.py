"""What a .rkllm file is, without loading it; and whether it can work here (reference 3).

Real and simulated files go through the same code. A fact carries its source, since a header is to be trusted further
than a file name.
"""

from __future__ import annotations

import mmap
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from exo_rkllm import socs
from exo_rkllm.errors import ExoRkllmError, LoadError, ModelFileError, ModelNotFound, NpuUnavailable
from exo_rkllm.runtime import container, filename, version
from exo_rkllm.runtime.failure_rules import RUNS_ON
from exo_rkllm.runtime.traps import traps_for

T = TypeVar("T")
Source: TypeAlias = Literal["header", "footer", "name"]

FOOTER = re.compile(rb"rkllm-toolkit version: ([0-9][0-9A-Za-z.]*)")
FOOTER_WITHIN = 256
# Below this, only a file that has a known head or footer is taken for a model (reference 3.2).
SMALLEST = 1 << 20
AGAIN = "Download it again, and compare its size with the source's"

# First bytes of what people have instead of a model, after white space; what it is, and what to do.
IMPOSTORS: tuple[tuple[bytes, str, str], ...] = (
    (
        b"GGUF",
        "is a GGUF file, which the NPU cannot run",
        "Convert it with rkllm-toolkit, or get a .rkllm of the model",
    ),
    (
        b"version https://git-lfs",
        "is a Git LFS pointer, not the model itself",
        "git lfs pull in its repository, or download the file itself",
    ),
    (b"<!do", "is a web page, not a model: the download went wrong", AGAIN),
    (b"<htm", "is a web page, not a model: the download went wrong", AGAIN),
)

# By what a model file says of its SoC: NPU cores, and quantizations.
SOCS: Mapping[str, tuple[int, tuple[str, ...]]] = {
    soc.title: (soc.cores, tuple(map(str.upper, soc.quantizations))) for soc in socs.SOCS if soc.rkllm
}
PLATFORMS: Mapping[int, str] = {soc.header: soc.title for soc in socs.SOCS if soc.header is not None}
# The first release whose files later runtimes read (reference 3.4).
OLDEST_TOOLKIT = "1.1.0"
# How much speaks against a runtime: `Objection.weight`.
POOR, USELESS, UNLIKELY, UNREADABLE = 1, 2, 3, 4
# What a runtime needs beside weights and KV cache: an estimate (reference 3.2).
OVERHEAD = 200 << 20


@dataclass(frozen=True, slots=True)
class Fact(Generic[T]):
    value: T
    source: Source


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Each fact with its source, or None: unknown is said as unknown."""

    path: Path
    size: int
    # Whether the head has the published outline. Older toolkits write another one.
    known_head: bool
    toolkit: Fact[str] | None = None
    platform: Fact[str] | None = None
    npu_cores: Fact[int] | None = None
    max_context: Fact[int] | None = None
    dtype: Fact[str] | None = None
    optimization: Fact[int] | None = None
    hybrid_ratio: Fact[float] | None = None
    name: Fact[str] | None = None
    architecture: Fact[str] | None = None
    parameters: Fact[str] | None = None
    vocab_size: Fact[int] | None = None
    embedding_length: Fact[int] | None = None
    layers: Fact[int] | None = None
    heads: Fact[int] | None = None
    kv_heads: Fact[int] | None = None
    head_dim: Fact[int] | None = None
    has_tokenizer: Fact[bool] | None = None
    has_embedding: Fact[bool] | None = None
    vision: Fact[bool] | None = None
    lora: Fact[bool] | None = None
    end_token: Fact[int] | None = None

    def known(self) -> Mapping[str, Fact[Any]]:
        """Only what is known, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Fact)}

    @property
    def names(self) -> tuple[str, ...]:
        """What may tell which model it is: its own name, the file's, and the folder's, which is an entry's id."""
        own = () if self.name is None else (self.name.value,)
        return *own, self.path.name, self.path.absolute().parent.name

    @property
    def kv_bytes_per_token(self) -> int | None:
        """fp16 keys and values (reference 2.10)."""
        if self.layers is None or self.kv_heads is None or self.head_dim is None:
            return None
        return 2 * 2 * self.layers.value * self.kv_heads.value * self.head_dim.value

    def memory(self, context: int) -> int | None:
        """Bytes that loading it takes, as a guess."""
        per_token = self.kv_bytes_per_token
        return None if per_token is None else self.size + context * per_token + OVERHEAD


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a file will not work here, or not well. `certain` where it cannot, by the file itself and not its name.

    `harm` is set where it speaks against the runtime: a phrase that follows "runtime VERSION". The heavier by `weight`,
    the less the model can be used with it. `some`: it harms only some of such files, so another runtime is preferred
    where there is one, and nobody is warned.
    """

    error: ExoRkllmError
    certain: bool
    harm: str = ""
    weight: int = 0
    some: bool = False


# ── reading ──────────────────────────────────────────────────────────────────────────────────────

# Fact, the key that has it, its type, and the greatest value that makes sense.
HEADER_FACTS: tuple[tuple[str, str, type, float], ...] = (
    ("name", "general.name", str, 0),
    ("name", "rkllm.model_name", str, 0),
    ("architecture", "general.architecture", str, 0),
    ("npu_cores", "rkllm.core_num", int, 8),
    ("max_context", "rkllm.max_context", int, 1 << 20),
    ("vocab_size", "{}.vocab_size", int, 1 << 24),
    ("embedding_length", "{}.embedding_length", int, 1 << 20),
    ("layers", "{}.block_count", int, 1 << 12),
    ("heads", "{}.attention.head_count", int, 1 << 12),
    ("kv_heads", "{}.attention.head_count_kv", int, 1 << 12),
    ("head_dim", "{}.attention.key_length", int, 1 << 12),
    ("end_token", "tokenizer.ggml.eos_token_id", int, 1 << 24),
)


def inspect(path: Path | str) -> ModelFacts:
    """Everything that the file tells; raises ModelNotFound or ModelFileError where it is no model, and nothing else."""
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ModelFileError(f"{path} is a directory, not a model.", _directory_hint(path))
        if not stat.S_ISREG(mode):
            raise ModelFileError(f"{path} is not a regular file.", f"ls -l {path}")
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size == 0:
                raise ModelFileError(f"{path} is empty.", AGAIN)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return read(path, data, size)
    except FileNotFoundError as error:
        raise ModelNotFound(f"There is no file {path}.", f"ls {path.absolute().parent}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelFileError(f"{path} cannot be read: {reason}.", f"ls -l {path}") from error


def read(path: Path, data: container.Bytes | mmap.mmap, size: int) -> ModelFacts:
    """`inspect` on bytes; `path` gives the names only."""
    beginning = bytes(data[:64]).lstrip().lower()
    for prefix, what, hint in IMPOSTORS:
        if beginning.startswith(prefix.lower()):
            raise ModelFileError(f"{path} {what}.", hint)
    with memoryview(data) as view:
        head = container.read(view)
    footer = FOOTER.search(bytes(data[max(0, size - FOOTER_WITHIN) :]))
    if footer is None and head is not None and head.cut_off:
        raise ModelFileError(f"{path} is cut off: it ends before what its head announces ({size} bytes).", AGAIN)
    if footer is None and head is None and size < SMALLEST:
        raise ModelFileError(f"{path} is too small for a model ({size} bytes).", AGAIN)
    found = {name: Fact(value, "name") for name, value in filename.facts(path).items()}
    if head is not None:
        found |= _from_header(head.values)
    if footer is not None:
        found["toolkit"] = Fact(footer[1].decode(), "footer")
    return ModelFacts(path, size, known_head=head is not None, **found)


def _from_header(values: Mapping[str, container.Value]) -> dict[str, Fact[Any]]:
    found: dict[str, Fact[Any]] = {}
    for name, key, kind, most in HEADER_FACTS:
        value = values.get(key)
        good = bool(value) if kind is str else isinstance(value, int) and 0 < value <= most
        if type(value) is kind and good:
            found[name] = Fact(value, "header")
    toolkit = values.get("rkllm.version")
    if isinstance(toolkit, str) and version.order(toolkit):
        found["toolkit"] = Fact(toolkit, "header")
    if (platform := values.get("rkllm.platform")) in PLATFORMS and type(platform) is int:
        found["platform"] = Fact(PLATFORMS[platform], "header")
    for name in ("has_tokenizer", "has_embedding"):
        if isinstance(value := values.get(f"rkllm.{name}"), bool):
            found[name] = Fact(value, "header")
    if any(key.startswith("rkllm.vision.") for key in values):
        found["vision"] = Fact(value=True, source="header")
    return found


def _directory_hint(path: Path) -> str:
    models = sorted(path.glob("*.rkllm"))
    return f"Did you mean {models[0]}?" if models else f"ls {path}"


def context_of(path: Path | str) -> int:
    """The context that the file was converted for, 0 where it does not say. Never raises: a load says it better."""
    try:
        found = inspect(path).max_context
    except ExoRkllmError:
        return 0
    return 0 if found is None or found.source == "name" else found.value


# ── judging ──────────────────────────────────────────────────────────────────────────────────────


def check(facts: ModelFacts, platform: str = "", runtime: str = "", context: int = 0) -> tuple[Objection, ...]:
    """What speaks against loading this file on this SoC and release; an empty text is not compared."""
    model = facts.path.name
    soc = platform.upper().removesuffix("S")
    if soc and soc not in SOCS:  # Rockchip's other boards have an NPU too, and the runtime calls theirs lite
        return (Objection(NpuUnavailable(f"This board's SoC ({soc}) cannot run RKLLM models.", RUNS_ON), certain=True),)
    found = [
        _other_soc(facts, model, soc),
        _too_many_cores(facts, model, soc),
        _other_dtype(facts, model, soc),
        _too_long(facts, model, context),
        *(objection for objection in against_runtime(facts, runtime) if not objection.some),
    ]
    return tuple(objection for objection in found if objection is not None)


def _certain(fact: Fact[Any]) -> bool:
    return fact.source != "name"


def _other_soc(facts: ModelFacts, model: str, soc: str) -> Objection | None:
    if facts.platform is None or not soc or facts.platform.value == soc:
        return None
    sentence = f"{model} is built for {facts.platform.value}, and this board is {soc}."
    return Objection(ModelFileError(sentence, f"Get the file that was converted for {soc}"), _certain(facts.platform))


def _too_many_cores(facts: ModelFacts, model: str, soc: str) -> Objection | None:
    if facts.npu_cores is None or soc not in SOCS or facts.npu_cores.value <= SOCS[soc][0]:
        return None
    sentence = f"{model} is built for {facts.npu_cores.value} NPU cores, and {soc} has {SOCS[soc][0]}."
    return Objection(ModelFileError(sentence, f"Get the file that was converted for {soc}"), _certain(facts.npu_cores))


def _other_dtype(facts: ModelFacts, model: str, soc: str) -> Objection | None:
    if facts.dtype is None or soc not in SOCS or facts.dtype.value in SOCS[soc][1]:
        return None
    sentence = f"{model} is quantised as {facts.dtype.value}, which {soc} does not have."
    return Objection(ModelFileError(sentence, f"{soc} runs {', '.join(SOCS[soc][1])}"), _certain(facts.dtype))


def _too_long(facts: ModelFacts, model: str, context: int) -> Objection | None:
    if facts.max_context is None or context <= facts.max_context.value:
        return None
    limit = facts.max_context.value
    error = LoadError(
        f"{model} has a context of {limit} tokens at most, and {context} were asked for.",
        f"Ask for {limit} or fewer: --context {limit}, or context = {limit} in the model's card",
    )
    return Objection(error, _certain(facts.max_context))


def against_runtime(facts: ModelFacts, runtime: str) -> Iterator[Objection]:
    """What speaks against this release of the runtime: the file's toolkit, and the table of traps."""
    model = facts.path.name
    toolkit = "" if facts.toolkit is None else facts.toolkit.value
    if not version.order(runtime):
        return
    if facts.toolkit is not None and version.order(toolkit):
        certain = _certain(facts.toolkit)
        if version.order(toolkit) > version.order(runtime):
            error: ExoRkllmError = LoadError(
                f"{model} was converted with toolkit {toolkit}, which runtime {runtime} is too old for.",
                f"exo-rkllm runtime --install FILE with librkllmrt {toolkit} or newer",
            )
            yield Objection(error, certain, f"is too old for toolkit {toolkit}", UNREADABLE if certain else UNLIKELY)
            return
        if version.order(toolkit) < version.order(OLDEST_TOOLKIT):
            error = ModelFileError(
                f"{model} was converted with toolkit {toolkit}, whose files runtime {runtime} does not read.",
                "Get a file that was converted with toolkit 1.1.0 or newer",
            )
            yield Objection(error, certain=False, harm=f"does not read files of toolkit {toolkit}", weight=UNLIKELY)
            return
    for trap in traps_for(runtime, toolkit, facts.names):
        error = ModelFileError(f"{model}: runtime {runtime} {trap.harm}.", trap.advice)
        weight = USELESS if trap.breaks else POOR
        yield Objection(error, certain=False, harm=trap.harm, weight=weight, some=not trap.every)
