"""One pull in a process of its own, to be killed: prints each step's stage."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from pathlib import Path

from exo_rkllm.catalogue.hub import Access
from exo_rkllm.catalogue.pull import PullTarget, pull
from exo_rkllm.catalogue.store import Catalogue


async def main(endpoint: str, repo: str, folder: str) -> None:
    async for step in pull(Catalogue(Path(folder)), PullTarget.parse(repo), Access(endpoint), soc="rk3588"):
        sys.stdout.write(f"{step.stage}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    largest = int(os.environ.get("EXO_TEST_LARGEST", "-1"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    asyncio.run(main(*sys.argv[1:]))
