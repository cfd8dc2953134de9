"""Pulling a model from the Hub: choose the file, fetch it so that it can be resumed, check it, make an entry of it.

A pull is an async generator of `PullProgress`, the same for the command line, the control socket and the API. Closing
it keeps what has come, and the next pull of the same file goes on there; only a wrong checksum throws it away.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import re
import shutil
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue import describe, gallery, names
from exo_rkllm.catalogue.choice import choose
from exo_rkllm.catalogue.companions import base_models, fetch_companions
from exo_rkllm.catalogue.encoders import encoder_among, vision_of
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.fetch import fetch
from exo_rkllm.catalogue.hub import Access, File, Hub, Repository
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.errors import ExoRkllmError, ModelExists, UsageError
from exo_rkllm.rknn import encoderfile

# Pages of a repository that name a revision, and a file or folder behind it.
VIEWS = frozenset({"tree", "blob", "resolve", "raw", "commit"})
PAGE = re.compile(
    r"(?:(?:https?|hf)://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/(?P<path>[^?#]+)[?#]?.*", re.IGNORECASE
)
# First words of the Hub's other pages.
NO_MODELS = frozenset({"datasets", "spaces", "collections", "papers", "docs"})
# In a stage, where an encoder is fetched; hidden, as all that is no part of the entry.
ENCODER_FOLDER = ".encoder"


@dataclass(frozen=True, slots=True)
class PullTarget:
    """`ORG/REPO`, `ORG/REPO@REVISION`, `ORG/REPO:FILE` and both together, or the address of a page of the Hub.

    `name` is the short name that it was said by, which the model gets.
    """

    repo: str
    revision: str = ""
    file: str = ""
    name: str = ""

    @classmethod
    def of(cls, text: str, soc: str) -> PullTarget:
        """That, or a short name of the gallery for this SoC."""
        if not names.valid_id(gallery.plain(text)):
            return cls.parse(text)
        return dataclasses.replace(cls.parse(gallery.repository_of(text, soc)), name=gallery.plain(text))

    @classmethod
    def parse(cls, text: str) -> PullTarget:
        target = cls._of_page(text.strip()) or cls._of_name(text.strip())
        if not names.valid_repo(target.repo) or (target.revision and not names.REPO_PART.fullmatch(target.revision)):
            hint = "exo-rkllm pull ORG/REPO or ORG/REPO:FILE, or the address of a model's page"
            raise UsageError(f"{text!r} is no repository.", hint)
        return target

    @classmethod
    def _of_name(cls, text: str) -> PullTarget:
        place, _, file = text.partition(":")
        repo, _, revision = place.partition("@")
        return cls(repo, revision, file)

    @classmethod
    def _of_page(cls, text: str) -> PullTarget | None:
        """What an address from a browser means: a repository, a file of it, or a folder, which is a part of the file's
        name. None for what is no page of the Hub."""
        page = PAGE.fullmatch(text)
        if page is None:
            return None
        path, _, file = unquote(page["path"]).partition(":")
        parts = [part for part in path.removeprefix("api/models/").split("/") if part]
        named = parts[:2] if NO_MODELS.isdisjoint(parts[:1]) else []
        repo, _, revision = "/".join(named).removesuffix(".git").partition("@")
        if len(parts) > 3 and parts[2] in VIEWS:
            revision, shown = parts[3], "/".join(parts[4:])
            is_model = parts[2] == "tree" or PurePosixPath(shown).suffix.lower() in names.SUFFIXES
            file = shown if is_model else ""
        return cls(repo, "" if revision == "main" else revision, file)


async def pull(
    catalogue: Catalogue,
    target: PullTarget,
    access: Access,
    *,
    soc: str = "",
    name: str = "",
    replace: bool = False,
) -> AsyncGenerator[PullProgress, None]:
    """Ends with a step `done` that has the entry's id, or raises. `soc` chooses among files (`rk3588`)."""
    name = name or target.name
    names.check_id(name)
    await asyncio.to_thread(catalogue.clean)
    async with Hub(access) as hub:
        yield PullProgress("resolving", f"asking {access.endpoint} for {target.repo}")
        repo = await hub.repository(target.repo, target.revision)
        choice = choose(tuple(repo.files), repo.id, soc, target.file)
        file = repo.files[choice.file]
        yield PullProgress("note", f"{choice.file}: {choice.why}")
        existing = _existing(catalogue, repo, file, name)
        if existing and not replace:
            if not _is(existing, repo, file):
                sentence = f"There is a model {existing.id!r} already, from another file."
                raise ModelExists(sentence, "Choose: --name NAME")
            yield PullProgress("done", f"{existing.id} is here already", file.path, file.sha256, id=existing.id)
            return
        with catalogue.stage(stage_key(repo.id, file.path)) as stage, _empty_stage_removed(stage):
            async with aclosing(fetch(hub, stage, repo, file)) as steps:
                async for step in steps:
                    yield step
            encoder = encoder_among(repo.files, file.path, repo.id) if file.path.endswith(".rkllm") else ""
            vision: cards.VisionFile | None = None
            if encoder:
                yield PullProgress("note", f"{encoder}: the encoder with which it sees images")
                async with aclosing(_fetch_encoder(hub, stage, repo, repo.files[encoder])) as steps:
                    async for part in steps:
                        yield part
                telling = repo.id, file.path, encoder
                vision = vision_of(PurePosixPath(encoder).name, part.done, part.sha256, telling)
            yield PullProgress("writing", "fetching what belongs to it", file.path)
            bases = await base_models(hub, repo)
            async with aclosing(fetch_companions(hub, stage, repo, bases)) as steps:
                async for note in steps:
                    yield note
            weights = cards.Weights(PurePosixPath(file.path).name, step.done, step.sha256)
            id_ = name or _free_id(catalogue, file, repo, replace=replace)
            card = await asyncio.to_thread(_describe, catalogue, stage, weights, id_, repo, file, bases)
            card = dataclasses.replace(card, vision=vision)
            entry = await asyncio.to_thread(catalogue.publish, stage, card, replace=replace)
        yield PullProgress("done", f"{entry.id} is ready", file.path, step.sha256, step.done, step.done, entry.id)


def stage_key(repo: str, file: str) -> str:
    """Under which a pull of this file keeps what it has."""
    return hashlib.sha256(f"{repo}\n{file}".encode()).hexdigest()[:24]


async def _fetch_encoder(hub: Hub, stage: Path, repo: Repository, file: File) -> AsyncGenerator[PullProgress, None]:
    """Beside the weights, by way of a folder of its own, where it can be resumed. Raises for what encodes no images."""
    folder = stage / ENCODER_FOLDER
    await asyncio.to_thread(functools.partial(folder.mkdir, exist_ok=True))
    async with aclosing(fetch(hub, folder, repo, file)) as steps:
        async for step in steps:
            yield step
    name = PurePosixPath(file.path).name
    try:
        await asyncio.to_thread(lambda: encoderfile.inspect(folder / name).shape())
        await asyncio.to_thread((folder / name).rename, stage / name)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


def _describe(
    catalogue: Catalogue,
    stage: Path,
    weights: cards.Weights,
    id_: str,
    repo: Repository,
    file: File,
    bases: Sequence[str],
) -> cards.Card:
    """The card. A file that is no model is thrown away with its stage, although its checksum is right."""
    try:
        return describe.describe(
            stage,
            weights,
            id=id_,
            repo=repo.id,
            path=file.path,
            source=f"{repo.id}@{repo.revision}:{file.path}",
            base_model=bases[0] if bases else "",
            contributions=catalogue.contributions,
        )
    except ExoRkllmError:
        shutil.rmtree(stage, ignore_errors=True)
        raise


@contextlib.contextmanager
def _empty_stage_removed(stage: Path) -> Iterator[None]:
    """Remove the stage of a pull that failed before the first byte: there is nothing to resume."""
    try:
        yield
    finally:
        if not any(path.stat().st_size for path in stage.glob("[!.]*")):
            shutil.rmtree(stage, ignore_errors=True)


# ── which entry ──────────────────────────────────────────────────────────────────────────────────


def _is(entry: Entry, repo: Repository, file: File) -> bool:
    """Whether an entry is the newest version of this file."""
    place, _, rest = entry.card.source.partition("@")
    revision, _, path = rest.partition(":")
    digest = entry.card.weights.sha256 if entry.card.weights else ""
    newest = revision == repo.revision or bool(file.sha256 and digest == file.sha256)
    return newest and (place.lower(), path) == (repo.id.lower(), file.path)


def _existing(catalogue: Catalogue, repo: Repository, file: File, name: str) -> Entry | None:
    """The entry that a pull would collide with: of the same name, or the same file under any name."""
    for entry in catalogue.list():
        if entry.id == name or (not name and _is(entry, repo, file)):
            return entry
    return None


def _free_id(catalogue: Catalogue, file: File, repo: Repository, *, replace: bool) -> str:
    """A short name where it is free, a longer one where another file has it."""
    others = {entry.id for entry in catalogue.list() if not (replace and _is(entry, repo, file))}
    base = PurePosixPath(file.path).name
    stem = PurePosixPath(base).stem
    org = repo.id.partition("/")[0]
    plain, variant = names.id_from(base), names.parse_filename(file.path, repo.id)
    longer = f"{plain}-{variant.quantization}" if variant.quantization else plain
    longest = f"{longer}-hybrid-{variant.hybrid:g}" if variant.hybrid else longer
    for candidate in map(names.plain_id, (plain, longer, longest, stem, f"{org}-{stem}")):
        if candidate and candidate not in others:
            return candidate
    raise ModelExists(f"There is a model {names.id_from(base)!r} already.", "Choose another: --name NAME")
