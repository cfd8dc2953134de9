"""Pulling a model from the Hub: choose the file, fetch it so that it can be resumed, check it, put it in its place.

A pull is an async generator of `Step`s, the same for the command line, the control socket and the API. Closing it
keeps what has come, and the next pull of the same file goes on there; only a checksum that is wrong throws it away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue import describe, names
from exo_rkllm.catalogue.choice import choose
from exo_rkllm.catalogue.companions import base_models, fetch_companions
from exo_rkllm.catalogue.fetch import PART, fetch
from exo_rkllm.catalogue.hub import Access, File, Hub, Repository
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.store import Catalogue, Entry
from exo_rkllm.errors import ExoRkllmError, ModelExists, UsageError


@dataclass(frozen=True, slots=True)
class PullTarget:
    """`ORG/REPO`, `ORG/REPO@REVISION`, `ORG/REPO:FILE` and both together."""

    repo: str
    revision: str = ""
    file: str = ""

    @classmethod
    def parse(cls, text: str) -> PullTarget:
        place, _, file = text.removeprefix("hf.co/").partition(":")
        repo, _, revision = place.partition("@")
        if not names.valid_repo(repo) or (revision and not names.REPO_PART.fullmatch(revision)):
            raise UsageError(f"{text!r} is no repository.", "exo-rkllm pull ORG/REPO or ORG/REPO:FILE")
        return cls(repo, revision, file)


async def pull(
    catalogue: Catalogue,
    wanted: PullTarget,
    access: Access,
    *,
    soc: str = "",
    name: str = "",
    replace: bool = False,
) -> AsyncGenerator[PullProgress, None]:
    """Ends with a step `done` that has the entry's id, or raises. `soc` chooses among files (`rk3588`)."""
    if name and not names.valid_id(name):
        raise UsageError(f"{name!r} cannot be a model's name.", "Use letters, digits, '.', '_' and '-'.")
    await asyncio.to_thread(catalogue.clean)
    async with Hub(access) as hub:
        yield PullProgress("resolving", f"asking {access.endpoint} for {wanted.repo}")
        repo = await hub.repository(wanted.repo, wanted.revision)
        choice = choose(tuple(repo.files), repo.id, soc, wanted.file)
        file = repo.files[choice.file]
        yield PullProgress("note", f"{choice.file}: {choice.why}")
        taken = _taken(catalogue, repo, file, name)
        if taken and not replace:
            if not _is(taken, repo, file):
                raise ModelExists(f"There is a model {taken.id!r} already, from another file.", "Choose: --name NAME")
            yield PullProgress("done", f"{taken.id} is here already", file.path, file.sha256, id=taken.id)
            return
        key = hashlib.sha256(f"{repo.id}\n{file.path}".encode()).hexdigest()[:24]
        with catalogue.stage(key) as stage, _nothing_left_of_nothing(stage):
            async with aclosing(fetch(hub, stage, repo, file)) as steps:
                async for step in steps:
                    yield step
            yield PullProgress("writing", "fetching what belongs to it", file.path)
            bases = await base_models(hub, repo)
            async with aclosing(fetch_companions(hub, stage, repo, bases)) as steps:
                async for note in steps:
                    yield note
            make = functools.partial(
                describe.describe,
                stage,
                cards.Weights(PurePosixPath(file.path).name, step.done, step.sha256),
                id=name or _free_id(catalogue, file, repo, replace=replace),
                repo=repo.id,
                path=file.path,
                source=f"{repo.id}@{repo.revision}:{file.path}",
                base_model=bases[0] if bases else "",
                brought=catalogue.brought,
            )
            card = await asyncio.to_thread(_described, stage, make)
            entry = await asyncio.to_thread(catalogue.publish, stage, card, replace=replace)
        yield PullProgress("done", f"{entry.id} is ready", file.path, step.sha256, step.done, step.done, entry.id)


def _described(stage: Path, make: Callable[[], cards.Card]) -> cards.Card:
    """What is no model is not kept either, however right its checksum."""
    try:
        return make()
    except ExoRkllmError:
        shutil.rmtree(stage, ignore_errors=True)
        raise


@contextlib.contextmanager
def _nothing_left_of_nothing(stage: Path) -> Iterator[None]:
    """A pull that failed before the first byte has nothing to resume."""
    try:
        yield
    finally:
        parts = [path for path in stage.glob("*") if path.suffix == PART or path.suffix in names.SUFFIXES]
        if stage.exists() and not any(path.stat().st_size for path in parts):
            shutil.rmtree(stage, ignore_errors=True)


# ── which entry ──────────────────────────────────────────────────────────────────────────────────


def _source(repo: Repository, file: File) -> tuple[str, str]:
    return repo.id.lower(), file.path


def _is(entry: Entry, repo: Repository, file: File) -> bool:
    """Whether an entry is this very file at its newest."""
    place, _, rest = entry.card.source.partition("@")
    revision, _, path = rest.partition(":")
    same = (place.lower(), path) == _source(repo, file)
    digest = entry.card.weights.sha256 if entry.card.weights else ""
    return same and (revision == repo.revision or bool(file.sha256 and digest == file.sha256))


def _taken(catalogue: Catalogue, repo: Repository, file: File, name: str) -> Entry | None:
    """The entry that a pull would collide with: of the same name, or the same file under any name."""
    for entry in catalogue.list():
        if entry.id == name or (not name and _is(entry, repo, file)):
            return entry
    return None


def _free_id(catalogue: Catalogue, file: File, repo: Repository, *, replace: bool) -> str:
    """A short name where it is free, a longer one where another file has it."""
    taken = {entry.id for entry in catalogue.list()}
    if replace:
        taken -= {entry.id for entry in catalogue.list() if _is(entry, repo, file)}
    base = PurePosixPath(file.path).name
    stem = PurePosixPath(base).stem
    org = repo.id.partition("/")[0]
    plain, variant = names.id_from(base), names.parse_filename(file.path, repo.id)
    quantized = f"{plain}-{variant.quantization}" if variant.quantization else plain
    mixed = f"{quantized}-hybrid-{variant.hybrid:g}" if variant.hybrid else quantized
    full = names.plain_id(stem)
    for candidate in (plain, names.plain_id(quantized), names.plain_id(mixed), full, names.plain_id(f"{org}-{stem}")):
        if candidate and candidate not in taken:
            return candidate
    raise ModelExists(f"There is a model {names.id_from(base)!r} already.", "Choose another: --name NAME")
