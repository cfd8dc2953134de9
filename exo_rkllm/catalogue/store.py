"""The models folder: one folder an entry, made and removed in one step, never half there."""

from __future__ import annotations

import contextlib
import copy
import os
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue import names, staging
from exo_rkllm.catalogue.aliases import alias_table, target_of
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.contributions import EMPTY, PluginContributions
from exo_rkllm.catalogue.entry import Entry, Problem, read_entry
from exo_rkllm.errors import CardError, ConfigError, ExoRkllmError, ModelExists, ModelNotFound
from exo_rkllm.files.durable import sync
from exo_rkllm.files.stamps import Stamp, stamp_of
from exo_rkllm.privileges import give_up_root

if TYPE_CHECKING:  # the daemon alone watches
    from exo_rkllm.catalogue.folder_watch import FolderWatch

# More names than these are not remembered: strangers may ask for any.
MOST_NAMES = 1000


@dataclass(frozen=True)
class Listing:
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    aliases: tuple[Entry, ...] = ()

    @cached_property
    def by_id(self) -> Mapping[str, Entry]:
        return {entry.id: entry for entry in self.entries}


class Catalogue:
    """All entries of one models folder. Only what changed is read again.

    Looking costs a stat an entry, and nothing where a `watch` tells that there is nothing new.
    """

    def __init__(self, directory: Path, contributions: PluginContributions = EMPTY) -> None:
        self.directory = directory
        self.contributions = contributions
        self.aliases: Mapping[str, str] = {}  # the configuration's: a name, and the model that it means
        self.watch: FolderWatch | None = None
        self._cache: dict[str, tuple[Stamp, Entry | Problem]] = {}
        self._listing: Listing | None = None
        self._names: tuple[Listing, Mapping[str, str], dict[str, tuple[str, tuple[Entry, ...]]]] | None = None
        self._lock = threading.RLock()
        self._listeners: set[Callable[[], None]] = set()

    def set_contributions(self, contributions: PluginContributions) -> None:
        """Take what plugins add, also later: entries are read again, those in use stay as they are."""
        with self._lock:
            self.contributions = contributions
            self._cache, self._listing = {}, None
        self.notify()

    @contextlib.contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """`listener` is called, on the thread of `notify`, when entries may have come, gone or changed."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def notify(self) -> None:
        """Tell the listeners that the folder changed, which another process may do."""
        for listener in tuple(self._listeners):
            listener()

    # ── looking ──────────────────────────────────────────────────────────────────────────────────

    def scan(self) -> Listing:
        """What is in the folder now; raises a CardError where it cannot be read."""
        with self._lock:
            if self._listing is None or self.watch is None or not self.watch.holds():
                self._listing = None
                self._listing = self._read()
            return self._listing

    def _read(self) -> Listing:
        cache: dict[str, tuple[Stamp, Entry | Problem]] = {}
        if self.watch is not None:
            self.watch.begin()
        try:
            children = sorted(os.scandir(self.directory), key=lambda child: child.name)
        except FileNotFoundError:
            children = []
        except OSError as error:
            raise CardError(
                f"The models folder {self.directory} cannot be read: {error.strerror}.", f"ls -ld {self.directory}"
            ) from None
        for child in children:
            is_link = child.is_symlink()
            if child.name.startswith(".") or not (is_link or child.is_dir(follow_symlinks=False)):
                continue
            folder = self.directory / child.name
            if self.watch is not None and not is_link:
                self.watch.add(folder)
            stamp = stamp_of(folder, folder / cards.FILE)
            former_stamp, former = self._cache.get(child.name, ((), None))
            # What is broken is read every time: its repair may come within the same tick of the file system's clock.
            valid = stamp == former_stamp and isinstance(former, Entry)
            one = former if valid else read_entry(folder, self.contributions, is_link=is_link)
            if one is not None:
                cache[child.name] = (stamp, one)
        self._cache = cache
        found = [one for _, one in cache.values()]
        return Listing(
            tuple(one for one in found if isinstance(one, Entry) and not one.card.alias_of),
            tuple(one for one in found if isinstance(one, Problem)),
            tuple(one for one in found if isinstance(one, Entry) and one.card.alias_of),
        )

    def list(self) -> tuple[Entry, ...]:
        return self.scan().entries

    def get(self, name: str) -> Entry:
        """The entry with exactly this id."""
        listing = self.scan()
        if name in listing.by_id:
            return listing.by_id[name]
        raise self._unknown(name, listing.problems)

    def resolve(self, name: str) -> Entry:
        """The one entry that a name as people and clients say it means: id, alias, or what `names.matching` says."""
        listing = self.scan()
        if name in listing.by_id:
            return listing.by_id[name]
        name, matches = self._meaning(name, listing)
        if len(matches) > 1:
            ids = ", ".join(sorted(match.id for match in matches))
            raise ModelNotFound(f"{_quote(name)} may mean {ids}.", "Say which: exo-rkllm models")
        if not matches:
            raise self._unknown(name, listing.problems)
        return matches[0]

    def _meaning(self, name: str, listing: Listing) -> tuple[str, tuple[Entry, ...]]:
        """The name that an alias stands for, and all entries that it may mean: found out once while nothing changes."""
        with self._lock:
            if self._names is None or self._names[0] is not listing or self._names[1] is not self.aliases:
                self._names = listing, self.aliases, {}
            known = self._names[2]
            if name not in known:
                if len(known) >= MOST_NAMES:
                    known.clear()
                meant = target_of(name, self._alias_table(listing)) or name
                matches = names.matching(meant, [names_of(entry.card) for entry in listing.entries])
                known[name] = meant, tuple(listing.by_id[match.id] for match in matches)
            return known[name]

    def resolve_adapter(self, name: str) -> tuple[Entry, str]:
        """The entry that a name means, and the LoRA adapter behind a colon where that is one of its own."""
        stem, colon, adapter = name.rpartition(":")
        if colon:
            with contextlib.suppress(ModelNotFound):
                if adapter in (entry := self.resolve(stem)).adapters:
                    return entry, adapter
        return self.resolve(name), ""

    def _alias_table(self, listing: Listing) -> dict[str, str]:
        return alias_table(self.aliases, (alias.card for alias in listing.aliases))

    def is_alias(self, name: str) -> bool:
        """Whether an entry of exactly this id is only another name for a model."""
        return any(alias.id == name for alias in self.scan().aliases)

    def aliased(self) -> dict[str, Entry]:
        """Every alias with the entry that it means; those that mean nothing (any more) are left out."""
        listing, found = self.scan(), dict[str, Entry]()
        for alias in self._alias_table(listing):
            with contextlib.suppress(ModelNotFound):
                found[alias] = self.resolve(alias)
        return {alias: entry for alias, entry in found.items() if alias != entry.id}

    def _unknown(self, name: str, problems: Iterable[Problem] = ()) -> ExoRkllmError:
        """The reason why the folder of that name is no entry, or that there is none."""
        for problem in problems:
            if problem.folder.name.casefold() == name.casefold():
                return copy.copy(problem.error)
        hint = "exo-rkllm models lists those that are; exo-rkllm pull ORG/REPO fetches one."
        return ModelNotFound(f"No model {_quote(name)} in {self.directory}.", hint)

    # ── making and removing ──────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def stage(self, key: str = "") -> Iterator[Path]:
        """A hidden folder to build an entry in. With a key it is kept and found again, so that a pull can resume."""
        folder = self.directory / (staging.PULL + key if key else staging.INCOMING + secrets.token_hex(8))
        stage = staging.Stage(folder)
        try:
            yield folder
        finally:
            if not key:
                shutil.rmtree(folder, ignore_errors=True)
            stage.close()

    def discard_stage(self, key: str) -> None:
        """Take away what a stage of that key has, unless somebody is just building in it."""
        folder = self.directory / (staging.PULL + key)
        if folder.is_dir() and staging.is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, stage: Path, card: Card, *, replace: bool = False) -> Entry:
        """Turn a finished stage into the entry `card.id`, in one rename, durable before it is seen."""
        text = cards.dump(card)
        id_ = cards.parse(text).id  # what we write, we can read
        target = self.directory / id_
        (stage / cards.FILE).write_text(text, encoding="utf-8")
        for path in stage.iterdir():
            if path.is_file():
                sync(path)
        sync(stage)
        for hidden in stage.glob(".*"):
            hidden.unlink()  # the lock, and what a pull kept for resuming
        if replace and target.exists():
            old = self.directory / (staging.REPLACED + id_)
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
            stage.rename(target)
            sync(self.directory)
            shutil.rmtree(old, ignore_errors=True)
        else:
            try:
                stage.rename(target)
            except OSError:
                raise ModelExists(
                    f"There is a model {id_!r} already.", f"exo-rkllm rm {id_}, or choose --name"
                ) from None
            sync(self.directory)
        listing = self.scan()
        for entry in (*listing.entries, *listing.aliases):
            if entry.id == id_:
                return entry
        raise self._unknown(id_, listing.problems)  # somebody else has changed the folder already

    def set_option(self, name: str, key: str, value: str) -> Path:
        """Write one text among the [options] of an entry's card, in one step; returns the card's path.

        Root writes with the rights of the folder's owner.
        """
        path = self.get(name).folder / cards.FILE
        give_up_root(path.parent)
        with staging.writing(self.directory):
            text = cards.with_option(path.read_text(encoding="utf-8"), key, value)
            new = path.with_name(f".{cards.FILE}.{secrets.token_hex(8)}")
            try:
                new.write_text(text, encoding="utf-8")
                new.chmod(stat.S_IMODE(path.stat().st_mode))
                sync(new)
                new.replace(path)
            finally:
                new.unlink(missing_ok=True)
        self.notify()
        return path

    def removable(self, name: str) -> str:
        """The name, if `remove` takes it: an entry's full id, or that of a folder that is broken."""
        listing = self.scan()
        broken = {problem.folder.name for problem in listing.problems if not problem.folder.is_symlink()}
        if name not in broken | {entry.id for entry in (*listing.entries, *listing.aliases)}:
            raise self._unknown(name)
        return name

    def remove(self, name: str) -> None:
        """Remove an entry in one rename, then free its bytes. Only the full id is accepted: a guess must not delete."""
        self._discard(self.directory / self.removable(name))

    def _discard(self, folder: Path) -> None:
        trash = self.directory / (staging.TRASH + secrets.token_hex(8))
        with staging.writing(self.directory):
            folder.rename(trash)
            sync(self.directory)
        shutil.rmtree(trash, ignore_errors=True)
        if trash.exists():
            raise ConfigError(
                f"{folder.name} was removed, but its files belong to another account and still take space.",
                f"sudo rm -rf {trash}",
            )

    def clean(self, now: float | None = None) -> None:
        """Take away what a crash or a power cut left: half-made entries, removed ones, pulls nobody resumed."""
        staging.clean(self.directory, time.time() if now is None else now)


def _quote(name: str) -> str:
    """A name from outside, safe to print in a terminal or a log."""
    short = name if len(name) <= 100 else name[:97] + "..."
    return "'" + "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in short) + "'"


def names_of(card: Card) -> names.ModelNames:
    repo, _, rest = card.source.partition("@")
    file = rest.partition(":")[2] or (card.weights.file if card.weights else "")
    return names.ModelNames(
        card.id,
        tuple(filter(None, (repo, card.base_model))),
        tuple(filter(None, (card.quantization, file, card.platform))),
    )
