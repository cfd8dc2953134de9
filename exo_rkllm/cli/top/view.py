"""What is to be seen, as values: two looks at the machine become rates, rows and words. No terminal in here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exo_rkllm.board.counters import Clock, Reading
from exo_rkllm.board.detect import Board
from exo_rkllm.board.files import clean
from exo_rkllm.client.control import DaemonStatus

# Columns of the requests that can be sorted by, in the order of the key.
SORTS = ("since", "model", "client", "tokens", "speed")
# Seconds of load that are kept: as many as the widest terminals show.
HISTORY = 240


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look. `at` is monotonic, `now` is the clock's, as the daemon's moments are."""

    at: float
    now: float
    board: Board
    reading: Reading
    service: DaemonStatus


@dataclass(frozen=True, slots=True)
class ModelRow:
    name: str
    state: str
    memory: int
    context: int
    running: int
    waiting: int
    speed: float | None
    unload_in: float | None
    error: str


@dataclass(frozen=True, slots=True)
class RequestRow:
    id: str
    model: str
    client: str
    state: str  # running, or the place in the queue
    since: float  # seconds
    tokens: int
    speed: float | None


@dataclass(frozen=True, slots=True)
class ModelOrder:
    column: str = SORTS[0]
    down: bool = True

    def next(self) -> ModelOrder:
        return ModelOrder(SORTS[(SORTS.index(self.column) + 1) % len(SORTS)], self.down)

    def turned(self) -> ModelOrder:
        return ModelOrder(self.column, not self.down)


@dataclass(frozen=True, slots=True)
class View:
    title: str
    facts: tuple[str, ...]
    board_unavailable_reason: str
    load: tuple[float, ...] | None
    no_load: str
    history: tuple[tuple[float, ...], ...]
    clock: Clock | None
    ddr: Clock | None
    celsius: float | None
    powered: bool | None
    volts: float | None
    memory_total: int | None
    memory_used: int | None
    memory_models: int
    service: str  # empty while the daemon answers
    unavailable_reason: str
    models: tuple[ModelRow, ...] = ()
    requests: tuple[RequestRow, ...] = ()
    speed: float | None = None  # of all requests; nobody knows it while the daemon says nothing
    order: ModelOrder = field(default_factory=ModelOrder)
    now: float = 0.0


def view(
    seen: Snapshot,
    before: Snapshot | None = None,
    history: Sequence[tuple[float, ...]] = (),
    order: ModelOrder | None = None,
) -> View:
    order = order or ModelOrder()
    board, reading, status = seen.board, seen.reading, seen.service.status
    load = load_of(seen)
    requests = _requests(seen, before)
    models = _models(status, requests, seen.now)
    reason = board.unavailable_reason()
    used = None
    if reading.memory_total is not None and reading.memory_available is not None:
        used = reading.memory_total - reading.memory_available
    return View(
        title=board.title,
        facts=tuple(_facts(board)),
        board_unavailable_reason=_said(reason.sentence, reason.hint) if reason is not None else "",
        load=load,
        no_load=reading.absent.get("load", ""),
        history=tuple(history),
        clock=reading.clock,
        ddr=reading.ddr,
        celsius=reading.celsius,
        powered=reading.powered,
        volts=reading.volts,
        memory_total=reading.memory_total,
        memory_used=used,
        memory_models=sum(model.memory for model in models if model.state == "ready"),
        service=_service(seen.service),
        unavailable_reason=_unavailable_reason(status, reason.sentence if reason is not None else ""),
        models=models,
        requests=_sorted(requests, order),
        speed=None if status is None else sum(row.speed or 0.0 for row in requests),
        order=order,
        now=seen.now,
    )


def load_of(seen: Snapshot) -> tuple[float, ...] | None:
    """The board's own word, else the daemon's, which may read what this user may not."""
    return seen.service.load if seen.reading.load is None else seen.reading.load


def _facts(board: Board) -> list[str]:
    facts = [board.soc_name.upper()] if board.soc_name else []
    if board.npu is not None:
        facts.append(f"{board.npu.driver} {board.npu.version}".strip())
    return facts


def _said(sentence: str, hint: str) -> str:
    return f"{sentence} Try: {hint}" if hint else sentence


def _unavailable_reason(status: Mapping[str, Any] | None, known: str) -> str:
    """What keeps the daemon from serving, unless the board already gives the same reason."""
    found = clean(str((status or {}).get("unavailable_reason") or ""), 200)
    return _said(found, clean(str((status or {}).get("hint") or ""), 300)) if found and found != known else ""


def _service(service: DaemonStatus) -> str:
    if service.error is not None:
        return _said(service.error.sentence, service.error.hint)
    return "" if service.status is not None else "The daemon is not running: sudo systemctl start exo-rkllm"


def _models(status: Mapping[str, Any] | None, requests: Sequence[RequestRow], now: float) -> tuple[ModelRow, ...]:
    rows = []
    for one in _list(status, "models"):
        name = clean(str(one.get("name", "")), 60)
        speeds = [row.speed for row in requests if row.model == name and row.speed is not None]
        unload_at = one.get("unload_at")
        rows.append(
            ModelRow(
                name=name,
                state=clean(str(one.get("state", "")), 12),
                memory=_whole(one.get("memory")),
                context=_whole(one.get("context")),
                running=len(_list(one, "running")),
                waiting=len(_list(one, "waiting")),
                speed=sum(speeds) if speeds else None,
                unload_in=max(unload_at - now, 0.0) if isinstance(unload_at, int | float) else None,
                error=clean(str(one.get("error") or ""), 200),
            )
        )
    order = {"ready": 0, "loading": 1, "closing": 2}
    return tuple(sorted(rows, key=lambda row: (order.get(row.state, 3), row.name)))


def _requests(seen: Snapshot, before: Snapshot | None) -> list[RequestRow]:
    earlier = {row.id: row for row in _rows(before)} if before is not None else {}
    elapsed = seen.at - before.at if before is not None else 0.0
    return [_with_speed(row, earlier.get(row.id), elapsed) for row in _rows(seen)]


def _rows(seen: Snapshot) -> list[RequestRow]:
    return [
        RequestRow(
            id=clean(str(request.get("id", "")), 60),
            model=clean(str(one.get("name", "")), 60),
            client=clean(str(request.get("client") or ""), 40),
            state="running" if kind == "running" else _place(_whole(request.get("ahead"))),
            since=max(seen.now - _number(request.get("since"), seen.now), 0.0),
            tokens=_whole(request.get("tokens")),
            speed=None,
        )
        for one in _list(seen.service.status, "models")
        for kind in ("running", "waiting")
        for request in _list(one, kind)
    ]


def _place(ahead: int) -> str:
    return f"{ahead} ahead" if ahead else "next"


def _with_speed(row: RequestRow, earlier: RequestRow | None, elapsed: float) -> RequestRow:
    """Tokens of the last second; a request that was not there before has its mean so far."""
    if row.state != "running" or not row.tokens:
        return row
    if earlier is not None and earlier.state == "running" and elapsed > 0:
        speed = max(row.tokens - earlier.tokens, 0) / elapsed
    elif row.since > 0:
        speed = row.tokens / row.since
    else:
        return row
    return RequestRow(row.id, row.model, row.client, row.state, row.since, row.tokens, speed)


def _sorted(rows: Sequence[RequestRow], order: ModelOrder) -> tuple[RequestRow, ...]:
    """Those that run stand above those that wait, whichever way the column is turned."""

    def rank(row: RequestRow) -> tuple[Any, ...]:
        value = getattr(row, order.column)
        return (value is not None, value if value is not None else 0, row.since)

    turned = sorted(rows, key=rank, reverse=order.down)
    return tuple(sorted(turned, key=lambda row: row.state != "running"))


def _list(source: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """A daemon of another version may say less or other things; what is not a list of objects is nothing."""
    found = (source or {}).get(name)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list | tuple) else []


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0
