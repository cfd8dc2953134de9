"""What the library prints when it fails, what that means and what repairs it: a row each (reference 4).

Rows stand from the cause to the consequence, since one failure prints several of them; `failures` reads them.
"""

from __future__ import annotations

from dataclasses import dataclass

from exo_rkllm import socs
from exo_rkllm.errors import (
    ContextOverflow,
    ExoRkllmError,
    LoadError,
    ModelFileError,
    ModelNotFound,
    NotSupported,
    NpuUnavailable,
    OutOfMemory,
    UsageError,
)

NEWER_RUNTIME = "exo-rkllm runtime --install FILE with librkllmrt {wanted} or newer"
NEWEST_RUNTIME = "exo-rkllm runtime --install FILE with a newer librkllmrt"
DOWNLOAD = "exo-rkllm inspect {path} says more; download the file again"
RUNS_ON = f"RKLLM runs on {socs.RKLLM_SOCS}"
DOCTOR = "exo-rkllm doctor names what is missing"
CPUS = "Leave cpus out of the model's card, or list other CPU numbers there"
ALLOWED_CPUS = (
    "Allow it more CPUs: systemctl show exo-rkllm -p CPUAffinity -p AllowedCPUs; in a container, its --cpuset-cpus"
)
SMALLER = "Unload another model, lower its context, or set base_domain_id to another number in the model's card"


@dataclass(frozen=True, slots=True)
class FailureRule:
    """Named groups of the pattern may stand in sentence and hint, beside model, path, runtime, platform and target.

    `proves`: the load failed where this was printed, even if init said 0, as 1.1.x does (reference 2.1).
    """

    pattern: str
    kind: type[ExoRkllmError]
    sentence: str
    hint: str
    proves: bool = False


TABLE: tuple[FailureRule, ...] = (
    # ── the file cannot be opened, or is no model ──
    FailureRule(
        r"failed to open '(?P<file>[^']*)': '(?P<reason>No such file or directory)'",
        ModelNotFound,
        "There is no file {file}.",
        "ls {file}",
    ),
    FailureRule(
        r"failed to open '(?P<file>[^']*)': '(?P<reason>[^']*)'",
        ModelFileError,
        "{file} cannot be opened: {reason}.",
        "ls -l {file}",
    ),
    FailureRule(
        r"invalid rkllm model!|invalid magic number|invalid version number|invalid magic characters",
        ModelFileError,
        "{model} is not a .rkllm file that runtime {runtime} can read.",
        DOWNLOAD,
    ),
    FailureRule(
        r"wrong number of tensors, expected (?P<wanted>\d+), got (?P<got>\d+)",
        ModelFileError,
        "{model} is damaged: it has {got} tensors, expected are {wanted}.",
        DOWNLOAD,
    ),
    FailureRule(
        r"failed to read tensor (?:info|data)|tensor \S+ not found|wrong shape",
        ModelFileError,
        "{model} is damaged or cut off.",
        DOWNLOAD,
    ),
    FailureRule(
        r"32-bit systems only support models with weights smaller than 2GB",
        LoadError,
        "{model} is over 2 GB, which a 32-bit system cannot load.",
        "Use a 64-bit system or a smaller model",
    ),
    # ── file and runtime do not belong together ──
    FailureRule(
        r"runtime version is lower than the rkllm-toolkit version. Please update rkllm-runtime to (?P<wanted>\S+)",
        LoadError,
        "{model} was converted with toolkit {wanted}, which runtime {runtime} is too old for.",
        NEWER_RUNTIME,
    ),
    FailureRule(
        r"RKLLM model version is (?P<wanted>\S+), but current librkllmrt.so is support model version <= (?P<most>\S+)",
        LoadError,
        "{model} has format {wanted}, and runtime {runtime} reads up to {most}.",
        NEWEST_RUNTIME,
    ),
    FailureRule(
        r"invalid rknn llm model magic",
        ModelFileError,
        "{model} comes from a toolkit that runtime {runtime} does not understand.",
        "Get a file that was converted for this runtime, or install the runtime it was converted for",
        proves=True,
    ),
    FailureRule(
        r"unsupported model architecture: (?P<wanted>\S+)",
        LoadError,
        "Runtime {runtime} does not know the architecture {wanted} of {model}.",
        NEWEST_RUNTIME,
    ),
    FailureRule(
        r"the model architecture (?P<wanted>\S+) is not supported by rkllm",
        LoadError,
        "Runtime {runtime} does not know the architecture {wanted} of {model}.",
        NEWEST_RUNTIME,
    ),
    FailureRule(
        r"An unsupported rope type was detected",
        LoadError,
        "Runtime {runtime} does not know the position encoding of {model}.",
        NEWEST_RUNTIME,
    ),
    # ── the board ──
    FailureRule(
        r"target_platform does not match the real platform",
        ModelFileError,
        "{model} is built for {target}, and this board is {platform}.",
        "Get the file that was converted for {platform}",
    ),
    FailureRule(
        r"Your platform is lite",
        NpuUnavailable,
        f"This board's SoC ({socs.OTHER_SOCS}) cannot run RKLLM models.",
        RUNS_ON,
    ),
    FailureRule(
        r"Your platform is UNKNOWN_PLATFORM",
        NpuUnavailable,
        "The runtime cannot tell which SoC this is.",
        "In a container, mount /sys/firmware/devicetree/base and unmask /proc/device-tree; exo-rkllm doctor",
    ),
    FailureRule(
        r"Your platform is (?P<found>\S+)",
        NpuUnavailable,
        "Runtime {runtime} does not run on {found}.",
        "exo-rkllm runtime --install FILE with a librkllmrt that knows {found}",
    ),
    FailureRule(
        r"Query platform error!", NpuUnavailable, "The runtime cannot ask the NPU driver what board this is.", DOCTOR
    ),
    FailureRule(
        r"failed to open rknpu module|failed to open rknn device|Device is not available|Get device properties failed",
        NpuUnavailable,
        "The NPU cannot be opened: no rknpu driver, or no permission on its device.",
        DOCTOR,
    ),
    # ── memory ──
    FailureRule(
        r"failed to malloc npu memory, size: (?P<size>\d+)",
        OutOfMemory,
        "There is no room for {model} in the NPU's memory ({size} bytes were refused).",
        SMALLER,
        proves=True,
    ),
    FailureRule(
        r"Too many open files|errno: 24\b",
        OutOfMemory,
        "The process ran out of file descriptors while it loaded {model}.",
        "Raise the limit: LimitNOFILE=102400 in the unit, ulimit -n 102400 in a shell",
    ),
    FailureRule(
        r"failed to allocate handle, ret: -?\d+, errno: (?P<errno>\d+)|failed to allocate IOVA",
        OutOfMemory,
        "There is no room for {model} in the NPU's memory.",
        SMALLER,
        proves=True,
    ),
    FailureRule(
        r"ggml_calloc|unable to allocate backend CPU buffer|std::bad_alloc|Cannot allocate memory",
        OutOfMemory,
        "There is not enough RAM for {model}.",
        "Unload another model, or choose a smaller model or context",
    ),
    # ── parameters of the load ──
    FailureRule(
        r"max_context\[(?P<asked>-?\d+)\] must be less than the model's max_context_limit\[(?P<limit>\d+)\]",
        LoadError,
        "{model} has a context of {limit} tokens at most, and {asked} were asked for.",
        "Ask for {limit} or fewer: --context {limit}, or context = {limit} in the model's card",
    ),
    FailureRule(
        r"n_keep must be less than the max_context_len",
        LoadError,
        "n_keep is not below the context of {model}.",
        "Lower n_keep in the model's card",
    ),
    FailureRule(
        r"number of enabled CPUs must be greater than or equal to the number of NPU cores",
        LoadError,
        "{model} uses {cores} NPU cores and needs a CPU for each; {cpus}.",
        "{cpus_hint}",
    ),
    FailureRule(
        r"Mismatch between enabled CPUs mask and expected count", LoadError, "The list of CPUs is wrong.", CPUS
    ),
    FailureRule(
        r"Expected The number of enabled CPUs between 1 and (?P<most>\d+) for (?P<soc>\S+), but got (?P<got>-?\d+)",
        LoadError,
        "{soc} takes 1 to {most} CPUs for a model, and {got} were listed.",
        CPUS,
    ),
    FailureRule(
        r"For (?P<soc>\S+), only CPUs 0 to (?P<most>\d+) can be set",
        LoadError,
        "On {soc} a model can use the CPUs 0 to {most} only.",
        CPUS,
    ),
    FailureRule(
        r"base_domain_id must >= 0, but current base_domain_id is (?P<got>-?\d+)",
        LoadError,
        "base_domain_id is {got}, and must be 0 or more.",
        "Change base_domain_id in the model's card",
    ),
    # ── what is asked of a loaded model ──
    FailureRule(
        r"length of prompt is greater than max context \(prompt: (?P<got>\d+) tokens, max context: (?P<limit>\d+)\)",
        ContextOverflow,
        "The prompt has {got} tokens, and {model} has a context of {limit}.",
        "Shorten the prompt, or load the model with a larger context",
    ),
    FailureRule(
        r"the context is not enough!",
        ContextOverflow,
        "The conversation does not fit into the context of {model}.",
        "Start a new conversation, or load the model with a larger context",
    ),
    FailureRule(
        r"Not Found Lora adapter named: (?P<name>.+)",
        UsageError,
        "{model} has no LoRA adapter {name}.",
        "Name one of the adapters in the model's card",
    ),
    FailureRule(
        r"Lora adapter path does not exist!",
        ModelNotFound,
        "The LoRA adapter's file does not exist.",
        "Check the adapter's path in the model's card",
    ),
    FailureRule(
        r"Lora adapter '(?P<name>[^']*)' is already initialized!",
        UsageError,
        "The LoRA adapter {name} is loaded already.",
        "Load each adapter once, or give it another name",
    ),
    FailureRule(
        r"prompt cache file '(?P<file>[^']*)' does not exist",
        ModelNotFound,
        "There is no prompt cache {file}.",
        "Save one first, or leave prompt_cache out of the model's card",
    ),
    FailureRule(
        r"prompt cache file '(?P<file>[^']*)' is empty",
        ModelFileError,
        "The prompt cache {file} is empty.",
        "rm {file}, and save it again",
    ),
    FailureRule(
        r"failed to load prompt cache from (?P<file>.+)",
        ModelFileError,
        "The prompt cache {file} cannot be read.",
        "rm {file}, and save it again",
    ),
    FailureRule(
        r"the prompt dose not match the current model",  # spelling as in the binary
        ModelFileError,
        "The prompt cache was saved with another model than {model}.",
        "Save it again with this model",
    ),
    FailureRule(
        r"prompt cache is not supported for (?P<name>\S+)",
        NotSupported,
        "The runtime keeps no prompt cache for {name} models.",
        "Leave prompt_cache out of the model's card",
    ),
    FailureRule(
        r"Getting the (?P<what>.+) is not supported for multiple batches",
        NotSupported,
        "The {what} cannot be had from a batch.",
        "Load the model with n_batch 1",
    ),
    FailureRule(
        r"start_pos and end_pos are only valid when",
        UsageError,
        "A range of the KV cache can be cleared only while a run without history is paused.",
        "Clear all of it, or pause the run first",
    ),
    FailureRule(
        r"patch_h\[(?P<h>\d+)\] \* patch_w\[(?P<w>\d+)\] != n_image_token\[(?P<got>\d+)\]",
        UsageError,
        "An image of {got} tokens does not have the size that was given ({h} times {w} patches).",
        "Give the width and height that the image was encoded at",
    ),
    # ── consequences: the cause was not printed ──
    FailureRule(
        r"meet unkown (?P<what>\w+)",
        LoadError,
        "{model} needs a computation that its file does not hold ({what}).",
        "Lower the context (4096 or less on older files), or get the file from another source",
    ),
    FailureRule(
        r"failed to submit!",  # npu-platform 6, note 7: the job hung, or another program uses the NPU
        NpuUnavailable,
        "The NPU did not finish a job of {model}.",
        "End other programs that use the NPU, then exo-rkllm unload {model}; sudo exo-rkllm doctor reads what the "
        "kernel says and names what helps",
    ),
    FailureRule(
        r"matmul\(\S+\) run failed",
        NpuUnavailable,
        "The NPU driver failed to compute (driver {driver}).",
        "Use a kernel with rknpu 0.9.8; exo-rkllm doctor",
    ),
    FailureRule(
        r"load model file error!|rknn_init fail!",
        LoadError,
        "The NPU's part of runtime {runtime} refused {model}.",
        "exo-rkllm inspect {path}, and check that file and runtime belong together",
        proves=True,
    ),
    FailureRule(
        r"GGML_ASSERT",
        LoadError,
        "Runtime {runtime} stopped at a check of its own with {model}.",
        "exo-rkllm inspect {path}, and check that file and runtime belong together",
    ),
    FailureRule(
        r"the model version is too old, please use the latest toolkit",
        ModelFileError,
        "{model} is older than runtime {runtime} supports.",
        "Get a file that was converted with a newer toolkit",
    ),
    FailureRule(
        r"rknpu driver version is too low, please upgrade to (?P<wanted>\S+)",
        NpuUnavailable,
        "The NPU driver {driver} is older than {wanted}, which runtime {runtime} asks for.",
        "Use a kernel with rknpu 0.9.8; exo-rkllm doctor",
    ),
)  # fmt: skip
