"""Checks of exo's types, compiled from a table: a check of a message is one walk through closures.

The log of a cluster brings a thousand messages a second, and each is checked (`bench cluster_log`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from exo_rkllm.cluster.wire.table import RecordSpec, WireTable

# A check returns nothing and raises `Mismatch`; what it looks at comes out of a JSON parser.
Check: TypeAlias = "Callable[[Any], None]"

_I64 = 2**63
_MULTIADDR = re.compile(
    r"/(ip4/\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}|ip6/[0-9a-fA-F:]+|dns[46]?/[a-zA-Z0-9.-]+)/tcp/\d{1,5}(/p2p/[A-Za-z0-9]+)?"
)


class Mismatch(Exception):
    """Where a message leaves the table; the path is filled in on the way out."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str] = []

    def __str__(self) -> str:
        return f"{'.'.join(self.path) or 'message'}: {self.problem}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _of_type(kind: type, noun: str) -> Check:
    def check(value: Any) -> None:
        if type(value) is not kind:
            raise Mismatch(f"{_shown(value)} is no {noun}")

    return check


def _integer(low: int, high: int = _I64 - 1, noun: str = "integer") -> Check:
    def check(value: Any) -> None:
        if type(value) is not int or not low <= value <= high:
            least = f" of at least {low}" if low >= 0 and noun == "integer" else ""
            raise Mismatch(f"{_shown(value)} is no {noun}{least}")

    return check


_string = _of_type(str, "string")


def _number(value: Any) -> None:
    # NaN and infinity have no JSON: exo writes null for them, which the next reader refuses
    if type(value) is not int and (type(value) is not float or not math.isfinite(value)):
        raise Mismatch(f"{_shown(value)} is no finite number")


def _time(value: Any) -> None:
    _string(value)
    try:
        datetime.fromisoformat(value)
    except ValueError:
        raise Mismatch(f"{_shown(value)} is no time") from None


def _multiaddr(value: Any) -> None:
    _string(value)
    if not _MULTIADDR.fullmatch(value):
        raise Mismatch(f"{_shown(value)} is no multiaddr")


def _any(value: Any) -> None:
    """Whatever JSON has."""


def _runners_have_shards(value: Mapping[str, Any]) -> None:
    for node, runner in value["node_to_runner"].items():
        if runner not in value["runner_to_shard"]:
            raise Mismatch(f"runner {_shown(runner)} of node {_shown(node)} has no shard")


PLAIN: Mapping[str, Check] = {
    "str": _string,
    "int": _integer(-_I64),
    "uint": _integer(0),
    "positive": _integer(1),
    "float": _number,
    "bool": _of_type(bool, "boolean"),
    "port": _integer(0, 65535, "port"),
    "time": _time,
    "multiaddr": _multiaddr,
    "json": _any,
}
RULES: Mapping[str, Check] = {"every node's runner has a shard": _runners_have_shards}


class Checks:
    """Checks of every type of a table; `complete` demands optional fields too, as exo itself writes them all."""

    def __init__(self, table: WireTable, *, complete: bool) -> None:
        self._table = table
        self._complete = complete
        self._made: dict[str, Check] = dict(PLAIN)
        self.topics: Mapping[str, Check] = {topic: self.of(kind) for topic, kind in table.topics.items()}

    def of(self, kind: str) -> Check:
        """The check of a type expression."""
        found = self._made.get(kind)
        if found is None:
            # A recursive type meets its own name while it is made: that check is looked up when it is run.
            self._made[kind] = self._later(kind)
            found = self._made[kind] = self._make(kind)
        return found

    def _later(self, kind: str) -> Check:
        def check(value: Any) -> None:
            self._made[kind](value)

        return check

    def _make(self, kind: str) -> Check:
        if kind.endswith("?"):
            return _or_null(self.of(kind[:-1]))
        if kind.endswith("[]"):
            return _list_of(self.of(kind[:-2]))
        if kind.endswith("{}"):
            return _object_of(self.of(kind[:-2]))
        if kind in self._table.enums:
            return _one_of(self._table.enums[kind])
        if kind in self._table.unions:
            return self._alternatives(kind)
        return self._body(self._table.records[kind])

    def _body(self, record: RecordSpec) -> Check:
        fields = {entry.name: self.of(entry.type) for entry in record.fields}
        needed = [entry.name for entry in record.fields if self._complete or not entry.optional]
        return _object(fields, needed, [RULES[rule] for rule in record.rules])

    def _alternatives(self, name: str) -> Check:
        tagged: dict[str, Check] = {}
        bare: list[Check] = []
        for member in self._table.unions[name]:
            record = self._table.records[member]
            if record.tag is None:
                bare.append(self._body(record))
            else:
                tagged[record.tag] = self._body(record)
        return _union(name, tagged, bare)


def _or_null(inner: Check) -> Check:
    def check(value: Any) -> None:
        if value is not None:
            inner(value)

    return check


def _list_of(inner: Check) -> Check:
    def check(value: Any) -> None:
        if type(value) is not list:
            raise Mismatch(f"{_shown(value)} is no list")
        index = 0
        try:
            for index, entry in enumerate(value):  # noqa: B007  the index is the path of a failure
                inner(entry)
        except Mismatch as wrong:
            wrong.path.insert(0, str(index))
            raise

    return check


def _object_of(inner: Check) -> Check:
    def check(value: Any) -> None:
        if type(value) is not dict:
            raise Mismatch(f"{_shown(value)} is no object")
        key: object = None
        try:
            for key, entry in value.items():
                _string(key)
                inner(entry)
        except Mismatch as wrong:
            wrong.path.insert(0, str(key))
            raise

    return check


def _one_of(values: tuple[str, ...]) -> Check:
    allowed = frozenset(values)

    def check(value: Any) -> None:
        if type(value) is not str or value not in allowed:
            raise Mismatch(f"{_shown(value)} is none of {', '.join(values)}")

    return check


def _object(fields: Mapping[str, Check], needed: list[str], rules: list[Check]) -> Check:
    items = tuple(fields.items())
    every = len(needed) == len(items)

    def check(value: Any) -> None:
        if type(value) is not dict:
            raise Mismatch(f"{_shown(value)} is no object")
        if not (every and len(value) == len(items)) or not fields.keys() >= value.keys():
            for name in value:
                if name not in fields:
                    raise Mismatch(f"unknown field {_shown(name)}")
            for name in needed:
                if name not in value:
                    raise Mismatch(f"missing field {name!r}")
        name = ""
        try:
            for name, inner in items:
                if every or name in value:
                    inner(value[name])
        except Mismatch as wrong:
            wrong.path.insert(0, name)
            raise
        for rule in rules:
            rule(value)

    return check


def _passes(inner: Check, value: Any) -> bool:
    try:
        inner(value)
    except Mismatch:
        return False
    return True


def _union(name: str, tagged: Mapping[str, Check], bare: list[Check]) -> Check:
    def check(value: Any) -> None:
        if type(value) is dict and len(value) == 1:
            ((tag, body),) = value.items()
            known = tagged.get(tag)
            if known is not None:
                try:
                    known(body)
                except Mismatch as wrong:
                    wrong.path.insert(0, tag)
                    raise
                return
        if any(_passes(inner, value) for inner in bare):
            return
        shown = _shown(next(iter(value))) if type(value) is dict and len(value) == 1 else _shown(value)
        raise Mismatch(f"unknown {name} {shown}")

    return check
