"""Debian roots: for this machine's architecture made by mmdebstrap, for arm64 out of that one without running arm64.

Running arm64's maintainer scripts under qemu-user takes minutes. What they leave behind (users, links, bytecode) is the
same on every architecture, so an arm64 root is a configured one whose packages' files are exchanged for arm64's. The
long run has genuinely configured ones to compare with.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.system.substrate import apt, cache, host
from tests.system.substrate.releases import PACKAGES, Release

# Counts up when what this file makes of the same packages is something else.
RECIPE = 1
UNNEEDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
# Drivers of hardware that no virtual machine has: half of a kernel package.
NO_DRIVERS = tuple(
    f"*/kernel/{name}/*"
    for name in (
        "sound",
        "drivers/infiniband",
        "drivers/media",
        "drivers/net/ethernet",
        "drivers/net/wireless",
        "drivers/scsi",
        "drivers/staging",
        "drivers/gpu/drm/amd",
        "drivers/gpu/drm/nouveau",
        "drivers/gpu/drm/radeon",
        "drivers/usb",
        "drivers/iio",
    )
)
# While it lasts, the kernel is told that qemu-user runs arm64's programs, unless it knows already.
FOREIGN = """
table=/proc/sys/fs/binfmt_misc
mount -t binfmt_misc binfmt_misc $table
if ! test -e $table/qemu-aarch64; then
  cat /usr/lib/binfmt.d/qemu-aarch64*.conf > $table/register
  trap 'echo -1 > $table/qemu-aarch64' EXIT
fi
"$@"
"""
HERE, THERE = "x86_64-linux-gnu", "aarch64-linux-gnu"


def amd64(release: Release) -> Path:
    return cache.kept(f"{release.name}-amd64", (PACKAGES, UNNEEDED, RECIPE), lambda to: _make(release, to))


def arm64(release: Release, configured: Path) -> Path:
    inputs = (configured.name, NO_DRIVERS, RECIPE)
    return cache.kept(f"{release}-arm64", inputs, lambda to: _exchange(release, configured, to))


def arm64_configured(release: Release) -> Path:
    """The long way: arm64's own maintainer scripts under qemu-user, two to three minutes and more."""
    inputs = (PACKAGES, NO_DRIVERS, RECIPE)
    return cache.kept(f"{release}-arm64-configured", inputs, lambda to: _make_foreign(release, to))


def kernel(root: Path) -> str:
    (version,) = (path.name for path in (root / "usr/lib/modules").iterdir())
    return version


def image(root: Path) -> Path:
    """Debian's kernels lie in /boot, the newest (7.3) beside their modules."""
    version = kernel(root)
    usual = root / "boot" / f"vmlinuz-{version}"
    return usual if usual.exists() else root / "usr/lib/modules" / version / "vmlinuz"


# ── amd64 ────────────────────────────────────────────────────────────────────────────────────────


def _make(release: Release, to: Path) -> None:
    host.run(*_recipe(release, to))


def _recipe(release: Release, to: Path, architecture: str = "amd64") -> list[str | Path]:
    return [
        "mmdebstrap",
        f"--architectures={architecture}",
        "--variant=apt",
        f"--include={','.join(PACKAGES)}",
        "--format=directory",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in UNNEEDED),
        release.name,
        to,
        apt.mirror(),
    ]


# ── arm64 ────────────────────────────────────────────────────────────────────────────────────────


def _make_foreign(release: Release, to: Path) -> None:
    # qemu's default processor emulates pointer authentication, which makes trixie's Python five times slower.
    environment = host.environment(QEMU_CPU="cortex-a76")
    # One at a time: whoever ends first would take qemu-user away from the other.
    with (cache.folder() / ".foreign.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        host.in_own_mounts(FOREIGN, *_recipe(release, to, "arm64"), env=environment)
    with tempfile.TemporaryDirectory() as scratch:
        _add_kernel(release, Path(scratch), to)


def _exchange(release: Release, configured: Path, to: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        theirs = apt.Apt.of(Path(scratch) / "apt", [release.name], "arm64")
        installed = _installed(configured)
        ours = {name for name, architecture in installed.items() if architecture != "all"}
        # A few packages are for x86 alone.
        gone = ours - theirs.names()
        packages = theirs.download(ours - gone, Path(scratch) / "packages")
        host.run("cp", "-a", f"{configured}/.", to)
        _remove_ours(to)
        for package in packages:
            apt.unpack(package, to, *(f".{pattern}" for pattern in UNNEEDED))
        _rewrite_records(to, packages, gone)
        _repoint_alternatives(to)
        shutil.rmtree(to / "var/lib/apt/lists")
        (to / "var/lib/apt/lists/partial").mkdir(parents=True)
        _add_kernel(release, Path(scratch), to)
    # What finds a library by name asks this cache.
    host.run("qemu-aarch64-static", "-L", to, to / "usr/sbin/ldconfig", "-r", to)


def _installed(root: Path) -> Mapping[str, str]:
    told = host.run("dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Architecture}\n")
    return dict(line.split() for line in told.splitlines())


def _remove_ours(root: Path) -> None:
    """Files whose very names are of the architecture; all others are about to be overwritten."""
    for record in (root / "var/lib/dpkg/info").glob("*.list"):
        for line in record.read_text().splitlines():
            path = root / line[1:]
            if HERE in line and (path.is_symlink() or path.is_file()):
                path.unlink()
    for folder in ("usr/lib/x86_64-linux-gnu", "usr/lib64"):
        shutil.rmtree(root / folder, ignore_errors=True)
    (root / "usr/lib64").mkdir()
    (root / "etc/ld.so.cache").unlink(missing_ok=True)


def _rewrite_records(root: Path, packages: list[Path], gone: set[str]) -> None:
    """dpkg finds arm64's packages installed, with their own versions and checksums."""
    dpkg = root / "var/lib/dpkg"
    described = {}
    for package in packages:
        control = host.run("dpkg-deb", "-f", package).strip()
        described[control.split("\n", 1)[0].removeprefix("Package: ")] = control
    kept = []
    for paragraph in (dpkg / "status").read_text().strip().split("\n\n"):
        name = paragraph.split("\n", 1)[0].removeprefix("Package: ")
        if name in gone:
            continue
        if name in described:
            kept.append(_installed_as(described[name], paragraph))
        else:
            kept.append(paragraph)
    (dpkg / "status").write_text("\n\n".join(kept) + "\n")
    for record in (dpkg / "info").iterdir():
        name, _, kind = record.name.partition(":amd64.")
        if name in gone or record.name.rsplit(".", 1)[0] in gone:
            record.unlink()
            continue
        if record.suffix in (".list", ".md5sums"):
            record.write_text(record.read_text().replace(HERE, THERE))
        if kind:
            record.rename(record.with_name(f"{name}:arm64.{kind}"))


def _installed_as(control: str, before: str) -> str:
    """A package's own words, and the settings files that the record of its predecessor lists."""
    first, rest = control.split("\n", 1)
    conffiles = re.search(r"^Conffiles:\n(?: .*(?:\n|\Z))+", before, re.MULTILINE)
    lines = [first, "Status: install ok installed", rest]
    return "\n".join([*lines, conffiles[0].rstrip()] if conffiles else lines)


def _repoint_alternatives(root: Path) -> None:
    """numpy's BLAS is an alternative whose name and target hold the library folder."""
    for record in (root / "var/lib/dpkg/alternatives").iterdir():
        if HERE in record.name:
            record.write_text(record.read_text().replace(HERE, THERE))
            record.rename(record.with_name(record.name.replace(HERE, THERE)))
    for link in (root / "etc/alternatives").iterdir():
        if not link.is_symlink() or HERE not in f"{link.name}{link.readlink()}":
            continue
        moved = link.with_name(link.name.replace(HERE, THERE))
        target = str(link.readlink()).replace(HERE, THERE)
        link.unlink()
        moved.symlink_to(target)
        visible = root / "usr/lib" / THERE / moved.name.removesuffix(f"-{THERE}")
        if moved.name != visible.name and not visible.is_symlink():
            visible.symlink_to(f"/etc/alternatives/{moved.name}")


def _add_kernel(release: Release, scratch: Path, to: Path) -> None:
    """Only unpacked: its maintainer scripts would make an initrd, which takes minutes under qemu-user."""
    theirs = apt.Apt.of(scratch / "kernel", release.suites, "arm64")
    (image,) = (name for name in theirs.depends("linux-image-arm64") if name.startswith("linux-image-"))
    version = image.removeprefix("linux-image-")
    # From 7.x on an image is a name for two packages, program and modules.
    parts = {image, *(name for name in theirs.depends(image) if name.endswith(version))}
    for package in theirs.download([*parts, "busybox-static"], scratch / "kernel-packages"):
        apt.unpack(package, to, *NO_DRIVERS)
    host.run("depmod", "-b", to, kernel(to))


def without_foreign_programs(root: Path) -> list[str]:
    """Programs of this machine's architecture that are left in an arm64 root; there must be none."""
    left = []
    for folder in ("usr/bin", "usr/sbin", "usr/lib"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    head = file.read(20)
                if head[:4] == b"\x7fELF" and head[18:20] == b"\x3e\x00":
                    left.append(str(path.relative_to(root)))
    return left
