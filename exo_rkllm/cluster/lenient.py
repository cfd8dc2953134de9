"""exo's requests as a model can answer them: what it cannot do is taken without effect.

exo's dashboard shows nothing of a refusal. Thoughts, for which it asks every model, are left out by `render`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from exo_rkllm.assembly import Node
from exo_rkllm.backends.base import GenerationEvent, GenerationRequest, Piece, Sampling
from exo_rkllm.errors import NotSupported

log = logging.getLogger(__name__)


async def answer(
    node: Node,
    generate: Callable[[GenerationRequest], AsyncGenerator[GenerationEvent, None]],
    request: GenerationRequest,
) -> AsyncGenerator[GenerationEvent, None]:
    request = within_abilities(node, request)
    spoke = False
    try:
        async with aclosing(generate(request)) as events:
            async for event in events:
                spoke = spoke or isinstance(event, Piece)
                yield event
            return
    except NotSupported:
        if spoke or request.sampling == Sampling():
            raise
    # Settings that the loaded runtime takes at load only: the model's own are used instead.
    async with aclosing(generate(replace(request, sampling=Sampling()))) as events:
        async for event in events:
            yield event


def within_abilities(node: Node, request: GenerationRequest) -> GenerationRequest:
    """The request without what is known, before the model is loaded, to be refused."""
    entry = node.catalogue.get(request.model)
    engine = node.engines.get(node.engines.name_for(entry))
    if engine is None:
        return request
    values, unsupported = request.sampling.for_engine(engine.sampling)
    if unsupported:
        log.debug("A task of exo sets %s, without effect on %s.", ", ".join(unsupported), entry.id)
    return replace(request, sampling=Sampling(**values))
