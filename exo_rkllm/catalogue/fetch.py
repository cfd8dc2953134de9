"""Fetching a model's file into a stage: resumed where a part of it is there, checked before it counts."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue.hub import Body, File, Hub, Interrupted, Repository
from exo_rkllm.catalogue.progress import PullProgress, PullStage
from exo_rkllm.catalogue.staging import LOCK, check_room
from exo_rkllm.errors import PullError

TRIES = 5
PAUSE = 0.25
STATE = ".state.json"
PART = ".part"
REPORT_EVERY = 1 << 20


@dataclass(frozen=True, slots=True)
class PartState:
    """What is known of a part on disk; another commit, size or digest makes it worthless."""

    revision: str
    size: int | None
    sha256: str
    etag: str = ""


async def fetch(hub: Hub, stage: Path, repo: Repository, file: File) -> AsyncGenerator[PullProgress, None]:
    """The checked file in the stage, resumed where there is a part of it; the last step has its digest."""
    target = stage / PurePosixPath(file.path).name
    part = stage / (target.name + PART)
    if target.name == cards.FILE:
        raise PullError(f"{repo.id} has a model file named {target.name}.", "Look for another conversion.")
    state = await asyncio.to_thread(_prepare, stage, target, part, repo, file)
    for resumed in (part.exists(), False):
        download = Download(hub, stage, part, repo, file, state)
        async with aclosing(download.run()) as steps:
            async for step in steps:
                yield step
        if download.good or not resumed:
            break
        yield PullProgress("note", "what was kept of an earlier pull does not fit; starting over")
        part.unlink()
    if not download.good:
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
        raise PullError(
            f"{file.path} of {repo.id} {download.fault}; it was thrown away.", "Pull it again, or ask its maker."
        )
    part.rename(target)
    yield PullProgress("verifying", file.path, file.path, download.sha256, download.have, download.have)


def _prepare(stage: Path, target: Path, part: Path, repo: Repository, file: File) -> PartState:
    """Keep of the stage what is still worth something; raises a PullError where the disk has no room for the rest."""
    if target.exists():
        target.rename(part)  # a crash between the check and the card: it is checked again
    fresh = PartState(repo.revision, file.size, file.sha256)
    state = _read_state(stage) or fresh
    if _is_other(state, repo, file):
        for path in stage.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        state = fresh
    have = part.stat().st_size if part.exists() else 0
    check_room(stage.parent, (file.size or 0) - have)
    return state


def _read_state(stage: Path) -> PartState | None:
    try:
        return PartState(**json.loads((stage / STATE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _is_other(state: PartState, repo: Repository, file: File) -> bool:
    if file.sha256:
        return state.sha256 != file.sha256
    return (state.revision, state.size) != (repo.revision, file.size)


class Download:
    """The download of one file into its part: bytes and digest so far, and what the server says of the whole."""

    def __init__(self, hub: Hub, stage: Path, part: Path, repo: Repository, file: File, state: PartState) -> None:
        self._hub, self._stage, self._part, self._repo, self._file = hub, stage, part, repo, file
        self._state = state
        self._digest = hashlib.sha256()
        self.have = 0
        self.total = file.size

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def good(self) -> bool:
        expected = self._file.sha256 or self._state.sha256
        return self.have == self.total and expected in ("", self.sha256)

    @property
    def fault(self) -> str:
        if self.have != self.total:
            return f"has {self.have} bytes, not {self.total}"
        expected = self._file.sha256 or self._state.sha256
        return f"has the SHA-256 {self.sha256[:16]}..., not {expected[:16]}..."

    async def run(self) -> AsyncGenerator[PullProgress, None]:
        if self._part.exists():
            while await asyncio.to_thread(self._read):
                yield self._step("verifying", self._file.path)
        failures = 0
        while self.total is None or self.have < self.total:
            before = self.have
            try:
                async with self._hub.open(
                    self._repo.id, self._repo.revision, self._file.path, self.have, self._state.etag
                ) as body:
                    await asyncio.to_thread(self._start, body)
                    async for chunk in body.chunks:
                        if await asyncio.to_thread(self._write, chunk):
                            yield self._step("downloading", self._file.path)
                self._check_end()
            except Interrupted as error:
                failures = 1 if self.have > before else failures + 1
                if failures >= TRIES:
                    raise PullError(
                        f"Fetching {self._file.path} failed {failures} times: {error}.",
                        "What has come is kept; the same command goes on from there.",
                    ) from None
                yield self._step("note", f"{error}; trying again")
                await asyncio.sleep(PAUSE * 4 ** (failures - 1))
        yield self._step("downloading", self._file.path)

    def _step(self, stage: PullStage, text: str) -> PullProgress:
        return PullProgress(stage, text, self._file.path, self._file.sha256, self.have, self.total or 0)

    def _read(self) -> bool:
        """Hash the next block of what is on disk; False at its end."""
        with self._part.open("rb") as file:
            file.seek(self.have)
            chunk = file.read(1 << 24)
        self._digest.update(chunk)
        self.have += len(chunk)
        return bool(chunk)

    def _start(self, body: Body) -> None:
        if body.sha256 and self._file.sha256 and body.sha256 != self._file.sha256:
            raise PullError(f"{self._file.path} changed while it was being fetched.", "Pull it again.")
        if body.size is not None and self._file.size is not None and body.size != self._file.size:
            raise PullError(
                f"The server sends {body.size} bytes of {self._file.path}, its listing says {self._file.size}.",
                "Check HF_ENDPOINT.",
            )
        self.total = body.size if body.size is not None else self._file.size
        self._state = PartState(self._state.revision, self._state.size, self._file.sha256 or body.sha256, body.etag)
        new = self._stage / (STATE + ".new")
        new.write_text(json.dumps(asdict(self._state)))
        new.rename(self._stage / STATE)
        if body.start == 0:
            self._part.write_bytes(b"")
            self._digest, self.have = hashlib.sha256(), 0
        self._last_report = self.have

    def _write(self, chunk: bytes) -> bool:
        """Append a chunk; True when a progress step is due."""
        if self.total is not None and self.have + len(chunk) > self.total:
            raise PullError(f"The server sends more of {self._file.path} than it announced.", "Check HF_ENDPOINT.")
        try:
            with self._part.open("ab", buffering=0) as out:
                view = memoryview(chunk)
                while view:
                    view = view[out.write(view) :]
        except OSError as error:
            folder = self._part.parent.parent
            raise PullError(f"{folder} cannot be written: {error.strerror}.", f"df -h {folder}") from None
        self._digest.update(chunk)
        self.have += len(chunk)
        due = self.have - self._last_report >= REPORT_EVERY
        if due:
            check_room(self._stage.parent, (self.total or self.have) - self.have)
        self._last_report = self.have if due else self._last_report
        return due

    def _check_end(self) -> None:
        if self.total is None:
            self.total = self.have
        if self.have < self.total:
            raise Interrupted(f"it ended after {self.have} of {self.total} bytes")
