"""What top shows, as values: two snapshots of the machine become rates, rows and sentences. Knows no terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from exo_rkllm.board.counters import Reading
from exo_rkllm.board.detect import Board
from exo_rkllm.board.files import clean
from exo_rkllm.client.control import DaemonStatus

# Columns that requests can be sorted by, in the order of the key `s`.
SORTS = ("since", "model", "client", "tokens", "speed")
# Seconds of load to keep, as many as the widest terminals show.
HISTORY = 240


class PastPoint(NamedTuple):
    """The mean of the cores in the seconds before `time`; None where it could not be read."""

    time: float
    load: float | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine and the daemon at one moment: `at` is monotonic, `now` wall-clock time like the daemon's."""

    at: float
    now: float
    board: Board
    reading: Reading
    service: DaemonStatus
    neighbours: Mapping[str, int] = field(default_factory=dict)  # other programs that hold the NPU: their processes
    past: tuple[PastPoint, ...] | None = None  # the daemon's last hour, where it is shown


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
    encoded: str  # so many of its images, the others' encodings had been kept; empty without images
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
class ClusterRow:
    name: str
    role: str
    model: str
    chip: str


@dataclass(frozen=True, slots=True)
class NeighbourRow:
    """A program that is none of ours and uses the NPU; `processes` is 0 where only its lease is known."""

    name: str
    processes: int
    turn: str  # what it does on the NPU


@dataclass(frozen=True, slots=True)
class ModelOrder:
    column: str = SORTS[0]
    down: bool = True

    def next(self) -> ModelOrder:
        return ModelOrder(SORTS[(SORTS.index(self.column) + 1) % len(SORTS)], self.down)

    def reversed(self) -> ModelOrder:
        return ModelOrder(self.column, not self.down)


@dataclass(frozen=True, slots=True)
class View:
    title: str
    facts: tuple[str, ...]
    board_unavailable_reason: str
    load: tuple[float, ...] | None
    history: tuple[tuple[float, ...], ...]
    reading: Reading
    memory_used: int | None
    memory_models: int
    service: str  # empty while the daemon answers
    unavailable_reason: str
    lease: str = ""  # that models wait for a program that has the NPU
    neighbours: tuple[NeighbourRow, ...] = ()
    past: tuple[PastPoint, ...] | None = None
    models: tuple[ModelRow, ...] = ()
    requests: tuple[RequestRow, ...] = ()
    cluster: tuple[ClusterRow, ...] = ()
    selected: ModelRow | RequestRow | None = None  # what a key acts on
    speed: float | None = None  # of all requests; None without a daemon
    order: ModelOrder = field(default_factory=ModelOrder)
    now: float = 0.0


def view(
    snapshot: Snapshot,
    before: Snapshot | None = None,
    history: Sequence[tuple[float, ...]] = (),
    order: ModelOrder | None = None,
    selected: str = "",
) -> View:
    """`selected` is the key of a row; one that is gone selects none."""
    order = order or ModelOrder()
    board, reading, status = snapshot.board, snapshot.reading, snapshot.service.status
    requests = _requests(snapshot, before)
    models = _models(status, requests, snapshot.now)
    reason = board.unavailable_reason()
    used = None
    if reading.memory_total is not None and reading.memory_available is not None:
        used = reading.memory_total - reading.memory_available
    return View(
        title=board.title,
        facts=tuple(_facts(board)),
        board_unavailable_reason=_with_hint(reason.sentence, reason.hint) if reason is not None else "",
        load=load_of(snapshot),
        history=tuple(history),
        reading=reading,
        memory_used=used,
        memory_models=sum(model.memory for model in models if model.state == "ready"),
        service=_service(snapshot.service),
        unavailable_reason=_unavailable_reason(status, reason.sentence if reason is not None else ""),
        lease=_lease(status),
        neighbours=tuple(_neighbours(snapshot)),
        past=snapshot.past,
        models=models,
        requests=_in_order(requests, order),
        cluster=_cluster(status),
        selected={key_of(row): row for row in _rows_of(models, requests)}.get(selected),
        speed=None if status is None else sum(row.speed or 0.0 for row in requests),
        order=order,
        now=snapshot.now,
    )


def key_of(row: ModelRow | RequestRow) -> str:
    return f"model {row.name}" if isinstance(row, ModelRow) else f"request {row.id}"


def _rows_of(models: Sequence[ModelRow], requests: Sequence[RequestRow]) -> list[ModelRow | RequestRow]:
    return [*models, *requests]


def neighbour(view: View, step: int) -> str:
    """The key of the row after the selected one, or before it; the first or last where none is selected."""
    keys = [key_of(row) for row in _rows_of(view.models, view.requests)]
    if not keys:
        return ""
    if view.selected is None:
        return keys[0 if step > 0 else -1]
    return keys[min(max(keys.index(key_of(view.selected)) + step, 0), len(keys) - 1)]


def load_of(snapshot: Snapshot) -> tuple[float, ...] | None:
    """The load of each core as this user can read it, else as the daemon reports it."""
    return snapshot.service.load if snapshot.reading.load is None else snapshot.reading.load


def _facts(board: Board) -> list[str]:
    facts = [board.soc_name.upper()] if board.soc_name else []
    if board.npu is not None:
        facts.append(f"{board.npu.driver} {board.npu.version}".strip())
    return facts


def _with_hint(sentence: str, hint: str) -> str:
    return f"{sentence} Try: {hint}" if hint else sentence


def _unavailable_reason(status: Mapping[str, Any] | None, board_reason: str) -> str:
    """What keeps the daemon from serving, unless the board already gives the same reason."""
    reason = clean(str((status or {}).get("unavailable_reason") or ""), 200)
    return (
        _with_hint(reason, clean(str((status or {}).get("hint") or ""), 300))
        if reason and reason != board_reason
        else ""
    )


def _holder(status: Mapping[str, Any] | None) -> tuple[str, list[str]]:
    """The program that has the NPU by a lease, and those that wait for it."""
    lease = (status or {}).get("lease")
    if not isinstance(lease, Mapping):
        return "", []
    waiting = lease.get("waiting")
    names = waiting if isinstance(waiting, list | tuple) else ()
    return clean(str(lease.get("name") or ""), 60), [clean(str(name), 60) for name in names]


def _lease(status: Mapping[str, Any] | None) -> str:
    holder, _ = _holder(status)
    return f"{holder} has the NPU by a lease, and models wait." if holder else ""


def _neighbours(snapshot: Snapshot) -> Iterator[NeighbourRow]:
    """Other programs on the NPU, as this user or the daemon sees them, with those that take turns by a lease."""
    status = snapshot.service.status or {}
    npu = status.get("npu")
    told = npu.get("neighbours") if isinstance(npu, Mapping) else None
    names = snapshot.neighbours or (told.get("names") if isinstance(told, Mapping) else None)
    counts = (
        {clean(str(name), 60): _whole(count) for name, count in names.items()} if isinstance(names, Mapping) else {}
    )
    holder, waiting = _holder(status)
    if holder:
        yield NeighbourRow(holder, counts.pop(holder, 0), "has it by a lease")
    for name in waiting:
        yield NeighbourRow(name, counts.pop(name, 0), "waits for its turn")
    yield from (NeighbourRow(name, count, "has it open") for name, count in counts.items())


def _service(service: DaemonStatus) -> str:
    if service.error is not None:
        return _with_hint(service.error.sentence, service.error.hint)
    return "" if service.status is not None else "The daemon is not running: sudo systemctl start exo-rkllm"


def _models(status: Mapping[str, Any] | None, requests: Sequence[RequestRow], now: float) -> tuple[ModelRow, ...]:
    rows = []
    for model in _list(status, "models"):
        name = clean(str(model.get("name", "")), 60)
        speeds = [row.speed for row in requests if row.model == name and row.speed is not None]
        unload_at = model.get("unload_at")
        rows.append(
            ModelRow(
                name=name,
                state=clean(str(model.get("state", "")), 12),
                memory=_whole(model.get("memory")),
                context=_whole(model.get("context")),
                running=len(_list(model, "running")),
                waiting=len(_list(model, "waiting")),
                speed=sum(speeds) if speeds else None,
                unload_in=max(unload_at - now, 0.0) if isinstance(unload_at, int | float) else None,
                encoded=_encoded(model.get("pictures")),
                error=clean(str(model.get("error") or ""), 200),
            )
        )
    order = {"ready": 0, "loading": 1, "closing": 2}
    return tuple(sorted(rows, key=lambda row: (order.get(row.state, 3), row.name)))


def _encoded(tally: object) -> str:
    shown = _whole(tally.get("shown")) if isinstance(tally, Mapping) else 0
    return f"{_whole(tally.get('encoded'))} of {shown}" if shown and isinstance(tally, Mapping) else ""


def _cluster(status: Mapping[str, Any] | None) -> tuple[ClusterRow, ...]:
    cluster = (status or {}).get("cluster")
    nodes = _list(cluster if isinstance(cluster, Mapping) else None, "nodes")
    return tuple(
        ClusterRow(
            name=clean(str(node.get("name") or node.get("id") or "")[:30], 30),
            role=", ".join(role for role, key in (("master", "master"), ("this board", "me")) if node.get(key)),
            model=clean(str(node.get("model") or ""), 30),
            chip=clean(str(node.get("chip") or ""), 30),
        )
        for node in nodes
    )


def _requests(snapshot: Snapshot, before: Snapshot | None) -> list[RequestRow]:
    earlier = {row.id: row for row in _rows(before)} if before is not None else {}
    seconds = snapshot.at - before.at if before is not None else 0.0
    return [_with_speed(row, earlier.get(row.id), seconds) for row in _rows(snapshot)]


def _rows(snapshot: Snapshot) -> list[RequestRow]:
    return [
        RequestRow(
            id=clean(str(request.get("id", "")), 60),
            model=clean(str(model.get("name", "")), 60),
            client=clean(str(request.get("client") or ""), 40),
            state="running" if kind == "running" else _queue_place(_whole(request.get("ahead"))),
            since=max(snapshot.now - _number(request.get("since"), snapshot.now), 0.0),
            tokens=_whole(request.get("tokens")),
            speed=None,
        )
        for model in _list(snapshot.service.status, "models")
        for kind in ("running", "waiting")
        for request in _list(model, kind)
    ]


def _queue_place(ahead: int) -> str:
    return f"{ahead} ahead" if ahead else "next"


def _with_speed(row: RequestRow, earlier: RequestRow | None, seconds: float) -> RequestRow:
    """The row with its tokens per second since the last snapshot; for a new request, the mean so far."""
    if row.state != "running" or not row.tokens:
        return row
    if earlier is not None and earlier.state == "running" and seconds > 0:
        speed = max(row.tokens - earlier.tokens, 0) / seconds
    elif row.since > 0:
        speed = row.tokens / row.since
    else:
        return row
    return RequestRow(row.id, row.model, row.client, row.state, row.since, row.tokens, speed)


def _in_order(rows: Sequence[RequestRow], order: ModelOrder) -> tuple[RequestRow, ...]:
    """Running requests come before waiting ones, whatever the order of the column."""

    def rank(row: RequestRow) -> tuple[Any, ...]:
        value = getattr(row, order.column)
        return (value is not None, value if value is not None else 0, row.since)

    by_column = sorted(rows, key=rank, reverse=order.down)
    return tuple(sorted(by_column, key=lambda row: row.state != "running"))


def _list(source: Mapping[str, Any] | None, name: str) -> list[Mapping[str, Any]]:
    """The objects in a list of the status; a daemon of another version may send something else."""
    value = (source or {}).get(name)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def _whole(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0
