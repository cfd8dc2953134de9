"""`python -m exo_rkllm` and the `exo-rkllm` command."""

from exo_rkllm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
