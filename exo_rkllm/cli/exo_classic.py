"""`exo-rkllm exo-classic`: start classic exo, as released, with the NPU engine."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("exo", metavar="ARGUMENT", nargs="*", help="exo's own arguments")


def main(args: argparse.Namespace) -> int:
    from exo_rkllm.classic.launcher import launch

    def make(shard_downloader: object) -> object:
        from exo_rkllm.engine import RKLLMInferenceEngine  # its base class is exo's, which is importable by now

        return RKLLMInferenceEngine(shard_downloader)

    return launch(args.exo, make)
