"""The README's first ten minutes, typed as they stand, on a bare Debian with the files of a release archive.

Two things are put in the place of the internet: a Hub on loopback that has the model, and the simulator's library where
the vendor's would be downloaded.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
from pathlib import Path

import pytest

from exo_rkllm import __version__
from tests.system.substrate import host, owner
from tests.system.substrate.container import Container
from tests.system.substrate.releases import TRIXIE
from tests.system.substrate.steps import Steps
from tests.system.substrate.workshop import Workshop

REPO, FILE = "GatekeeperZA/Qwen3-1.7B-RKLLM-v1.2.3", "Qwen3-1.7B_w8a8_rk3588.rkllm"
HUB = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, "/root")
from hub import LocalHub, large

async def main():
    async with LocalHub() as hub:
        hub.add("{REPO}", {{"{FILE}": large(Path("/root/{FILE}").read_bytes()), "README.md": b"a model"}})
        Path("/root/endpoint").write_text(hub.endpoint)
        await asyncio.sleep(3600)

asyncio.run(main())
"""
# Root has no need of it, and Debian's smallest root has none.
SUDO = 'sudo() { "$@"; }; export DEBIAN_FRONTEND=noninteractive; '


def block(after: str) -> list[str]:
    """The commands of the README's first block after these words, without their remarks."""
    text = (host.REPOSITORY / "README.md").read_text().partition(after)[2]
    lines = text.partition("```sh\n")[2].partition("```")[0].splitlines()
    return [re.sub(r"\s{2,}#.*", "", line) for line in lines if line.strip()]


def archive(workshop: Workshop) -> Path:
    """The release archive of the packages that the other tests install, too."""
    pool = workshop.packages().result() / "apt/pool/main/e/exo-rkllm"
    settings = {**os.environ, "DEBS": str(pool), "IMAGES": ""}
    made = subprocess.run(
        [host.REPOSITORY / "packaging/release", workshop.folder], env=settings, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return workshop.folder / f"exo-rkllm-{__version__}.tar"


def put(container: Container, path: str, content: bytes) -> None:
    container.run(f"base64 -d > {path}", stdin=base64.b64encode(content).decode())


@pytest.mark.parametrize("release", [TRIXIE], indirect=True, ids=str)
def test_commands_of_the_readme_lead_from_a_bare_debian_to_an_answer_and_to_the_network(
    prepared: Workshop, container: Container, steps: Steps
) -> None:
    put(container, "/root/release.tar", archive(prepared).read_bytes())
    top = f"/root/exo-rkllm-{__version__}"
    container.run(f"cd /root && tar -xf release.tar && cd {top} && sha256sum --check --quiet --strict SHA256SUMS")
    install, library, ask = block("## The first ten minutes on a board")
    here = f"{SUDO}cd {top}; "
    with steps.step("README: install and library"):
        container.run(here + install.replace("_arm64", "_amd64"), timeout=120)
        refused = container.ask(here + library, timeout=30)
    assert refused.code == 2 and "SHA-256" in refused.err and "--accept-licence" in refused.err, refused.all

    owner.apt(container, f"install {top}/exo-rkllm-simulator_{__version__}_amd64.deb")
    container.run("exo-rkllm-simulator use && systemctl restart exo-rkllm")
    container.run(f"exo-rkllm-simulator model /root/{FILE}")
    put(container, "/root/hub.py", (host.REPOSITORY / "tests/hub.py").read_bytes())
    put(container, "/root/serve.py", HUB.encode())
    container.run("systemd-run --quiet python3 /root/serve.py")
    endpoint = container.until("the Hub", lambda: container.ask("cat /root/endpoint").out)

    with steps.step("README: from pull to the answer"):
        answer = container.run(f"{here}export HF_ENDPOINT={endpoint}; {ask}", timeout=60)
    assert "simulated model" in answer

    container.run(SUDO + "\n".join(block("**Give your network access, with a key:**")))
    models = "curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1:52415/v1/models"
    container.until("an API that wants a key", lambda: container.ask(models).out == "401")
    key = container.run("grep -v '^#' /etc/exo-rkllm/api-keys | head -n 1").split()[0]
    assert container.run(f"{models} -H 'Authorization: Bearer {key}'") == "200"
    assert "0.0.0.0:52415" in container.run("ss -ltn")
