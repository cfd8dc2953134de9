"""What the library's printed lines mean: facts about the model and machine, and errors with their repair.

There is no error string in the API, so these lines are the only reason anybody gets (reference 4.1 to 4.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from exo_rkllm.errors import (
    BoardError,
    ContextOverflow,
    ExoRkllmError,
    LoadError,
    ModelFileError,
    ModelNotFound,
    NotSupported,
    OutOfMemory,
    RunError,
    RuntimeUnsupported,
)

LINE = re.compile(r"^(?P<level>[EWIDT]) (?P<source>rkllm|RKNN): (?:\[[0-9:.]+\] ?)?(?P<text>.*)$")


class LogLine(NamedTuple):
    """A line the library printed; source is empty where something else did."""

    level: str
    source: str
    text: str


def parse(line: str) -> LogLine:
    found = LINE.match(line)
    return LogLine(found["level"], found["source"], found["text"]) if found else LogLine("I", "", line)


# ── facts ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Facts:
    """What the runtime said while it loaded; empty or zero where this release does not say."""

    runtime: str = ""
    driver: str = ""
    platform: str = ""
    toolkit: str = ""
    max_context_limit: int = 0
    npu_cores: int = 0
    target_platform: str = ""
    dtype: str = ""
    vocab_size: int = 0
    simulated: bool = False


FACTS: tuple[re.Pattern[str], ...] = (
    re.compile(
        r"rkllm-runtime version: (?P<runtime>\S+), rknpu driver version: (?P<driver>\S+), platform: (?P<platform>\S+)"
    ),
    re.compile(
        r"rkllm-toolkit version: (?P<toolkit>\S+), max_context_limit: (?P<max_context_limit>\d+), "
        r"npu_core_num: (?P<npu_cores>\d+), target_platform: (?P<target_platform>\w+)(?:, model_dtype: (?P<dtype>\w+))?"
    ),
    re.compile(r"vocab_size: (?P<vocab_size>\d+)"),
    re.compile(r"(?P<simulated>SIMULATOR)"),
)
NUMBERS = frozenset({"max_context_limit", "npu_cores", "vocab_size"})


def facts(lines: Iterable[str]) -> Facts:
    found: dict[str, str] = {}
    for line in lines:
        for pattern in FACTS:
            if match := pattern.search(line):
                found |= {name: text for name, text in match.groupdict().items() if text}
    known = {name: int(text) if name in NUMBERS else text for name, text in found.items() if name != "simulated"}
    return Facts(**known, simulated="simulated" in found)  # type: ignore[arg-type]  # the patterns name the fields


# ── errors ───────────────────────────────────────────────────────────────────────────────────────


class Meaning(NamedTuple):
    """What a line says, as one of our errors. `{0}`, `{1}` ... are the pattern's groups, `{model}` the model's path."""

    pattern: re.Pattern[str]
    error: type[ExoRkllmError]
    sentence: str
    hint: str


def _means(pattern: str, error: type[ExoRkllmError], sentence: str, hint: str) -> Meaning:
    return Meaning(re.compile(pattern), error, sentence, hint)


_RECONVERT = "Take a file that was converted for this runtime, or install the runtime it was made for"
_DOCTOR = "exo-rkllm doctor"
_MEMORY = "Stop other NPU programs, unload other models (exo-rkllm unload), or take a smaller model or context"

# Searched in this order over all lines of the failed call: what names the cause stands before what follows from it.
MEANINGS: tuple[Meaning, ...] = (
    # the board and its driver
    _means(r"must be either .*Your platform is lite", BoardError,
           "This SoC is an RK3566 or RK3568, which the RKLLM runtime does not support.", _DOCTOR),
    _means(r"Your platform is UNKNOWN_PLATFORM|Query platform error", BoardError,
           "The runtime cannot tell which SoC this is: the device tree is not readable here.",
           "Mount /sys/firmware/devicetree/base into the container, or see: exo-rkllm doctor"),
    _means(r"failed to open rknpu module|failed to open rknn device|Device is not available", BoardError,
           "The runtime cannot open the NPU: its driver is missing or the device node is not ours to open.", _DOCTOR),
    _means(r"target_platform does not match the real platform", ModelFileError,
           "{model} was converted for another SoC than this one.", "exo-rkllm pull picks the file for this SoC"),
    # memory
    _means(r"failed to malloc npu memory|failed to allocate handle, ret: -1, errno: 1[24]|failed to allocate IOVA",
           OutOfMemory,
           "The NPU's memory does not hold {model} beside what is loaded already.", _MEMORY),
    _means(r"Too many open files|errno: 24", OutOfMemory,
           "The runtime ran out of file descriptors while loading {model}.", "ulimit -n 102400 before the start"),
    _means(r"ggml_calloc|unable to allocate backend CPU buffer|bad_alloc", OutOfMemory,
           "There is not enough RAM for {model}.", _MEMORY),
    # versions
    _means(r"rkllm-runtime version is lower than the rkllm-toolkit version.*update rkllm-runtime to (\S+)",
           RuntimeUnsupported,
           "{model} needs runtime {0} or newer.", "exo-rkllm runtime --install FILE with a newer librkllmrt.so"),
    _means(r"RKLLM model version is (\S+), but current librkllmrt.so is support model version <= (\S+)",
           RuntimeUnsupported,
           "{model} is of version {0}, this runtime reads up to {1}.",
           "exo-rkllm runtime --install FILE with a newer librkllmrt.so"),
    _means(r"model architecture:? ?(\S*) ?(?:is not supported by rkllm)?$|unsupported rope type", RuntimeUnsupported,
           "{model} has an architecture that this runtime does not know.",
           "exo-rkllm runtime --install FILE with a newer librkllmrt.so"),
    _means(r"model version is too old", ModelFileError, "{model} is older than this runtime reads.", _RECONVERT),
    _means(r"invalid rknn llm model magic|invalid magic characters", ModelFileError,
           "{model} was made by a toolkit that this runtime does not understand.", _RECONVERT),
    # the file
    _means(r"failed to open '(.*)': '(.*)'", ModelNotFound, "{0} cannot be opened: {1}.", "ls -l {0}"),
    _means(r"invalid rkllm model|invalid magic number|invalid version number", ModelFileError,
           "{model} is not a .rkllm file, or a damaged one.", "exo-rkllm inspect {model}"),
    _means(r"wrong number of tensors|failed to read tensor|tensor \S+ not found|wrong shape", ModelFileError,
           "{model} is incomplete or damaged.", "Download it again: exo-rkllm pull"),
    _means(r"32-bit systems only support models", ModelFileError, "{model} is larger than a 32-bit system can load.",
           "Install a 64-bit system"),
    _means(r"meet unkown (?:shape|op)", ModelFileError,
           "{model} was not converted for this context length or core count.", "Lower the context in its model.toml"),
    # settings
    _means(r"max_context\[(\d+)\] must be less than the model's max_context_limit\[(\d+)\]", LoadError,
           "A context of {0} tokens is more than the {1} that {model} was converted for.",
           "Set context = {1} in its model.toml, or --context {1}"),
    _means(r"n_keep must be less than the max_context_len", LoadError, "n_keep is not below the context of {model}.",
           "Lower n_keep in its model.toml"),
    _means(r"enabled CPUs must be greater than or equal to the number of NPU cores", LoadError,
           "{model} uses more NPU cores than CPUs were given to it.", "Give it more cpus in its model.toml"),
    _means(r"Mismatch between enabled CPUs mask|number of enabled CPUs between|only CPUs 0 to 3 can be set", LoadError,
           "The CPUs chosen for {model} do not exist on this board.", "Leave cpus out of its model.toml"),
    _means(r"base_domain_id must >= 0", LoadError, "base_domain_id must not be negative.",
           "Leave base_domain_id out of the model's model.toml"),
    # one run
    _means(r"length of prompt is greater than max context \(prompt: (\d+) tokens, max context: (\d+)\)",
           ContextOverflow,
           "The prompt has {0} tokens, the context holds {1}.",
           "Shorten the conversation, or load with a larger context"),
    _means(r"the context is not enough", ContextOverflow, "Prompt and answer do not fit into the context.",
           "Shorten the conversation, or load with a larger context"),
    _means(r"prompt cache file '(.*)' (?:does not exist|is empty)|failed to load prompt cache from (\S+)",
           ModelNotFound,
           "The prompt cache cannot be loaded: it is missing, empty or damaged.", "Save it again with this model"),
    _means(r"the prompt dose not match the current model", ModelFileError,
           "The prompt cache was saved with another model.", "Save it again with this model"),
    _means(r"Lora adapter path does not exist", ModelNotFound, "The LoRA adapter's file does not exist.",
           "Check its path in the model's model.toml"),
    _means(r"Lora adapter '(.*)' is already initialized", LoadError, "A LoRA adapter named {0} is loaded already.",
           "Give each adapter its own name"),
    _means(r"Not Found Lora adapter named: (\S+)", NotSupported, "No LoRA adapter named {0} is loaded.",
           "Name it under [options.loras] in the model's model.toml"),
    _means(r"Getting the logits is not supported for multiple batches", NotSupported,
           "Logits cannot be had for several inputs at once.", "Ask for one input at a time"),
    _means(r"only valid when keep_history == 0 and the generation has been paused", NotSupported,
           "A range of the KV cache can be cleared only in a paused run without history.", "Clear all of it instead"),
    _means(r"patch_h.*!= n_image_token", NotSupported,
           "The image's size does not fit its number of tokens.", "Give width and height as the encoder used them"),
    _means(r"(matmul\S*) run failed", RunError, "The NPU failed while computing ({0}).",
           "Usually an old driver, 0.9.8 is wanted: exo-rkllm doctor"),
    _means(r"GGML_ASSERT\((.*?)\)? failed|GGML_ASSERT", LoadError,
           "The runtime gave up on {model}; it had not really loaded it.", "exo-rkllm inspect {model}"),
)  # fmt: skip


def explain(lines: Sequence[str], model: str, otherwise: ExoRkllmError) -> ExoRkllmError:
    """The error that these lines tell of; where they tell nothing we know, `otherwise` with the library's own words."""
    for meaning in MEANINGS:
        for line in lines:
            if match := meaning.pattern.search(line):
                return meaning.error(*(_fill(text, match, model) for text in (meaning.sentence, meaning.hint)))
    said = [parsed.text for parsed in map(parse, lines) if parsed.level == "E"]
    if said:
        return type(otherwise)(f"{otherwise.sentence} The runtime says: {said[0].rstrip('.!')}.", otherwise.hint)
    return otherwise


def _fill(text: str, match: re.Match[str], model: str) -> str:
    groups: Mapping[str, str] = {str(number): group or "" for number, group in enumerate(match.groups())}
    return re.sub(r"\{(\w+)\}", lambda found: model if found[1] == "model" else groups.get(found[1], ""), text)
