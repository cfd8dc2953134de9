"""Files and variables to one frozen `Config`, or the sentence that says which line is wrong and what was meant."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from exo_rkllm.config.places import Places, places
from exo_rkllm.config.table import SECTIONS, TABLE, Config, Key
from exo_rkllm.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the other branch is covered where the suite runs on 3.10
    import tomli as tomllib

PREFIX = "EXO_RKLLM_"
FILE = f"{PREFIX}CONFIG"  # names the file, and is no setting itself
Values = dict[str, dict[str, Any]]


def load(environment: Mapping[str, str], file: Path | None = None) -> Config:
    """`file` is what `--config` named; it must exist, while the usual files need not."""
    here = places(environment)
    chosen = environment.get(FILE)
    named = Path(chosen) if file is None and chosen else file
    values: Values = {section: {} for section in SECTIONS}
    read = _files(here, named)
    for path in read:
        _merge(values, read_file(path))
    _merge(values, read_variables(environment))
    return _with_places(_config(values, read), here)


def _files(here: Places, named: Path | None) -> list[Path]:
    if named is not None and not named.is_file():
        raise ConfigError(f"There is no configuration file {named}.", "exo-rkllm config show --defaults prints one")
    found: list[Path] = []
    for path in here.configs if named is None else (named,):
        # A home that this user may not enter holds nothing for it.
        with suppress(PermissionError):
            found += [path] if path.is_file() else []
            found += sorted((path.parent / "conf.d").glob("*.toml"))
    return found


def read_file(path: Path) -> Values:
    try:
        text = path.read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text.", f"Save it as UTF-8: {path}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not TOML: {error}.", "Texts want quotes, and sections stand in [brackets]."
        ) from None
    values: Values = {}
    for section, table in tables.items():
        if section not in TABLE or not isinstance(table, dict):
            where = f"{path}, line {line_of(text, '', section) or line_of(text, section, '')}"
            raise _unknown(where, f"[{section}]" if isinstance(table, dict) else section, section, TABLE, "section")
        values[section] = {
            name: _value(f"{path}, line {line_of(text, section, name)}", section, name, value)
            for name, value in table.items()
        }
    return values


def read_variables(environment: Mapping[str, str]) -> Values:
    """EXO_RKLLM_<SECTION>_<KEY>; a misspelt one would otherwise do nothing, and nobody would know."""
    values: Values = {}
    known = {key.variable: key for section in TABLE.values() for key in section.values()}
    for variable in sorted(name for name in environment if name.startswith(PREFIX) and name != FILE):
        if variable not in known:
            raise _unknown("The environment", variable, variable, known, "variable")
        key = known[variable]
        try:
            value = key.kind.parse(environment[variable])
        except ValueError:
            raise _wrong(variable, key, environment[variable]) from None
        values.setdefault(key.section, {})[key.name] = _checked(variable, key, value)
    return values


def _value(where: str, section: str, name: str, value: Any) -> Any:
    if name not in TABLE[section]:
        raise _unknown(where, f"{section}.{name}", name, TABLE[section], "key")
    key = TABLE[section][name]
    try:
        read = key.kind.read(value)
    except (TypeError, ValueError):
        raise _wrong(where, key, value) from None
    return _checked(where, key, read)


def _checked(where: str, key: Key, value: Any) -> Any:
    if key.check is not None and not key.check[0](value):
        raise ConfigError(
            f"{where}: {key.section}.{key.name} must be {key.check[1]}, not {key.kind.write(value)}.", _example(key)
        )
    return value


def _wrong(where: str, key: Key, value: Any) -> ConfigError:
    return ConfigError(f"{where}: {key.section}.{key.name} must be {key.kind.name}, not {value!r}.", _example(key))


def _example(key: Key) -> str:
    return f"For example: {key.name} = {key.kind.write(key.example)}"


def _unknown(where: str, shown: str, wanted: str, known: Iterable[str], what: str) -> ConfigError:
    from difflib import get_close_matches  # only where something is wrong

    names = list(known)
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(names))}."
    return ConfigError(f"{where}: there is no {what} {shown}.", hint)


def _merge(values: Values, more: Values) -> None:
    for section, settings in more.items():
        values.setdefault(section, {}).update(settings)


def _config(values: Values, read: Sequence[Path]) -> Config:
    sections = {name: kind(**values[name]) for name, kind in SECTIONS.items()}
    return Config(**sections, files=tuple(map(str, read)))


def _with_places(config: Config, here: Places) -> Config:
    """What was left empty, filled in for whoever runs this."""
    keys = config.api.keys
    handed = here.credentials / "api-keys" if here.credentials is not None else None
    # What systemd starts beside the daemon, as for a reload, may not look into its credentials.
    if not keys and handed is not None and os.path.isfile(handed):  # noqa: PTH113 - Path.is_file raises there
        keys = str(handed)
    return replace(
        config,
        api=replace(config.api, keys=keys),
        models=replace(config.models, directory=config.models.directory or str(here.models)),
        control=replace(config.control, socket=config.control.socket or str(here.socket)),
    )


def line_of(text: str, section: str, key: str) -> int:
    """Where a key stands, or (with an empty key) its section; 0 where it is written in a way not looked for."""
    current = ""
    patterns = {"": rf"\s*{re.escape(section)}\.{re.escape(key)}\s*=", section: rf'\s*"?{re.escape(key)}"?\s*[.=]'}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.\"-]+)\s*\]", line):
            current = header[1].strip('"')
            if current == section and not key:
                return number
        elif key and re.match(patterns.get(current, "$^"), line):
            return number
    return 0
