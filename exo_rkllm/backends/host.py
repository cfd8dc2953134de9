"""What the machine gives to every engine that loads a model here."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from exo_rkllm.board.detect import detect
from exo_rkllm.config import Config
from exo_rkllm.runner.parent import LineSink, RunnerLimits
from exo_rkllm.socs import default_cpus


@dataclass(frozen=True, slots=True)
class EngineHost:
    """`report` gets the library's own lines. An empty `platform` refuses no file for another SoC's sake.

    `native` are libraries that a model's process opens before the vendor's. `reload`: a request whose sampling the
    runtime takes at load only has the model loaded again with it, where it would be refused otherwise.
    """

    report: LineSink
    library: Path | None = None
    platform: str = ""
    cpus: tuple[int, ...] = ()
    limits: RunnerLimits = RunnerLimits()
    native: tuple[str, ...] = ()
    reload: bool = False


def engine_host(config: Config, library: Path | None, report: LineSink, root: Path | None = None) -> EngineHost:
    """The board below `root`, else the configured one; a machine that is none leaves SoC and CPUs to the library.

    Another root is another board, whose CPUs this process need not have.
    """
    root = root or Path(config.board.root)
    host = EngineHost(report, library, native=config.plugins.native, reload=config.runtime.reloads)
    soc = detect(root).soc
    if soc is None:
        return host
    allowed = os.sched_getaffinity(0) if root == Path("/") else range(soc.cpus)
    return replace(host, platform=soc.title, cpus=default_cpus(soc, allowed, soc.cpus))
