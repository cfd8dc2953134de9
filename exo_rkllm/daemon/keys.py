"""API keys, from a file that somebody named or from systemd's credentials; never from the configuration itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from exo_rkllm.api.context import ApiKey
from exo_rkllm.config import ApiSettings, places
from exo_rkllm.errors import ConfigError

CONTROL = "control"
SHORTEST = 16


def read_keys(api: ApiSettings, environment: Mapping[str, str]) -> tuple[ApiKey, ...]:
    """A key a line; the word `control` after it lets its holder pull, load, unload and delete. `#` begins a comment."""
    credential = places(environment).api_keys
    path = Path(api.keys) if api.keys else credential
    if path is None or not (api.keys or path.is_file()):
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"The API keys in {path} cannot be read: {reason}.", f"ls -l {path}") from None
    keys: list[ApiKey] = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words[0]) < SHORTEST or not words[0].isascii() or words[1:] not in ([], [CONTROL]):
            raise ConfigError(
                f"{path}, line {number}: a key has {SHORTEST} characters or more, and {CONTROL!r} or nothing "
                "after it; all of it is ASCII.",
                "openssl rand -hex 24 makes one",
            )
        keys.append(ApiKey(f"key {number}", words[0], control=words[1:] == [CONTROL]))
    # The package's own file begins without a key, and every service is given it.
    if not keys and path != credential:
        raise ConfigError(f"There is no key in {path}.", f"openssl rand -hex 24 >> {path}")
    return tuple(keys)
