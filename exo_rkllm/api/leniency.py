"""What a request asks for and cannot have from its engine or by its right: left out and named, or refused if strict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from exo_rkllm.api.access import check_right
from exo_rkllm.api.context import Call
from exo_rkllm.api.rights import KEEP_ALIVE
from exo_rkllm.backends.base import GenerationRequest, Ignored
from exo_rkllm.errors import NotSupported
from exo_rkllm.sampling import Sampling
from exo_rkllm.schema.specs import ObjectSpec

# What our requests call `thinking`, in the words of the languages.
THINKING = ("enable_thinking", "chat_template_kwargs", "reasoning_effort", "reasoning", "thinking", "think")


def ignored_fields(table: ObjectSpec, body: Mapping[str, Any], prefix: str = "", *, strict: bool = False) -> list[str]:
    """Paths of fields of a body that have no effect: those that its table does not list, and values that it drops.

    Lists are not looked into. With `strict` a value that would be dropped raises its FieldError.
    """
    ignored = [f"{prefix}{name}" for name in table.unknown(body)]
    for field in table.fields:
        member = body.get(field.name)
        if isinstance(field.kind, ObjectSpec) and isinstance(member, dict):
            ignored += ignored_fields(field.kind, member, f"{prefix}{field.name}.", strict=strict)
        elif field.droppable and member is not None:
            path = f"{prefix}{field.name}"
            if (error := field.objection(member, path)) is not None:
                if strict:
                    raise error
                ignored.append(path)
    return ignored


def note_ignored(call: Call, model: str, ignored: Ignored) -> None:
    """What the answer does without goes into X-Ignored-Fields, and once a minute into the log.

    `[api] strict` raises NotSupported instead, which ends the run before it computes anything.
    """
    names = [own for name in ignored.fields for own in _own_names(call.values, name)]
    if call.context.settings().config.strict:
        raise NotSupported(
            f"The request sets {names[0]}, which {ignored.why}.",
            f"Leave {names[0]} out, or let it be ignored: strict = false under [api].",
        )
    call.ignored.extend(name for name in names if name not in call.ignored)
    call.context.ignored_log.info(f"A request for {model} sets {', '.join(names)}, which {ignored.why}: ignored.")


def _own_names(values: Mapping[str, Any], name: str) -> Iterable[str]:
    """A field by the names that the request's own language has for it."""
    return (name,) if name != "thinking" else [own for own in THINKING if own in values] or (name,)


def admitted(call: Call, request: GenerationRequest) -> GenerationRequest:
    """The request with its client's id and adapter, and without what its model's engine does not take."""
    return without_unsupported(call, replace(request, lora=call.adapter(), reference=call.id))


def without_unsupported(call: Call, request: GenerationRequest) -> GenerationRequest:
    """The request without the sampling settings that its model's engine does not take.

    They are listed in the answer's X-Ignored-Fields, and once a minute in the log; `[api] strict` raises NotSupported
    instead. A setting at the value at which it has no effect is neither told nor refused.
    """
    engine_spec = call.context.engine_spec
    if engine_spec is None or request.sampling == Sampling():
        return request
    spec = engine_spec(call.entry(request.model))
    values, unsupported = request.sampling.for_engine(spec.sampling)
    if unsupported:
        note_ignored(call, request.model, Ignored(tuple(unsupported), f"engine {spec.name} does not take"))
    return replace(request, sampling=Sampling(**values))


def permitted_keep_alive(call: Call, keep_alive: float | None) -> float | None:
    """A question's `keep_alive`, or None (the daemon's own) for a caller who may not load and unload models.

    Clients send one with every question: Home Assistant -1, Open WebUI what its settings say. It has no part in the
    answer, so it is only named in X-Ignored-Fields; `[api] strict` raises Forbidden.
    """
    if keep_alive is None or call.caller.may(KEEP_ALIVE.right):
        return keep_alive
    if call.context.settings().config.strict:
        check_right(call.caller, KEEP_ALIVE.right)
    call.ignored.append("keep_alive")
    return None
