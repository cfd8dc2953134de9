"""Everything that tests stand on, made beside each other from the moment the tests begin, each thing once."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from simulator import boards, model_file
from tests.system.substrate import devicetree, disks, initrd, module, owner, packages, probe_unit, roots
from tests.system.substrate.container import Container
from tests.system.substrate.devicetree import PLUS, Board
from tests.system.substrate.machine import Hardware, Machine
from tests.system.substrate.releases import Release
from tests.system.substrate.steps import Steps

Thing = TypeVar("Thing")
# Enough for every job to wait for those that it needs.
THREADS = 32
MODEST = 10
PROCESSORS, MEGABYTES = 2, 1024


@dataclass(frozen=True, slots=True)
class Onboard:
    """A virtual Orange Pi 5 Plus on which the package was just installed."""

    machine: Machine
    nodes_before: str  # `ls -l` of the device nodes when only Debian was there


class Workshop:
    def __init__(self, folder: Path, steps: Steps) -> None:
        self.folder = folder
        self._steps = steps
        self._pool = ThreadPoolExecutor(THREADS)
        self._jobs: dict[str, Future[Any]] = {}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        for job in self._jobs.values():
            if job.done() and not job.cancelled() and job.exception() is None and isinstance(job.result(), Onboard):
                job.result().machine.discard()

    def _job(self, name: str, work: Callable[[], Thing], *needs: Future[Any]) -> Future[Thing]:
        """Asked for again, the same job. Its time is its own: waiting for what it needs is not in it."""
        if name not in self._jobs:
            self._jobs[name] = self._pool.submit(self._work, name, work, needs)
        return self._jobs[name]

    def _work(self, name: str, work: Callable[[], Thing], needs: tuple[Future[Any], ...]) -> Thing:
        for need in needs:
            need.result()
        # Whatever a test measures beside it comes first; what this thread starts is as modest as itself.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), MODEST)
        with self._steps.step(name):
            return work()

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────

    def packages(self) -> Future[Path]:
        return self._job("packages and signed repository", packages.repository)

    def amd64(self, release: Release) -> Future[Path]:
        return self._job(f"{release.name} amd64 root", lambda: roots.amd64(release))

    def arm64(self, release: Release, *, configured: bool = False) -> Future[Path]:
        if configured:
            return self._job(f"{release} arm64 root, configured", lambda: roots.arm64_configured(release))
        native = self.amd64(release)
        return self._job(f"{release} arm64 root", lambda: roots.arm64(release, native.result()), native)

    def key(self) -> Future[Path]:
        return self._job("ssh key", lambda: disks.key(self.folder / "key"))

    def module(self, release: Release) -> Future[Path]:
        """For the kernel of the release's arm64 root."""
        native, root = self.amd64(release), self.arm64(release)

        def build() -> Path:
            return module.build(release, native.result(), roots.kernel(root.result()), self.folder / f"{release}-kmod")

        return self._job(f"{release} kernel module", build, native, root)

    def disk(self, release: Release, *, configured: bool = False) -> Future[Path]:
        root, built, key = self.arm64(release, configured=configured), self.module(release), self.key()
        name = f"{release} disk image" + (", configured" if configured else "")
        image = self.folder / f"{name.replace(' ', '-')}.ext4"
        return self._job(name, lambda: disks.root(root.result(), built.result(), key.result(), image), root, built, key)

    def initrd(self, release: Release, *, configured: bool = False) -> Future[Path]:
        root = self.arm64(release, configured=configured)
        to = self.folder / f"{release}-{configured}.initrd"
        return self._job(to.name, lambda: initrd.write(root.result(), roots.kernel(root.result()), to), root)

    def share(self) -> Future[Path]:
        made = self.packages()
        image = self.folder / "share.ext4"
        return self._job("repository on a disk", lambda: disks.folder(made.result() / "apt", image), made)

    def model(self, name: str, size: int) -> bytes:
        """A simulated model of so many bytes."""
        path = self.folder / f"{name}.rkllm"
        return model_file.write(path, model_file.SimModel(size=size, npu_cores=2)).read_bytes()

    # ── computers ────────────────────────────────────────────────────────────────────────────────

    def prepare(self, release: Release) -> None:
        self.disk(release)
        self.initrd(release)
        self.share()

    def onboard(self, release: Release) -> Future[Onboard]:
        """Minutes of an emulated processor, in which containers are tested."""
        needs = self.disk(release), self.initrd(release), self.share()

        def install() -> Onboard:
            machine = self.machine(f"{release} board", self.hardware(release))
            try:
                nodes = machine.run("ls -l /dev/rknpu /dev/dri/card0 /dev/dri/renderD128")
                owner.add_repository(machine)
                probe_unit.put(machine)
                with self._steps.step(f"{release} board: apt install"):
                    owner.apt(machine, "install exo-rkllm exo-rkllm-simulator")
            except BaseException:
                machine.discard()
                raise
            return Onboard(machine, nodes)

        return self._job(f"{release} board boots, installs", install, *needs)

    def container(self, release: Release) -> Container:
        """A pristine one, with the device tree of an Orange Pi 5 Plus and the repository in /srv/share."""
        root, repository = self.amd64(release).result(), self.packages().result() / "apt"
        tree = self.folder / "tree"
        if not tree.is_dir():
            boards.build(PLUS.name).write(tree)
        log = self.folder / f"{release}-container.log"
        return Container(root, tree / "sys/firmware/devicetree/base", repository, log)

    def hardware(self, release: Release, board: Board = PLUS, *, configured: bool = False, **more: Any) -> Hardware:
        root = self.arm64(release, configured=configured).result()
        size = {"processors": more.get("processors", PROCESSORS), "megabytes": more.get("megabytes", MEGABYTES)}
        return Hardware(
            kernel=roots.image(root),
            initrd=self.initrd(release, configured=configured).result(),
            disk=self.disk(release, configured=configured).result(),
            tree=devicetree.write(board, self.folder, **size),
            share=self.share().result(),
            key=self.key().result(),
            **more,
        )

    def machine(self, name: str, hardware: Hardware) -> Machine:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        with self._steps.step(f"{name} boots"):
            return Machine(name, hardware, folder).start()
