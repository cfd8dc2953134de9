"""Two ways to ask udev itself about a rules file: a dry run on a mocked board, and `udevadm verify` of systemd 254."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from simulator import boards
from simulator.boards_tree import umockdev

TREE = Path(__file__).parents[2]
RULES = TREE / "udev/70-exo-rkllm.rules"
CACHE = TREE / "build/udevadm"
# udevadm of Debian 13 and what it is linked to, for machines whose own is older than `verify`.
SUITE, PACKAGES = "trixie", ("udev", "libsystemd-shared", "libc6", "libcap2", "libcrypt1", "libmount1", "libblkid1")
MORE = (
    "libselinux1",
    "libpcre2-8-0",
    "libacl1",
    "libkmod2",
    "libseccomp2",
    "libssl3t64",
    "libzstd1",
    "zlib1g",
    "libudev1",
)
# A private /run with our rules only, and a /dev that keeps the links which a dry run makes.
NAMESPACE = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/udev/rules.d /run/dev/pts /run/dev/shm
for node in null zero urandom random; do : > /run/dev/$node; mount --bind /dev/$node /run/dev/$node; done
mount -t devpts -o newinstance,ptmxmode=0666 devpts /run/dev/pts
ln -s pts/ptmx /run/dev/ptmx
ln -s /proc/self/fd /run/dev/fd
mount --rbind /run/dev /dev
cp "$1" /run/udev/rules.d/
shift
for device in "$@"; do
    echo "DEVICE $device"
    umockdev-run --device "$MOCK" -- udevadm test --action="$ACTION" "/sys$device" 2>&1
done
"""


def dry_run(profile: str, folder: Path, action: str = "add") -> dict[str, list[str]]:
    """Device path to udev's lines about it, for every device of a board."""
    tree = boards.build(profile)
    mock = folder / "board.umockdev"
    mock.write_text(umockdev(tree))
    devices = re.findall(r"^P: (.+)$", mock.read_text(), re.MULTILINE)
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", NAMESPACE, "sh", str(RULES), *devices],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "MOCK": str(mock), "ACTION": action},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return {part.split("\n", 1)[0]: part.splitlines()[1:] for part in done.stdout.split("DEVICE ")[1:]}


def namespaces() -> bool:
    return (
        subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True).returncode == 0
    )


def verifier() -> list[str] | str:
    """The command that verifies rules, or the reason why there is none."""
    own = shutil.which("udevadm")
    if own and subprocess.run([own, "verify", "--help"], capture_output=True).returncode == 0:
        return [own, "verify"]
    return _unpacked()


def _unpacked() -> list[str] | str:
    """From the mirror that this machine's apt is set up for; once, into build/."""
    root = CACHE / "root"
    if not root.exists():
        with tempfile.TemporaryDirectory() as folder:
            failure = _download(Path(folder))
            if failure:
                return f"udevadm is older than systemd 254, and {failure}"
            CACHE.mkdir(parents=True, exist_ok=True)
            for package in Path(folder, "debs").glob("*.deb"):
                _run("dpkg-deb", "-x", str(package), str(CACHE / "root.new"))
        (CACHE / "root.new").rename(root)
    loader = next(root.glob("usr/lib/*/ld-linux-*.so.*"))
    folders = sorted({str(library.parent) for library in root.glob("usr/lib/**/*.so*")})
    return [str(loader), "--library-path", ":".join(folders), str(root / "usr/bin/udevadm"), "verify"]


def _download(folder: Path) -> str:
    """Packages into `folder`/debs; a reason where that fails."""
    uri = _run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian")
    if not uri:
        return "there is no Debian mirror to get a newer one from"
    for name in ("lists/partial", "cache/archives/partial", "debs"):
        (folder / name).mkdir(parents=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources").write_text(f"deb [signed-by={keyring}] {uri.splitlines()[0]} {SUITE} main\n")
    (folder / "status").touch()
    options = [
        *("-o", f"Dir::Etc::sourcelist={folder}/sources", "-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::State::status={folder}/status"),
        *("-o", f"Dir::Cache={folder}/cache", "-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User="),
    ]
    if _run("apt-get", *options, "update") is None:
        return f"the lists of {SUITE} cannot be fetched"
    if _run("apt-get", *options, "download", *PACKAGES, *MORE, folder=folder / "debs") is None:
        return f"that of {SUITE} cannot be fetched"
    return ""


def _run(*command: str, folder: Path | None = None) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
