"""Entries made of others: an alias, and a model with settings of its own over another one's weights."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from exo_rkllm.backends.base import JSON, Sampling
from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue.aliases import alias_id
from exo_rkllm.catalogue.card import Card
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.modelfile import Modelfile, parse
from exo_rkllm.catalogue.names import is_adapter
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.errors import ModelExists, NotSupported, UsageError

TEMPLATE = "modelfile.jinja"
IMPORT_HINT = "exo-rkllm import PATH takes files, folders and rkllama's Modelfiles."
# Actions of Go's templates, in which Ollama's are written: {{ .System }}, {{ if .Tools }}, {{ $last := ... }}.
GO = re.compile(r"\{\{-?\s*(?:(?:if|else if|range|with|block|template|define)\s+[^}]*[.$]|[.$][A-Za-z])")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a Modelfile changes about the model that it names."""

    system: str = ""
    template: str = ""
    context: int = 0
    stop: tuple[str, ...] = ()
    adapter: str = ""
    sampling: Sampling = field(default_factory=Sampling)

    @classmethod
    def of(cls, file: Modelfile) -> Recipe:
        return cls(file.system, file.template, file.context, file.stop, file.adapter, file.sampling)


def check_source(source: str) -> str:
    """The name behind FROM; raises NotSupported where it names files, or nothing."""
    if not source or source.startswith((".", "/")):
        raise NotSupported("A model is made here FROM one that is here already, not from files.", IMPORT_HINT)
    return source


def copy(catalogue: Catalogue, source: str, name: str) -> str:
    """Another name for the model that `source` means; it takes no space. Returns the id."""
    return add_alias(catalogue, name, catalogue.resolve(source))


def create(catalogue: Catalogue, name: str, text: str) -> str:
    """A model made as a Modelfile's text says; returns its id."""
    file = parse(text)
    return derive(catalogue, name, catalogue.resolve(check_source(file.weights)), Recipe.of(file)).id


def add_alias(catalogue: Catalogue, name: str, target: Entry) -> str:
    """The id of the new alias. A former alias of that name is replaced, a model never."""
    id_ = _new_id(name)
    if any(entry.id == id_ for entry in catalogue.list()):
        raise ModelExists(f"There is a model {id_!r} already.", f"exo-rkllm rm {id_}, or choose another name")
    with catalogue.stage() as stage:
        catalogue.publish(stage, Card(id_, alias_of=target.id), replace=True)
    return id_


def derive(catalogue: Catalogue, name: str, base: Entry, recipe: Recipe) -> Entry:
    """A new entry with the weights and tokenizer files of `base`, which take no space again, and its own card.

    It replaces an alias or an entry over the same weights, and no other. Raises NotSupported or UsageError for what a
    card has no place for.
    """
    id_ = _new_id(name)
    for entry in catalogue.list():
        if entry.id == id_ and not _same_weights(entry, base):
            raise ModelExists(f"There is a model {id_!r} already.", f"exo-rkllm rm {id_}, or choose another name")
    card = replace(
        base.card,
        id=id_,
        name="",
        context=recipe.context or base.card.context,
        sampling=recipe.sampling.over(base.card.sampling),
        options={**base.card.options, **_adapter_options(base, recipe.adapter)},
        chat=replace(
            base.card.chat,
            system=recipe.system or base.card.chat.system,
            stop=tuple(dict.fromkeys((*base.card.chat.stop, *recipe.stop))),
            template=_template_name(recipe.template) or base.card.chat.template,
            family=base.family,
        ),
    )
    with catalogue.stage() as stage:
        for file in base.folder.iterdir():
            if file.is_file() and not file.name.startswith(".") and file.name != cards.FILE:
                _second_name(file, stage / file.name)
        if recipe.template:
            (stage / TEMPLATE).unlink(missing_ok=True)
            (stage / TEMPLATE).write_text(recipe.template, encoding="utf-8")
        return catalogue.publish(stage, card, replace=True)


def _new_id(name: str) -> str:
    id_ = alias_id(name)
    if not id_:
        raise UsageError(f"{name[:100]!a} cannot be a model's name.", "Use letters, digits, '.', '_' and '-'.")
    return id_


def _same_weights(entry: Entry, base: Entry) -> bool:
    if entry.path is None or base.path is None:
        return entry.path is base.path and entry.id != base.id
    with suppress(OSError):
        return entry.id != base.id and entry.path.samefile(base.path)
    return False


def _second_name(file: Path, target: Path) -> None:
    """A hard link where the file system has them, else a copy."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _template_name(template: str) -> str:
    if GO.search(template):
        raise NotSupported(
            "TEMPLATE is written in Go's template language, and models here are talked to by Jinja templates.",
            "Leave TEMPLATE out (the model's own is used), or write it in Jinja, as chat_template.jinja on the Hub is.",
        )
    return TEMPLATE if template else ""


def _adapter_options(base: Entry, adapter: str) -> Mapping[str, JSON]:
    """The options that choose an adapter: one of the card's, or a file beside the weights."""
    if not adapter:
        return {}
    file = Path(adapter).name
    if adapter in base.adapters:
        return {"lora": adapter}
    if is_adapter(file) and (base.folder / file).is_file():
        name = file[: -len("_lora.rkllm")]
        loras = base.card.options.get("loras")
        return {"lora": name, "loras": {**(loras if isinstance(loras, Mapping) else {}), name: file}}
    known = ", ".join(base.adapters) or "none"
    raise NotSupported(
        f"{base.id} has no adapter {adapter[:100]!a}; it has: {known}.",
        f"Put the adapter's file (NAME_lora.rkllm) into {base.folder}, and name it in ADAPTER.",
    )
