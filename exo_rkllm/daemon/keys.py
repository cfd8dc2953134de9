"""The file with API keys: one a line, `KEY NAME [control]`. What is wrong is told by its line, never by its text."""

from __future__ import annotations

from pathlib import Path

from exo_rkllm.api.parts import Key
from exo_rkllm.errors import ConfigError

SHORTEST = 8
CONTROL = "control"


def read_keys(path: Path) -> tuple[Key, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"The API keys in {path} cannot be read: {reason}.", f"ls -l {path}") from None
    found = [_key(path, number, words) for number, line in enumerate(lines, 1) if (words := line.split("#")[0].split())]
    if not found:
        raise ConfigError(
            f"There is no API key in {path}.", f"Write one a line: KEY NAME. openssl rand -hex 24 >> {path}"
        )
    return tuple(found)


def _key(path: Path, number: int, words: list[str]) -> Key:
    control = words[-1] == CONTROL and len(words) > 1
    names = words[1:-1] if control else words[1:]
    if len(names) > 1:
        raise ConfigError(
            f"{path}, line {number}: more than a key, a name and {CONTROL!r}.", "A line is: KEY NAME [control]"
        )
    if len(words[0]) < SHORTEST:
        raise ConfigError(f"{path}, line {number}: a key has at least {SHORTEST} characters.", "openssl rand -hex 24")
    return Key(names[0] if names else f"key {number}", words[0], control)
