"""API keys come from a file, and a file that is wrong ends the start with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from exo_rkllm.config import ApiSettings
from exo_rkllm.daemon.keys import read_keys
from exo_rkllm.errors import ConfigError

LONG = "0123456789abcdef0123"


def written(folder: Path, text: str | bytes) -> ApiSettings:
    path = folder / "keys"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ApiSettings(keys=str(path))


def test_there_are_no_keys_without_a_file() -> None:
    assert read_keys(ApiSettings(), {}) == ()


def test_file_holds_one_key_a_line(tmp_path: Path) -> None:
    api = written(tmp_path, f"# of the house\n{LONG}\n\n{LONG}4 control  # the operator's\n")
    first, second = read_keys(api, {})
    assert (first.secret, first.control) == (LONG, False)
    assert (second.secret, second.control) == (f"{LONG}4", True)


def test_systemds_credential_is_taken_where_nobody_names_a_file(tmp_path: Path) -> None:
    (tmp_path / "api-keys").write_text(LONG)
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert [key.secret for key in read_keys(ApiSettings(), environment)] == [LONG]
    assert read_keys(ApiSettings(), {"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("short\n", "line 1"),
        (f"{LONG}\n{LONG} admin\n", "line 2"),
        ("# nothing\n", "no key"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_malformed_key_is_named_with_its_line(text: str | bytes, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_keys(written(tmp_path, text), {})
    assert LONG not in str(caught.value), "an error must not show a key"
    assert caught.value.hint


def test_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_keys(ApiSettings(keys=str(tmp_path / "none")), {})


def test_the_packages_own_file_begins_without_a_key(tmp_path: Path) -> None:
    """Handed over as a credential it is none; named by somebody it is a mistake."""
    (tmp_path / "api-keys").write_text("# nobody yet\n")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_keys(ApiSettings(), environment) == ()
    assert read_keys(ApiSettings(keys=str(tmp_path / "api-keys")), environment) == ()
    with pytest.raises(ConfigError, match="There is no key in"):
        read_keys(ApiSettings(keys=str(tmp_path / "api-keys")), {})
