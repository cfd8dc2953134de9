"""The composition root: the only place that knows every part, and the lifetime of `exo-rkllm serve`."""
