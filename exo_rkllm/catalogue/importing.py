"""Importing what is on this machine: a model file, a folder with one, or a whole models folder of rkllama's.

Like a pull, an import is an async generator of `Step`s. The original stays where it is, unless it is to be moved; on
one file system the entry is a second name for the same bytes, so that it costs no space.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue import describe, modelfile, names
from exo_rkllm.catalogue.companions import copy_companions, fetch_companions
from exo_rkllm.catalogue.fetch import RESERVE
from exo_rkllm.catalogue.hub import Access, Hub, repos
from exo_rkllm.catalogue.modelfile import Modelfile
from exo_rkllm.catalogue.progress import PullProgress
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
    said: Modelfile = field(default_factory=Modelfile)


def find(path: Path, suffixes: Mapping[str, str] = names.SUFFIXES) -> tuple[ImportSource, ...]:
    """What there is to import at a path; raises the sentence for a path where there is nothing."""
    path = path.expanduser()
    if path.is_file():
        return (ImportSource(path.resolve()),)
    if not path.is_dir():
        raise ModelNotFound(f"There is no {path}.", f"ls {path.parent}")
    folder = path.resolve()
    if models_in(folder, suffixes):
        return (_one(folder, suffixes),)
    children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    several = tuple(_one(child, suffixes) for child in children if models_in(child, suffixes))
    if not several:
        raise ModelNotFound(f"{path} has no .rkllm file, nor has a folder in it.", f"ls {path}")
    return several


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


def _one(folder: Path, suffixes: Mapping[str, str]) -> ImportSource:
    said = modelfile.read(folder) or Modelfile()
    inside = models_in(folder, suffixes)
    if said.weights:
        named = [file for file in inside if file.name == Path(said.weights).name]
        if not named:
            raise ModelNotFound(
                f"{folder / modelfile.FILE} names {said.weights!r}, which is not there.", f"ls {folder}"
            )
        return ImportSource(named[0], folder, said)
    if len(inside) > 1:
        listed = ", ".join(file.name for file in inside)
        raise UsageError(f"{folder} has several model files: {listed}.", f"exo-rkllm import {inside[0]}")
    return ImportSource(inside[0], folder, said)


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
    if name and not names.valid_id(name):
        raise UsageError(f"{name!r} cannot be a model's name.", "Use letters, digits, '.', '_' and '-'.")
    found = await asyncio.to_thread(find, path, catalogue.brought.suffixes)
    if name and len(found) > 1:
        raise UsageError(f"{path} has {len(found)} models, which cannot all be named {name!r}.", "Import one of them.")
    await asyncio.to_thread(catalogue.clean)
    refused: list[ExoRkllmError] = []
    for one in found:
        try:
            async with aclosing(_import(catalogue, one, access, name, move=move, replace=replace)) as steps:
                async for step in steps:
                    yield step
        except ExoRkllmError as error:
            if len(found) == 1:
                raise
            refused.append(error)
            yield PullProgress("note", f"{one.weights.name}: {error.sentence}")
    if len(refused) == len(found):
        raise refused[0]


async def _import(
    catalogue: Catalogue, found: ImportSource, access: Access | None, name: str, *, move: bool, replace: bool
) -> AsyncGenerator[PullProgress, None]:
    file = found.weights
    if file.suffix.lower() == ".rkllm":
        await asyncio.to_thread(model_files.inspect, file)
    elif file.suffix.lower() not in catalogue.brought.suffixes:
        raise ModelFileError(f"{file} is no .rkllm file.", f"exo-rkllm inspect {file}")
    weights_name = file.name if names.plain_file_name(file.name) else f"model{file.suffix}"
    id_ = name or (names.plain_id(found.folder.name) if found.folder and found.said.weights else "")
    id_ = id_ or names.id_from(file.name, catalogue.brought.suffixes)
    if not replace and any(entry.id == id_ for entry in catalogue.list()):
        raise ModelExists(f"There is a model {id_!r} already.", f"exo-rkllm import {file} --name NAME")
    with catalogue.stage() as stage:
        target = stage / weights_name
        linked = await asyncio.to_thread(_linked, file, target)
        if not linked:
            await asyncio.to_thread(_room, file, stage)
        digest = hashlib.sha256()
        size = file.stat().st_size
        done = 0
        with file.open("rb") as source, contextlib.ExitStack() as stack:
            out = None if linked else stack.enter_context(target.open("wb"))
            while block := await asyncio.to_thread(source.read, BLOCK):
                if out is not None:
                    await asyncio.to_thread(out.write, block)
                await asyncio.to_thread(digest.update, block)
                done += len(block)
                yield PullProgress("verifying" if linked else "writing", file.name, str(file), "", done, size)
        if found.folder is not None:
            await asyncio.to_thread(
                copy_companions, found.folder, stage, catalogue.brought, found.said.base_model, file.name
            )
        base = repos([found.said.base_model])
        if access is not None and base:
            async with Hub(access) as hub, aclosing(fetch_companions(hub, stage, None, base)) as steps:
                async for step in steps:
                    yield step
        if found.said.unused:
            yield PullProgress("note", f"not taken over from the Modelfile: {', '.join(found.said.unused)}")
        make = functools.partial(
            describe.describe,
            stage,
            cards.Weights(weights_name, done, digest.hexdigest()),
            id=id_,
            path=f"{found.folder.name}/{file.name}" if found.folder else file.name,
            base_model=base[0] if base else "",
            chat=ChatSettings(system=found.said.system),
            chosen=found.said.sampling,
            context=found.said.context,
            brought=catalogue.brought,
        )
        card = await asyncio.to_thread(make)
        entry = await asyncio.to_thread(functools.partial(catalogue.publish, stage, card, replace=replace))
    if move:
        await asyncio.to_thread(file.unlink)
    yield PullProgress("done", f"{entry.id} is ready", str(file), digest.hexdigest(), done, done, entry.id)


def _linked(file: Path, target: Path) -> bool:
    """A second name where the file system and the owner allow one."""
    try:
        os.link(file, target)
    except OSError:
        return False
    return True


def _room(file: Path, stage: Path) -> None:
    need, free = file.stat().st_size, shutil.disk_usage(stage).free
    if need + RESERVE > free:
        raise ModelFileError(
            f"{file} has {need / 1e9:.2f} GB and {stage.parent} has {free / 1e9:.2f} GB free.",
            "Free some with: exo-rkllm rm MODEL, or set models.directory to the file's own disk.",
        )
