"""The plugins of a command's own process."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import redirect_stdout

from exo_rkllm import plugins

# A command has nothing better to do than to wait for what its answer may depend on.
PATIENCE = 10.0


def quietly() -> plugins.Plugins:
    """Without the lines that a log would get, for whoever says it himself."""
    logging.getLogger(plugins.__name__).addHandler(logging.NullHandler())
    with redirect_stdout(sys.stderr):  # what a plugin prints is not the command's answer
        return plugins.load(environment=os.environ, patience=PATIENCE)


def plugged() -> plugins.Plugins:
    """What did not load is said on stderr: the answer may be another one for it."""
    found = quietly()
    for row in found.rows:
        if row.state in ("failed", "conflict", "loading"):
            print(f"exo-rkllm: the plugin {row.name} is not used: {row.error or 'it still loads'}", file=sys.stderr)
    return found
