"""Where one board's counters are: paths, resolved once, since they change only when the driver does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from errno import EACCES, ENOENT, EPERM
from pathlib import Path

from exo_rkllm.board import files
from exo_rkllm.board.detect import BOUND, BUS, DEBUGFS, Board, Npu, driver_folder

CLOSED = (EPERM, EACCES)


@dataclass(frozen=True, slots=True)
class Devfreq:
    """A clock that the kernel scales: the NPU's or the memory's. Its `load` file is a constant for the NPU (3.3)."""

    path: Path
    top: int | None  # the highest step that this chip's bin has


@dataclass(frozen=True, slots=True)
class Sources:
    """Paths below `root`; None where the board has no such source."""

    root: Path
    names: tuple[str, ...] = ()  # platform devices; one for all cores, one a core under rocket
    cores: int | None = None
    folder: Path | None = None
    no_folder: str = ""  # why there is none
    npu_clock: Devfreq | None = None
    ddr_clock: Devfreq | None = None
    zone: Path | None = None
    zone_type: str = ""
    regulator: Path | None = None
    power: Path | None = None  # of the whole board, in microwatts, where it has such a sensor
    cma: bool = False  # whether model memory comes from CMA, which is meaningless with an IOMMU (3.5)

    @property
    def devices(self) -> tuple[Path, ...]:
        return tuple(self.root / BUS / "devices" / name for name in self.names)


def find_sources(root: Path, board: Board) -> Sources:
    """The sources of `board`, which was detected below `root`."""
    zone, kind = _zone(root, board)
    ddr, power = _devfreq(root / "sys/class/devfreq/dmc"), _power_sensor(root)
    npu = board.npu
    if npu is None:
        return Sources(root, no_folder=board.sentence, zone=zone, zone_type=kind, ddr_clock=ddr, power=power)
    folder = driver_folder(root) if npu.driver == "RKNPU" else None
    return Sources(
        root=root,
        names=npu.devices,
        cores=npu.cores,
        folder=folder,
        no_folder="" if folder else _no_folder(root, npu, inside=bool(board.container)),
        npu_clock=next(filter(None, (_devfreq(root / "sys/class/devfreq" / name) for name in npu.devices)), None),
        ddr_clock=ddr,
        zone=zone,
        zone_type=kind,
        regulator=_regulator(root),
        power=power,
        cma=npu.build == "dma_heap" or (npu.build == "drm_gem" and not npu.iommu),
    )


def refresh_folder(sources: Sources, board: Board) -> Sources:
    """The same with the driver's folder, if that has appeared: the mount that shows it follows the driver silently."""
    if sources.folder is not None or board.npu is None or board.npu.driver != "RKNPU":
        return sources
    folder = driver_folder(sources.root)
    return sources if folder is None else replace(sources, folder=folder, no_folder="")


def _no_folder(root: Path, npu: Npu, *, inside: bool) -> str:
    if npu.driver != "RKNPU":
        return f"the driver {npu.driver} counts no load"
    bound, debug = root / BOUND, root / DEBUGFS
    if bound.is_dir():
        return "the service was started before the driver, so its view of the driver's counters is empty"
    try:
        files.read(debug / "load", 1)
    except OSError as error:
        if inside and error.errno in (ENOENT, *CLOSED):
            return "this container is not shown /sys/kernel/debug/rknpu/load"
        if error.errno in CLOSED:
            return "only root may read /sys/kernel/debug/rknpu, and the service gets it through its unit"
        return files.reason(error, debug / "load", root)
    return ""


def _devfreq(path: Path) -> Devfreq | None:
    if files.number(path / "cur_freq") is None:
        return None
    steps = [step for step in map(files.whole, (files.text(path / "available_frequencies") or "").split()) if step]
    return Devfreq(path, max(steps, default=None))


def _zone(root: Path, board: Board) -> tuple[Path | None, str]:
    """By type, since indexes differ (3.6); without a row of ours, any zone that names the NPU or the chip."""
    folders = files.numbered(root / "sys/class/thermal", "thermal_zone")
    zones = {files.text(path / "type") or "": path for path in folders}
    preferred = board.soc.zones if board.soc else ("npu-thermal", "soc-thermal")
    return next(((zones[kind], kind) for kind in preferred if kind in zones), (None, ""))


def _regulator(root: Path) -> Path | None:
    regulators = files.numbered(root / "sys/class/regulator", "regulator.")
    return next((path for path in regulators if (files.text(path / "name") or "").startswith("vdd_npu")), None)


def _power_sensor(root: Path) -> Path | None:
    """The first sensor of hwmon that measures power: boards have one for their supply or none."""
    folders = files.numbered(root / "sys/class/hwmon", "hwmon")
    inputs = (folder / "power1_input" for folder in folders)
    return next((path for path in inputs if files.number(path) is not None), None)
