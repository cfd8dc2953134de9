"""Runs that engines have before their turns: each begins in its model's process when the present one ends.

`decide` names the request that follows, and takes the name back when another one becomes better. Its run is handed to
the engine once its prompt is made and the present run has begun; the request goes on waiting, and is started as any
other. A run that is withdrawn may have begun a moment before: the place that it was to take is free once it is settled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from exo_rkllm.backends.base import Engine
from exo_rkllm.dispatch.prompts import PromptMaker
from exo_rkllm.dispatch.request import ActiveRequest
from exo_rkllm.dispatch.state import DispatchState


class RunsAhead:
    """At most one a model. `state` is the run loop's, `requests` are all there are, `engine` gives a model's."""

    def __init__(
        self,
        prompts: PromptMaker,
        state: Callable[[], DispatchState],
        requests: Mapping[int, ActiveRequest],
        engine: Callable[[str], Engine | None],
    ) -> None:
        self._prompts = prompts
        self._state = state
        self._requests = requests
        self._engine = engine
        self._queued: dict[str, tuple[Engine, str]] = {}
        self._withdrawn: set[str] = set()

    def render(self, active: ActiveRequest) -> None:
        """Makes its prompt where its engine is ready, while another answer is computed."""
        name = active.model.id
        if active.early is None and (engine := self._engine(name)) is not None:
            active.early = self._prompts.early(active.request, active.model, engine, lambda: self.queue(name))

    def queue(self, name: str) -> None:
        """Whenever something has come that was missing: the prompt of the request that follows, or the present run,
        which must be no more than one run."""
        model, engine = self._state().models[name], self._engine(name)
        follows = None if model.ahead is None or name in self._queued else self._requests.get(model.ahead)
        if engine is None or follows is None or follows.early is None:
            return
        present = [one for ticket in model.running if (one := self._requests.get(ticket)) is not None]
        prompt = follows.early.made_for(engine) if all(one.one_run for one in present) else None
        if prompt is not None and prompt.structure is None and engine.queue_ahead(prompt.request):
            self._queued[name] = (engine, prompt.request.id)

    def withdraw(self, name: str) -> None:
        if name in self._queued:
            engine, request_id = self._queued.pop(name)
            engine.withdraw(request_id)
            self._withdrawn.add(name)

    def started(self, name: str) -> None:
        """Its turn has come."""
        self._queued.pop(name, None)

    def settles(self, name: str) -> bool:
        """Whether a run was withdrawn since this was last asked, so that the engine has to be waited for."""
        withdrawn = name in self._withdrawn
        self._withdrawn.discard(name)
        return withdrawn
