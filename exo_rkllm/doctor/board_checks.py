"""Checks of the board: SoC, device tree, driver and device nodes, and what slows a model down."""

from __future__ import annotations

from pathlib import Path

from exo_rkllm.board import affinity
from exo_rkllm.board.counters import Clock
from exo_rkllm.board.detect import UPGRADE, DeviceNode, Npu
from exo_rkllm.board.driver import MINIMUM, RECOMMENDED, is_older
from exo_rkllm.board.kernel_log import KINDS
from exo_rkllm.board.performance import ENABLE, SOCKET
from exo_rkllm.board.speeds import CPU_GOVERNOR, MEMORY_CLOCK, NO_MEMORY_CONTROL
from exo_rkllm.board.states import UNMASK
from exo_rkllm.doctor.identity import SERVICE_USER, group_name
from exo_rkllm.doctor.report import Finding, bad, from_error, good, poor, unseen
from exo_rkllm.doctor.scene import Scene
from exo_rkllm.socs import default_cpus

GIB = 1 << 30
PERFORMANCE = (
    "Set performance = true under [board] in /etc/exo-rkllm/config.toml, and: "
    "sudo systemctl enable --now exo-rkllm-clocks.socket"
)
MEMORY_FIRMWARE = (
    "Install the board maker's newest bootloader, whose TF-A sets the memory's clock, reboot, then: "
    "ls /sys/class/devfreq/dmc"
)
COOLING = "Give the board a heat sink and a fan, then: exo-rkllm top"
UDEV_RULES = "sudo udevadm control --reload && sudo udevadm trigger (the package's rules give the groups)"
# Below this part of its clock the NPU is slower than a throttle explains (limits start at 80 %).
SLOW = 0.75
# What a small model takes (Qwen3 0.6B: 791 MB), in use next to everything else.
LITTLE_MEMORY = GIB
# The library names it whatever the build (npu-platform 2.3).
HEAPS = {"drm_gem": "dev/dma_heap", "dma_heap": "dev/rk_dma_heap"}


def soc(scene: Scene) -> Finding:
    board = scene.board
    if board.soc is None or not board.soc.rkllm:
        reason = board.unavailable_reason()
        if reason is not None and (board.state in ("unknown", "unsupported_soc") or board.soc is not None):
            return from_error(reason)
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
    current = npu_of(scene).version
    if not current:
        return poor("The driver's version cannot be read.", "cat /sys/module/rknpu/version")
    if is_older(current, MINIMUM):
        return bad(f"The driver is {current}; the RKLLM library needs {MINIMUM} or newer.", UPGRADE)
    if is_older(current, RECOMMENDED):
        return poor(f"The driver is {current}; runtime 1.3 asks for {RECOMMENDED}.", UPGRADE)
    return good(current)


def pairing(scene: Scene) -> Finding:
    current = npu_of(scene).version
    releases = [place.release for place in scene.search.installed]
    for release in releases:
        if is_older("1.2.99", release.split("b")[0]) and is_older(current, RECOMMENDED):
            return poor(f"Runtime {release} asks for driver {RECOMMENDED}, and this one is {current}.", UPGRADE)
    return good(f"runtime {', '.join(releases)} and driver {current or 'of unknown version'} go together")


def nodes(scene: Scene) -> Finding:
    missing = scene.board.missing_nodes()
    if missing is not None:
        return from_error(missing)
    present = npu_of(scene).nodes
    guess = " (a guess: no link of sysfs says so)" if any(node.guessed for node in present) else ""
    return good(f"{', '.join(node.path for node in present)}{guess}")


def access(scene: Scene) -> Finding:
    """From permissions alone: only the library may open a node, which powers the NPU up."""
    who = scene.identity
    denied = [node for node in npu_of(scene).nodes if not who.may_use(on_disk(scene, node))]
    if not denied:
        return good(f"{who.name} may use them")
    groups = sorted({on_disk(scene, node).stat().st_gid for node in denied})
    paths = " and ".join(node.path for node in denied)
    fact = f"{who.name} may not use {paths}."
    if 0 in groups:  # root's group is nobody's to join
        return bad(fact, ("On the host: " if scene.board.container else "") + UDEV_RULES)
    if scene.board.container:
        return bad(fact, "Start the container with " + " ".join(f"--group-add {number}" for number in groups))
    names = ",".join(group_name(number) for number in groups)
    again = "sudo systemctl restart exo-rkllm" if who.name == SERVICE_USER else "log in again"
    return bad(fact, f"sudo usermod -aG {names} {who.name}, then {again}")


def on_disk(scene: Scene, node: DeviceNode) -> Path:
    return scene.root / node.path[1:]


def impostor(scene: Scene) -> Finding:
    """A /dev/rknpu that somebody made has the library speak the wrong ABI to a DRM node (npu-platform 2.3)."""
    if npu_of(scene).build == "dma_heap":
        return good("/dev/rknpu")
    path = scene.root / "dev/rknpu"
    if not (path.exists() or path.is_symlink()):
        return good("no /dev/rknpu that would mislead the library")
    return bad(
        "/dev/rknpu exists although the driver has DRM nodes: the library takes it first, and fails on it.",
        "sudo rm /dev/rknpu, and remove the udev rule that makes it: grep -rl rknpu /etc/udev/rules.d",
    )


def neighbours(scene: Scene) -> Finding:
    """Loaded beside each other is harmless; two that compute at once hang the NPU or the board (board-facts 5)."""
    if scene.neighbours.names:
        return poor(
            f"Held by other programs as well: {scene.neighbours.text}. The NPU hangs when one computes beside a model.",
            "Let them take turns: exo-rkllm npu run -- COMMAND",
        )
    if not scene.neighbours.complete:
        return unseen("this user may not look into other users' processes: sudo exo-rkllm doctor")
    return good("no other program holds the NPU")


def heap(scene: Scene) -> Finding:
    folder = scene.root / HEAPS.get(npu_of(scene).build, "dev/dma_heap")
    name = "/" + str(folder.relative_to(scene.root))
    if not folder.is_dir():
        if scene.board.container:
            return poor(f"{name} is not in this container.", f"Start it with --device {name}")
        return poor(
            f"There is no {name}, which the library may want for its buffers.", "zgrep DMABUF_HEAPS /proc/config.gz"
        )
    denied = [path for path in sorted(folder.iterdir()) if not scene.identity.may_use(path)]
    if denied:
        return poor(f"{scene.identity.name} may not use {name}/{denied[0].name}.", UDEV_RULES)
    return good(name)


def npu_of(scene: Scene) -> Npu:
    """The NPU, for checks whose `needs` include the driver."""
    assert scene.board.npu is not None  # noqa: S101  a mistake in the table, never a user's
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
    """The vendor's figure, which was measured at full clocks (rkllm-runtime 5.1)."""
    soc_row = scene.board.soc
    if soc_row is None or not soc_row.benchmark:
        return ""
    return f" At full clocks the vendor measured {soc_row.benchmark}."


def ddr_clock(scene: Scene) -> Finding:
    clock: Clock | None = scene.reading.ddr
    if clock is None or not clock.top:
        absent = scene.reading.absent.get("ddr", "the kernel lists no clocks of the memory")
        if scene.board.state == "vendor_ready":
            return poor(f"{absent[0].upper()}{absent[1:]}, which costs {NO_MEMORY_CONTROL}.", MEMORY_FIRMWARE)
        return unseen(f"{absent}; a memory that stays at its low clock costs {MEMORY_CLOCK}")
    fact = f"{clock.hertz / 1e6:.0f} of {clock.top / 1e6:.0f} MHz"
    if clock.hertz < SLOW * clock.top:
        return poor(
            f"{fact} ({clock.governor}). Where it stays there while a model answers, it costs {MEMORY_CLOCK}."
            f"{expected(scene)}",
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
    brake = cpu_governor(scene)
    return good(brake.fact if brake is not None else governors(scene))


def governors(scene: Scene) -> str:
    return ", ".join(f"CPU{policy.first}: {policy.governor}" for policy in scene.cpus)


def cpu_governor(scene: Scene) -> Finding | None:
    """What a governor costs that lets the CPUs rest: usual, and no fault of a board."""
    if all(policy.governor == "performance" for policy in scene.cpus):
        return None
    return poor(f"{governors(scene)}; others than performance cost {CPU_GOVERNOR}", PERFORMANCE)


def cpu_cores(scene: Scene) -> Finding:
    """Where the service runs, and whether the library gets the threads that it wants."""
    soc_row, value = scene.board.soc, (scene.service.status or {}).get("cpus")
    if soc_row is None or not value:
        return unseen("the service is not asked" if soc_row is not None else "no SoC is known here")
    given, own = frozenset(value["given"]), frozenset(value["own"])
    listed = ", ".join(map(str, sorted(given)))
    if few := affinity.shortage(soc_row, given):
        return poor(few, "systemctl show exo-rkllm -p CPUAffinity -p AllowedCPUs; in a container, its --cpuset-cpus")
    workers = ", ".join(map(str, default_cpus(soc_row, given, soc_row.cpus)))
    models = f"models may use CPU {listed}, the vendor's library works on {workers}"
    if own < given:
        return good(f"{models}, the service itself keeps to {', '.join(map(str, sorted(own)))}")
    return good(f"{models}; the service leaves the fast cores while one is loaded")


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
    """A daemon that reads the log knows more than its lines: what was lost of them, and whether the NPU has worked."""
    state, told = scene.kernel_log, (scene.service.status or {}).get("kernel_log") or {}
    followed = told.get("errors") is not None
    if followed and told["fault"] is not None:
        return (bad if told["stops"] else poor)(told["sentence"], told["hint"])
    if isinstance(state, str):
        return good("the service reads it: no error of the NPU that still holds") if followed else unseen(state)
    if not state.counts:
        return good("no error of the NPU since boot")
    errors = ", ".join(f"{kind.plural}: {state.counts[kind.name]}" for kind in KINDS if kind.name in state.counts)
    if followed and state.fault is not None:
        return good(f"{errors} since boot, and the NPU has worked since")
    npu = scene.board.npu.device if scene.board.npu is not None else "DEVICE"
    if (reason := state.unavailable_reason(npu)) is not None:
        return from_error(reason)
    rebound = " The driver was bound again since, and the next load shows whether it helped." if state.on_trial else ""
    helps = f". {state.fault.repair_on(npu)}" if state.fault is not None else ""
    return poor(
        f"{errors} since boot.{rebound} Seen with weak power supplies, old drivers, and models made for another SoC.",
        f"sudo dmesg | grep -i rknpu{helps}",
    )
