"""The configuration: one table of settings, read from files and variables into frozen values."""

from exo_rkllm.config.load import load
from exo_rkllm.config.places import Places, places
from exo_rkllm.config.table import ApiSettings, ClusterSettings, Config, ControlSettings, MetricsSettings

__all__ = ["ApiSettings", "ClusterSettings", "Config", "ControlSettings", "MetricsSettings", "Places", "load", "places"]
