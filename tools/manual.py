"""Manual pages, generated from the parsers and the table of settings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from datetime import datetime, timezone

from exo_rkllm import __version__
from exo_rkllm.config.table import SECTIONS, TABLE, assigned
from tools.commands import Argument, Command, commands

SUMMARY = "local language models on Rockchip NPUs"
DESCRIPTION = """\
exo-rkllm serves .rkllm models on the NPU of Rockchip boards through the OpenAI, Ollama and Anthropic APIs, reports
NPU metrics to Prometheus, and joins an exo cluster if there is one. The daemon is exo-rkllm.service; all other
verbs talk to it through its control socket, or work on files."""
FILES = (
    (
        "/etc/exo-rkllm/config.toml",
        "The configuration, see exo-rkllm.toml(5). Files in conf.d/*.toml beside it are read after it.",
    ),
    ("/etc/exo-rkllm/api-keys", "API keys, one per line. systemd passes the file to the service."),
    ("/etc/default/exo-rkllm", "Environment variables of the service, such as HTTPS_PROXY, HF_ENDPOINT or HF_TOKEN."),
    ("/var/lib/exo-rkllm/models", "The service's models, one folder each."),
    ("/run/exo-rkllm/control.sock", "The control socket, for members of the group exo-rkllm."),
    ("/run/exo-rkllm/npu.sock", "The lease socket, on which other programs take turns on the NPU; for the same group."),
    ("/usr/lib/exo-rkllm/librkllmrt.so", "The default one of the vendor's libraries, a link into runtimes."),
    ("/usr/lib/exo-rkllm/runtimes", "The versions of the vendor's library, added by exo-rkllm runtime --install."),
    ("/usr/share/exo-rkllm", "A Grafana dashboard and Prometheus rules."),
)
EXIT = (
    ("0", "Success."),
    ("1", "Failure. One sentence gives the reason, and another the command that fixes it."),
    ("2", "Wrong usage."),
    ("130", "Interrupted."),
)
PREFACE = """\
A TOML file in which every key is optional. The service reads /etc/exo-rkllm/config.toml, then
/etc/exo-rkllm/conf.d/*.toml in the order of their names, then the variables EXO_RKLLM_<SECTION>_<KEY>. An unknown
key or a value of the wrong type is an error, which exo-rkllm config check reports. systemctl reload exo-rkllm
applies changes and says which of them need a restart."""


def escape(text: str) -> str:
    """Keep dashes that can be typed, and let no line start like a troff request."""
    plain = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq").replace("`", "")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in plain.splitlines())


def fill(text: str) -> str:
    return escape(textwrap.fill(" ".join(text.split()), 100))


def head(name: str, section: int, epoch: int) -> str:
    day = datetime.fromtimestamp(epoch, timezone.utc).date().isoformat()
    return f'.TH {name.upper()} {section} "{day}" "exo\\-rkllm {__version__}"'


def program(epoch: int) -> str:
    """exo-rkllm(1)."""
    parts = [
        head("exo-rkllm", 1, epoch),
        f".SH NAME\nexo\\-rkllm \\- {SUMMARY}",
        ".SH SYNOPSIS\n.B exo\\-rkllm\n.RB [ \\-\\-version ]\n.I VERB\n.RI [ OPTIONS ]",
        f".SH DESCRIPTION\n{fill(DESCRIPTION)}",
        ".SH VERBS",
        *map(verb, commands()),
        ".SH EXIT STATUS\n" + "\n".join(map(entry, *zip(*EXIT, strict=True))),
        ".SH FILES\n" + "\n".join(map(entry, *zip(*FILES, strict=True))),
        ".SH SEE ALSO\n.BR exo\\-rkllm.toml (5),\n.BR exo\\-rkllm\\-simulator (1),\n.BR systemctl (1)",
    ]
    return "\n".join(parts) + "\n"


def entry(term: str, text: str) -> str:
    return f".TP\n.B {escape(term)}\n{fill(text)}"


def verb(command: Command) -> str:
    lines = [f".SS exo\\-rkllm {escape(command.name)}", fill(sentence(command.summary))]
    lines += [escape(f"Also: {', '.join(command.aliases)}.")] if command.aliases else []
    lines += [".PP", ".B " + escape(command.usage)]
    lines += [f".TP\n.B {escape(spelling(argument))}\n{fill(argument.help)}" for argument in command.arguments]
    if command.epilog:
        lines += [".PP", *epilog(command.epilog)]
    return "\n".join(lines)


def sentence(summary: str) -> str:
    return summary[0].upper() + summary[1:] + "."


def spelling(argument: Argument) -> str:
    value = f" {argument.metavar}" if argument.metavar else ""
    return ", ".join(flag + value for flag in argument.flags) or argument.metavar + (" ..." if argument.many else "")


def epilog(text: str) -> Iterator[str]:
    """Line breaks, if there are any, are kept."""
    if "\n" in text.strip():
        yield f".nf\n{escape(text.strip())}\n.fi"
    else:
        yield fill(text)


def settings(epoch: int) -> str:
    """exo-rkllm.toml(5)."""
    parts = [
        head("exo-rkllm.toml", 5, epoch),
        ".SH NAME\nexo\\-rkllm.toml \\- configuration of exo\\-rkllm, /etc/exo\\-rkllm/config.toml",
        f".SH DESCRIPTION\n{fill(PREFACE)}",
        ".SH SETTINGS",
    ]
    for section, kind in SECTIONS.items():
        parts.append(f".SS [{escape(section)}]\n{fill(kind.__doc__ or '')}")
        parts += [
            f".TP\n.B {escape(assigned(spec, spec.default))}\n{fill(spec.about)} ({fill(spec.kind.what)})"
            for spec in TABLE[section].fields
        ]
    parts.append(".SH SEE ALSO\n.BR exo\\-rkllm (1)")
    return "\n".join(parts) + "\n"


SIMULATOR = (
    ("boards", "List the board profiles."),
    (
        "board NAME DIRECTORY",
        "Write a board's device tree, drivers and counters below a folder; --live makes its NPU work.",
    ),
    (
        "model FILE [--reply TEXT ...]",
        "Write a model file for the stand-in library; --help lists every property.",
    ),
    ("libraries", "List the stand-in libraries: one for each supported generation, and two that must be refused."),
    ("use [--board NAME] [--runtime VERSION]", "Make the service use a simulated board from its next start."),
    ("off", "Undo use."),
)


def simulator(epoch: int) -> str:
    """exo-rkllm-simulator(1)."""
    parts = [
        head("exo-rkllm-simulator", 1, epoch),
        ".SH NAME\nexo\\-rkllm\\-simulator \\- a simulated board for exo\\-rkllm",
        ".SH SYNOPSIS\n.B exo\\-rkllm\\-simulator\n.I VERB\n.RI [ OPTIONS ]",
        ".SH DESCRIPTION\n"
        + fill(
            "Boards, models and a stand-in for Rockchip's librkllmrt.so that let exo-rkllm run on any machine. There "
            "is no NPU behind it, and its first log line says so. Nothing that searches for the vendor's library "
            "finds it; it is used only if the configuration names it, as the verb use arranges."
        ),
        ".SH VERBS\n" + "\n".join(map(entry, *zip(*SIMULATOR, strict=True))),
        ".SH FILES\n"
        + entry("/etc/exo-rkllm/conf.d/simulator.toml, simulator.env", "Written by use, and removed by off.")
        + "\n"
        + entry("/var/lib/exo-rkllm-simulator/board", "The simulated board's files."),
        ".SH SEE ALSO\n.BR exo\\-rkllm (1)",
    ]
    return "\n".join(parts) + "\n"
