"""What the daemon does before its API answers, and what it leaves for later."""

from __future__ import annotations

import ssl
import subprocess
import sys

from exo_rkllm.daemon import certificates
from tests.daemon.running import REPOSITORY, House

# Each is imported when it is used, or once the API answers.
LATER = (
    "cluster.node", "cluster.serving", "cluster.session.view", "catalogue.gallery", "catalogue.hub", "catalogue.pull",
    "runner.parent", "runner.launch", "runtime.modelfile", "runtime.values", "backends.rkllm", "vision.pictures",
    "metrics.scrape",
)  # fmt: skip


def test_start_imports_no_more_than_the_api_needs() -> None:
    code = "import exo_rkllm.daemon.server, sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {f"exo_rkllm.{name}" for name in LATER} == set()


def test_contexts_of_tls_get_their_certificates_when_they_are_loaded() -> None:
    with certificates.postponed():
        made = [ssl.create_default_context(), ssl.create_default_context()]
        assert not any(context.cert_store_stats()["x509"] for context in made)
    whole = ssl.create_default_context().cert_store_stats()
    certificates.load()
    assert [context.cert_store_stats() for context in made] == [whole, whole]
    assert all(context.verify_mode == ssl.CERT_REQUIRED and context.check_hostname for context in made)


SERVES_AND_COMPARES = """
import ssl
from exo_rkllm.cli import main
from exo_rkllm.daemon import certificates
with certificates.postponed():
    made = ssl.create_default_context()
main()
print("trusts", made.cert_store_stats() == ssl.create_default_context().cert_store_stats())
"""


def test_daemon_that_answers_trusts_whom_the_system_trusts(house: House) -> None:
    house.program = (sys.executable, "-c", SERVES_AND_COMPARES)
    daemon = house.start()
    assert daemon.stop() == 0
    assert "trusts True" in daemon.text
