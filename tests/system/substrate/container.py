"""A container that boots a release's systemd, on this machine's kernel and with a board's device tree."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.system.substrate import host
from tests.system.substrate.computer import Computer

BOOT = 60
# Dies with the tests, even with ones that are killed.
PARENT_DIES = ("setpriv", "--pdeathsig", "KILL")
OWN_MOUNTS = ("unshare", "--mount", "--propagation", "private")
START = """
root=$1 name=$2 tree=$3 share=$4
# systemd 257 refuses the old cgroups; the new ones do without any controller. nspawn may not use the topmost group.
umount -lR /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$name"
echo $$ > "/sys/fs/cgroup/$name/cgroup.procs"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/nspawn/propagate /run/upper /run/work /run/root
mount -t tmpfs -o size=2g tmpfs /run/upper
mkdir /run/upper/files /run/upper/work
mount -t overlay -o "lowerdir=$root,upperdir=/run/upper/files,workdir=/run/upper/work" overlay /run/root
# /sys and /proc/sys in there are this machine's own: nothing may replay its devices or set its parameters.
for unit in systemd-udev-trigger systemd-sysctl systemd-modules-load; do
  ln -s /dev/null "/run/root/etc/systemd/system/$unit.service"
done
echo "$name" > /run/root/etc/hostname
echo 0123456789abcdef0123456789abcdef > /run/root/etc/machine-id
# Without it udev, whose writes to /sys would fail, is not started.
export SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes
# The two capabilities are for the device filter, which is quietly no filter without them.
exec systemd-nspawn --quiet --directory=/run/root --machine="$name" --register=no --keep-unit --private-network \\
  --tmpfs=/sys/firmware:mode=755 --bind-ro="$tree:/sys/firmware/devicetree/base" --bind-ro="$share:/srv/share" \\
  --capability=CAP_BPF,CAP_PERFMON --system-call-filter=bpf --console=read-only --link-journal=no --boot
"""


def cgroups() -> Path:
    for line in Path("/proc/mounts").read_text().splitlines():
        _, folder, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(folder)
    raise host.Broken("there are no cgroups of the second version on this machine")


def sweep() -> None:
    """Ends the containers of test sessions that were killed: nspawn dies with its session, what it started does not."""
    for group in cgroups().glob("rkllm-*"):
        session = group.name.split("-")[1]
        if not Path(f"/proc/{session}").exists():
            (group / "cgroup.kill").write_text("1")
            remove(group)


def remove(group: Path) -> None:
    """Groups are folders that only emptiness lets go of, the inner ones first."""
    for _ in range(100):
        for folder, _, _ in os.walk(group, topdown=False):
            try:
                Path(folder).rmdir()
            except OSError:
                continue
        if not group.exists():
            return
        time.sleep(0.05)
    raise host.Broken(f"{group} has processes left")


class Container(Computer):
    numbers = itertools.count(1)

    def __init__(self, root: Path, tree: Path, share: Path, log: Path) -> None:
        self.name = f"rkllm-{os.getpid()}-{next(self.numbers)}"
        self._log = log
        self._cgroup = cgroups() / self.name
        with log.open("wb") as console:
            self._process = subprocess.Popen(
                [*PARENT_DIES, *OWN_MOUNTS, "sh", "-euc", START, "sh", root, self.name, tree, share],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env=host.environment(),
            )
        self._leader = 0
        try:
            self._leader = self._wait()
        except BaseException:
            self.stop()
            raise

    def command(self) -> list[str]:
        inside = ["nsenter", f"--target={self._leader}"]
        inside += ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        return [*inside, "/usr/bin/env", "-i", f"PATH={host.PATH}", "HOME=/root", "LANG=C.UTF-8"]

    def _wait(self) -> int:
        end = time.monotonic() + BOOT
        while time.monotonic() < end:
            if self._process.poll() is not None:
                break
            leader = self._first_process()
            if leader:
                self._leader = leader
                state = self.ask("systemctl is-system-running --wait")
                if state.out.strip() == "running":
                    return leader
                if state.out.strip() == "degraded":
                    raise host.Broken(f"{self.name} boots badly:\n{self.ask('systemctl --failed').out}")
            time.sleep(0.05)
        raise host.Broken(f"{self.name} does not boot:\n{self._log.read_text(errors='replace')[-4000:]}")

    def _first_process(self) -> int:
        """systemd in there: the child of nspawn that goes by that name."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            found = [int(word) for word in children.read_text().split()]
            return next((pid for pid in found if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"), 0)
        except (FileNotFoundError, ProcessLookupError):  # It ended before, or while, it was read.
            return 0

    def stop(self) -> None:
        if self._leader and self._process.poll() is None:
            # systemd's own word for `poweroff`.
            os.kill(self._leader, signal.SIGRTMIN + 4)
        try:
            self._process.wait(20 if self._leader else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        remove(self._cgroup)
