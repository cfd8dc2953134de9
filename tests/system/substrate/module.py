"""simulator/kmod built for a release's arm64 kernel, by the release's own compiler and kernel tools."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from tests.system.substrate import apt, cache, host, roots
from tests.system.substrate.releases import Release

SOURCE = host.REPOSITORY / "simulator" / "kmod"

# What the release's root lacks is laid over it. A cross compiler needs no installing, only unpacking.
BUILD = """
root=$1 tools=$2 kernel=$3 compiler=$4 work=$5
mount -t tmpfs tmpfs /run
mkdir /run/upper /run/work /run/root
mount -t overlay -o "lowerdir=$tools:$root,upperdir=/run/upper,workdir=/run/work" overlay /run/root
mkdir -p /run/root/work && mount --bind "$work" /run/root/work
# Type information for BPF would take the whole kernel and a program more.
exec chroot /run/root make -s -C "/usr/src/linux-headers-$kernel" M=/work \\
  CROSS_COMPILE=aarch64-linux-gnu- CC="aarch64-linux-gnu-$compiler" LD=aarch64-linux-gnu-ld \\
  CONFIG_DEBUG_INFO_BTF_MODULES= modules
"""


def build(release: Release, amd64: Path, kernel: str, work: Path) -> Path:
    tools = _tools(release, amd64, kernel)
    shutil.copytree(SOURCE, work, dirs_exist_ok=True)
    host.in_own_mounts(BUILD, amd64, tools, kernel, release.compiler, work)
    return work / "rknpu.ko"


def _tools(release: Release, amd64: Path, kernel: str) -> Path:
    inputs = (amd64.name, kernel, release.compiler)
    return cache.kept(f"{release}-kernel-{kernel}", inputs, lambda to: _fetch(release, amd64, kernel, to))


def _fetch(release: Release, amd64: Path, kernel: str, to: Path) -> None:
    """The image's very headers: a module fits one kernel only."""
    for name in ("bin", "sbin", "lib"):
        (to / "usr" / name).mkdir(parents=True)
        (to / name).symlink_to(f"usr/{name}")
    with tempfile.TemporaryDirectory() as scratch:
        board = apt.Apt.of(Path(scratch) / "arm64", release.suites, "arm64")
        headers = f"linux-headers-{kernel}"
        depends = board.depends(headers)
        (common,) = (name for name in depends if name.startswith("linux-headers-"))
        # Programs for the machine that builds, by the same name.
        (programs,) = (name for name in depends if name.startswith("linux-kbuild-"))
        packages = board.download([headers, common], Path(scratch) / "headers")
        status = amd64 / "var/lib/dpkg/status"
        here = apt.Apt.of(Path(scratch) / "amd64", release.suites, "amd64", status)
        compiler = f"{release.compiler}-aarch64-linux-gnu"
        packages += here.download_missing(["make", compiler, "binutils-aarch64-linux-gnu"])
        packages += here.download([programs], Path(scratch) / "programs")
        for package in packages:
            apt.unpack(package, to, *(f".{pattern}" for pattern in roots.UNNEEDED))
