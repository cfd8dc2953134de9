"""Governors of NPU, memory and CPUs: saved first, then set to `performance`, then restored.

The vendor's own scripts fix frequencies and never restore them (rkllm-runtime 5.2). `performance` reaches the same
clocks on every bin of a chip, and restoring takes one word a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
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
    npus = [folder for name in files.names(devfreq) if (folder := devfreq / name).name.endswith(".npu")]
    controls = [
        ClockControl(
            folder.name, folder / "governor", folder / "userspace/set_freq", _words(folder / "available_governors")
        )
        for folder in (*npus, devfreq / "dmc")
    ]
    controls += [
        ClockControl(
            folder.name,
            folder / "scaling_governor",
            folder / "scaling_setspeed",
            _words(folder / "scaling_available_governors"),
        )
        for folder in files.numbered(cpufreq, "policy")
    ]
    return [control for control in controls if control.governor.exists()]


def _words(path: Path) -> tuple[str, ...]:
    return tuple((files.text(path) or "").split())


def raise_clocks(root: Path, saved: Path) -> ClocksOutcome:
    """Save the governors and set them to performance. A note of an earlier run stays: the governors of now are ours."""
    controls = clock_controls(root)
    if not saved.exists():
        _save(saved, dict(_current(controls)))
    done, failed = [], []
    for control in controls:
        if FULL_SPEED not in control.available:
            failed.append(f"{control.name} has no governor {FULL_SPEED}.")
        elif failure := _set(control.governor, FULL_SPEED):
            failed.append(f"{control.name}: {failure}")
        else:
            done.append(control.name)
    return ClocksOutcome(tuple(done), tuple(failed))


def restore_clocks(root: Path, saved: Path) -> ClocksOutcome:
    """Restore the governors that were saved, and delete the note; without a note nothing changes."""
    note = _note(saved)
    done, failed = [], []
    for control in clock_controls(root):
        before = note.get(control.name)
        if before is None:
            continue
        failure = _set(control.governor, before[0])
        if not failure and before[0] == FIXED_SPEED and len(before) > 1:
            failure = _set(control.speed, before[1])
        if failure:
            failed.append(f"{control.name}: {failure}")
        else:
            done.append(control.name)
    saved.unlink(missing_ok=True)
    return ClocksOutcome(tuple(done), tuple(failed))


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


def _set(path: Path, value: str) -> str:
    """Write one attribute; returns why that failed, or an empty string."""
    if files.text(path) == value:
        return ""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC)
        try:
            os.write(handle, value.encode())
        finally:
            os.close(handle)
    except OSError as error:
        return f"{path.name} cannot be set to {value} ({error.strerror})."
    return ""
