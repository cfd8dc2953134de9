"""The `[cluster]` section of the configuration, as the node takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Placement: TypeAlias = Literal["own", "dashboard"]

DISCOVERY_PORT = 52413
ZENOH_PORT = 52414
API_PORT = 52415
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """
    enabled         join the exo cluster of the local network
    namespace       `auto` joins the one cluster that is heard; otherwise exo's `--namespace`, by default its version
    interfaces      network interfaces to look on; none given means all that are up
    endpoints       zenoh addresses of exo nodes (`tcp/10.77.0.1:52414`), for networks that multicast does not cross
    name            how the board is called in exo's dashboard; empty takes the host's name
    models          catalogue ids to offer; `*` offers every one that can be served
    placement       `own` creates our instances ourselves; `dashboard` lets exo's dashboard launch them
    discovery_port  exo's `--discovery-port`
    api_port        exo's `--api-port`, and the port on which we answer `/node_id`
    """

    enabled: bool = True
    namespace: str = AUTO
    interfaces: tuple[str, ...] = ()
    endpoints: tuple[str, ...] = ()
    name: str = ""
    models: tuple[str, ...] = ("*",)
    placement: Placement = "own"
    discovery_port: int = DISCOVERY_PORT
    api_port: int = API_PORT
