"""What the operator decides: one table of settings, read from files and variables into frozen values."""

from exo_rkllm.config.load import load
from exo_rkllm.config.places import Places, places
from exo_rkllm.config.table import (
    Api,
    Board,
    Cluster,
    Config,
    Control,
    Dispatch,
    Log,
    Metrics,
    Models,
    Plugins,
    Runtime,
)

__all__ = [
    "Api",
    "Board",
    "Cluster",
    "Config",
    "Control",
    "Dispatch",
    "Log",
    "Metrics",
    "Models",
    "Places",
    "Plugins",
    "Runtime",
    "load",
    "places",
]
