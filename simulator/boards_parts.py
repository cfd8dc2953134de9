"""What a SoC, a kernel and a driver put into a tree; numbers are of npu-platform (its section in brackets)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from simulator.boards_tree import Tree

BASE = "sys/firmware/devicetree/base"
DEBUG = "sys/kernel/debug/rknpu"
PLATFORM = "sys/devices/platform"


@dataclass(frozen=True)
class Shape:
    """One SoC under the vendor's kernel (1.3, 3.6); mainline trees take the addresses from it."""

    name: str
    address: int
    size: int
    cores: int
    npu_compatible: tuple[str, ...]
    irq_names: tuple[str, ...]
    hwirqs: tuple[int, ...]
    domains: tuple[str, ...]
    iommu: int
    iommu_irqs: tuple[str, ...]
    regulator: str
    megahertz: tuple[int, ...]
    zones: tuple[str, ...]
    gpu: str
    ddr: tuple[int, ...]
    policies: tuple[tuple[int, tuple[int, ...], int], ...]  # first CPU, its CPUs, top kHz (rkllm-runtime 5.2)
    step: int = 0x10000  # from one core's registers to the next one's
    wide: bool = True  # address cells: 2, or 1 on RV1126B

    @property
    def npu(self) -> str:
        return f"{self.address:x}.npu"

    @property
    def node(self) -> str:
        return f"npu@{self.address:x}"

    @property
    def cpus(self) -> int:
        return sum(len(cpus) for _, cpus, _ in self.policies)

    @property
    def zone(self) -> str | None:
        return "npu-thermal" if "npu-thermal" in self.zones else None


BIG_LITTLE = ((0, (0, 1, 2, 3), 1800000), (4, (4, 5), 2352000), (6, (6, 7), 2352000))

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        Shape(
            name="rk3588",
            address=0xFDAB0000,
            size=0x10000,
            cores=3,
            npu_compatible=("rockchip,rk3588-rknpu",),
            irq_names=("npu0_irq", "npu1_irq", "npu2_irq"),
            hwirqs=(142, 143, 144),
            domains=("npu0", "npu1", "npu2"),
            iommu=0xFDAB9000,
            iommu_irqs=("npu0_mmu", "npu1_mmu", "npu2_mmu"),
            regulator="vdd_npu_s0",
            megahertz=(300, 400, 500, 600, 700, 800, 900, 1000),
            zones=("soc", "bigcore0", "bigcore1", "littlecore", "center", "gpu", "npu"),
            gpu="fb000000.gpu",
            ddr=(528000000, 1068000000, 1560000000, 2112000000),
            policies=BIG_LITTLE,
        ),
        Shape(
            name="rk3576",
            address=0x27700000,
            size=0x8000,
            cores=2,
            npu_compatible=("rockchip,rk3576-rknpu",),
            irq_names=("npu0_irq", "npu1_irq"),
            hwirqs=(279, 280),
            domains=("npu0", "npu1"),
            iommu=0x27702000,
            iommu_irqs=("npu0_mmu", "npu1_mmu"),
            regulator="vdd_npu_s0",
            megahertz=(300, 400, 500, 600, 700, 800, 900, 950),
            zones=("soc", "bigcore", "little-core", "ddr", "npu", "gpu"),
            gpu="27800000.gpu",
            ddr=(528000000, 1068000000, 1560000000, 2112000000),
            policies=((0, (0, 1, 2, 3), 2208000), (4, (4, 5, 6, 7), 2304000)),
            step=0x8000,
        ),
        Shape(
            name="rk3568",
            address=0xFDE40000,
            size=0x10000,
            cores=1,
            npu_compatible=("rockchip,rk3568-rknpu", "rockchip,rknpu"),
            irq_names=(),
            hwirqs=(183,),
            domains=(),
            iommu=0xFDE4B000,
            iommu_irqs=("rknpu_mmu",),
            regulator="vdd_npu",
            megahertz=(200, 300, 400, 600, 700, 800, 900, 1000),
            zones=("soc", "gpu"),
            gpu="fde60000.gpu",
            ddr=(324000000, 528000000, 780000000, 1560000000),
            policies=((0, (0, 1, 2, 3), 1992000),),
        ),
        Shape(
            name="rk3562",
            address=0xFF300000,
            size=0x10000,
            cores=1,
            npu_compatible=("rockchip,rk3562-rknpu",),
            irq_names=(),
            hwirqs=(151,),
            domains=(),
            iommu=0xFF30A000,
            iommu_irqs=("rknpu_mmu",),
            regulator="vdd_npu",
            megahertz=(300, 400, 500, 600, 700, 800, 900, 1000),
            zones=("soc",),
            gpu="ff320000.gpu",
            ddr=(324000000, 528000000, 1332000000, 2112000000),
            policies=((0, (0, 1, 2, 3), 2016000),),
        ),
        Shape(
            name="rv1126b",
            address=0x22000000,
            size=0x8000,
            cores=1,
            npu_compatible=("rockchip,rv1126b-rknpu",),
            irq_names=("npu_irq",),
            hwirqs=(176,),
            domains=(),
            iommu=0x22002000,
            iommu_irqs=("rknpu_mmu",),
            regulator="vdd_npu",
            megahertz=(396, 510, 600, 700, 800, 900, 950),
            zones=("cpu",),
            gpu="",
            ddr=(324000000, 528000000, 1332000000),
            policies=((0, (0, 1, 2, 3), 1608000),),
            wide=False,
        ),
    )
}

VENDOR_KERNEL = "6.1.115-vendor-rk35xx"
MAINLINE_KERNEL = "6.18.26-current-rockchip64"


# ── what every board has ─────────────────────────────────────────────────────────────────────────


def identity(tree: Tree, model: str | bytes | None, compatible: tuple[str, ...], kernel: str) -> None:
    """The root of the live device tree, and the kernel's name."""
    if model is not None:
        tree.data(f"{BASE}/model", model if isinstance(model, bytes) else model.encode() + b"\0")
    tree.strings(f"{BASE}/compatible", *compatible)
    tree.strings(f"{BASE}/name", "")
    tree.strings(f"{BASE}/serial-number", "5ca1ab1edeadbeef")
    tree.link("proc/device-tree", BASE)
    tree.line("proc/sys/kernel/osrelease", kernel)


def machine(tree: Tree, shape: Shape, memory_gib: int = 16) -> None:
    """CPUs, memory, DDR, thermal zones and the decoys: display, GPU, other devfreq entries."""
    tree.line("sys/devices/system/cpu/online", f"0-{shape.cpus - 1}")
    tree.line("sys/devices/system/cpu/possible", f"0-{shape.cpus - 1}")
    for first, cpus, top in shape.policies:
        policy = f"sys/devices/system/cpu/cpufreq/policy{first}"
        tree.line(f"{policy}/related_cpus", " ".join(map(str, cpus)))
        tree.line(f"{policy}/scaling_governor", "ondemand", 0o644)
        tree.line(
            f"{policy}/scaling_available_governors", "conservative ondemand userspace powersave performance schedutil"
        )
        tree.line(f"{policy}/scaling_setspeed", "<unsupported>", 0o644)
        tree.line(f"{policy}/scaling_cur_freq", str(top))
        tree.line(f"{policy}/scaling_max_freq", str(top), 0o644)
        tree.line(f"{policy}/cpuinfo_max_freq", str(top))
    total = memory_gib * 1024 * 1024
    tree.data(
        "proc/meminfo",
        (
            f"MemTotal:       {total:8d} kB\nMemFree:        {total // 2:8d} kB\n"
            f"MemAvailable:   {total * 3 // 4:8d} kB\n"
            "SwapTotal:             0 kB\nCmaTotal:          16384 kB\nCmaFree:           14000 kB\n"
        ).encode(),
    )
    devfreq(tree, "dmc", f"{PLATFORM}/dmc", shape.ddr[-1], shape.ddr, "dmc_ondemand", f"7@{shape.ddr[-1]}Hz")
    if shape.gpu:
        device(
            tree,
            f"{PLATFORM}/{shape.gpu}",
            "mali",
            ("OF_NAME=gpu", "OF_COMPATIBLE_0=arm,mali-bifrost", "OF_COMPATIBLE_N=1"),
        )
        devfreq(
            tree,
            shape.gpu,
            f"{PLATFORM}/{shape.gpu}",
            300000000,
            (300000000, 800000000),
            "simple_ondemand",
            "0@300000000Hz",
        )
    for number, zone in enumerate(shape.zones):
        thermal_zone(tree, number, f"{zone}-thermal", 38846 + 900 * number)


def thermal_zone(tree: Tree, number: int, kind: str, millidegrees: int) -> None:
    zone = f"sys/devices/virtual/thermal/thermal_zone{number}"
    tree.line(f"{zone}/type", kind)
    tree.line(f"{zone}/temp", str(millidegrees))
    tree.link(f"sys/class/thermal/thermal_zone{number}", zone)


def device(tree: Tree, path: str, driver: str | None, properties: tuple[str, ...] = ()) -> None:
    """A platform device, bound or not."""
    name = path.rsplit("/", 1)[1]
    lines = ((f"DRIVER={driver}",) if driver else ()) + properties
    tree.data(f"{path}/uevent", "".join(f"{line}\n" for line in lines).encode(), 0o644)
    tree.link(f"{path}/subsystem", "sys/bus/platform")
    tree.link(f"sys/bus/platform/devices/{name}", path)
    if driver:
        tree.link(f"{path}/driver", f"sys/bus/platform/drivers/{driver}")
        tree.link(f"sys/bus/platform/drivers/{driver}/{name}", path)


def minor(tree: Tree, parent: str, subsystem: str, name: str, numbers: str, devname: str, devtype: str = "") -> None:
    """A character device below `parent`; /dev gets a plain file, since only root can make the real thing."""
    path = f"{parent}/{subsystem}/{name}"
    major, _, low = numbers.partition(":")
    kind = f"DEVTYPE={devtype}\n" if devtype else ""
    tree.line(f"{path}/dev", numbers)
    tree.data(f"{path}/uevent", f"MAJOR={major}\nMINOR={low}\nDEVNAME={devname}\n{kind}".encode(), 0o644)
    tree.link(f"{path}/device", parent)
    tree.link(f"{path}/subsystem", f"sys/class/{subsystem}")
    tree.link(f"sys/class/{subsystem}/{name}", path)
    tree.data(f"dev/{devname}", b"", 0o660)


def drm(tree: Tree, parent: str, card: int, render: int) -> None:
    minor(tree, parent, "drm", f"card{card}", f"226:{card}", f"dri/card{card}", "drm_minor")
    minor(tree, parent, "drm", f"renderD{render}", f"226:{render}", f"dri/renderD{render}", "drm_minor")


def display(tree: Tree, card: int = 0, render: int = 128) -> None:
    """The decoy that usually takes the first minors (2.2)."""
    path = f"{PLATFORM}/display-subsystem"
    device(
        tree,
        path,
        "rockchip-drm",
        ("OF_NAME=display-subsystem", "OF_COMPATIBLE_0=rockchip,display-subsystem", "OF_COMPATIBLE_N=1"),
    )
    drm(tree, path, card, render)
    connector = f"{path}/drm/card{card}/card{card}-HDMI-A-1"
    tree.line(f"{connector}/status", "connected")
    tree.link(f"sys/class/drm/card{card}-HDMI-A-1", connector)


def devfreq(
    tree: Tree,
    name: str,
    parent: str,
    current: int,
    steps: tuple[int, ...],
    governor: str,
    load: str,
    top: int | None = None,
) -> None:
    """`load` is the vendor's attribute, a constant for the NPU and meaningful for the DDR (3.3)."""
    path = f"{parent}/devfreq/{name}"
    tree.line(f"{path}/name", name)
    tree.line(f"{path}/cur_freq", str(current))
    tree.line(f"{path}/target_freq", str(current))
    tree.line(f"{path}/min_freq", str(steps[0]), 0o644)
    tree.line(f"{path}/max_freq", str(top or steps[-1]), 0o644)
    tree.line(f"{path}/available_frequencies", " ".join(map(str, steps)))
    tree.line(f"{path}/governor", governor, 0o644)
    tree.line(
        f"{path}/available_governors", "rknpu_ondemand dmc_ondemand userspace powersave performance simple_ondemand"
    )
    tree.line(f"{path}/load", load)
    tree.data(f"{path}/uevent", b"", 0o644)
    tree.link(f"{path}/device", parent)
    tree.link(f"{path}/subsystem", "sys/class/devfreq")
    tree.link(f"sys/class/devfreq/{name}", path)


# ── the vendor's NPU ─────────────────────────────────────────────────────────────────────────────


def npu_node(tree: Tree, shape: Shape, status: str = "okay", iommu: str = "okay", inside: str = "") -> str:
    """The vendor's device-tree node and its IOMMU; returns the node's path."""
    node = f"{BASE}/{inside}{shape.node}"
    tree.strings(f"{node}/compatible", *shape.npu_compatible)
    tree.strings(f"{node}/name", "npu")
    tree.strings(f"{node}/status", status)
    if shape.irq_names:
        tree.strings(f"{node}/interrupt-names", *shape.irq_names)
    if shape.domains:
        tree.strings(f"{node}/power-domain-names", *shape.domains)
    cells = ">QQ" if shape.wide else ">II"
    tree.data(
        f"{node}/reg",
        b"".join(struct.pack(cells, shape.address + core * shape.step, shape.size) for core in range(shape.cores)),
    )
    tree.data(f"{node}/rknpu-supply", b"\0\0\1\x2c")
    mmu = f"{BASE}/{inside}iommu@{shape.iommu:x}"
    tree.strings(f"{mmu}/compatible", "rockchip,iommu-v2")
    tree.strings(f"{mmu}/interrupt-names", *shape.iommu_irqs)
    tree.strings(f"{mmu}/status", iommu)
    return node


def npu_device(tree: Tree, shape: Shape, node: str, driver: str | None, bus: str = "", *, iommu: bool = True) -> str:
    """The one platform device of all cores (1.8), powered down as after three idle seconds."""
    path = f"{PLATFORM}/{bus}{shape.npu}"
    names = tuple(f"OF_COMPATIBLE_{number}={text}" for number, text in enumerate(shape.npu_compatible))
    full = node.removeprefix(BASE)
    of = ("OF_NAME=npu", f"OF_FULLNAME={full}", *names, f"OF_COMPATIBLE_N={len(names)}")
    device(tree, path, driver, (*of, f"MODALIAS=of:NnpuT(null)C{shape.npu_compatible[0]}"))
    tree.line(f"{path}/modalias", f"of:NnpuT(null)C{shape.npu_compatible[0]}")
    tree.link(f"{path}/of_node", node)
    tree.line(f"{path}/waiting_for_supplier", "0")
    if iommu:
        tree.link(f"{path}/iommu_group", "sys/kernel/iommu_groups/0")
        tree.folder("sys/kernel/iommu_groups/0")
    power(tree, path, "suspended")
    return path


def power(tree: Tree, path: str, status: str, active: int = 41234, suspended: int = 987654) -> None:
    tree.line(f"{path}/power/runtime_status", status)
    tree.line(f"{path}/power/runtime_active_time", str(active))
    tree.line(f"{path}/power/runtime_suspended_time", str(suspended))
    tree.line(f"{path}/power/control", "auto", 0o644)


def driver_files(
    tree: Tree, shape: Shape, version: str = "0.9.8", folder: str = DEBUG, load: bytes | None = None
) -> None:
    """The module's version and the driver's own folder (3.1); `freq` and `volt` are there to be left alone."""
    tree.line("sys/module/rknpu/version", version)
    tree.line("sys/module/rknpu/parameters/bypass_irq_handler", "0")
    if folder == DEBUG:
        tree.folder("sys/kernel/debug", 0o700)
        tree.data("sys/kernel/debug/devices_deferred", b"")
    tree.line(f"{folder}/version", f"RKNPU driver: v{version}")
    tree.data(f"{folder}/load", load_line([0] * shape.cores) if load is None else load)
    tree.line(f"{folder}/power", "off")
    tree.line(f"{folder}/freq", str(shape.megahertz[-1] * 1000000))
    tree.line(f"{folder}/volt", "800000")
    tree.line(f"{folder}/delayms", "3000")
    tree.line(f"{folder}/reset", "on")


def load_line(percent: list[int]) -> bytes:
    """Byte for byte what the driver prints (3.2)."""
    if len(percent) == 1:
        return f"NPU load: {percent[0]:2d}%\n".encode()
    return b"NPU load: " + b"".join(f" Core{core}: {value:2d}%,".encode() for core, value in enumerate(percent)) + b"\n"


def interrupts(tree: Tree, shape: Shape, counts: tuple[int, ...] = (1042, 977, 1003)) -> None:
    """One count column a CPU; the NPU's rows are shared with its IOMMU (3.4)."""
    cpus = shape.cpus
    blank = "          0" * (cpus - 1)
    rows = ["           " + "".join(f"CPU{cpu:<8d}" for cpu in range(cpus)).rstrip()]
    rows.append(f" 18:     812345{blank}     GICv3  26 Level     arch_timer")
    rows += [
        f" {89 + core}: {count:10d}{blank}     GICv3 {irq} Level     {shape.iommu:x}.iommu, {shape.npu}"
        for core, (irq, count) in enumerate(zip(shape.hwirqs, counts, strict=False))
    ]
    rows.append(f"IPI0:      52345{blank}       Rescheduling interrupts")
    tree.data("proc/interrupts", "".join(row + "\n" for row in rows).encode())


def regulator(tree: Tree, shape: Shape, microvolts: int = 800000) -> None:
    for number, (name, value) in enumerate((("vcc_3v3_s3", 3300000), (shape.regulator, microvolts))):
        path = f"{PLATFORM}/regulators/regulator/regulator.{number}"
        tree.line(f"{path}/name", name)
        tree.line(f"{path}/microvolts", str(value))
        tree.link(f"sys/class/regulator/regulator.{number}", path)


def vendor(
    tree: Tree,
    shape: Shape,
    *,
    card: int = 1,
    render: int = 129,
    bus: str = "",
    inside: str = "",
    version: str = "0.9.8",
    iommu: bool = True,
) -> str:
    """Vendor driver with DRM nodes, as RK3588, RK3576 and RK356x kernels have it (2.1); returns the device's path."""
    node = npu_node(tree, shape, iommu="okay" if iommu else "disabled", inside=inside)
    path = npu_device(tree, shape, node, "RKNPU", bus, iommu=iommu)
    drm(tree, path, card, render)
    top = shape.megahertz[-1] * 1000000
    steps = tuple(value * 1000000 for value in shape.megahertz)
    devfreq(tree, shape.npu, path, top, steps, "rknpu_ondemand", f"100@{top}Hz")
    tree.data("dev/dma_heap/system", b"", 0o660)
    driver_files(tree, shape, version)
    interrupts(tree, shape)
    regulator(tree, shape)
    device(tree, f"{PLATFORM}/rknpu_dev.0.auto", None, ("MODALIAS=platform:rknpu_dev",))
    return path


# ── mainline ─────────────────────────────────────────────────────────────────────────────────────


def rknn_cores(tree: Tree, shape: Shape, status: str) -> list[str]:
    """Three nodes at the vendor's addresses; only `compatible` tells them apart (1.4)."""
    nodes = []
    for core in range(shape.cores):
        address = shape.address + core * shape.step
        node = f"{BASE}/npu@{address:x}"
        tree.strings(f"{node}/compatible", f"rockchip,{shape.name}-rknn-core")
        tree.strings(f"{node}/name", "npu")
        tree.strings(f"{node}/status", status)
        tree.strings(f"{node}/reg-names", "pc", "cna", "core")
        nodes.append(node)
    for address in (0xFDAB9000, 0xFDACA000, 0xFDADA000):
        tree.strings(f"{BASE}/iommu@{address:x}/compatible", "rockchip,rk3588-iommu", "rockchip,rk3568-iommu")
        tree.strings(f"{BASE}/iommu@{address:x}/status", status)
    return nodes


def rknn_devices(tree: Tree, shape: Shape, nodes: list[str], driver: str | None) -> list[str]:
    paths = []
    for core, node in enumerate(nodes):
        path = f"{PLATFORM}/{shape.address + core * shape.step:x}.npu"
        compatible = f"rockchip,{shape.name}-rknn-core"
        of = (
            "OF_NAME=npu",
            f"OF_FULLNAME={node.removeprefix(BASE)}",
            f"OF_COMPATIBLE_0={compatible}",
            "OF_COMPATIBLE_N=1",
        )
        device(tree, path, driver, (*of, f"MODALIAS=of:NnpuT(null)C{compatible}"))
        tree.link(f"{path}/of_node", node)
        tree.line(f"{path}/waiting_for_supplier", "0")
        tree.link(f"{path}/iommu_group", f"sys/kernel/iommu_groups/{core}")
        tree.folder(f"sys/kernel/iommu_groups/{core}")
        power(tree, path, "suspended", 1200 + core)
        paths.append(path)
    return paths


def rocket(tree: Tree, shape: Shape) -> None:
    """One platform device a core, and the accel node below a software device without a driver link (2.1)."""
    rknn_devices(tree, shape, rknn_cores(tree, shape, "okay"), "rocket")
    rknn = f"{PLATFORM}/rknn"
    device(tree, rknn, None, ("MODALIAS=platform:rknn",))
    minor(tree, rknn, "accel", "accel0", "261:0", "accel/accel0", "accel_minor")
    tree.line("sys/module/rocket/initstate", "live")
    regulator(tree, shape)
    interrupts(tree, shape)
