"""exo itself in place of the stand-in: `EXO_PYTHON` names a Python in which it is installed.

    EXO_PYTHON=.../bin/python .venv/bin/python -m pytest tests/exo_cluster/test_{live,failures}.py

exo is no dependency and in no registry, so this is for a machine where somebody has built it; see docs/joining-exo.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

PYTHON = os.environ.get("EXO_PYTHON", "")
# exo's dashboard as its own build makes it, `npm ci && npm run build` in its folder `dashboard`: `dashboard/build`.
DASHBOARD = os.environ.get("EXO_DASHBOARD", "")
# It imports transformers and more.
STARTS_IN = 60.0

# Options of the stand-in with the number of their words: exo has these as well; these are the stand-in's own and say
# nothing to exo; all others make it differ from exo, so that a test with them is not for exo.
SHARED = {"--force-master": 0, "--no-worker": 0, "--namespace": 1} | dict.fromkeys(
    ("--zenoh-port", "--api-port", "--discovery-port"), 1
)
DROPPED = {"--campaign": 1, "--connect": 1, "--name": 1, "--api-bind": 1}


def command(words: Sequence[str], home: Path) -> list[str]:
    """What starts exo with a home and a host name of its own."""
    kept: list[str] = []
    name = "exo"
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in SHARED:
            kept += [word, *rest[: SHARED[word]]]
            del rest[: SHARED[word]]
        elif word in DROPPED:
            name = rest[0] if word == "--name" else name
            del rest[: DROPPED[word]]
        else:
            pytest.skip(f"{word} is of the stand-in alone, and EXO_PYTHON asks for exo")
    dashboard = Path(DASHBOARD or home / "dashboard")
    if not DASHBOARD:
        dashboard.mkdir(parents=True)
        (dashboard / "index.html").write_text("")
    return [
        *("unshare", "--uts", "sh", "-c", 'hostname "$0"; exec "$@"', name),
        *("env", "-u", "PYTHONPATH", f"EXO_HOME={home}", f"EXO_DASHBOARD_DIR={dashboard}"),
        *(PYTHON, "-m", "exo", "--offline", "--no-downloads", *kept),
    ]
