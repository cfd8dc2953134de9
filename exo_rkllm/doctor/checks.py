"""The checks, in the order in which things have to be right: from the SoC over the driver to the model file.

A check that depends on one that failed is not made, so that one cause is one failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from exo_rkllm.board.counters import Clock
from exo_rkllm.board.detect import UPGRADE, DeviceNode, Npu
from exo_rkllm.board.driver import MINIMUM, RECOMMENDED, is_older
from exo_rkllm.board.performance import ENABLE, SOCKET
from exo_rkllm.board.states import UNMASK
from exo_rkllm.classic.launcher import NONE, UNRELATED
from exo_rkllm.doctor.identity import SERVICE_USER, group_name
from exo_rkllm.doctor.report import DoctorReport, Finding, ReportLine, bad, good, poor, unseen, worst
from exo_rkllm.doctor.scene import ModelSeen, Scene
from exo_rkllm.errors import ExoRkllmError, RuntimeMissing
from exo_rkllm.runtime import abi

GIB = 1 << 30
PERFORMANCE = (
    "Set performance = true under [board] in /etc/exo-rkllm/config.toml, and: "
    "sudo systemctl enable --now exo-rkllm-clocks.socket"
)
COOLING = "Give the board a heat sink and a fan, then: exo-rkllm top"
# Below this part of its clock the NPU is slow by more than a throttle explains (limits start at 80 %).
SLOW = 0.75
# What a small model takes (Qwen3 0.6B: 791 MB), in use next to everything else.
LITTLE_MEMORY = GIB
# The library names it whatever the build (npu-platform 2.3).
HEAPS = {"drm_gem": "dev/dma_heap", "dma_heap": "dev/rk_dma_heap"}
# States of a plugin that is not used though nobody refused it.
TROUBLED = ("failed", "conflict", "loading")


class Check(NamedTuple):
    """`needs` names checks that must not have failed; `look` judges the scene."""

    name: str
    look: Callable[[Scene], Finding]
    needs: tuple[str, ...] = ()


def diagnose(scene: Scene) -> DoctorReport:
    lines: list[ReportLine] = []
    failed: set[str] = set()
    for check in CHECKS:
        missing = [name for name in check.needs if name in failed]
        finding = unseen(f"not looked at, because of: {', '.join(missing)}") if missing else check.look(scene)
        if finding.level == "fail" or missing:
            failed.add(check.name)
        lines.append(ReportLine(check.name, finding))
    return DoctorReport(scene.identity.name, tuple(lines))


def of_error(error: ExoRkllmError) -> Finding:
    return bad(error.sentence, error.hint)


# ── the board ────────────────────────────────────────────────────────────────────────────────────


def configuration(scene: Scene) -> Finding:
    if scene.config_error is not None:
        return of_error(scene.config_error)
    read = [str(path) for path in scene.config.files] if scene.config is not None else []
    return good(f"read from {', '.join(read)}" if read else "no file, so everything has its default")


def soc(scene: Scene) -> Finding:
    board = scene.board
    if board.soc is None or not board.soc.rkllm:
        reason = board.unavailable_reason()
        if reason is not None and (board.state in ("unknown", "unsupported_soc") or board.soc is not None):
            return of_error(reason)
        return poor(f"{board.title} has an NPU of a SoC that is not known here", "exo-rkllm selftest writes a report")
    cores = board.npu.cores if board.npu is not None and board.npu.cores else board.soc.cores
    fused = f" of {board.soc.cores}" if cores < board.soc.cores else ""
    named = f"{board.soc_name.upper()} ({board.model})" if board.model else board.soc_name.upper()
    return good(f"{named}, {cores}{fused} NPU core{'s' if cores > 1 else ''}, {board.soc.tops:g} TOPS")


def device_tree(scene: Scene) -> Finding:
    if scene.board.tree:
        return good("can be read, as the RKLLM library wants it")
    return bad("The device tree is hidden, and the RKLLM library refuses a board it cannot read.", UNMASK)


def driver(scene: Scene) -> Finding:
    board = scene.board
    if board.state != "vendor_ready" or board.npu is None:
        return bad(board.sentence, board.hint)
    return good(f"RKNPU drives {board.npu.device} ({board.npu.build}, kernel {board.kernel or 'unknown'})")


def driver_version(scene: Scene) -> Finding:
    found = npu_of(scene).version
    if not found:
        return poor("The driver's version cannot be read.", "cat /sys/module/rknpu/version")
    if is_older(found, MINIMUM):
        return bad(f"The driver is {found}; the RKLLM library needs {MINIMUM} or newer.", UPGRADE)
    if is_older(found, RECOMMENDED):
        return poor(f"The driver is {found}; runtime 1.3 asks for {RECOMMENDED}.", UPGRADE)
    return good(f"{found}")


def nodes(scene: Scene) -> Finding:
    missing = scene.board.missing_nodes()
    if missing is not None:
        return of_error(missing)
    known = npu_of(scene).nodes
    guess = " (a guess: no link of sysfs says so)" if any(node.guessed for node in known) else ""
    return good(f"{', '.join(node.path for node in known)}{guess}")


def access(scene: Scene) -> Finding:
    """Asked by permissions alone: opening the node is the library's business."""
    who = scene.identity
    closed = [node for node in npu_of(scene).nodes if not who.may_use(on_disk(scene, node))]
    if not closed:
        return good(f"{who.name} may use them")
    groups = sorted({on_disk(scene, node).stat().st_gid for node in closed})
    paths = " and ".join(node.path for node in closed)
    fact = f"{who.name} may not use {paths}."
    if scene.board.container:
        return bad(fact, "Start the container with " + " ".join(f"--group-add {number}" for number in groups))
    if 0 in groups:
        return bad(fact, "sudo udevadm control --reload && sudo udevadm trigger (the package's rules give the groups)")
    names = ",".join(group_name(number) for number in groups)
    again = "sudo systemctl restart exo-rkllm" if who.name == SERVICE_USER else "log in again"
    return bad(fact, f"sudo usermod -aG {names} {who.name}, then {again}")


def on_disk(scene: Scene, node: DeviceNode) -> Path:
    return scene.root / node.path[1:]


def impostor(scene: Scene) -> Finding:
    """A /dev/rknpu of one's own makes the library speak the wrong ABI to a DRM node (npu-platform 2.3)."""
    path = scene.root / "dev/rknpu"
    if npu_of(scene).build == "dma_heap" or not (path.exists() or path.is_symlink()):
        return good(
            "no /dev/rknpu that would mislead the library" if npu_of(scene).build != "dma_heap" else "/dev/rknpu"
        )
    return bad(
        "/dev/rknpu exists although the driver has DRM nodes: the library takes it first, and fails on it.",
        "sudo rm /dev/rknpu, and remove the udev rule that makes it: grep -rl rknpu /etc/udev/rules.d",
    )


def heap(scene: Scene) -> Finding:
    folder = scene.root / HEAPS.get(npu_of(scene).build, "dev/dma_heap")
    shown = "/" + str(folder.relative_to(scene.root))
    if not folder.is_dir():
        if scene.board.container:
            return poor(f"{shown} is not in this container.", f"Start it with --device {shown}")
        return poor(
            f"There is no {shown}, which the library may want for its buffers.", "zgrep DMABUF_HEAPS /proc/config.gz"
        )
    closed = [path for path in sorted(folder.iterdir()) if not scene.identity.may_use(path)]
    if closed:
        return poor(
            f"{scene.identity.name} may not use {shown}/{closed[0].name}.",
            "sudo udevadm control --reload && sudo udevadm trigger (the package's rules give it to video)",
        )
    return good(shown)


def npu_of(scene: Scene) -> Npu:
    """For checks that need the driver's; `needs` keeps them from being asked without one."""
    assert scene.board.npu is not None  # noqa: S101  a slip in the table below, never a user's doing
    return scene.board.npu


# ── what slows it down ───────────────────────────────────────────────────────────────────────────


def memory(scene: Scene) -> Finding:
    reading = scene.reading
    if reading.memory_total is None or reading.memory_available is None:
        return unseen(reading.absent.get("memory", "/proc/meminfo has no MemAvailable"))
    fact = f"{reading.memory_available / GIB:.1f} of {reading.memory_total / GIB:.1f} GiB available"
    if reading.cma_total is not None:
        return poor(
            f"{fact}, but this NPU has no IOMMU: models must fit into {reading.cma_total / GIB:.2f} GiB of CMA.",
            "Add cma=1G (or more) to the kernel's command line, then reboot.",
        )
    if reading.memory_available < LITTLE_MEMORY:
        return poor(f"Only {fact}.", "exo-rkllm ps, then exo-rkllm unload NAME; or end other programs: free -h")
    return good(fact)


def npu_clock(scene: Scene) -> Finding:
    clock, board = scene.reading.clock, scene.board
    if clock is None or not clock.top:
        return unseen(scene.reading.absent.get("clock", "the driver lists no clocks"))
    fact = f"{clock.hertz / 1e6:.0f} of {clock.top / 1e6:.0f} MHz"
    if clock.throttled and clock.maximum is not None:
        heat = f" at {scene.reading.celsius:.0f} degrees" if scene.reading.celsius is not None else ""
        return poor(
            f"Limited to {clock.maximum / 1e6:.0f} of {clock.top / 1e6:.0f} MHz{heat}.{expected(scene)}", COOLING
        )
    if clock.hertz < SLOW * min(clock.top, board.soc.npu_hz if board.soc is not None else clock.top):
        return poor(f"{fact} ({clock.governor}).{expected(scene)}", PERFORMANCE)
    return good(fact)


def expected(scene: Scene) -> str:
    """The vendor's figures, which were taken at full clocks (rkllm-runtime 5.1)."""
    soc_row = scene.board.soc
    if soc_row is None or not soc_row.benchmark:
        return ""
    return f" At full clocks the vendor measured {soc_row.benchmark}."


def ddr_clock(scene: Scene) -> Finding:
    clock: Clock | None = scene.reading.ddr
    if clock is None or not clock.top:
        return unseen(scene.reading.absent.get("ddr", "the kernel lists no clocks of the memory"))
    fact = f"{clock.hertz / 1e6:.0f} of {clock.top / 1e6:.0f} MHz"
    if clock.hertz < SLOW * clock.top:
        return poor(
            f"{fact} ({clock.governor}). Where it stays there while a model answers, tokens come at half speed "
            f"(5.5 instead of 11.2 a second were seen).{expected(scene)}",
            PERFORMANCE,
        )
    return good(fact)


def cpu_clock(scene: Scene) -> Finding:
    if not scene.cpus:
        return unseen("the kernel has no clock control for the CPUs")
    for policy in scene.cpus:
        if policy.governor == "powersave":
            return poor(f"CPU{policy.first} and its siblings are at their lowest clock (powersave).", PERFORMANCE)
        if policy.maximum is not None and policy.top is not None and policy.maximum < SLOW * policy.top:
            return poor(
                f"CPU{policy.first} and its siblings are limited to {policy.maximum / 1e3:.0f} of "
                f"{policy.top / 1e3:.0f} MHz.",
                f"cat /sys/devices/system/cpu/cpufreq/policy{policy.first}/scaling_max_freq; {COOLING}",
            )
    return good(", ".join(f"CPU{policy.first}: {policy.governor}" for policy in scene.cpus))


def performance(scene: Scene) -> Finding:
    if scene.config is None or not scene.config.board.performance:
        return unseen("[board] performance is off")
    if not (scene.root / SOCKET.relative_to("/")).exists():
        return poor("[board] performance is set, and the unit that does it is not enabled.", ENABLE)
    return good("raised while a model is loaded")


def temperature(scene: Scene) -> Finding:
    celsius = scene.reading.celsius
    if celsius is None:
        return unseen(scene.reading.absent.get("temperature", "no sensor"))
    if celsius > 85:
        return poor(f"{celsius:.0f} degrees ({scene.reading.zone}): the NPU is slowed down above 85.", COOLING)
    return good(f"{celsius:.0f} degrees ({scene.reading.zone})")


def counters(scene: Scene) -> Finding:
    reading = scene.reading
    if reading.load is not None:
        state = {True: "powered", False: "powered off", None: "power not known"}[reading.powered]
        return good(f"{', '.join(f'{part:.0%}' for part in reading.load)} load, {state}")
    if scene.service.load is not None:
        return good(f"the service reads them: {', '.join(f'{part:.0%}' for part in scene.service.load)} load")
    why = reading.absent.get("load", "")
    if "only root" in why:
        return unseen(why)
    if scene.board.container:
        repair = "Start the container with -v /sys/kernel/debug/rknpu:/run/rkllm/npu:ro"
    elif "before the driver" in why:
        repair = "sudo systemctl restart exo-rkllm"
    else:
        repair = "exo-rkllm selftest --only load-line writes what it says into a report for an issue"
    return poor(f"The NPU's load cannot be read: {why}.", repair)


def kernel_log(scene: Scene) -> Finding:
    if isinstance(scene.kernel_log, str):
        return unseen(scene.kernel_log)
    if not scene.kernel_log:
        return good("no error of the NPU since boot")
    said = ", ".join(f"{number} {kind}" for kind, number in sorted(scene.kernel_log.items()))
    return poor(
        f"{said} since boot. Seen with weak power supplies, old drivers, and models made for another SoC.",
        "sudo dmesg | grep -i rknpu",
    )


# ── the software ─────────────────────────────────────────────────────────────────────────────────


def system(scene: Scene) -> Finding:
    if scene.root != Path("/"):
        return unseen("a simulated board has no system of its own")
    if scene.machine != "aarch64":
        return poor(
            f"This system is {scene.machine}; the vendor's library is for aarch64.", "make run simulates a board"
        )
    if not scene.gomp:
        return bad("libgomp.so.1 is missing, which the RKLLM library needs.", "sudo apt install libgomp1")
    return good("aarch64, libgomp is there")


def runtime(scene: Scene) -> Finding:
    try:
        place = scene.search.require()
    except RuntimeMissing as error:
        return bad(error.sentence, error.hint)
    except ExoRkllmError as error:
        return of_error(error)
    return good(f"librkllmrt {scene.runtime}, layout of {abi.load(scene.runtime).name} ({place.path})")


def pairing(scene: Scene) -> Finding:
    found = npu_of(scene).version
    if is_older("1.2.99", scene.runtime.split("b")[0]) and is_older(found, RECOMMENDED):
        return poor(f"Runtime {scene.runtime} asks for driver {RECOMMENDED}, and this one is {found}.", UPGRADE)
    return good(f"runtime {scene.runtime} and driver {found or 'of unknown version'} go together")


def models(scene: Scene) -> Finding:
    if scene.models_error is not None:
        return of_error(scene.models_error)
    if not scene.models:
        return poor("There is no model yet.", "exo-rkllm pull ORG/REPO")
    found = [model(one, scene.reading.memory_total) for one in scene.models]
    first = worst(found)
    if first.level == "pass":
        return good("; ".join(one.fact for one in found))
    more = sum(one.level == first.level for one in found) - 1
    return replace(first, fact=f"{first.fact} ({more} more like it.)") if more else first


def model(seen: ModelSeen, memory_total: int | None = None) -> Finding:
    if seen.error is not None:
        return of_error(seen.error)
    for objection in seen.objections:
        level = bad if objection.certain else poor
        return level(objection.error.sentence, objection.error.hint)
    if memory_total is not None and seen.memory is not None and seen.memory > memory_total:
        return poor(
            f"{seen.name} needs about {seen.memory / GIB:.1f} GiB, and this board has {memory_total / GIB:.1f} GiB.",
            f"exo-rkllm show {seen.name}; a shorter context or a smaller model fits",
        )
    facts = seen.facts
    target = f"for {facts.platform.value}" if facts is not None and facts.platform else ""
    toolkit = f"toolkit {facts.toolkit.value}" if facts is not None and facts.toolkit else ""
    return good(", ".join(part for part in (seen.name, target, toolkit) if part))


def plugins(scene: Scene) -> Finding:
    """A warning at most: what is ours works without them."""
    if not scene.plugins:
        return good("none is installed")
    unused = [row for row in scene.plugins if row.state in TROUBLED]
    troubled = [f"{row.name}: {row.error.removesuffix('.') or 'it still loads'}" for row in unused]
    if troubled:
        return poor("; ".join(troubled), "exo-rkllm plugins")
    return good(", ".join(f"{row.name} is {row.state}" for row in scene.plugins))


def exo(scene: Scene) -> Finding:
    """Which of the programs of that name this Python has; the daemon needs none of them."""
    kind = scene.exo
    if kind.name == NONE:
        return unseen(kind.says)
    if kind.name == UNRELATED:
        return poor(f"This Python has {kind.says}.", kind.start)
    return good(f"{kind.says}: {kind.start}")


def service(scene: Scene) -> Finding:
    if scene.service.error is not None:
        return poor(scene.service.error.sentence, scene.service.error.hint)
    status = scene.service.status
    if status is None:
        return poor("The daemon is not running.", "sudo systemctl start exo-rkllm, or: exo-rkllm serve")
    if status.get("unavailable_reason"):
        return bad(f"The daemon cannot serve: {status['unavailable_reason']}", str(status.get("hint", "")))
    loaded = [str(one.get("name")) for one in status.get("models", ()) if one.get("state") == "ready"]
    return good(f"running, {', '.join(loaded) + ' loaded' if loaded else 'no model loaded'}")


def cluster(scene: Scene) -> Finding:
    view = (scene.service.status or {}).get("cluster")
    if not isinstance(view, Mapping):
        return unseen("the daemon says nothing of a cluster")
    if view.get("drift"):
        return poor(f"The cluster's exo differs from what we speak: {', '.join(view['drift'])}.", "exo-rkllm cluster")
    if view.get("phase") in ("serving", "off", "searching"):
        return good(str(view["phase"]))
    return poor(str(view.get("sentence") or view.get("phase")), str(view.get("hint") or "exo-rkllm cluster"))


CHECKS: tuple[Check, ...] = (
    Check("configuration", configuration),
    Check("SoC", soc),
    Check("device tree", device_tree, ("SoC",)),
    Check("NPU driver", driver, ("SoC",)),
    Check("driver version", driver_version, ("NPU driver",)),
    Check("device nodes", nodes, ("NPU driver",)),
    Check("device access", access, ("device nodes",)),
    Check("/dev/rknpu", impostor, ("NPU driver",)),
    Check("DMA heap", heap, ("NPU driver",)),
    Check("memory", memory),
    Check("NPU clock", npu_clock, ("NPU driver",)),
    Check("memory clock", ddr_clock),
    Check("CPU clock", cpu_clock),
    Check("performance", performance),
    Check("temperature", temperature),
    Check("NPU counters", counters, ("NPU driver",)),
    Check("kernel log", kernel_log),
    Check("system", system),
    Check("runtime", runtime, ("system",)),
    Check("runtime and driver", pairing, ("runtime", "driver version")),
    Check("models", models, ("configuration",)),
    Check("plugins", plugins),
    Check("exo", exo),
    Check("service", service, ("configuration",)),
    Check("cluster", cluster, ("service",)),
)


def names() -> Iterator[str]:
    return (check.name for check in CHECKS)
