"""Writes firmware_notes/hardware-checks.md from the table of `selftest`: `python3 -m tools.hardware_checks`."""

from __future__ import annotations

from pathlib import Path

from exo_rkllm.doctor.probes import PROBES

FILE = Path(__file__).parents[1] / "firmware_notes/hardware-checks.md"
HEAD = """\
# Hardware checks

These checks need a real board, so the tests of this repository cannot perform them. Each has its command. The checks
marked *measured* or *command* are run by

    exo-rkllm selftest --model NAME

which writes a report to attach to an issue; as root, it includes what only root may read. The output of a command is
compared with what is expected, and is part of the report. selftest opens no device itself, changes no setting, and
leaves out serial numbers and addresses. Checks marked *by hand* are disruptive or require judgement.

What end-token, logits-rows, temperature-zero, long-abort and prompt-cache find out stands in `selftest.json` beside
the model's file, with the version of the vendor's library. Every load of the file reads it: answers end at the
`end_tokens` there, also on a runtime that misses them. `exo-rkllm show NAME` tells all of it. In the service's models
folder, selftest needs `sudo` to write it. The line *Answer* says where the answer to an open question is read.

This page is generated from `exo_rkllm/doctor/probes.py` by `python3 -m tools.hardware_checks`. Section numbers refer
to the project's reference.

"""


def page() -> str:
    """firmware_notes/hardware-checks.md."""
    parts = [HEAD]
    for probe in PROBES:
        needs = " (root)" if probe.root else ""
        command = "\n".join(f"    {line}" for line in probe.command.split("\n"))
        answer = f"Answer: {probe.answer}\n\n" if probe.answer else ""
        parts.append(
            f"## {probe.key}\n\n{probe.question}. *{probe.kind}*{needs}\n\n{command}\n\n"
            f"Expected: {probe.expect}\n\n{answer}"
        )
    return "".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    FILE.write_text(page())
