"""The engine inside classic exo: whole models, token by token, for a host that knows nothing of RKLLM."""
