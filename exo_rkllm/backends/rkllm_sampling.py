"""Sampling of one model on the vendor's library: per run, or before 1.3.0 as the model was loaded with."""

from __future__ import annotations

from collections.abc import Mapping

from exo_rkllm.backends.base import Model, Sampling
from exo_rkllm.backends.rkllm_load import VENDOR_SAMPLING, sampling_of
from exo_rkllm.config.table import SamplingPolicy
from exo_rkllm.errors import NotSupported


class LoadedSampling:
    """`loaded` is what the model was loaded with, and `per_run` whether its runtime takes other settings for a run."""

    def __init__(self, model: Model, policy: SamplingPolicy) -> None:
        self._model = model
        self._policy = policy
        self.defaults = sampling_of(model.sampling, model.id)
        self.loaded: Mapping[str, float] = self.defaults
        self.per_run = True

    @property
    def reloads(self) -> bool:
        """Whether other settings of a request load the model again."""
        return self._policy == "reload" and not self.per_run

    def effective(self, sampling: Sampling) -> dict[str, float]:
        return {**self.defaults, **sampling_of(sampling, self._model.id)}

    def ignored(self, sampling: Sampling) -> tuple[str, ...]:
        """The settings of a request that the answer does without."""
        return self._fixed_at_load(sampling) if self._policy == "ignore" else ()

    def of_run(self, sampling: Sampling) -> Mapping[str, float]:
        """Settings for a run. Raises NotSupported where those of the request differ from the load's and are to be
        refused."""
        if self.per_run:
            return self.effective(sampling)
        changed = self._fixed_at_load(sampling)
        if self._policy != "refuse" or not changed:
            return {}
        raise NotSupported(
            f"This runtime takes {', '.join(changed)} only when {self._model.id} is loaded; per request needs 1.3.0 or "
            "newer.",
            "exo-rkllm runtime --install FILE, or set it under [sampling] in the model's model.toml, or have it "
            'ignored or the model loaded again: [runtime] sampling = "ignore" or "reload"',
        )

    def _fixed_at_load(self, sampling: Sampling) -> tuple[str, ...]:
        """The settings of a request that this runtime would have to be loaded again for."""
        if self.per_run:
            return ()
        loaded = {**VENDOR_SAMPLING, **self.loaded}
        wanted = self.effective(sampling)
        return tuple(sorted(name for name in sampling.explicit() if wanted[name] != loaded[name]))
