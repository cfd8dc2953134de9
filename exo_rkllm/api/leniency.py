"""What a request asks for and cannot have from its engine or by its right: left out and named, or refused if strict."""

from __future__ import annotations

from dataclasses import replace

from exo_rkllm.api.access import check_right
from exo_rkllm.api.context import Call
from exo_rkllm.api.rights import KEEP_ALIVE
from exo_rkllm.backends.base import GenerationRequest
from exo_rkllm.errors import NotSupported
from exo_rkllm.sampling import Sampling


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
    if unsupported and call.context.settings().config.strict:
        raise NotSupported(
            f"{request.model} runs on engine {spec.name}, which does not take {unsupported[0]}.",
            "Leave it out, or let it be ignored: strict = false under [api].",
        )
    if unsupported:
        call.ignored.extend(name for name in unsupported if name not in call.ignored)
        call.context.ignored_log.info(
            f"A request for {request.model} sets {', '.join(unsupported)}, which engine {spec.name} does not take: "
            "ignored."
        )
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
