"""The OpenAPI document and docs/api.md say what the tables say."""

from __future__ import annotations

from pathlib import Path

from exo_rkllm.api.application import endpoints
from exo_rkllm.api.manual import manual, rights_table
from exo_rkllm.api.openapi import document
from exo_rkllm.api.rights import ROUTES
from tests.api.world import World

PAGE = Path(__file__).parent.parent.parent / "docs" / "api.md"


def test_the_manual_is_what_the_tables_say() -> None:
    assert PAGE.read_text() == manual(endpoints()), "python -m exo_rkllm.api.manual > docs/api.md"


def test_every_endpoint_is_in_the_document_once() -> None:
    rows = endpoints()
    written = document(rows)
    operations = [operation for path in written["paths"].values() for operation in path.values()]
    assert len(operations) == len(rows)
    assert len({operation["operationId"] for operation in operations}) == len(rows)


async def test_daemon_serves_the_document(server: World) -> None:
    async with server.http.get(f"{server.url}/openapi.json") as response:
        served = await response.json()
    assert served["openapi"] == "3.1.0"
    fields = served["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert fields["n"]["anyOf"][0] == {"enum": [1]}
    assert fields["temperature"]["anyOf"][0] == {"type": "number", "minimum": 0, "maximum": 2}


def test_security_page_has_the_table_of_rights() -> None:
    assert rights_table() in (PAGE.parent / "security.md").read_text()


def test_table_of_rights_names_only_routes_that_exist() -> None:
    assert set(ROUTES) <= {f"{one.method} {one.path}" for one in endpoints()}
