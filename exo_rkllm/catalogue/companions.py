"""The files beside a model that say how to talk to it: fetched from its repository or its base model, or copied."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import IO

from exo_rkllm.catalogue import describe
from exo_rkllm.catalogue.contributions import PluginContributions
from exo_rkllm.catalogue.hub import Hub, Repository, repos
from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.errors import ExoRkllmError, PullError
from exo_rkllm.privileges import open_original


async def base_models(hub: Hub, repo: Repository) -> tuple[str, ...]:
    """The models that this one was made from, according to its listing, README or config.json."""
    bases = list(repo.base_models)
    if "README.md" in repo.files and not bases:
        with contextlib.suppress(ExoRkllmError):
            text = await hub.read(repo.id, repo.revision, "README.md", 1 << 20)
            bases += front_matter(text.decode("utf-8", "replace"))
    if "config.json" in repo.files and not bases:
        with contextlib.suppress(ExoRkllmError, ValueError, RecursionError):
            config = json.loads(await hub.read(repo.id, repo.revision, "config.json", 1 << 20))
            bases.append(str(config.get("_name_or_path")) if isinstance(config, dict) else "")
    return tuple(one for one in repos(bases) if one.lower() != repo.id.lower())


def front_matter(text: str) -> list[str]:
    """`base_model` out of a README's front matter: one name, or a list of them. No YAML beyond that."""
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    bases: list[str] = []
    inside = False
    for line in lines[1:500]:
        if line.strip() == "---":
            break
        if line.startswith("base_model:"):
            value = line.partition(":")[2].strip()
            inside = not value
            bases += [one for one in value.strip("[]").split(",") if one.strip()]
        elif inside and line.lstrip().startswith("- "):
            bases.append(line.lstrip()[2:])
        else:
            inside = False
    return [one.strip().strip("'\"") for one in bases]


async def fetch_companions(
    hub: Hub, stage: Path, repo: Repository | None, bases: tuple[str, ...]
) -> AsyncGenerator[PullProgress, None]:
    """The tokenizer's files: the repository's own, and the base model's for those that it lacks. All are optional."""
    present = _present(stage) if repo is None else await _fetch_missing(hub, stage, repo)
    if {"tokenizer_config.json", "tokenizer.json", "config.json"} <= present:
        return
    visited: set[str] = set() if repo is None else {repo.id.lower()}
    queue = list(bases)
    while queue and len(visited) < 4:
        base = queue.pop(0)
        if base.lower() in visited:
            continue
        visited.add(base.lower())
        yield PullProgress("note", f"fetching what is missing of the tokenizer from {base}")
        try:
            parent = await hub.repository(base)
            present |= await _fetch_missing(hub, stage, parent)
        except ExoRkllmError as error:
            yield PullProgress("note", f"{error.sentence} The template of its family is used.")
            continue
        if "tokenizer_config.json" in present:
            return
        queue += parent.base_models
    if "tokenizer_config.json" not in present:
        yield PullProgress("note", "no tokenizer files were found; the template of the model's family is used")


async def _fetch_missing(hub: Hub, stage: Path, repo: Repository) -> set[str]:
    for name, limit in describe.COMPANIONS.items():
        file = repo.files.get(name)
        if file is None or name in _present(stage) or (file.size or 0) > limit:
            continue
        body = await hub.read(repo.id, repo.revision, name, limit)
        if file.sha256 and hashlib.sha256(body).hexdigest() != file.sha256:
            raise PullError(f"{name} of {repo.id} is not what its listing says.", "Pull it again.")
        await asyncio.to_thread(_put, stage / name, body)
    return _present(stage)


def _present(stage: Path) -> set[str]:
    return {name for name in describe.COMPANIONS if (stage / name).exists()}


def _put(target: Path, body: bytes) -> None:
    new = target.with_name(f".{target.name}.new")
    new.write_bytes(body)
    new.rename(target)


def open_companions(
    folder: Path, contributions: PluginContributions, stack: contextlib.ExitStack, *model_names: str
) -> Mapping[str, IO[bytes]]:
    """The tokenizer's files, by name and size only: nothing else of the folder is taken. `stack` closes them."""
    model_type = describe.read_json(folder / "config.json").get("model_type")
    spec = contributions.spec("", model_type, *model_names)
    usual = describe.usual_names(sorted(path.name for path in folder.iterdir() if path.is_file()), spec)
    opened: dict[str, IO[bytes]] = {}
    for name, limit in describe.COMPANIONS.items():
        if name in usual:
            with contextlib.suppress(OSError):
                file = stack.enter_context(open_original(folder / usual[name]))
                if os.fstat(file.fileno()).st_size <= limit:
                    opened[name] = file
    return opened


def copy_companions(opened: Mapping[str, IO[bytes]], stage: Path) -> None:
    for name, file in opened.items():
        with (stage / name).open("xb") as copy:
            shutil.copyfileobj(file, copy)
