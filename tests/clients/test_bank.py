"""Every habit of unmodified clients, replayed over HTTP through the assembled daemon on three runtimes."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest

from tests.clients.bank import Case, at, cases
from tests.clients.conftest import Service


def send(service: Service, case: Case) -> tuple[int, dict[str, str], str]:
    data = None if case.body is None else json.dumps(case.body).encode()
    headers = {"Content-Type": "application/json", **case.headers}
    request = urllib.request.Request(service.url + case.path, data, headers, method=case.method)  # noqa: S310 - our own daemon
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - see above
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases()])
def test_habit_is_answered(service: Service, case: Case) -> None:
    if case.only and service.runtime not in case.only:
        pytest.skip(f"it is about runtime {', '.join(case.only)}")
    if case.needs:
        pytest.importorskip(case.needs)
    status, headers, text = send(service, case)
    assert status == case.status, text
    ignored = headers.get("X-Ignored-Fields", "").split(", ")
    for name in case.ignored:
        assert name in ignored, headers
    assert case.text in text
    for path, expected in case.json.items():
        found = at(json.loads(text), path)
        assert found if expected is None else found == expected, (path, found)
    for name, value in case.answer_headers.items():
        assert headers.get(name) == value, headers
