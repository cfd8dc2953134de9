"""Reads files and variables into one frozen `Config`; a ConfigError names the line and the setting that was meant."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from exo_rkllm.config.places import Places, places
from exo_rkllm.config.table import (
    ALIASES_EXAMPLE,
    CONFIG,
    SECTIONS,
    TABLE,
    VARIABLES,
    Config,
    aliases_lines,
    assigned,
)
from exo_rkllm.errors import ConfigError
from exo_rkllm.schema import toml
from exo_rkllm.schema.quantities import from_text
from exo_rkllm.schema.specs import FieldError, nearest
from exo_rkllm.schema.tables import build

PREFIX = "EXO_RKLLM_"
FILE = f"{PREFIX}CONFIG"  # names the file, and is no setting itself
Values = dict[str, dict[str, Any]]


def load(environment: Mapping[str, str], file: Path | None = None) -> Config:
    """The configuration in force. `file` is what `--config` named; it must exist, while the usual files need not."""
    here = places(environment)
    variable = environment.get(FILE)
    paths = _files(here, Path(variable) if file is None and variable else file)
    values: Values = {section: {} for section in SECTIONS}
    for path in paths:
        _merge(values, read_file(path))
    _merge(values, read_variables(environment))
    return _with_places(_config(values, paths), here)


def _files(here: Places, only: Path | None) -> list[Path]:
    """The files that are there, in the order of reading; raises a ConfigError where `only` is not."""
    if only is not None and not only.is_file():
        raise ConfigError(f"There is no configuration file {only}.", "exo-rkllm config show --defaults prints one")
    paths: list[Path] = []
    for path in here.configs if only is None else (only,):
        # A home that this user may not enter counts as empty.
        with suppress(PermissionError):
            paths += [path] if path.is_file() else []
            paths += sorted((path.parent / "conf.d").glob("*.toml"))
    return paths


def read_file(path: Path) -> Values:
    """The settings of one file by section; raises a ConfigError that names the line and what was meant."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text.", f"Save it as UTF-8: {path}") from None
    tables = toml.parse(text, str(path), ConfigError, "Texts want quotes, and sections stand in [brackets].")
    try:
        return CONFIG.check(tables, "")
    except FieldError as error:
        raise ConfigError(toml.complaint(error, text, str(path)), error.hint or _example(error.field)) from None


def read_variables(environment: Mapping[str, str]) -> Values:
    """The settings in EXO_RKLLM_<SECTION>_<KEY>; raises a ConfigError for a misspelled one, which would do nothing."""
    values: Values = {}
    for variable in sorted(name for name in environment if name.startswith(PREFIX) and name != FILE):
        if variable not in VARIABLES:
            raise ConfigError(f"The environment: there is no variable {variable}.", nearest(variable, VARIABLES))
        section, spec = VARIABLES[variable]
        try:
            value = spec.check(from_text(spec.kind, environment[variable]), f"{section}.{spec.name}")
        except FieldError as error:
            raise ConfigError(f"{variable}: {error.sentence}", error.hint or _example(error.field)) from None
        values.setdefault(section, {})[spec.name] = value
    return values


def _example(path: str) -> str:
    """The hint of a wrong value: a correct line, or the header of a section."""
    section, _, key = path.partition("[")[0].partition(".")
    if section == "aliases":
        return f"For example: {aliases_lines(ALIASES_EXAMPLE)}"
    spec = TABLE[section].field(key)
    return f"For example: {assigned(spec, spec.example)}" if spec else f"Write [{section}] on a line of its own."


def _merge(values: Values, more: Values) -> None:
    for section, settings in more.items():
        values.setdefault(section, {}).update(settings)


def _config(values: Values, read: Sequence[Path]) -> Config:
    return Config(
        **{name: build(section, values[name]) for name, section in SECTIONS.items()},
        aliases=values.get("aliases", {}),
        files=tuple(map(str, read)),
    )


def _with_places(config: Config, here: Places) -> Config:
    """Fill in what was left empty for the service or user that runs this."""
    keys = config.api.keys
    # What systemd starts beside the daemon, as for a reload, may not look into its credentials.
    if not keys and here.api_keys is not None and os.path.isfile(here.api_keys):  # noqa: PTH113 - Path.is_file raises
        keys = str(here.api_keys)
    return replace(
        config,
        api=replace(config.api, keys=keys),
        models=replace(config.models, directory=config.models.directory or str(here.models)),
        control=replace(config.control, socket=config.control.socket or str(here.socket)),
    )
