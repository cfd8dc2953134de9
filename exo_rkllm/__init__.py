"""exo-rkllm: local language models on Rockchip NPUs, as a daemon, an API and an exo node."""

__version__ = "0.2.0"
