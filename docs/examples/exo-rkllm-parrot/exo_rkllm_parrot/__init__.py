"""A family of models and an engine for exo-rkllm."""
