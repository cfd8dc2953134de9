"""The notation of the tables, and the checks that are made of them.

    enum NAME: VALUE ...        one of these strings
    record NAME                 an object with exactly these fields
    tagged NAME [as TAG]        the same, wrapped as {"TAG": {...}}
    union NAME: TYPE ...        one of these
    topic NAME: TYPE            what a topic carries
    list NAME: WORD ...         words that something else compares with
      field TYPE [= default]    `= default`: the receiver has a default, so leaving it out is no error there

A TYPE is a name from the table or below, then any of `?` (or null), `[]` (list of), `{}` (object of).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeAlias

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


@dataclass(frozen=True, slots=True)
class WireField:
    name: str
    type: str
    optional: bool  # the receiver has a default


@dataclass(frozen=True, slots=True)
class RecordSpec:
    name: str
    tag: str | None
    fields: tuple[WireField, ...]
    rules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class WireTable:
    """A parsed table: names to values, records, alternatives and topics."""

    enums: Mapping[str, tuple[str, ...]]
    records: Mapping[str, RecordSpec]
    unions: Mapping[str, tuple[str, ...]]
    topics: Mapping[str, str]
    lists: Mapping[str, tuple[str, ...]]


@dataclass(slots=True)
class _Draft:
    enums: dict[str, tuple[str, ...]] = field(default_factory=dict)
    records: dict[str, RecordSpec] = field(default_factory=dict)
    unions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def line(self, text: str, inside: RecordSpec | None) -> RecordSpec | None:
        """Take in one line; returns the record that following indented lines belong to."""
        if text.startswith(" ") and inside is not None:
            return self._member(text.strip(), inside)
        kind, _, rest = text.partition(" ")
        name, _, names = (part.strip() for part in rest.partition(":"))
        if kind == "enum":
            self.enums[name] = tuple(names.split())
        elif kind == "union":
            self.unions[name] = (*self.unions.get(name, ()), *names.split())
        elif kind == "list":
            self.lists[name] = (*self.lists.get(name, ()), *names.split())
        elif kind == "topic":
            self.topics[name] = names
        elif kind in ("record", "tagged"):
            name, _, tag = (part.strip() for part in rest.partition(" as "))
            self.records[name] = RecordSpec(name, (tag or name) if kind == "tagged" else None, ())
            return self.records[name]
        else:
            raise ValueError(f"not a line of a schema table: {text!r}")
        return None

    def _member(self, text: str, inside: RecordSpec) -> RecordSpec:
        word, _, rest = text.partition(" ")
        if word == "rule":
            grown = RecordSpec(inside.name, inside.tag, inside.fields, (*inside.rules, rest))
        else:
            kind, _, origin = (part.strip() for part in rest.partition("="))
            grown = RecordSpec(inside.name, inside.tag, (*inside.fields, WireField(word, kind, bool(origin))))
        self.records[inside.name] = grown
        return grown


def parse(text: str) -> WireTable:
    draft, inside = _Draft(), None
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            inside = draft.line(line, inside)
    return WireTable(draft.enums, draft.records, draft.unions, draft.topics, draft.lists)


# ── checks ───────────────────────────────────────────────────────────────────────────────────────


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _string(value: Any) -> None:
    if type(value) is not str:
        raise Mismatch(f"{_shown(value)} is no string")


def _integer(low: int) -> Check:
    def check(value: Any) -> None:
        if type(value) is not int or not low <= value < _I64:
            raise Mismatch(f"{_shown(value)} is no integer" + ("" if low < 0 else f" of at least {low}"))

    return check


def _number(value: Any) -> None:
    # NaN and infinity have no JSON: exo writes null for them, which the next reader refuses
    if type(value) is not int and (type(value) is not float or not math.isfinite(value)):
        raise Mismatch(f"{_shown(value)} is no finite number")


def _boolean(value: Any) -> None:
    if type(value) is not bool:
        raise Mismatch(f"{_shown(value)} is no boolean")


def _port(value: Any) -> None:
    if type(value) is not int or not 0 <= value <= 65535:
        raise Mismatch(f"{_shown(value)} is no port")


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
    "bool": _boolean,
    "port": _port,
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
        record = self._table.records[kind]
        return self._body(record) if record.tag is None else self._alternatives(kind, (kind,))

    def _body(self, record: RecordSpec) -> Check:
        fields = {entry.name: self.of(entry.type) for entry in record.fields}
        needed = [entry.name for entry in record.fields if self._complete or not entry.optional]
        return _object(fields, needed, [RULES[rule] for rule in record.rules])

    def _alternatives(self, name: str, members: tuple[str, ...] = ()) -> Check:
        tagged: dict[str, Check] = {}
        bare: list[Check] = []
        for member in members or self._table.unions[name]:
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
