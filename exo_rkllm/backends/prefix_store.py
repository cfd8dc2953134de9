"""The files of saved prefixes: in memory (tmpfs) first, then on disk, within a budget each.

A file counts once the note beside it exists, which is written last: whatever interrupts a save leaves something that
the next start removes. Conversations stand in these files, so only the owner may read them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from exo_rkllm.backends.ledger import CachedRun
from exo_rkllm.backends.prefix_plan import NO_PREFIXES, PrefixCosts, PrefixTally, SavedPrefix, TierName
from exo_rkllm.files.durable import sync

log = logging.getLogger(__name__)

FOLDER = "prefixes"
FILE, NOTE, PART = ".kv", ".json", ".part"
# Of the file system's free bytes that a save may take.
SHARE = 0.8


@dataclass(frozen=True, slots=True)
class PrefixTier:
    """A folder and how many bytes may be in it; 0 leaves it unused."""

    name: TierName
    folder: Path
    budget: int


class PrefixStore:
    """Lives on one event loop. `spare` tells the bytes of memory that may still be taken."""

    def __init__(self, tiers: Sequence[PrefixTier], spare: Callable[[], int]) -> None:
        self._tiers = [tier for tier in tiers if tier.budget > 0]
        self._spare = spare
        self._saved: dict[Path, SavedPrefix] = {}
        self._parts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._costs: dict[str, PrefixCosts] = {}
        self._tallies: dict[str, PrefixTally] = {}
        for tier in tiers:
            self._open(tier)

    # ── what there is ────────────────────────────────────────────────────────────────────────────

    def of(self, key: str) -> list[SavedPrefix]:
        return [saved for saved in self._saved.values() if saved.key == key]

    def costs(self, key: str) -> PrefixCosts:
        return self._costs.get(key, PrefixCosts())

    def measured(self, key: str, costs: PrefixCosts) -> None:
        self._costs[key] = costs

    def count(self, model: str, **more: int) -> None:
        tally = self._counts(model)
        self._tallies[model] = replace(tally, **{name: getattr(tally, name) + by for name, by in more.items()})

    def tally(self, model: str) -> PrefixTally:
        saved = [one for one in self._saved.values() if one.model == model]
        return replace(self._counts(model), files=len(saved), bytes=sum(one.size for one in saved))

    def _counts(self, model: str) -> PrefixTally:
        return self._tallies.get(model, NO_PREFIXES)

    def used(self, tier: TierName) -> int:
        return sum(saved.size for saved in self._saved.values() if saved.tier == tier)

    # ── saving ───────────────────────────────────────────────────────────────────────────────────

    def part(self, size: int, reading: Path | None = None) -> Path | None:
        """Where the library may write about so many bytes; None where there is no room for them beside the file that it
        is `reading`."""
        if not self._tiers:
            return None
        tier = self._tiers[0]
        busy = sum(one.size for one in self._saved.values() if one.path == reading and one.tier == tier.name)
        if size + busy > tier.budget:
            return None
        self._evict(tier.name, tier.budget - size)
        try:
            free = shutil.disk_usage(tier.folder).free
        except OSError:
            return None
        if size > SHARE * free or (tier.name == "memory" and size > self._spare()):
            return None
        self._parts += 1
        return tier.folder / f"{self._parts}{PART}"

    async def keep(self, part: Path, key: str, model: str, run: CachedRun, dropping: Collection[Path] = ()) -> int:
        """Makes a file that the library has written one of ours, in place of others; its size, 0 where it is none."""
        tier = next((tier for tier in self._tiers if tier.folder == part.parent), None)
        if tier is None:  # closed meanwhile
            self.discard(part)
            return 0
        name = f"{key}-{binding(run.prompt, run.answer)}-{time.time_ns():x}"
        saved = SavedPrefix(tier.folder / f"{name}{FILE}", tier.name, 0, run, key, model, time.monotonic())
        saved = await asyncio.to_thread(_commit, part, saved)
        if not saved.size:
            return 0
        for path in dropping:
            self.drop(path)
        self._saved[saved.path] = saved
        self.count(model, saved=1)
        self._evict(tier.name, tier.budget)
        return saved.size

    def touch(self, path: Path) -> None:
        if path in self._saved:
            self._saved[path] = self._saved[path]._replace(used=time.monotonic())

    def drop(self, path: Path) -> None:
        """Removes a file; the bytes are freed beside the loop."""
        if self._saved.pop(path, None) is not None:
            self._beside(asyncio.to_thread(_remove, path))

    def discard(self, part: Path) -> None:
        self._beside(asyncio.to_thread(_remove, part))

    def close(self) -> None:
        """From now on only what outlives this daemon is saved."""
        self._tiers = [tier for tier in self._tiers if tier.name == "disk"]

    # ── room ─────────────────────────────────────────────────────────────────────────────────────

    def make_room(self, size: int) -> None:
        """Leaves so many bytes of memory to something else, as far as the files here stand in its way."""
        used = self.used("memory")
        if (missing := size - self._spare()) > 0 and used:
            self._evict("memory", max(0, used - missing), spill=False)

    def _evict(self, name: TierName, most: int, *, spill: bool = True) -> None:
        """Until no more than so many bytes are in the tier; what was not used for the longest time goes first."""
        disks = [tier for tier in self._tiers if tier.name == "disk" and name == "memory" and spill]
        lower = disks[0] if disks else None
        while self.used(name) > most:
            oldest = min((one for one in self._saved.values() if one.tier == name), key=lambda one: one.used)
            if lower is not None and oldest.size <= lower.budget:
                self._evict("disk", lower.budget - oldest.size)
                del self._saved[oldest.path]
                moved = oldest._replace(path=lower.folder / oldest.path.name, tier=lower.name)
                self._beside(self._move(oldest, moved))
            else:
                self.drop(oldest.path)
                self.count(oldest.model, evicted=1)

    async def _move(self, saved: SavedPrefix, moved: SavedPrefix) -> None:
        if await asyncio.to_thread(_copied, saved, moved):
            self._saved.setdefault(moved.path, moved)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Returns when nothing is being moved or removed."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    # ── the start ────────────────────────────────────────────────────────────────────────────────

    def _open(self, tier: PrefixTier) -> None:
        """Takes over what is whole, and removes the rest."""
        try:
            if tier.budget > 0:
                tier.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files = sorted(tier.folder.iterdir()) if tier.folder.is_dir() else []
        except OSError as error:
            log.warning("No conversation can be kept in %s: %s.", tier.folder, error.strerror)
            self._tiers = [one for one in self._tiers if one.folder != tier.folder]
            return
        whole = {}
        for note in files:
            if tier.budget > 0 and note.suffix == NOTE and (saved := _read(note, tier.name)) is not None:
                whole[saved.path] = saved
        for file in files:
            if file.with_suffix(FILE) not in whole:
                with contextlib.suppress(OSError):
                    file.unlink()
        self._saved |= whole
        if tier.budget > 0:
            self._trim(tier)

    def _trim(self, tier: PrefixTier) -> None:
        """Before the loop runs: what a smaller budget does not hold."""
        for saved in list(self._saved.values()):
            if saved.tier == tier.name and self.used(tier.name) > tier.budget:
                del self._saved[saved.path]
                _remove(saved.path)


# ── files ────────────────────────────────────────────────────────────────────────────────────────


def _commit(part: Path, saved: SavedPrefix) -> SavedPrefix:
    """Renames the part and writes its note; the same with its size, which is 0 where nothing was written."""
    try:
        size = part.stat().st_size
        if not size:
            return saved
        part.chmod(0o600)
        saved = saved._replace(size=size)
        _put(part, saved)
    except OSError as error:
        log.warning("A conversation could not be kept in %s: %s.", part.parent, error.strerror)
        _remove(part)
        return saved._replace(size=0)
    return saved


def _copied(saved: SavedPrefix, moved: SavedPrefix) -> bool:
    """From memory to disk: whole or not at all, also where the power goes."""
    part = moved.path.with_suffix(PART)
    try:
        with saved.path.open("rb") as source, open(part, "wb", opener=_private) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        _put(part, moved)
    except OSError as error:
        log.warning("A conversation could not be moved to %s: %s.", part.parent, error.strerror)
        _remove(part)
        return False
    finally:
        _remove(saved.path)
    return True


def _put(part: Path, saved: SavedPrefix) -> None:
    if saved.tier == "disk":
        sync(part)
    part.replace(saved.path)
    _write_note(saved)


def _write_note(saved: SavedPrefix) -> None:
    note = saved.path.with_suffix(NOTE)
    part = note.with_name(f"{note.name}{PART}")
    value = {**saved.run._asdict(), "size": saved.size, "key": saved.key, "model": saved.model}
    with open(part, "w", opener=_private, encoding="utf-8", errors="replace") as file:
        json.dump(value, file)
        if saved.tier == "disk":
            file.flush()
            os.fsync(file.fileno())
    part.replace(note)
    if saved.tier == "disk":
        sync(note.parent)


def _read(note: Path, tier: TierName) -> SavedPrefix | None:
    """The prefix of a note whose file is there as it says."""
    file = note.with_suffix(FILE)
    try:
        value = json.loads(note.read_bytes())
        run = CachedRun(**{name: value[name] for name in CachedRun._fields})
        if file.stat().st_size != value["size"]:
            return None
        return SavedPrefix(file, tier, value["size"], run, value["key"], value["model"], -1e9)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove(path: Path) -> None:
    """The note first: without it the file counts no more."""
    for one in (path.with_suffix(NOTE), path):
        with contextlib.suppress(OSError):
            one.unlink()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def binding(*parts: object) -> str:
    """A name for everything that a file's values depend on besides its tokens."""
    return sha256(repr(parts).encode()).hexdigest()[:24]
