"""A setting is written once, read from files and variables, and every mistake in it is a sentence."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exo_rkllm.config import Config, load, places
from exo_rkllm.config.document import default_file, in_force, page
from exo_rkllm.config.load import read_file
from exo_rkllm.config.table import ALIASES_EXAMPLE, SECTIONS, VARIABLES, assigned
from exo_rkllm.errors import ConfigError
from exo_rkllm.schema.quantities import Bytes, Seconds
from exo_rkllm.schema.specs import FieldSpec, List, Switch, Text, Whole

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def read(file: Path, text: str = "", **environment: str) -> Config:
    file.write_text(text)
    return load({"HOME": "/home/ann", **environment}, file)


def complaint(file: Path, text: str = "", **environment: str) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        read(file, text, **environment)
    return caught.value.sentence.replace(f"{file}", "FILE"), caught.value.hint


# ── reading ──────────────────────────────────────────────────────────────────────────────────────


def test_empty_configuration_has_every_default(file: Path) -> None:
    config = read(file)
    assert (config.api.listen, config.api.port) == ("127.0.0.1", 52415)
    assert config.models.keep_alive == 300


def test_values_of_every_type(file: Path) -> None:
    config = read(
        file,
        """
        [api]
        port = 8080
        allow_anonymous = true
        origins = ["https://a.example", "https://b.example"]
        body_bytes = "64MiB"
        [models]
        directory = "/srv/models"
        keep_alive = "1.5h"
        [dispatch]
        queue_timeout = 90
        """,
    )
    assert config.api.port == 8080
    assert config.api.allow_anonymous is True
    assert config.api.origins == ("https://a.example", "https://b.example")
    assert config.api.body_bytes == 64 << 20
    assert config.models.directory == "/srv/models"
    assert (config.models.keep_alive, config.dispatch.queue_timeout) == (5400.0, 90.0)


def test_conf_d_overrides_the_file_and_variables_override_both(tmp_path: Path, file: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/20-late.toml").write_text("[api]\nport = 2000\nlisten = '::1'")
    (tmp_path / "conf.d/10-early.toml").write_text("[api]\nport = 1000\nbody_bytes = 5")
    (tmp_path / "conf.d/notes.txt").write_text("not read")
    config = read(file, "[api]\nport = 1\nkeys = '/k'", EXO_RKLLM_API_LISTEN="127.0.0.2")
    assert (config.api.port, config.api.body_bytes, config.api.keys) == (2000, 5, "/k")
    assert config.api.listen == "127.0.0.2"
    assert [Path(name).name for name in config.files] == ["config.toml", "10-early.toml", "20-late.toml"]


@pytest.mark.parametrize(
    ("variable", "text", "section", "name", "value"),
    [
        ("EXO_RKLLM_API_PORT", "80", "api", "port", 80),
        ("EXO_RKLLM_API_ALLOW_ANONYMOUS", "Yes", "api", "allow_anonymous", True),
        ("EXO_RKLLM_CLUSTER_ENABLED", "off", "cluster", "enabled", False),
        ("EXO_RKLLM_MODELS_PRELOAD", "qwen3, gemma", "models", "preload", ("qwen3", "gemma")),
        ("EXO_RKLLM_PLUGINS", "", "plugins", "allow", ()),
        ("EXO_RKLLM_MODELS_KEEP_ALIVE", "-1", "models", "keep_alive", -1.0),
        ("EXO_RKLLM_MODELS_KEEP_ALIVE", "1h30m", "models", "keep_alive", 5400.0),
        ("EXO_RKLLM_MODELS_RESERVE_MEMORY", "1GB", "models", "reserve_memory", 10**9),
    ],
)
def test_variable_sets_any_key(file: Path, variable: str, text: str, section: str, name: str, value: object) -> None:
    assert getattr(getattr(read(file, **{variable: text}), section), name) == value


# ── mistakes ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("[api]\n\nprot = 1", "FILE, line 3: there is no key api.prot.", "Did you mean port?"),
        ("[appi]\nport = 1", "FILE, line 1: there is no section appi.", "Did you mean api?"),
        ("port = 1", "FILE, line 1: there is no section port.", None),
        ("api = 1", "FILE, line 1: api must be a table, not 1.", None),
        ("api.port = 'x'", "FILE, line 1: api.port must be a whole number, not 'x'.", "For example: port = 11434"),
        ("[api]\nport = true", "FILE, line 2: api.port must be a whole number, not true.", None),
        ("[api]\nport = 70000", "FILE, line 2: api.port must be from 0 to 65535, not 70000.", None),
        ("[api]\nlisten = 1", "FILE, line 2: api.listen must be a string, not 1.", 'For example: listen = "0.0.0.0"'),
        ("[api]\nhosts = 1", "FILE, line 2: api.hosts must be a list of strings, not 1.", None),
        (
            "[api]\nhosts = [1]",
            "FILE, line 2: api.hosts[0] must be a string, not 1.",
            'For example: hosts = ["rock5.local"]',
        ),
        ("[api]\nallow_anonymous = 1", "FILE, line 2: api.allow_anonymous must be true or false, not 1.", None),
        (
            "[models]\nkeep_alive = '5 parsecs'",
            "FILE, line 2: models.keep_alive must be seconds or a duration such as 90s, 1h30m or 1d, not '5 parsecs'.",
            'For example: keep_alive = "1h"',
        ),
        ("[models]\nkeep_alive = false", None, 'For example: keep_alive = "1h"'),
        ("[models]\nreserve_memory = -1", None, 'For example: reserve_memory = "1GiB"'),
        ("[dispatch]\nqueue = 0", "FILE, line 2: dispatch.queue must be 1 or more, not 0.", "For example: queue = 32"),
        ("[cluster]\nplacement = 'x'", "FILE, line 2: cluster.placement must be one of own, dashboard, not 'x'.", None),
        ("[log]\nlevel = 'debg'", None, "Did you mean debug?"),
        ("[api]\nport =", "FILE is not TOML: Invalid value (at end of document).", None),
    ],
)  # fmt: skip
def test_mistake_is_reported_with_file_line_and_nearest_key(
    file: Path, text: str, sentence: str | None, hint: str | None
) -> None:
    found = complaint(file, text)
    assert sentence is None or found[0] == sentence
    assert hint is None or found[1] == hint
    assert all(found)


def test_misspelled_variable_is_refused(file: Path) -> None:
    assert complaint(file, EXO_RKLLM_API_PROT="1") == (
        "The environment: there is no variable EXO_RKLLM_API_PROT.",
        "Did you mean EXO_RKLLM_API_PORT?",
    )
    sentence, _ = complaint(file, EXO_RKLLM_API_PORT="many")
    assert sentence == "EXO_RKLLM_API_PORT: api.port must be a whole number, not 'many'."


def test_hint_lists_all_names_when_none_is_near(file: Path) -> None:
    _, hint = complaint(file, "[zzz]")
    assert hint.startswith("There are: aliases, api, board, cache, classic")


def test_named_file_must_exist_and_be_utf8(file: Path) -> None:
    with pytest.raises(ConfigError, match="There is no configuration file"):
        load({"EXO_RKLLM_CONFIG": str(file)})
    file.write_bytes(b"[api]\nlisten = '\xff'")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load({"EXO_RKLLM_CONFIG": str(file)})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_file(file.parent)


VALUES = {
    Text: st.text(st.characters(codec="utf-8")),
    Whole: st.integers(-(1 << 31), (1 << 31) - 1),
    Switch: st.booleans(),
    List: st.lists(st.text("ab\\\"#'[],= "), max_size=3),
    Seconds: st.floats(-10, 1e6) | st.integers(0, 1 << 40).map(float),
    Bytes: st.integers(0, 1 << 62),
}


def parsed(text: str) -> dict[str, Any]:
    library = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    found: dict[str, Any] = library.loads(text)
    return found


@pytest.mark.parametrize("kind", VALUES)
@settings(deadline=None)
@given(data=st.data())
def test_written_value_is_read_again(kind: Any, data: st.DataObject) -> None:
    spec = FieldSpec("key", List(Text()) if kind is List else kind(), "")
    value = data.draw(VALUES[kind])
    assert spec.check(parsed(assigned(spec, value))["key"], "key") == value


def test_line_of_a_mistake_is_right_after_a_multi_line_string(file: Path) -> None:
    quotes = '"' * 3
    text = f"[api]\nhosts = [\n'[models]',\n]\nkeys = {quotes}\n[log]\nport = 1\n{quotes}\nport = 'x'\n"
    assert complaint(file, text)[0] == "FILE, line 9: api.port must be a whole number, not 'x'."


# ── places ───────────────────────────────────────────────────────────────────────────────────────


def test_service_uses_the_folders_of_systemd() -> None:
    service = places({"STATE_DIRECTORY": "/var/lib/exo-rkllm:/x", "RUNTIME_DIRECTORY": "/run/exo-rkllm", "HOME": "/"})
    assert service.models == Path("/var/lib/exo-rkllm/models")
    assert service.socket == Path("/run/exo-rkllm/control.sock")
    assert service.configs == (Path("/etc/exo-rkllm/config.toml"),)


def test_user_has_xdg_folders_and_tries_the_services_socket() -> None:
    user = places({"HOME": "/home/ann", "XDG_RUNTIME_DIR": "/run/user/1000", "XDG_DATA_HOME": "relative/is/ignored"})
    assert user.models == Path("/home/ann/.local/share/exo-rkllm/models")
    assert user.socket == Path("/run/user/1000/exo-rkllm/control.sock")
    assert user.sockets == (user.socket, Path("/run/exo-rkllm/control.sock"))
    assert user.configs[1] == Path("/home/ann/.config/exo-rkllm/config.toml")


def test_empty_settings_are_filled_in_from_the_environment(file: Path, tmp_path: Path) -> None:
    (tmp_path / "api-keys").write_text("secret\n")
    config = read(file, CREDENTIALS_DIRECTORY=str(tmp_path), STATE_DIRECTORY="/var/lib/exo-rkllm")
    assert config.models.directory == "/var/lib/exo-rkllm/models"
    assert config.control.socket == "/run/exo-rkllm/control.sock"
    assert config.api.keys == str(tmp_path / "api-keys")
    assert read(file, "[api]\nkeys = '/mine'", CREDENTIALS_DIRECTORY=str(tmp_path)).api.keys == "/mine"


# ── what is made from the table ──────────────────────────────────────────────────────────────────


def test_documentation_page_matches_the_table() -> None:
    assert (REPOSITORY / "docs/configuration.md").read_text() == page(), "write it anew: exo-rkllm config show --page"


def test_default_file_is_valid_when_uncommented(file: Path) -> None:
    lines = default_file().splitlines()
    assert all(not line or line[0] in "#[" for line in lines)
    settings = [line.removeprefix("# ") for line in lines if line.startswith("[") or " = " in line]
    assert len(settings) == len(SECTIONS) + len(VARIABLES) + len(["[aliases]", "its example"])
    bare = replace(read(file, "\n".join(settings)), files=())
    assert bare == replace(read(file), files=(), aliases=ALIASES_EXAMPLE)


def test_printed_configuration_can_be_read_again(file: Path) -> None:
    config = read(
        file, '[api]\nlisten = "::1"\norigins = ["https://a"]\n[models]\nkeep_alive = -1\npreload = ["a\\"b"]'
    )
    shown = in_force(config)
    assert 'listen = "::1"  # set' in shown
    assert "port = 52415\n" in shown
    assert replace(read(file, shown), files=()) == replace(config, files=())


def test_aliases_are_read_and_shown(file: Path) -> None:
    config = read(file, '[aliases]\ngpt-4o = "qwen3-4b"\n"claude:3" = "story"\n')
    assert config.aliases == {"gpt-4o": "qwen3-4b", "claude:3": "story"}
    assert read(file, in_force(config)).aliases == config.aliases
    with pytest.raises(ConfigError, match=r"aliases\.gpt-4o must be a string") as caught:
        read(file, "[aliases]\ngpt-4o = 4\n")
    assert caught.value.hint == 'For example: gpt-4o = "qwen3-4b"'


def test_examples_are_valid_and_differ_from_the_defaults() -> None:
    for section, spec in VARIABLES.values():
        assert assigned(spec, spec.example) != assigned(spec, spec.default), f"{section}.{spec.name} shows nothing"
        for value in (spec.example, spec.default):
            spec.check(list(value) if isinstance(value, tuple) else value, spec.name)
        assert spec.about.endswith((".", "!"))


def test_table_has_every_section() -> None:
    assert {one.name for one in fields(Config)} == {*SECTIONS, "aliases", "files"}


def test_configuration_imports_no_heavy_module() -> None:
    code = "import sys, exo_rkllm.config; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"asyncio", "aiohttp", "numpy", "logging", "difflib"}
