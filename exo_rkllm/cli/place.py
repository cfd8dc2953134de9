"""The node that a verb works on: its models folder, and its own process's plugins."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from exo_rkllm import plugins
from exo_rkllm.assembly import NO_PLUGINS, Node, open_node
from exo_rkllm.config import load, places
from exo_rkllm.config.places import SYSTEM_STATE

if TYPE_CHECKING:
    from exo_rkllm.runner.parent import LineSink

# Seconds for each plugin: the answer of a command may depend on it.
PATIENCE = 10.0


def argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", type=Path, metavar="DIR", help="the models folder (default: the configured one)")


def configured(system: Path = SYSTEM_STATE) -> Path:
    """The models folder; where nothing is configured, the one in `state`."""
    folder = Path(load(os.environ).models.directory)
    return state(system) / "models" if folder == places(os.environ).models else folder


def state(system: Path = SYSTEM_STATE) -> Path:
    """The service's state folder for root and members of its group, who may look there and have no daemon of their own;
    everybody else's is in their home."""
    here = places(os.environ)
    own_daemon = here.sockets[0] != here.sockets[-1] and os.access(here.sockets[0], os.F_OK)
    return system if not own_daemon and os.access(system, os.R_OK | os.X_OK) else here.state


def node(
    models: Path | None = None,
    *,
    plugged: bool = True,
    engine: str = "",
    library: Path | None = None,
    root: Path | None = None,
    report: LineSink = lambda _lines: None,
) -> Node:
    """`plugged` is False for a verb that no plugin can matter to: it must not wait for one."""
    loaded = load_plugins() if plugged else NO_PLUGINS
    return open_node(
        load(os.environ),
        loaded,
        models=models or configured(),
        engine=engine,
        library=library,
        root=root,
        report=report,
    )


def load_plugins() -> plugins.LoadedPlugins:
    """What did not load is told on stderr: the answer may be another one for it."""
    loaded = load_quietly()
    for row in loaded.rows:
        if row.state in ("failed", "conflict", "loading"):
            print(f"exo-rkllm: the plugin {row.name} is not used: {row.error or 'it still loads'}", file=sys.stderr)
    return loaded


def load_quietly() -> plugins.LoadedPlugins:
    """Without the lines that a log would get."""
    logging.getLogger(plugins.__name__).addHandler(logging.NullHandler())
    with redirect_stdout(sys.stderr):  # what a plugin prints is not the command's answer
        return plugins.load(environment=os.environ, patience=PATIENCE)
