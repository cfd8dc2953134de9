"""The OpenAPI document and docs/api.md say what the tables say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from exo_rkllm.api.application import endpoints
from exo_rkllm.api.control.tables import ASK, LOAD, MODEL_ONLY, PULL
from exo_rkllm.api.manual import manual, rights_table
from exo_rkllm.api.openapi import document
from exo_rkllm.api.rights import ROUTES
from exo_rkllm.schema.specs import Either, FieldSpec, List, ObjectSpec, TaggedSpec, ValueSpec
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


def rows_of(kind: ValueSpec) -> Iterator[FieldSpec]:
    """Every row of a table, those of the tables in it included."""
    match kind:
        case ObjectSpec(fields=fields):
            for row in fields:
                yield row
                yield from rows_of(row.kind)
        case TaggedSpec(tables=tables):
            for table in tables.values():
                yield from rows_of(table)
        case Either(kinds=kinds):
            for one in kinds:
                yield from rows_of(one)
        case List(of=of):
            yield from rows_of(of)


def test_every_field_is_described_by_a_sentence() -> None:
    bodies = [endpoint.body for endpoint in endpoints() if endpoint.body is not None]
    rows = [row for table in (*bodies, ASK, LOAD, MODEL_ONLY, PULL) for row in rows_of(table)]
    assert len(rows) > 200
    assert not [(row.name, row.about) for row in rows if not re.fullmatch(r"[A-Z].{5,}\.", row.about)]


def test_security_page_has_the_table_of_rights() -> None:
    assert rights_table() in (PAGE.parent / "security.md").read_text()


def test_table_of_rights_names_only_routes_that_exist() -> None:
    assert set(ROUTES) <= {f"{one.method} {one.path}" for one in endpoints()}
