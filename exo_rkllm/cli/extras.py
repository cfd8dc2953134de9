"""The plugins of a command's own process."""

from __future__ import annotations

import os
import sys

from exo_rkllm import plugins

# A command has nothing better to do than to wait for what its answer may depend on.
PATIENCE = 10.0


def plugged() -> plugins.Plugins:
    """What did not load is said on stderr: the answer may be another one for it."""
    found = plugins.load(environment=os.environ, patience=PATIENCE)
    for row in found.rows:
        if row.state in ("failed", "conflict", "loading"):
            print(f"exo-rkllm: the plugin {row.name} is not used: {row.error or 'it still loads'}", file=sys.stderr)
    return found
