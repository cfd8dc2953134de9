"""`exo-rkllm exo-classic`: classic exo as it was released, with the NPU's engine in it."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("exo", metavar="ARGUMENT", nargs="*", help="exo's own arguments, as exo itself takes them")


def main(args: argparse.Namespace) -> int:
    from exo_rkllm.classic.launcher import launch

    def make(shard_downloader: object) -> object:
        from exo_rkllm.engine import RKLLMInferenceEngine  # its base class is exo's, which is there by then

        return RKLLMInferenceEngine(shard_downloader)

    return launch(args.exo, make)
