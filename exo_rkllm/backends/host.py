"""What the machine gives to every engine that loads a model here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from exo_rkllm.board import affinity
from exo_rkllm.board.detect import Board, detect
from exo_rkllm.board.driver import is_older
from exo_rkllm.config import Config
from exo_rkllm.config.table import SamplingPolicy
from exo_rkllm.runner.limits import RunnerLimits
from exo_rkllm.runtime.locate import Search
from exo_rkllm.runtime.version import order
from exo_rkllm.socs import default_cpus

if TYPE_CHECKING:  # imported with the first model or picture, and where conversations are kept
    from exo_rkllm.backends.prefix_store import PrefixStore
    from exo_rkllm.runner.parent import LineSink
    from exo_rkllm.runner.spare import SpareChild
    from exo_rkllm.vision.pictures import Pictures

log = logging.getLogger(__name__)

# The first driver whose NPU addresses have more than one window (reference npu-platform, drivers).
SEVERAL_WINDOWS = "0.9.6"
WINDOWS = 16
DOMAINS_SINCE = "1.2.0"


@dataclass(frozen=True, slots=True)
class EngineHost:
    """`report` gets the library's own lines. An empty `platform` refuses no file for another SoC's sake.

    `runtimes` are the vendor's libraries; without them each load looks for those that are installed. `domain` is the
    NPU address window in which this board's language models start where nothing else is said. `native` are libraries
    that a model's process opens before the vendor's. `sampling` is what becomes of a request whose settings differ from
    the loaded model's, where the runtime takes them at load only.
    `encoder_library` is librknnrt's path, None to look for it, `cores` are the NPU's, and `pictures` has been shown
    to the models of this process; without it no model sees. `prefixes` keeps conversations that others displace.
    `spare` is a process that the next load may use.
    """

    report: LineSink
    runtimes: Search | None = None
    platform: str = ""
    cpus: tuple[int, ...] = ()
    domain: int = 0
    limits: RunnerLimits = RunnerLimits()
    native: tuple[str, ...] = ()
    sampling: SamplingPolicy = "ignore"
    encoder_library: Path | None = None
    cores: int = 0
    pictures: Callable[[], Pictures] | None = None
    prefixes: PrefixStore | None = None
    spare: SpareChild | None = None


def engine_host(
    config: Config,
    runtimes: Search | None,
    report: LineSink,
    root: Path | None = None,
    pictures: Callable[[], Pictures] | None = None,
    prefixes: PrefixStore | None = None,
    spare: SpareChild | None = None,
) -> EngineHost:
    """The board below `root`, else the configured one; a machine that is none leaves SoC and CPUs to the library.

    Another root is another board, whose CPUs this process need not have.
    """
    root = root or Path(config.board.root)
    host = EngineHost(
        report,
        runtimes,
        native=config.plugins.native,
        sampling=config.runtime.sampling,
        encoder_library=Path(config.runtime.encoder_library) if config.runtime.encoder_library else None,
        pictures=pictures,
        prefixes=prefixes,
        spare=spare,
    )
    board = detect(root)
    if (soc := board.soc) is None:
        return host
    allowed = affinity.given_cpus() if root == Path("/") else frozenset(range(soc.cpus))
    if few := affinity.shortage(soc, allowed):
        log.warning("%s", few)
    cpus = default_cpus(soc, allowed, soc.cpus)
    return replace(host, platform=soc.title, cpus=cpus, cores=soc.cores, domain=language_domain(board))


# ── address windows ──────────────────────────────────────────────────────────────────────────────


def windows(board: Board) -> int:
    """How many IOMMU domains the board's driver has for models."""
    npu = board.npu
    return 1 if npu is not None and is_older(npu.version, SEVERAL_WINDOWS) else WINDOWS


def language_domain(board: Board) -> int:
    """The domain in which language models start: programs on librknnrt, which knows domain 0 only, hang beside them."""
    several = board.npu is not None and board.npu.iommu and windows(board) > 1
    return board.soc.language_domain if board.soc is not None and several else 0


def takes_domains(release: str) -> bool:
    """Whether this release of the vendor's library works in other domains than 0: 1.1.x crashes (rknn-vision 3)."""
    return order(release) >= order(DOMAINS_SINCE)
