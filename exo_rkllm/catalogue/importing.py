"""Importing what is on this machine: a model file, a folder with one, or a whole models folder of rkllama's.

Like a pull, an import is an async generator of `PullProgress`. The original stays where it is, unless it is to be
moved; on one file system the entry is a second name for the same bytes, so that it costs no space.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import hashlib
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue import describe, modelfile, names
from exo_rkllm.catalogue.companions import copy_companions, fetch_companions, open_companions
from exo_rkllm.catalogue.encoders import encoder_in, vision_of
from exo_rkllm.catalogue.hub import Access, Hub, repos
from exo_rkllm.catalogue.modelfile import Modelfile
from exo_rkllm.catalogue.originals import Original, Originals
from exo_rkllm.catalogue.progress import PullProgress, PullStage
from exo_rkllm.catalogue.staging import check_room
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.chat.chat_format import ChatSettings
from exo_rkllm.errors import ExoRkllmError, ModelExists, ModelFileError, ModelNotFound, UsageError
from exo_rkllm.runtime import modelfile as model_files

BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class ImportSource:
    """One model to import: its file, and the folder whose other files belong to it."""

    weights: Path
    folder: Path | None = None
    modelfile: Modelfile = field(default_factory=Modelfile)


@dataclass(frozen=True, slots=True)
class OpenSource:
    """The files of a source, opened with the rights of whoever asked for the import."""

    source: ImportSource
    original: Original
    companions: Mapping[str, IO[bytes]]
    encoder: Original | None = None  # of pictures, beside a language model for the NPU


def find(path: Path, suffixes: Mapping[str, str] = names.SUFFIXES) -> tuple[ImportSource, ...]:
    """What there is to import at a path; raises the sentence for a path where there is nothing."""
    path = path.expanduser()
    if path.is_file():
        return (ImportSource(path.resolve()),)
    if not path.is_dir():
        raise ModelNotFound(f"There is no {path}.", f"ls {path.parent}")
    folder = path.resolve()
    if models_in(folder, suffixes):
        return (_source(folder, suffixes),)
    try:
        children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    except OSError as error:
        raise ModelNotFound(f"{path} cannot be read: {error.strerror}.", f"ls -ld {path}") from None
    sources = tuple(_source(child, suffixes) for child in children if models_in(child, suffixes))
    if not sources:
        raise ModelNotFound(f"{path} has no .rkllm file, nor has a folder in it.", f"ls {path}")
    return sources


def models_in(folder: Path, suffixes: Mapping[str, str]) -> tuple[Path, ...]:
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return ()
    return tuple(
        file
        for file in inside
        if file.suffix.lower() in suffixes and file.is_file() and not names.is_adapter(file.name)
    )


def _source(folder: Path, suffixes: Mapping[str, str]) -> ImportSource:
    settings = modelfile.read(folder) or Modelfile()
    files = models_in(folder, suffixes)
    if settings.weights:
        files = tuple(file for file in files if file.name == Path(settings.weights).name)
        if not files:
            raise ModelNotFound(
                f"{folder / modelfile.FILE} names {settings.weights!r}, which is not there.", f"ls {folder}"
            )
    elif len(files) > 1:
        listing = ", ".join(file.name for file in files)
        raise UsageError(f"{folder} has several model files: {listing}.", f"exo-rkllm import {files[0]}")
    return ImportSource(files[0], folder, settings)


async def import_(
    catalogue: Catalogue,
    path: Path,
    access: Access | None = None,
    *,
    name: str = "",
    move: bool = False,
    replace: bool = False,
) -> AsyncGenerator[PullProgress, None]:
    """A step `done` for each model; `access` is for tokenizer files that are not there, None stays offline."""
    names.check_id(name)
    sources = find(path, catalogue.contributions.suffixes)
    if name and len(sources) > 1:
        raise UsageError(
            f"{path} has {len(sources)} models, which cannot all be named {name!r}.", "Import one of them."
        )
    errors: list[ExoRkllmError] = []
    with closing(Originals(move=move)) as originals, ExitStack() as stack:
        opened = [_open(catalogue, source, originals, stack) for source in sources]
        originals.give_up_root(catalogue.directory)
        await asyncio.to_thread(catalogue.clean)
        for source, files in zip(sources, opened, strict=True):
            try:
                if isinstance(files, ExoRkllmError):
                    raise files
                async with aclosing(
                    _import(catalogue, files, originals, access, name, move=move, replace=replace)
                ) as steps:
                    async for step in steps:
                        yield step
            except ExoRkllmError as error:
                errors.append(error)
                if len(sources) > 1:
                    yield PullProgress("note", f"{source.weights.name}: {error.sentence}")
    if len(errors) == len(sources):
        raise errors[0]


def _open(
    catalogue: Catalogue, source: ImportSource, originals: Originals, stack: ExitStack
) -> OpenSource | ExoRkllmError:
    """The source's files, which `originals` and `stack` close, or why it cannot be imported."""
    file, folder, contributions = source.weights, source.folder, catalogue.contributions
    try:
        if file.suffix.lower() == ".rkllm":
            model_files.inspect(file)
        elif file.suffix.lower() not in contributions.suffixes:
            raise ModelFileError(f"{file} is no .rkllm file.", f"exo-rkllm inspect {file}")
        weights = originals.open(file)
        beside = encoder_in(folder, file) if folder is not None and file.suffix.lower() == ".rkllm" else None
        encoder = originals.open(beside) if beside is not None else None
    except ExoRkllmError as error:
        return error
    except OSError as error:
        return ModelFileError(f"{file} cannot be read: {error.strerror}.", f"ls -l {file}")
    telling = source.modelfile.base_model, file.name
    companions = {} if folder is None else open_companions(folder, contributions, stack, *telling)
    return OpenSource(source, weights, companions, encoder)


async def _import(
    catalogue: Catalogue,
    files: OpenSource,
    originals: Originals,
    access: Access | None,
    name: str,
    *,
    move: bool,
    replace: bool,
) -> AsyncGenerator[PullProgress, None]:
    source = files.source
    file, folder, settings = source.weights, source.folder, source.modelfile
    id_ = name or (names.plain_id(folder.name) if folder and settings.weights else "")
    id_ = id_ or names.id_from(file.name, catalogue.contributions.suffixes)
    if not replace and any(entry.id == id_ for entry in catalogue.list()):
        raise ModelExists(f"There is a model {id_!r} already.", f"exo-rkllm import {file} --name NAME")
    with catalogue.stage() as stage:
        target = stage / (file.name if names.plain_file_name(file.name) else f"model{file.suffix}")
        async with aclosing(_take_over(originals, files.original, target)) as steps:
            async for step in steps:
                yield step
        weights, vision = cards.Weights(target.name, step.done, step.sha256), None
        if files.encoder is not None:
            target = stage / files.encoder.path.name
            async with aclosing(_take_over(originals, files.encoder, target)) as steps:
                async for part in steps:
                    yield part
            telling = settings.base_model, id_, file.name, target.name
            vision = vision_of(target.name, part.done, part.sha256, telling)
        await asyncio.to_thread(copy_companions, files.companions, stage)
        base = repos([settings.base_model])
        if access is not None and base:
            async with Hub(access) as hub, aclosing(fetch_companions(hub, stage, None, base)) as notes:
                async for note in notes:
                    yield note
        unused = [*settings.unused, *(key for key in ("template", "adapter") if getattr(settings, key))]
        if unused:
            yield PullProgress("note", f"not taken over from the Modelfile: {', '.join(unused).upper()}")
        make = functools.partial(
            describe.describe,
            stage,
            weights,
            id=id_,
            path=f"{folder.name}/{file.name}" if folder else file.name,
            base_model=base[0] if base else "",
            chat=ChatSettings(system=settings.system, stop=settings.stop),
            settings=settings.sampling,
            context=settings.context,
            contributions=catalogue.contributions,
        )
        card = dataclasses.replace(await asyncio.to_thread(make), vision=vision)
        entry = await asyncio.to_thread(functools.partial(catalogue.publish, stage, card, replace=replace))
    if move:
        try:
            for original in filter(None, (files.original, files.encoder)):
                await asyncio.to_thread(originals.remove, original)
        except OSError as error:
            yield PullProgress("note", f"the original is still there ({error.strerror}): rm {file}")
    yield PullProgress("done", f"{entry.id} is ready", str(file), step.sha256, step.done, step.done, entry.id)


async def _take_over(originals: Originals, original: Original, target: Path) -> AsyncGenerator[PullProgress, None]:
    """The file under a second name where the file system and the rights allow one, else a copy. The last step has its
    size and digest."""
    name, path = original.path.name, str(original.path)
    size = os.fstat(original.file.fileno()).st_size
    linked = await asyncio.to_thread(_link, originals, original, target)
    stage: PullStage = "verifying" if linked else "writing"
    done, digest = 0, hashlib.sha256()
    with ExitStack() as stack:
        writer = None if linked else stack.enter_context(target.open("xb"))
        while block := await asyncio.to_thread(original.file.read, BLOCK):
            if writer is not None:
                check_room(target.parent.parent, size - done)
                await asyncio.to_thread(writer.write, block)
            await asyncio.to_thread(digest.update, block)
            done += len(block)
            yield PullProgress(stage, name, path, "", done, size)
    yield PullProgress(stage, name, path, digest.hexdigest(), done, size)


def _link(originals: Originals, original: Original, target: Path) -> bool:
    """Whether the file got a second name that this account can read, too."""
    with contextlib.suppress(OSError):
        originals.link(original, target)
        with contextlib.suppress(PermissionError), target.open("rb"):
            return True
        target.unlink()
    return False
