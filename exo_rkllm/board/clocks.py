"""Governors of NPU, memory and CPUs: saved first, then set to `performance`, then restored.

The vendor's own scripts fix frequencies and never restore them (rkllm-runtime 5.2). `performance` reaches the same
clocks on every bin of a chip, and restoring takes one word a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exo_rkllm.board import files

FULL_SPEED = "performance"
FIXED_SPEED = "userspace"


@dataclass(frozen=True, slots=True)
class ClockControl:
    """One clock: the file of its governor, and that of its frequency while the governor is `userspace`."""

    name: str
    governor: Path
    speed: Path
    available: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClocksOutcome:
    """Names of the clocks that were changed, and a sentence for each that could not be."""

    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def clock_controls(root: Path) -> list[ClockControl]:
    """The NPU's clock, the memory's, and one a CPU cluster, as far as the kernel has them."""
    devfreq, cpufreq = root / "sys/class/devfreq", root / "sys/devices/system/cpu/cpufreq"
    npus = [name for name in files.names(devfreq) if name.endswith(".npu")]
    controls = [
        _control(devfreq / name, "governor", "userspace/set_freq", "available_governors") for name in (*npus, "dmc")
    ]
    controls += [
        _control(folder, "scaling_governor", "scaling_setspeed", "scaling_available_governors")
        for folder in files.numbered(cpufreq, "policy")
    ]
    return [control for control in controls if control.governor.exists()]


def _control(folder: Path, governor: str, speed: str, available: str) -> ClockControl:
    governors = (files.text(folder / available) or "").split()
    return ClockControl(folder.name, folder / governor, folder / speed, tuple(governors))


def raise_clocks(root: Path, saved: Path) -> ClocksOutcome:
    """Save the governors and set them to performance. A note of an earlier run stays: the governors of now are ours."""
    controls = clock_controls(root)
    if not saved.exists():
        _save(saved, dict(_current(controls)))
    return _outcome((control.name, _raise(control)) for control in controls)


def restore_clocks(root: Path, saved: Path) -> ClocksOutcome:
    """Restore the governors that were saved, and delete the note; without a note nothing changes."""
    note = _note(saved)
    controls = [control for control in clock_controls(root) if control.name in note]
    outcome = _outcome((control.name, _restore(control, *note[control.name])) for control in controls)
    saved.unlink(missing_ok=True)
    return outcome


def _outcome(failures: Iterable[tuple[str, str]]) -> ClocksOutcome:
    results = list(failures)
    done = tuple(name for name, failure in results if not failure)
    return ClocksOutcome(done, tuple(failure for _, failure in results if failure))


def _raise(control: ClockControl) -> str:
    if FULL_SPEED not in control.available:
        return f"{control.name} has no governor {FULL_SPEED}."
    return _set(control, control.governor, FULL_SPEED)


def _restore(control: ClockControl, governor: str, speed: str = "", *_: str) -> str:
    failure = _set(control, control.governor, governor)
    return failure or (_set(control, control.speed, speed) if governor == FIXED_SPEED and speed else "")


def _current(controls: Sequence[ClockControl]) -> Iterator[tuple[str, list[str]]]:
    for control in controls:
        governor = files.text(control.governor)
        if not governor:
            continue
        speed = files.number(control.speed) if governor == FIXED_SPEED else None
        yield control.name, [governor] if speed is None else [governor, str(speed)]


def _save(saved: Path, note: Mapping[str, list[str]]) -> None:
    """Write the note completely or not at all, and to the disk, before the first clock changes."""
    new = saved.with_suffix(".new")
    with new.open("w") as file:
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
    new.rename(saved)


def _note(saved: Path) -> dict[str, list[str]]:
    try:
        note = json.loads(files.read(saved))
    except (OSError, ValueError):
        return {}
    if not isinstance(note, dict):
        return {}
    return {
        name: value
        for name, value in note.items()
        if isinstance(value, list) and value and all(isinstance(word, str) for word in value)
    }


def _set(control: ClockControl, path: Path, value: str) -> str:
    """Write one attribute; returns a sentence about a failure, or an empty string."""
    if files.text(path) == value:
        return ""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC)
        try:
            os.write(handle, value.encode())
        finally:
            os.close(handle)
    except OSError as error:
        return f"{control.name}: {path.name} cannot be set to {value} ({error.strerror})."
    return ""
