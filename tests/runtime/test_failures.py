"""Every message of the library that the notes know, as the error and the sentence that a user reads."""

from __future__ import annotations

import pytest

from exo_rkllm.errors import (
    ContextOverflow,
    ExoRkllmError,
    LoadError,
    ModelFileError,
    ModelNotFound,
    NotSupported,
    NpuUnavailable,
    OutOfMemory,
    RunError,
    UsageError,
)
from exo_rkllm.runtime import failures, log
from exo_rkllm.runtime.failure_rules import TABLE
from exo_rkllm.runtime.failures import Context

CONTEXT = Context("/models/qwen.rkllm", "1.2.3")
RUNTIME = "I rkllm: rkllm-runtime version: 1.2.3, rknpu driver version: 0.9.6, platform: RK3588"
MODEL = "I rkllm: rkllm-toolkit version: 1.2.3, max_context_limit: 4096, npu_core_num: 3, target_platform: RK3576"
TOO_LOW = (
    "E rkllm: The rkllm-runtime version is lower than the rkllm-toolkit version. "
    "Please update rkllm-runtime to 1.3.0 or higher."
)
NOT_PAUSED = (
    "E rkllm: start_pos and end_pos are only valid when keep_history == 0 and the generation has been paused by "
    "returning 1 in the callback!"
)
NO_NPU_MEMORY = [
    "E RKNN: [07:12:13.1] failed to allocate handle, ret: -1, errno: 12, errstr: Cannot allocate memory",
    "E RKNN: [07:12:13.1] failed to malloc npu memory, size: 123456, flags: 0x2",
    "E RKNN: [07:12:13.1] load model file error!",
    "E rkllm: rkllm_init failed",
]

# Lines as they are printed; the error that they become; what its sentence says; what its hint says.
CASES: list[tuple[str | list[str], type[ExoRkllmError], str, str]] = [
    # the platform and the driver
    (
        [RUNTIME, "W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7"],
        NpuUnavailable,
        "The NPU driver 0.9.6 is older than 0.9.7",
        "0.9.8",
    ),
    (
        "E RKNN: [10:25:31.5] failed to submit!, op id: 3, op name: MatMul",
        NpuUnavailable,
        "did not finish a job",
        "sudo exo-rkllm doctor",
    ),
    (
        [RUNTIME, "E rkllm: matmul(w8a8) run failed"],
        NpuUnavailable,
        "failed to compute (driver 0.9.6)",
        "exo-rkllm doctor",
    ),
    (
        "failed to open rknpu module, need to insmod rknpu dirver!",
        NpuUnavailable,
        "cannot be opened",
        "exo-rkllm doctor",
    ),
    ("failed to open rknn device!", NpuUnavailable, "cannot be opened", "exo-rkllm doctor"),
    ("Device is not available", NpuUnavailable, "cannot be opened", "exo-rkllm doctor"),
    ("Get device properties failed", NpuUnavailable, "cannot be opened", "exo-rkllm doctor"),
    (
        "Platform error, must be either RK3588, RK3576, RV1126B or RK3562. Your platform is lite",
        NpuUnavailable,
        "RK3566 or RK3568",
        "RK3588",
    ),
    (
        "Platform error, must be either RK3588, RK3576, RV1126B or RK3562. Your platform is UNKNOWN_PLATFORM",
        NpuUnavailable,
        "cannot tell which SoC",
        "/sys/firmware/devicetree/base",
    ),
    (
        "Platform error, must be either RK3588, RK3576 or RK3562. Your platform is RV1126B",
        NpuUnavailable,
        "Runtime 1.2.3 does not run on RV1126B",
        "knows RV1126B",
    ),
    ("Query platform error!", NpuUnavailable, "cannot ask the NPU driver", "exo-rkllm doctor"),
    (
        [RUNTIME, MODEL, "E rkllm: the model's target_platform does not match the real platform"],
        ModelFileError,
        "qwen.rkllm is built for RK3576, and this board is RK3588",
        "converted for RK3588",
    ),
    (
        "E rkllm: the model's target_platform does not match the real platform",
        ModelFileError,
        "qwen.rkllm is built for another SoC",
        "converted for",
    ),
    (
        [MODEL, "The number of enabled CPUs must be greater than or equal to the number of NPU cores."],
        LoadError,
        "uses 3 NPU cores",
        "cpus",
    ),
    ("Mismatch between enabled CPUs mask and expected count. Please check", LoadError, "CPUs", "cpus"),
    (
        "Expected The number of enabled CPUs between 1 and 4 for RK3562, but got 8.",
        LoadError,
        "RK3562 takes 1 to 4 CPUs for a model, and 8 were listed",
        "cpus",
    ),
    (
        "For RK3562, only CPUs 0 to 3 can be set, but additional CPUs are enabled.",
        LoadError,
        "On RK3562 a model can use the CPUs 0 to 3 only",
        "cpus",
    ),
    (
        "base_domain_id must >= 0, but current base_domain_id is -2",
        LoadError,
        "base_domain_id is -2",
        "base_domain_id",
    ),
    ("E rkllm: The n_keep must be less than the max_context_len", LoadError, "n_keep", "n_keep"),
    # the model file
    (
        "E rkllm: failed to open '/models/qwen.rkllm': 'No such file or directory'",
        ModelNotFound,
        "There is no file /models/qwen.rkllm",
        "ls",
    ),
    (
        "E rkllm: failed to open '/models/qwen.rkllm': 'Permission denied'",
        ModelFileError,
        "cannot be opened: Permission denied",
        "ls -l /models/qwen.rkllm",
    ),
    ("E rkllm: invalid rkllm model!", ModelFileError, "not a .rkllm file that runtime 1.2.3 can read", "inspect"),
    ("E rkllm: invalid magic number, got 46554747", ModelFileError, "not a .rkllm file", "inspect"),
    ("E rkllm: invalid version number", ModelFileError, "not a .rkllm file", "inspect"),
    ("E rkllm: invalid magic characters ????", ModelFileError, "not a .rkllm file", "inspect"),
    (
        "E rkllm: wrong number of tensors, expected 310, got 12",
        ModelFileError,
        "it has 12 tensors, expected are 310",
        "download",
    ),
    ("E rkllm: failed to read tensor info", ModelFileError, "damaged or cut off", "download"),
    ("E rkllm: failed to read tensor data", ModelFileError, "damaged or cut off", "download"),
    ("E rkllm: tensor blk.0.attn_q not found", ModelFileError, "damaged or cut off", "download"),
    ("E rkllm: wrong shape", ModelFileError, "damaged or cut off", "download"),
    (
        ["E RKNN: [1:2:3.4] invalid rknn llm model magic", "E RKNN: [1:2:3.4] load model file error!"],
        ModelFileError,
        "comes from a toolkit that runtime 1.2.3 does not understand",
        "converted for this runtime",
    ),
    (
        "RKLLM model version is 1.1.0, but current librkllmrt.so is support model version <= 1.0.1",
        LoadError,
        "has format 1.1.0, and runtime 1.2.3 reads up to 1.0.1",
        "newer",
    ),
    (
        TOO_LOW,
        LoadError,
        "converted with toolkit 1.3.0, which runtime 1.2.3 is too old for",
        "librkllmrt 1.3.0 or newer",
    ),
    (
        "W rkllm: the model version is too old, please use the latest toolkit to reconvert the model",
        ModelFileError,
        "older than runtime 1.2.3 supports",
        "newer toolkit",
    ),
    ("E rkllm: unsupported model architecture: qwen9", LoadError, "the architecture qwen9", "newer"),
    ("E rkllm: the model architecture qwen9 is not supported by rkllm", LoadError, "the architecture qwen9", "newer"),
    (
        "E rkllm: An unsupported rope type was detected, please try upgrading the rkllm-runtime version.",
        LoadError,
        "position encoding",
        "newer",
    ),
    (
        "E rkllm: max_context[16384] must be less than the model's max_context_limit[4096]",
        LoadError,
        "a context of 4096 tokens at most, and 16384 were asked for",
        "--context 4096",
    ),
    (
        "E RKNN: [1:2:3.4] meet unkown shape, op name: matmul_qkv_rkllm_spilt_0",
        LoadError,
        "a computation that its file does not hold (shape)",
        "4096",
    ),
    ("E rkllm: 32-bit systems only support models with weights smaller than 2GB", LoadError, "over 2 GB", "64-bit"),
    ("GGML_ASSERT(view_src == NULL) failed", LoadError, "stopped at a check of its own", "inspect"),
    # memory
    (NO_NPU_MEMORY, OutOfMemory, "no room for qwen.rkllm in the NPU's memory (123456 bytes", "base_domain_id"),
    (
        "E RKNN: [1:2:3.4] failed to allocate handle, ret: -1, errno: 14 (Bad address)",
        OutOfMemory,
        "the NPU's memory",
        "base_domain_id",
    ),
    ("RKNPU: failed to allocate IOVA: -12", OutOfMemory, "the NPU's memory", "base_domain_id"),
    ("E RKNN: [1:2:3.4] failed to allocate handle, ret: -1, errno: 24", OutOfMemory, "file descriptors", "102400"),
    ("failed to open /dev/dri/card1: Too many open files", OutOfMemory, "file descriptors", "102400"),
    ("ggml_calloc: failed to allocate 12 MB", OutOfMemory, "not enough RAM", "Unload"),
    ("E rkllm: unable to allocate backend CPU buffer", OutOfMemory, "not enough RAM", "Unload"),
    # a loaded model
    (
        "E rkllm: the length of prompt is greater than max context (prompt: 5000 tokens, max context: 4096)",
        ContextOverflow,
        "The prompt has 5000 tokens, and qwen.rkllm has a context of 4096",
        "Shorten",
    ),
    ("E rkllm: the context is not enough! (history: 4000)", ContextOverflow, "does not fit", "new conversation"),
    ("E rkllm: Not Found Lora adapter named: pirate", UsageError, "no LoRA adapter pirate", "adapters"),
    ("E rkllm: Lora adapter path does not exist!", ModelNotFound, "adapter's file", "path"),
    ("E rkllm: Lora adapter 'pirate' is already initialized!", UsageError, "pirate is loaded already", "once"),
    ("E rkllm: prompt cache file '/c/x' does not exist", ModelNotFound, "There is no prompt cache /c/x", "Save"),
    ("E rkllm: prompt cache file '/c/x' is empty", ModelFileError, "/c/x is empty", "rm /c/x"),
    ("E rkllm: failed to load prompt cache from /c/x", ModelFileError, "/c/x cannot be read", "rm /c/x"),
    (
        "E rkllm: the prompt dose not match the current model[/models/a.rkllm]",
        ModelFileError,
        "saved with another model",
        "this model",
    ),
    ("W rkllm: prompt cache is not supported for rwkv7", NotSupported, "no prompt cache for rwkv7", "prompt_cache"),
    (
        "E rkllm: Getting the logits is not supported for multiple batches",
        NotSupported,
        "The logits cannot be had from a batch",
        "n_batch 1",
    ),
    (
        NOT_PAUSED,
        UsageError,
        "only while a run without history is paused",
        "pause",
    ),
    (
        "E rkllm: patch_h[14] * patch_w[14] != n_image_token[64]!",
        UsageError,
        "An image of 64 tokens does not have the size that was given (14 times 14 patches)",
        "width and height",
    ),
    ("rknn_init fail! ret=-1", LoadError, "The NPU's part of runtime 1.2.3 refused qwen.rkllm", "inspect"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "kind", "sentence", "hint"), CASES)
def test_a_message_becomes_a_sentence_and_a_repair(
    lines: str | list[str], kind: type[ExoRkllmError], sentence: str, hint: str
) -> None:
    error = failures.explain([lines] if isinstance(lines, str) else lines, CONTEXT)
    assert type(error) is kind
    assert sentence in error.sentence
    assert error.sentence.endswith(".")
    assert hint in error.hint


def test_every_row_of_the_table_is_met_by_a_message() -> None:
    met = set()
    for lines, *_ in CASES:
        found = failures.match(map(log.parse, [lines] if isinstance(lines, str) else lines))
        assert found is not None
        met.add(found[0].pattern)
    assert met == {row.pattern for row in TABLE}


def test_the_cause_is_told_and_not_what_followed_from_it() -> None:
    """One failure prints several lines, and not always the cause first."""
    error = failures.explain([RUNTIME, *reversed(NO_NPU_MEMORY)], CONTEXT)
    assert isinstance(error, OutOfMemory)
    warned = "W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7"
    assert isinstance(failures.explain([warned, "E rkllm: invalid rkllm model!"], CONTEXT), ModelFileError)


def test_init_lines_alone_tell_of_no_failure() -> None:
    lines = [RUNTIME, MODEL, "I rkllm: Enabled cpus: [4, 5, 6, 7]", "I rkllm: Enabled cpus num: 4"]
    assert failures.explain(lines, CONTEXT) is None
    assert not failures.proves_failure(lines)


def test_a_load_that_said_0_and_printed_this_has_failed() -> None:
    """1.1.x: init answers 0, and the first run aborts the process (reference 2.1)."""
    for line in (
        "invalid rknn llm model magic",
        "load model file error!",
        "rknn_init fail! ret=-1",
        *NO_NPU_MEMORY[:3],
    ):
        assert failures.proves_failure([RUNTIME, line]), line
    assert not failures.proves_failure(
        ["W rkllm: Warning: Your rknpu driver version is too low, please upgrade to 0.9.7"]
    )


def test_an_unknown_message_is_passed_on_in_its_own_words() -> None:
    lines = [RUNTIME, "E rkllm: the moon is in the wrong phase", "E rkllm: rkllm_init failed"]
    error = failures.failure(lines, CONTEXT, "loading qwen.rkllm", LoadError)
    assert type(error) is LoadError
    assert error.sentence == "Runtime 1.2.3 failed at loading qwen.rkllm: the moon is in the wrong phase."
    assert "RKLLM_LOG_LEVEL" in error.hint


def test_silence_is_said_to_be_silence() -> None:
    error = failures.failure([], CONTEXT, "a run", RunError)
    assert error.sentence == "Runtime 1.2.3 failed at a run, without a reason."


def test_a_known_message_wins_over_the_fallback() -> None:
    assert isinstance(failures.failure(NO_NPU_MEMORY, CONTEXT, "loading", RunError), OutOfMemory)
