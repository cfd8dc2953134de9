"""Governors of NPU, memory and CPUs: what is there is written down first, then `performance` is set, then put back.

The vendor's own scripts fix frequencies and never restore them (rkllm-runtime 5.2); `performance` reaches the same
clocks on every bin of a chip, and what was there before is one word a file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exo_rkllm.board import files

WANTED = "performance"
FIXED = "userspace"


@dataclass(frozen=True, slots=True)
class Knob:
    """One clock: its governor, and the file that holds a frequency while that is `userspace`."""

    name: str
    governor: Path
    speed: Path
    available: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClocksOutcome:
    """Names of clocks that were set or put back, and a sentence for each that was not."""

    done: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def knobs(root: Path) -> list[Knob]:
    """The NPU's clock by its driver's name, the memory's, and one a CPU cluster; only what is there."""
    devfreq, cpufreq = root / "sys/class/devfreq", root / "sys/devices/system/cpu/cpufreq"
    npus = [folder for name in files.names(devfreq) if (folder := devfreq / name).name.endswith(".npu")]
    found = [
        Knob(folder.name, folder / "governor", folder / "userspace/set_freq", _words(folder / "available_governors"))
        for folder in (*npus, devfreq / "dmc")
    ]
    found += [
        Knob(
            folder.name,
            folder / "scaling_governor",
            folder / "scaling_setspeed",
            _words(folder / "scaling_available_governors"),
        )
        for folder in files.numbered(cpufreq, "policy")
    ]
    return [knob for knob in found if knob.governor.exists()]


def _words(path: Path) -> tuple[str, ...]:
    return tuple((files.text(path) or "").split())


def raise_clocks(root: Path, saved: Path) -> ClocksOutcome:
    """What a run before this one saved is kept: then the governors that are there now are our own."""
    found = knobs(root)
    if not saved.exists():
        _write_down(saved, dict(_current(found)))
    done, failed = [], []
    for knob in found:
        if WANTED not in knob.available:
            failed.append(f"{knob.name} has no governor {WANTED}.")
        elif trouble := _set(knob.governor, WANTED):
            failed.append(f"{knob.name}: {trouble}")
        else:
            done.append(knob.name)
    return ClocksOutcome(tuple(done), tuple(failed))


def restore_clocks(root: Path, saved: Path) -> ClocksOutcome:
    """Puts back what was written down, and forgets it; without a note there is nothing to put back."""
    note = _note(saved)
    done, failed = [], []
    for knob in knobs(root):
        before = note.get(knob.name)
        if before is None:
            continue
        trouble = _set(knob.governor, before[0])
        if not trouble and before[0] == FIXED and len(before) > 1:
            trouble = _set(knob.speed, before[1])
        if trouble:
            failed.append(f"{knob.name}: {trouble}")
        else:
            done.append(knob.name)
    saved.unlink(missing_ok=True)
    return ClocksOutcome(tuple(done), tuple(failed))


def _current(found: Sequence[Knob]) -> Iterator[tuple[str, list[str]]]:
    for knob in found:
        governor = files.text(knob.governor)
        if not governor:
            continue
        speed = files.number(knob.speed) if governor == FIXED else None
        yield knob.name, [governor] if speed is None else [governor, str(speed)]


def _write_down(saved: Path, note: Mapping[str, list[str]]) -> None:
    """Complete or not at all, and on the way to the disk before the first clock is touched."""
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
    """An empty text, or why it could not be written; the kernel refuses a governor that it does not have."""
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
