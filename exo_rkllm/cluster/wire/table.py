"""The notation of the tables of exo's types, and the form that a table gives to a value.

    enum NAME: VALUE ...            one of these strings
    record NAME[(BASE)]: FIELD, ... an object with the fields of BASE and these, no others
    tagged NAME[(BASE)] [as TAG]: FIELD, ...    the same, wrapped as {"TAG": {...}}
    union NAME: TYPE ...            one of these
    topic NAME: TYPE                what a topic carries
    list NAME: WORD ...             words that something else compares with

A FIELD is `name TYPE [= DEFAULT]`; the default is what an exo node puts there if the field is missing: JSON, or
`default` if only the node can make it. Fields may go on in indented lines; so may `rule NAME`, a check of the whole.

A TYPE is a name from the table or from `checks.PLAIN`, then any of `?` (or null), `[]` (list of), `{}` (object of).
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

# Stands for no default, or for one that only the receiver can fill in.
NO_VALUE: Any = object()


@dataclass(frozen=True, slots=True)
class WireField:
    """`optional` if an exo node takes a record without it; then `default` is what it puts there, if that is known."""

    name: str
    type: str
    optional: bool = False
    default: Any = NO_VALUE
    camel: str = ""  # the name as exo's HTTP API spells it


@dataclass(frozen=True)
class RecordSpec:
    name: str
    tag: str | None
    fields: tuple[WireField, ...] = ()
    rules: tuple[str, ...] = ()
    later: frozenset[str] = frozenset()  # fields that a later revision has, and this one refuses

    @functools.cached_property
    def spellings(self) -> frozenset[str]:
        return frozenset(name for entry in self.fields for name in (entry.name, entry.camel)) | self.later


@dataclass(slots=True)
class WireTable:
    """A parsed table: names to values, records, alternatives and topics."""

    enums: dict[str, tuple[str, ...]] = field(default_factory=dict)
    records: dict[str, RecordSpec] = field(default_factory=dict)
    unions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    topics: dict[str, str] = field(default_factory=dict)
    lists: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def shape(self, kind: str, value: Any) -> Any:
        """`value` as a value of this type is written: fields by their names in the table, defaults filled in.

        Fields are taken in snake_case and in camelCase, which exo both accepts. Fields of later revisions are left
        out. Nothing is checked: whatever else does not belong to the type stays as it is.
        """
        if isinstance(value, dict):
            if kind in self.unions:
                return self._alternative(self.unions[kind], value)
            if kind in self.records:
                return self._record(self.records[kind], value)
            if kind.endswith("?"):
                return self.shape(kind[:-1], value)
            if kind.endswith("{}"):
                return {key: self.shape(kind[:-2], entry) for key, entry in value.items()}
        elif isinstance(value, list):
            return [self.shape(kind.removesuffix("?").removesuffix("[]"), entry) for entry in value]
        return value

    def _alternative(self, members: tuple[str, ...], value: dict[str, Any]) -> Any:
        tag = next(iter(value)) if len(value) == 1 else None
        for record in (self.records[member] for member in members):
            if record.tag is None and value.keys() <= record.spellings:
                return self._record(record, value)
            if tag is not None and record.tag == tag and isinstance(value[tag], dict):
                return {tag: self._record(record, value[tag])}
        return value

    def _record(self, record: RecordSpec, value: dict[str, Any]) -> dict[str, Any]:
        shaped = {}
        for entry in record.fields:
            given = value.get(entry.name, NO_VALUE)
            if given is NO_VALUE:
                given = value.get(entry.camel, entry.default)
            if given is not NO_VALUE:
                shaped[entry.name] = self.shape(entry.type, given) if isinstance(given, dict | list) else given
        if not value.keys() <= record.spellings:
            shaped.update({name: value[name] for name in value.keys() - record.spellings})
        return shaped

    def without(self, text: str) -> WireTable:
        """The table of an earlier revision: `TYPE: FIELD ...` a line takes fields away, `TYPE` the whole type."""
        earlier = replace(self, **{name: dict(getattr(self, name)) for name in self.__slots__})
        for line in filter(None, text.splitlines()):
            name, _, fields = line.partition(": ")
            if fields:
                record, later = earlier.records[name], frozenset(fields.split())
                kept = tuple(entry for entry in record.fields if entry.name not in later)
                earlier.records[name] = replace(record, fields=kept, later=later)
            else:
                for kinds in (earlier.records, earlier.enums, earlier.unions):
                    kinds.pop(name, None)
                for lists in (earlier.unions, earlier.lists):
                    lists.update({key: tuple(one for one in names if one != name) for key, names in lists.items()})
        return earlier


def parse(text: str) -> WireTable:
    """The table that a text in the notation above describes; raises ValueError for a line that means nothing."""
    table, inside = WireTable(), ""
    for line in text.splitlines():
        if line.startswith(" "):
            table.records[inside] = _with_members(table.records[inside], line.strip())
        elif line.strip() and not line.startswith("#"):
            inside = _declare(table, line)
    return table


_RECORD = re.compile(r"(record|tagged) (\w+)(?:\((\w+)\))?(?: as (\w+))?(?:: (.+))?")
_NAMES = re.compile(r"(enum|union|list|topic) (\w+): (.+)")


def _declare(table: WireTable, line: str) -> str:
    """Take in a line that begins something; returns the name that the indented lines after it belong to."""
    if match := _RECORD.fullmatch(line):
        kind, name, base, tag, members = match.groups()
        spec = table.records[base] if base else RecordSpec("", None)
        record = RecordSpec(name, (tag or name) if kind == "tagged" else None, spec.fields, spec.rules)
        table.records[name] = _with_members(record, members or "")
        return str(name)
    if match := _NAMES.fullmatch(line):
        kind, name, words = match.groups()
        if kind == "topic":
            table.topics[name] = words
        else:
            lists = {"enum": table.enums, "union": table.unions, "list": table.lists}[kind]
            lists[name] = (*lists.get(name, ()), *words.split())
        return ""
    raise ValueError(f"not a line of a schema table: {line!r}")


def _with_members(record: RecordSpec, text: str) -> RecordSpec:
    if text.startswith("rule "):
        return replace(record, rules=(*record.rules, text.removeprefix("rule ")))
    return replace(record, fields=(*record.fields, *(_field(part) for part in text.split(", ") if part)))


def _field(text: str) -> WireField:
    name, _, rest = text.partition(" ")
    kind, _, default = rest.partition(" = ")
    value = NO_VALUE if default in ("", "default") else json.loads(default)
    camel = re.sub(r"_(\w)", lambda match: match[1].upper(), name)
    return WireField(name, kind, bool(default), value, camel)
