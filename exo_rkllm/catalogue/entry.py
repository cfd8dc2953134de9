"""One entry of the models folder: a model with its card, as it is read from its folder."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from exo_rkllm.backends.base import JSON, Sampling, Tokenizer, Vision
from exo_rkllm.catalogue import card as cards
from exo_rkllm.catalogue.card import Card, VisionFile, Weights
from exo_rkllm.catalogue.contributions import EMPTY, PluginContributions
from exo_rkllm.catalogue.tokenizer import plugin_tokenizer, read_tokenizer
from exo_rkllm.chat.chat_format import ChatFormat, ChatModel, model_type
from exo_rkllm.errors import CardError, ExoRkllmError
from exo_rkllm.files.stamps import stamp_of
from exo_rkllm.plugins.adapting import preload_of, processor_of
from exo_rkllm.plugins.spec import ModelSpec
from exo_rkllm.runner.preload import Preload
from exo_rkllm.vision.tags import TAGS, ImageTags, tags_for


class Entry(ChatModel):
    """A model that can be asked for by name; what is expensive to read (template, tokenizer) is read once and kept."""

    def __init__(self, folder: Path, card: Card, contributions: PluginContributions = EMPTY) -> None:
        self.folder = folder
        self.card = card
        self._contributions = contributions
        self._chat_format: tuple[tuple[int, ...], ChatFormat] | None = None
        self._tokenizer: tuple[Tokenizer | None] | None = None

    def __repr__(self) -> str:
        return f"Entry({self.id!r})"

    @property
    def id(self) -> str:
        return self.card.id

    @property
    def engine(self) -> str:
        return self.card.engine

    @property
    def path(self) -> Path | None:
        return self.folder / self.card.weights.file if self.card.weights else None

    @property
    def context(self) -> int:
        return self.card.context

    @property
    def options(self) -> Mapping[str, JSON]:
        return self.card.options

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the LoRA adapters that a request may choose from."""
        loras = self.card.options.get("loras")
        return tuple(loras) if isinstance(loras, Mapping) else ()

    @property
    def sampling(self) -> Sampling:
        return self.card.sampling

    @property
    def reuse(self) -> bool:
        return self.card.reuse

    @property
    def vision(self) -> Vision | None:
        if (vision := self.card.vision) is None:
            return None
        tags = TAGS.get(vision.tags or tags_for(*cards.telling_names(self.card)), ImageTags("", "", ""))
        return Vision(
            self.folder / vision.file,
            vision.start or tags.start,
            vision.end or tags.end,
            vision.content or tags.content,
        )

    def with_settings(self, context: int, sampling: Sampling) -> Entry:
        """The same model with a caller's settings over the card's, where something is set."""
        card = replace(self.card, context=context or self.context, sampling=sampling.over(self.sampling))
        return Entry(self.folder, card, self._contributions)

    @cached_property
    def spec(self) -> ModelSpec | None:
        """The plugin's spec for such models, if there is one."""
        config_type = model_type(self.folder) if self._contributions.specs else None
        return self._contributions.spec(self.card.chat.family, config_type, *cards.telling_names(self.card))

    @cached_property
    def family(self) -> str:
        """The row of the families that the model belongs to: the card's, or what its files and names mean."""
        named = self.card.chat.family
        if named not in ("", "none"):
            return named
        return self._contributions.family(model_type(self.folder), *cards.telling_names(self.card))

    @property
    def preload(self) -> Preload:
        return Preload() if self.spec is None else preload_of(self.spec)

    @cached_property
    def reasons(self) -> bool:
        """Whether the model thinks aloud before it answers; a card that cannot be read counts as no."""
        with contextlib.suppress(ExoRkllmError):
            return self._contributions.reasoning(self.folder, self.card) is not None
        return False

    @property
    def has_plugin_tokenizer(self) -> bool:
        return processor_of(self.spec, self._contributions.processors) is not None

    def tokenizer(self) -> Tokenizer | None:
        # No cached_property: before Python 3.12 its lock is one for all entries, and this may take seconds.
        if self._tokenizer is None:
            make = processor_of(self.spec, self._contributions.processors)
            self._tokenizer = (read_tokenizer(self.folder) if make is None else plugin_tokenizer(make, self.folder),)
        return self._tokenizer[0]

    def chat_format(self) -> ChatFormat:
        """Read once, and again when the template's file changes: owners edit templates in place."""
        template = self.card.chat.template
        stamp = stamp_of(self.folder, *([self.folder / template] if template else []))
        if self._chat_format is None or self._chat_format[0] != stamp:
            self._chat_format = stamp, self._contributions.chat_format(self.folder, self.card)
        return self._chat_format[1]


@dataclass(frozen=True, slots=True)
class Problem:
    """A folder that looks like an entry and is none, with the reason."""

    folder: Path
    error: ExoRkllmError


def read_entry(folder: Path, contributions: PluginContributions, *, is_link: bool) -> Entry | Problem | None:
    """The entry in a folder, or its problem; None for a folder without a card."""
    path = folder / cards.FILE
    try:
        if is_link:
            if not path.is_file():
                return None
            raise CardError(
                f"{folder} is a symbolic link, and names may not leave the models folder.",
                f"exo-rkllm import {folder.resolve()}",
            )
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            raw = file.read(cards.LARGEST + 1)
        return _entry(folder, path, raw, contributions)
    except FileNotFoundError:
        return None
    except ExoRkllmError as error:
        return Problem(folder, error)
    except OSError as error:
        return Problem(folder, CardError(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}"))


def _entry(folder: Path, path: Path, raw: bytes, contributions: PluginContributions) -> Entry:
    if len(raw) > cards.LARGEST:
        raise CardError(f"{path} has more than {cards.LARGEST // 1024} KiB.", "A card is a page of text.")
    try:
        card = cards.parse(raw.decode(), str(path), contributions.suffixes)
    except UnicodeDecodeError:
        raise CardError(f"{path} is not UTF-8 text.", f"file {path}") from None
    if card.id != folder.name:
        raise CardError(f"{path} says id = {card.id!r} and lies in the folder {folder.name!r}.", "Make them the same.")
    if card.weights:
        card = replace(card, weights=replace(card.weights, size=_size_of(card, card.weights, folder)))
    if card.vision:
        card = replace(card, vision=replace(card.vision, size=_size_of(card, card.vision, folder)))
    return Entry(folder, card, contributions)


def _size_of(card: Card, named: Weights | VisionFile, folder: Path) -> int:
    """Of a file that the card names; raises CardError where it is not the one that it describes."""
    file = folder / named.file
    try:
        status = file.lstat()
    except FileNotFoundError:
        raise CardError(
            f"{folder / cards.FILE} names {named.file}, which is not there.",
            f"Put it there, or take the entry away: exo-rkllm rm {card.id}",
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise CardError(f"{file} is not a plain file.", "Put the file itself there: exo-rkllm import FILE")
    if named.size and status.st_size != named.size:
        raise CardError(
            f"{file} has {status.st_size} bytes, its card says {named.size}.",
            f"exo-rkllm rm {card.id}, then pull or import it again",
        )
    return status.st_size
