"""Manual pages out of the parsers and the table of settings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import datetime, timezone

from exo_rkllm import __version__
from exo_rkllm.config.table import SECTIONS, TABLE, assigned
from tools.words import Command, Word, commands

SUMMARY = "local language models on Rockchip NPUs"
DESCRIPTION = """\
exo-rkllm serves .rkllm models on the NPU of Rockchip boards through the OpenAI, Ollama and Anthropic APIs, exports what
the NPU does to Prometheus, and joins an exo cluster where there is one. The daemon is exo-rkllm.service; every other
verb speaks to it through its control socket, or works on files."""
FILES = (
    (
        "/etc/exo-rkllm/config.toml",
        "The configuration, see exo-rkllm.toml(5). conf.d/*.toml beside it is read after it.",
    ),
    ("/etc/exo-rkllm/api-keys", "API keys, one a line, handed to the service by systemd."),
    ("/etc/default/exo-rkllm", "Variables of the service, as HTTPS_PROXY, HF_ENDPOINT or HF_TOKEN."),
    ("/var/lib/exo-rkllm/models", "The service's models, one folder each."),
    ("/run/exo-rkllm/control.sock", "The control socket, for members of the group exo-rkllm."),
    ("/usr/lib/exo-rkllm/librkllmrt.so", "The vendor's library, put there by exo-rkllm runtime --install."),
    ("/usr/share/exo-rkllm", "A Grafana dashboard and Prometheus rules."),
)
EXIT = (
    ("0", "Done."),
    ("1", "It failed, and one sentence says why and one what to do."),
    ("2", "What was asked for makes no sense."),
    ("130", "It was interrupted."),
)
PREFACE = """\
A TOML file. Every key is optional. The service reads /etc/exo-rkllm/config.toml, then /etc/exo-rkllm/conf.d/*.toml in
the order of their names, then the variables EXO_RKLLM_<SECTION>_<KEY>. A key that does not exist or has a wrong type is
an error: exo-rkllm config check. systemctl reload exo-rkllm takes changes over, and says which wait for a restart."""


def escaped(text: str) -> str:
    """A dash that is typed must stay one, and no line may begin as a request to troff."""
    shown = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("`", "")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in shown.splitlines())


def filled(text: str) -> str:
    return escaped(textwrap.fill(" ".join(text.split()), 100))


def head(name: str, section: int, epoch: int) -> str:
    day = datetime.fromtimestamp(epoch, timezone.utc).date().isoformat()
    return f'.TH {name.upper()} {section} "{day}" "exo\\-rkllm {__version__}"'


def program(epoch: int) -> str:
    """exo-rkllm(1)."""
    parts = [
        head("exo-rkllm", 1, epoch),
        f".SH NAME\nexo\\-rkllm \\- {SUMMARY}",
        ".SH SYNOPSIS\n.B exo\\-rkllm\n.RB [ \\-\\-version ]\n.I VERB\n.RI [ OPTIONS ]",
        f".SH DESCRIPTION\n{filled(DESCRIPTION)}",
        ".SH VERBS",
        *map(verb, commands()),
        ".SH EXIT STATUS\n" + "\n".join(map(entry, *zip(*EXIT, strict=True))),
        ".SH FILES\n" + "\n".join(map(entry, *zip(*FILES, strict=True))),
        ".SH SEE ALSO\n.BR exo\\-rkllm.toml (5),\n.BR exo\\-rkllm\\-simulator (1),\n.BR systemctl (1)",
    ]
    return "\n".join(parts) + "\n"


def entry(term: str, text: str) -> str:
    return f".TP\n.B {escaped(term)}\n{filled(text)}"


def verb(command: Command) -> str:
    lines = [f".SS exo\\-rkllm {escaped(command.name)}", filled(sentence(command.summary))]
    lines += [".PP", ".B " + escaped(command.usage)]
    lines += [f".TP\n.B {escaped(spelt(word))}\n{filled(word.says)}" for word in command.words]
    if command.epilog:
        lines += [".PP", *epilog(command.epilog)]
    return "\n".join(lines)


def sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


def spelt(word: Word) -> str:
    value = f" {word.shown}" if word.shown else ""
    return ", ".join(flag + value for flag in word.flags) or word.shown + (" ..." if word.many else "")


def epilog(text: str) -> Iterator[str]:
    """Its line breaks mean something where it has any."""
    if "\n" in text.strip():
        yield f".nf\n{escaped(text.strip())}\n.fi"
    else:
        yield filled(text)


def settings(epoch: int) -> str:
    """exo-rkllm.toml(5)."""
    parts = [
        head("exo-rkllm.toml", 5, epoch),
        ".SH NAME\nexo\\-rkllm.toml \\- configuration of exo\\-rkllm, /etc/exo\\-rkllm/config.toml",
        f".SH DESCRIPTION\n{filled(PREFACE)}",
        ".SH SETTINGS",
    ]
    for section, kind in SECTIONS.items():
        parts.append(f".SS [{escaped(section)}]\n{filled(kind.__doc__ or '')}")
        parts += [
            f".TP\n.B {escaped(assigned(spec, spec.default))}\n{filled(spec.about)} ({filled(spec.kind.what)})"
            for spec in TABLE[section].fields
        ]
    parts.append(".SH SEE ALSO\n.BR exo\\-rkllm (1)")
    return "\n".join(parts) + "\n"


SIMULATOR = (
    ("boards", "Name the board profiles."),
    (
        "board NAME DIRECTORY",
        "Write one board's device tree, drivers and counters below a folder; --live lets its NPU work.",
    ),
    (
        "model FILE [--reply TEXT ...]",
        "Write a model file that the stand-in library loads; --help names every property.",
    ),
    ("libraries", "Name the stand-in libraries, one for every supported generation and two that are to be refused."),
    ("use [--board NAME] [--runtime VERSION]", "Let the service work on a simulated board from its next start on."),
    ("off", "Undo that."),
)


def simulator(epoch: int) -> str:
    """exo-rkllm-simulator(1)."""
    parts = [
        head("exo-rkllm-simulator", 1, epoch),
        ".SH NAME\nexo\\-rkllm\\-simulator \\- an imitated board for exo\\-rkllm",
        ".SH SYNOPSIS\n.B exo\\-rkllm\\-simulator\n.I VERB\n.RI [ OPTIONS ]",
        ".SH DESCRIPTION\n"
        + filled(
            "Boards, models and a stand-in for Rockchip's librkllmrt.so, with which exo-rkllm runs on any machine. "
            "There is no NPU and no intelligence in it, and its first log line says so. Nothing that looks for the "
            "vendor's library finds it: only a configuration that names it, which is what the verb use writes."
        ),
        ".SH VERBS\n" + "\n".join(map(entry, *zip(*SIMULATOR, strict=True))),
        ".SH FILES\n"
        + entry("/etc/exo-rkllm/conf.d/simulator.toml, simulator.env", "What use writes, and off takes away.")
        + "\n"
        + entry("/var/lib/exo-rkllm-simulator/board", "The simulated board's files."),
        ".SH SEE ALSO\n.BR exo\\-rkllm (1)",
    ]
    return "\n".join(parts) + "\n"
