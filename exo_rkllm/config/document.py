"""The table for people: a commented file to start from, the manual's page, and what is in force."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from exo_rkllm.config.table import (
    ALIASES_ABOUT,
    ALIASES_EXAMPLE,
    SECTIONS,
    TABLE,
    VARIABLES,
    Config,
    aliases_lines,
    assigned,
)
from exo_rkllm.schema import toml
from exo_rkllm.schema.quantities import written
from exo_rkllm.schema.specs import FieldSpec

HEAD = """\
# Configuration of exo-rkllm. Every setting is commented out and shows its default.
# Files in conf.d/*.toml beside this one are read after it, in the order of their names, followed by
# the environment variables EXO_RKLLM_<SECTION>_<KEY>. To check your changes: exo-rkllm config check
# To apply them: systemctl reload exo-rkllm (no request is dropped).
"""
WIDTH = 100
PREFACE = """\
# Configuration

This page is generated from `exo_rkllm/config/table.py`. `exo-rkllm config show --defaults` prints the same settings
as a file to start from.

The service reads `/etc/exo-rkllm/config.toml`, then `/etc/exo-rkllm/conf.d/*.toml` in the order of their names, then
the environment. If you start `exo-rkllm serve` yourself, it also reads `~/.config/exo-rkllm/config.toml`, before the
environment. `EXO_RKLLM_CONFIG` or `--config` replaces all of these files with another one and the `conf.d` beside it.

An unknown key or a value of the wrong type is an error that names the file, the line and the nearest existing key; run
`exo-rkllm config check`. `systemctl reload exo-rkllm` applies changes without dropping a request and logs which of them
need a restart."""


def default_file() -> str:
    sections = (f"\n# {_about(section)}\n[{section}]\n{_lines(section)}" for section in TABLE)
    return HEAD + "".join(sections) + f"\n# {ALIASES_ABOUT}\n[aliases]\n# {aliases_lines(ALIASES_EXAMPLE)}\n"


def _lines(section: str) -> str:
    return "\n".join(
        f"{textwrap.fill(spec.about, WIDTH, initial_indent='# ', subsequent_indent='# ')}\n"
        f"# {assigned(spec, spec.default)}\n"
        for spec in TABLE[section].fields
    )


def _about(section: str) -> str:
    return (SECTIONS[section].__doc__ or "").strip()


def page() -> str:
    """docs/configuration.md."""
    parts = [PREFACE]
    for section in TABLE:
        parts.append(f"## `[{section}]`\n\n{_about(section)}")
        rows = ["| Key | Type | Default | Meaning | Example | Variable |", "|---|---|---|---|---|---|"]
        rows += [
            f"| `{spec.name}` | {spec.kind.what} | `{_value(spec, spec.default)}` | {spec.about} | "
            f"`{_value(spec, spec.example)}` | `{variable}` |"
            for variable, (of, spec) in VARIABLES.items()
            if of == section
        ]
        parts.append("\n".join(rows))
    parts.append(f"## `[aliases]`\n\n{ALIASES_ABOUT}\n\n```toml\n[aliases]\n{aliases_lines(ALIASES_EXAMPLE)}\n```")
    return "\n\n".join(parts) + "\n"


def in_force(config: Config) -> str:
    """A file that would give this configuration; what differs from the default is marked."""
    read = [f"# read from {toml.value_of(file)[1:-1]}" for file in config.files]
    head = read or ["# no configuration file was found"]
    return "\n".join([*head, *_in_force(config)]) + "\n"


def _in_force(config: Config) -> Iterator[str]:
    for section, table in TABLE.items():
        yield f"\n[{section}]"
        for spec in table.fields:
            value = getattr(getattr(config, section), spec.name)
            yield assigned(spec, value) + ("" if value == spec.default else "  # set")
    yield f"\n[aliases]\n{aliases_lines(config.aliases)}".rstrip()


def _value(spec: FieldSpec, value: object) -> str:
    return toml.value_of(written(spec.kind, value))
