"""A chat template as it comes with a model, before anything is compiled: `template.compiled` makes it a program."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """A chat template as text, with the special tokens that it may name."""

    text: str
    special: tuple[tuple[str, str], ...] = ()
