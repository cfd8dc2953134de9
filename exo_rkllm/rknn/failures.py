"""What a negative status of librknnrt means, as a sentence, and what repairs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from exo_rkllm.errors import ExoRkllmError, LoadError, ModelFileError, NpuUnavailable, OutOfMemory, RunError

LOG_HINT = "RKNN_LOG_LEVEL=4 in its environment makes librknnrt say more: exo-rkllm logs"
DRIVER_HINT = "exo-rkllm doctor checks the driver and who else uses the NPU"


class Status(NamedTuple):
    name: str
    sentence: str
    hint: str
    kind: type[ExoRkllmError]


# `{activity}` and `{file}` are filled in.
ERRORS: Mapping[int, Status] = {
    -1: Status("FAIL", "librknnrt failed at {activity}", LOG_HINT, RunError),
    -2: Status("TIMEOUT", "The NPU did not finish {activity} in time", DRIVER_HINT, RunError),
    -3: Status(
        "DEVICE_UNAVAILABLE",
        "librknnrt found no NPU at {activity}",
        "exo-rkllm doctor checks the driver and its device nodes",
        NpuUnavailable,
    ),
    -4: Status(
        "MALLOC_FAIL",
        "There is too little memory in the NPU's first address window for {activity}",
        "Stop other programs that use the NPU, or load the language model in another domain: exo-rkllm doctor",
        OutOfMemory,
    ),
    -5: Status("PARAM_INVALID", "librknnrt refused an argument of {activity}", LOG_HINT, RunError),
    -6: Status(
        "MODEL_INVALID",
        "librknnrt cannot use {file}: it is damaged, or there was no room for it in the NPU's first address window",
        "exo-rkllm inspect {file}, then exo-rkllm doctor",
        ModelFileError,
    ),
    -7: Status("CTX_INVALID", "librknnrt did not know its own context at {activity}", LOG_HINT, RunError),
    -8: Status("INPUT_INVALID", "librknnrt refused the picture given to {file}", LOG_HINT, RunError),
    -9: Status("OUTPUT_INVALID", "librknnrt refused the buffers for the output of {file}", LOG_HINT, RunError),
    -10: Status(
        "DEVICE_UNMATCH",
        "The NPU's driver does not fit this librknnrt at {activity}",
        "Update the kernel, or install a librknnrt of the driver's time: exo-rkllm runtime",
        LoadError,
    ),
    -11: Status(
        "INCOMPATILE_PRE_COMPILE_MODEL",
        "{file} was compiled in advance for another release of librknnrt",
        "Convert it again, or install the librknnrt that its card names",
        ModelFileError,
    ),
    -12: Status(
        "INCOMPATILE_OPTIMIZATION_LEVEL_VERSION",
        "{file} was optimised for a newer librknnrt",
        "exo-rkllm runtime --install FILE with a newer librknnrt",
        ModelFileError,
    ),
    -13: Status(
        "TARGET_PLATFORM_UNMATCH",
        "{file} is for another SoC than this board's",
        "Get the file for this board: exo-rkllm inspect {file} says which it is for",
        ModelFileError,
    ),
}


def failure(status: int, activity: str, file: str) -> ExoRkllmError:
    """The error of a status other than 0."""
    words = {"activity": activity, "file": file.rpartition("/")[2]}
    if status not in ERRORS:
        return RunError(f"librknnrt failed at {activity} with the unknown status {status}.", LOG_HINT)
    row = ERRORS[status]
    return row.kind(f"{row.sentence.format(**words)} (RKNN_ERR_{row.name}, {status}).", row.hint.format(**words))
