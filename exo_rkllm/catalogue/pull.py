"""Pulling a model from the Hub: choose the file, fetch it so that it can be resumed, check it, put it in its place.

A pull is an async generator of `Step`s, the same for the command line, the control socket and the API. Closing it
keeps what has come, and the next pull of the same file goes on there; only a checksum that is wrong throws it away.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue import describe, names
from exo_rkllm.catalogue.choice import choose
from exo_rkllm.catalogue.hub import Access, Body, File, Hub, Interrupted, Repository, repos
from exo_rkllm.catalogue.progress import PullProgress, PullStage
from exo_rkllm.catalogue.store import LOCK, Catalogue, Entry
from exo_rkllm.errors import ExoRkllmError, ModelExists, PullError, UsageError

RESERVE = 64 * 1024 * 1024
TRIES = 5
PAUSE = 0.25
STATE = ".state.json"
PART = ".part"
REPORT_EVERY = 1 << 20
# Written by us or by the file system; a repository cannot bring them.
OURS = frozenset({cards.FILE})


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


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is known of a part on disk; another commit, size or digest makes it worthless."""

    revision: str
    size: int | None
    sha256: str
    etag: str = ""


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
        with catalogue.staging(key) as stage, _nothing_left_of_nothing(stage):
            async with aclosing(_into(hub, stage, repo, file)) as steps:
                async for step in steps:
                    yield step
            yield PullProgress("writing", "fetching what belongs to it", file.path)
            bases = await _bases(hub, repo)
            async with aclosing(companions(hub, stage, repo, bases)) as steps:
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


# ── the weights ──────────────────────────────────────────────────────────────────────────────────


async def _into(hub: Hub, stage: Path, repo: Repository, file: File) -> AsyncGenerator[PullProgress, None]:
    """The checked file in the stage, resumed where there is a part of it; the last step has its digest."""
    target = stage / PurePosixPath(file.path).name
    part = stage / (target.name + PART)
    if target.name in OURS:
        raise PullError(f"{repo.id} has a model file named {target.name}.", "Look for another conversion.")
    kept = await asyncio.to_thread(_prepared, stage, target, part, repo, file)
    resumed = part.exists()
    fetch = _Fetch(hub, stage, part, repo, file, kept)
    async with aclosing(fetch.run()) as steps:
        async for step in steps:
            yield step
    if not fetch.good and resumed:
        yield PullProgress("note", "what was kept of an earlier pull does not fit; starting over")
        part.unlink()
        fetch = _Fetch(hub, stage, part, repo, file, kept)
        async with aclosing(fetch.run()) as steps:
            async for step in steps:
                yield step
    if not fetch.good:
        await asyncio.to_thread(shutil.rmtree, stage, ignore_errors=True)
        raise PullError(
            f"{file.path} of {repo.id} {fetch.fault}; it was thrown away.", "Pull it again, or ask its maker."
        )
    part.rename(target)
    yield PullProgress("verifying", file.path, file.path, fetch.sha256, fetch.have, fetch.have)


def _prepared(stage: Path, target: Path, part: Path, repo: Repository, file: File) -> _Kept:
    """The stage with what is still worth something, and room on the disk for the rest."""
    if target.exists():
        target.rename(part)  # a crash between the check and the card: it is checked again
    fresh = _Kept(repo.revision, file.size, file.sha256)
    kept = _kept(stage) or fresh
    if _other(kept, repo, file):
        for left in stage.iterdir():
            if left.name != LOCK:
                left.unlink()
        kept = fresh
    have = part.stat().st_size if part.exists() else 0
    need, free = (file.size or 0) - have, shutil.disk_usage(stage).free
    if need + RESERVE > free:
        raise PullError(
            f"The file needs {_gb(need)} and {stage.parent} has {_gb(free)} free.",
            "Free some with: exo-rkllm rm MODEL, or set models.directory to another disk.",
        )
    return kept


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _kept(stage: Path) -> _Kept | None:
    try:
        return _Kept(**json.loads((stage / STATE).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _other(kept: _Kept, repo: Repository, file: File) -> bool:
    if file.sha256:
        return kept.sha256 != file.sha256
    return (kept.revision, kept.size) != (repo.revision, file.size)


class _Fetch:
    """One file on its way into its part: how much there is, its digest so far, and what the server says of it."""

    def __init__(self, hub: Hub, stage: Path, part: Path, repo: Repository, file: File, kept: _Kept) -> None:
        self._hub, self._stage, self._part, self._repo, self._file = hub, stage, part, repo, file
        self._kept = kept
        self._digest = hashlib.sha256()
        self.have = 0
        self.total = file.size

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def good(self) -> bool:
        expected = self._file.sha256 or self._kept.sha256
        return self.have == self.total and expected in ("", self.sha256)

    @property
    def fault(self) -> str:
        if self.have != self.total:
            return f"has {self.have} bytes, not {self.total}"
        expected = self._file.sha256 or self._kept.sha256
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
                    self._repo.id, self._repo.revision, self._file.path, self.have, self._kept.etag
                ) as body:
                    await asyncio.to_thread(self._begin, body)
                    async for chunk in body.chunks:
                        if await asyncio.to_thread(self._write, chunk):
                            yield self._step("downloading", self._file.path)
                self._ended()
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
        """Hash a part of what is here already."""
        with self._part.open("rb") as file:
            file.seek(self.have)
            chunk = file.read(1 << 24)
        self._digest.update(chunk)
        self.have += len(chunk)
        return bool(chunk)

    def _begin(self, body: Body) -> None:
        if body.sha256 and self._file.sha256 and body.sha256 != self._file.sha256:
            raise PullError(f"{self._file.path} changed while it was being fetched.", "Pull it again.")
        if body.size is not None and self._file.size is not None and body.size != self._file.size:
            raise PullError(
                f"The server sends {body.size} bytes of {self._file.path}, its listing says {self._file.size}.",
                "Check HF_ENDPOINT.",
            )
        self.total = body.size if body.size is not None else self._file.size
        self._kept = _Kept(self._kept.revision, self._kept.size, self._file.sha256 or body.sha256, body.etag)
        new = self._stage / (STATE + ".new")
        new.write_text(json.dumps(asdict(self._kept)))
        new.rename(self._stage / STATE)
        if body.start == 0:
            self._part.write_bytes(b"")
            self._digest, self.have = hashlib.sha256(), 0
        self._reported = self.have

    def _write(self, chunk: bytes) -> bool:
        """Whether it is time for a step."""
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
        due = self.have - self._reported >= REPORT_EVERY
        self._reported = self.have if due else self._reported
        return due

    def _ended(self) -> None:
        if self.total is None:
            self.total = self.have
        if self.have < self.total:
            raise Interrupted(f"it ended after {self.have} of {self.total} bytes")


# ── what makes its voice ─────────────────────────────────────────────────────────────────────────


async def _bases(hub: Hub, repo: Repository) -> tuple[str, ...]:
    """The models that this one was made from, as far as anything says so."""
    found = list(repo.base_models)
    if "README.md" in repo.files and not found:
        with contextlib.suppress(ExoRkllmError):
            text = await hub.read(repo.id, repo.revision, "README.md", 1 << 20)
            found += front_matter(text.decode("utf-8", "replace"))
    if "config.json" in repo.files and not found:
        with contextlib.suppress(ExoRkllmError, ValueError, RecursionError):
            config = json.loads(await hub.read(repo.id, repo.revision, "config.json", 1 << 20))
            found.append(str(config.get("_name_or_path")) if isinstance(config, dict) else "")
    return tuple(one for one in repos(found) if one.lower() != repo.id.lower())


def front_matter(text: str) -> list[str]:
    """`base_model` out of a README's front matter: one name, or a list of them. No YAML beyond that."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    found: list[str] = []
    inside = False
    for line in lines[1:500]:
        if line.strip() == "---":
            break
        if line.startswith("base_model:"):
            value = line.partition(":")[2].strip()
            inside = not value
            found += [one for one in value.strip("[]").split(",") if one.strip()]
        elif inside and line.lstrip().startswith("- "):
            found.append(line.lstrip()[2:])
        else:
            inside = False
    return [one.strip().strip("'\"") for one in found]


async def companions(
    hub: Hub, stage: Path, repo: Repository | None, bases: tuple[str, ...]
) -> AsyncGenerator[PullProgress, None]:
    """The tokenizer's files: the repository's own, and the base model's for those that it lacks. None is a must."""
    found = _present(stage) if repo is None else await _fetch_companions(hub, stage, repo)
    if {"tokenizer_config.json", "tokenizer.json", "config.json"} <= found:
        return
    asked: set[str] = set() if repo is None else {repo.id.lower()}
    queue = list(bases)
    while queue and len(asked) < 4:
        base = queue.pop(0)
        if base.lower() in asked:
            continue
        asked.add(base.lower())
        yield PullProgress("note", f"fetching what is missing of the tokenizer from {base}")
        try:
            parent = await hub.repository(base)
            found |= await _fetch_companions(hub, stage, parent)
        except ExoRkllmError as error:
            yield PullProgress("note", f"{error.sentence} The model is spoken to as its family is.")
            continue
        if "tokenizer_config.json" in found:
            return
        queue += parent.base_models
    if "tokenizer_config.json" not in found:
        yield PullProgress("note", "no tokenizer files were found; the model is spoken to as its family is")


async def _fetch_companions(hub: Hub, stage: Path, repo: Repository) -> set[str]:
    for name, limit in describe.COMPANIONS.items():
        listed = repo.files.get(name)
        if listed is None or name in _present(stage) or (listed.size or 0) > limit:
            continue
        body = await hub.read(repo.id, repo.revision, name, limit)
        if listed.sha256 and hashlib.sha256(body).hexdigest() != listed.sha256:
            raise PullError(f"{name} of {repo.id} is not what its listing says.", "Pull it again.")
        await asyncio.to_thread(_put, stage / name, body)
    return _present(stage)


def _present(stage: Path) -> set[str]:
    return {name for name in describe.COMPANIONS if (stage / name).exists()}


def _put(target: Path, body: bytes) -> None:
    new = target.with_name(f".{target.name}.new")
    new.write_bytes(body)
    new.rename(target)
