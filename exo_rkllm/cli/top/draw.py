"""Turn a view into lines of styled text: `lines` for a screen, `plain` for files and pipes.

Every line fits the width, since whatever does not fit is shortened here; the terminal never wraps.
"""

from __future__ import annotations

import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from exo_rkllm.board.counters import Clock
from exo_rkllm.cli.top.view import ClusterRow, ModelRow, NeighbourRow, PastPoint, RequestRow, View

GIB = 1 << 30
# Eighths of a cell make one percent visible on a long bar.
EIGHTHS = " ▏▎▍▌▋▊▉█"
LEVELS = "▁▂▃▄▅▆▇█"
Span: TypeAlias = "tuple[str, str]"  # text, style
Line: TypeAlias = "list[Span]"


# Limits of the column that takes the remaining width: on a wider one the eye loses the row.
NARROWEST, WIDEST = 14, 48


class Column(NamedTuple):
    """`width` 0 takes the remaining width; `right` aligns numbers; `key` is the sort order of the column, if any."""

    title: str
    width: int
    right: bool = False
    key: str = ""


MODELS = (
    Column("MODEL", 0),
    Column("STATE", 8),
    Column("MEMORY", 9, right=True),
    Column("CONTEXT", 8, right=True),
    Column("RUN", 4, right=True),
    Column("WAIT", 5, right=True),
    Column("TOK/S", 7, right=True),
    Column("UNLOADS", 8, right=True),
    Column("ENCODED", 9, right=True),
)
REQUESTS = (
    Column("REQUEST", 8),
    Column("MODEL", 0, key="model"),
    Column("CLIENT", 15, key="client"),
    Column("STATE", 9),
    Column("FOR", 8, right=True, key="since"),
    Column("TOKENS", 7, right=True, key="tokens"),
    Column("TOK/S", 7, right=True, key="speed"),
)


NEIGHBOURS = (Column("OTHER PROGRAM", 0), Column("PROCESSES", 9, right=True), Column("NPU", 18))
CLUSTER = (Column("CLUSTER NODE", 0), Column("ROLE", 18), Column("MACHINE", 24), Column("CHIP", 16))
# A lower terminal shows all cores in one line, and no empty lines.
LOW = 16
# Lines of the past below everything else, and what it needs at least.
GRAPH, GRAPH_LEAST = 10, 5
HOUR = 3600.0


def cells(text: str) -> int:
    """The number of terminal columns of a text: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Exactly `width` columns: cut with an ellipsis, or padded with blanks."""
    if cells(text) > width:
        while text and cells(text) > width - 1:
            text = text[:-1]
        text += "…" if width > 0 else ""
    blank = " " * (width - cells(text))
    return blank + text if right else text + blank


def bar(part: float, width: int) -> Line:
    """A bar between two marks."""
    inner = max(width - 2, 1)
    eighths = round(min(max(part, 0.0), 1.0) * inner * 8)
    full, rest = divmod(eighths, 8)
    blocks = "█" * full + (EIGHTHS[rest] if rest else "")
    return [("▕", "dim"), (blocks, "bar"), (" " * (inner - len(blocks)), ""), ("▏", "dim")]


def spark(values: Sequence[float], width: int) -> str:
    """The last `width` values, the newest at the right."""
    recent = list(values)[-width:] if width > 0 else []
    return "".join(LEVELS[min(int(value * len(LEVELS)), len(LEVELS) - 1)] for value in recent).rjust(width)


def lines(view: View, width: int, height: int, *, paused: bool = False, message: str = "") -> list[Line]:
    """The whole screen, `height` lines of at most `width` columns."""
    low = height < LOW
    npu = _cores(view, width) if low and view.load else _npu(view, width)
    top = [_header(view, width), *npu, *_facts(view, width), *([] if low else [[]])]
    foot = [_footer(view, width, paused=paused, message=message)]
    room = max(height - len(top) - len(foot), 0)
    body = _body(view, width, room)
    whole = [*top[: height - len(foot)], *body, *([[]] * (room - len(body))), *foot]
    return [crop(line, width) for line in whole[:height]]


def crop(line: Line, width: int) -> Line:
    """Cut a line whose parts are wider than a very narrow terminal."""
    result: Line = []
    for text, style in line:
        rest = width - sum(cells(part) for part, _ in result)
        result.append((text if cells(text) <= rest else fit(text, rest), style))
    return result


def plain(view: View, width: int = 100) -> Iterator[str]:
    """Every row, for files and pipes."""
    rows = [_header(view, width), *_npu(view, width), *_facts(view, width)]
    rows += [[], *_models(view, width, len(view.models))] if view.models else []
    rows += [[], *_requests(view, width, len(view.requests))] if view.requests else []
    rows += [[], *_table(NEIGHBOURS, view.neighbours, _neighbour, width, 99, "")] if view.neighbours else []
    rows += [[(notice, "")] for notice in _notices(view)]
    return ("".join(text for text, _ in row).rstrip() for row in rows)


# ── parts ────────────────────────────────────────────────────────────────────────────────────────


def _header(view: View, width: int) -> Line:
    clock = time.strftime("%H:%M:%S", time.localtime(view.now))
    title = view.title
    for fact in view.facts:  # whole or not at all
        title += f" · {fact}" if cells(title) + cells(fact) + len(clock) + 5 <= width else ""
    return [(fit(f" {title}", width - len(clock) - 1), "title"), (f"{clock} ", "title")]


def _npu(view: View, width: int) -> Iterator[Line]:
    """A bar for each core; on a wide terminal with the last minutes beside it."""
    if view.load is None:
        if view.reading.absent.get("load") and not view.board_unavailable_reason:
            yield from _wrap(f"NPU load is not available: {view.reading.absent.get('load')}.", width)
        return
    past = 0 if width < 100 else min((width - 60) // 2, 120)
    for core, part in enumerate(view.load):
        label, figure = f" core {core} ", f" {part:4.0%} "
        line: Line = [(label, ""), *bar(part, width - len(label) - len(figure) - past), (figure, "value")]
        if past:
            series = [moment[core] for moment in view.history if core < len(moment)]
            line.append((spark(series, past - 1) + " ", "spark"))
        yield line


def _cores(view: View, width: int) -> Iterator[Line]:
    """All cores in one line: a bar of their mean, and each one's figure."""
    load = view.load or ()
    label, figures = " cores ", "".join(f" {part:4.0%}" for part in load) + " "
    yield [(label, ""), *bar(sum(load) / len(load), width - len(label) - len(figures)), (figures, "value")]


def _facts(view: View, width: int) -> Iterator[Line]:
    parts: Line = [(" ", "")]
    for name, value, style in _figures(view):
        if sum(cells(text) for text, _ in parts) + cells(name) + cells(value) + 4 > width:
            break
        parts += [(f"{name} ", "dim"), (value, style), ("   ", "")]
    yield parts
    if view.reading.memory_total and view.memory_used is not None:
        figure = f" {view.memory_used / GIB:.1f} of {view.reading.memory_total / GIB:.1f} GiB"
        models = f", models {view.memory_models / GIB:.1f}" if view.memory_models and width >= 72 else ""
        label, text = " memory ", fit(figure + models, len(figure) + len(models)) + " "
        used = view.memory_used / view.reading.memory_total
        yield [(label, ""), *bar(used, width - len(label) - len(text)), (text, "bad" if used > 0.95 else "value")]


def _figures(view: View) -> Iterator[tuple[str, str, str]]:
    """Name, value and style, the most important first: a narrow terminal shows only the first ones."""
    if view.reading.clock is not None:
        yield "NPU", _clock(view.reading.clock), "bad" if view.reading.clock.throttled else "value"
    if view.reading.celsius is not None:
        style = "bad" if view.reading.celsius > 85 else "warn" if view.reading.celsius > 75 else "value"
        yield "temp", f"{view.reading.celsius:.0f} °C", style
    if view.reading.powered is not None:
        yield "power", "on" if view.reading.powered else "off", "value" if view.reading.powered else "dim"
    if view.speed is not None:
        yield "tok/s", f"{view.speed:.1f}", "value"
    if view.reading.ddr is not None:
        yield "DDR", f"{view.reading.ddr.hertz / 1e6:.0f} MHz", "value"
    if view.reading.volts is not None:
        yield "volt", f"{view.reading.volts:.3f}", "value"


def _clock(clock: Clock) -> str:
    limit = f" (limit {clock.maximum / 1e6:.0f})" if clock.throttled and clock.maximum else ""
    return f"{clock.hertz / 1e6:.0f} MHz{limit}"


def _notices(view: View) -> Iterator[str]:
    yield from (
        text for text in (view.board_unavailable_reason, view.unavailable_reason, view.lease, view.service) if text
    )


def _wrap(notice: str, width: int) -> Iterator[Line]:
    for part in textwrap.wrap(notice, max(width - 2, 10), break_on_hyphens=False):
        yield [(fit(f" {part}", width), "warn")]


def _body(view: View, width: int, room: int) -> list[Line]:
    """Models above requests. If both need more rows than there are, the models get at most half."""
    rows = [line for notice in _notices(view) for line in _wrap(notice, width)][:room]
    free = room - len(rows)
    if view.models and free >= 2:
        most = free - 1 if not view.requests else max(free // 2 - 1, 1)
        rows += _models(view, width, most)
        free = room - len(rows)
    if view.requests and free >= 3:
        rows += [[], *_requests(view, width, free - 2)]
    free = room - len(rows)
    if view.neighbours and free >= 3:
        rows += [[], *_table(NEIGHBOURS, view.neighbours, _neighbour, width, min(free - 2, 6), "")]
    free = room - len(rows)
    if view.cluster and free >= 4:
        rows += [[], *_table(CLUSTER, view.cluster, _node, width, min(free - 2, 8), "")]
    free = room - len(rows)
    if free > GRAPH_LEAST and (view.past is not None or (view.load and view.history)):
        rows += [[]] * (free - min(free - 1, GRAPH)) + list(_graph(view, width, min(free - 1, GRAPH)))
    return rows


def _graph(view: View, width: int, height: int) -> Iterator[Line]:
    """The mean of the cores, the newest at the right: a column a second, or the daemon's hour in as many columns."""
    if view.past is None:
        means = [sum(cores) / len(cores) if cores else 0.0 for cores in view.history][-(width - 2) :]
        title = f"NPU load of the last {_span(len(means))}"
    else:
        means = hour(view.past, view.now, width - 2)
        title = "NPU load of the last hour" + ("" if view.past else ": the daemon remembers none")
    yield [(fit(f" {title}", width), "head")]
    for line in reversed(range(height - 1)):
        steps = [round(min(max(mean * (height - 1) - line, 0.0), 1.0) * 8) for mean in means]
        yield [(" ", ""), ("".join(" ▁▂▃▄▅▆▇█"[step] for step in steps).rjust(width - 2), "spark"), (" ", "")]


def hour(past: Sequence[PastPoint], now: float, columns: int) -> list[float]:
    """The mean of each column's points; 0 where there are none, as while the NPU had no power."""
    sums = [[0.0, 0] for _ in range(columns)]
    for point in past:
        place = int((point.time - now + HOUR) * columns / HOUR)
        if point.load is not None and 0 <= place < columns:
            sums[place][0] += point.load
            sums[place][1] += 1
    return [total / count if count else 0.0 for total, count in sums]


def _models(view: View, width: int, most: int) -> list[Line]:
    return _table(MODELS, view.models, _model, width, most, "", selected=view.selected)


def _requests(view: View, width: int, most: int) -> list[Line]:
    order = view.order
    return _table(REQUESTS, view.requests, _request, width, most, order.column, down=order.down, selected=view.selected)


def _table(
    columns: Sequence[Column],
    rows: Sequence[ModelRow] | Sequence[RequestRow] | Sequence[ClusterRow] | Sequence[NeighbourRow],
    show: Callable[..., Sequence[Span]],
    width: int,
    most: int,
    key: str,
    *,
    down: bool = True,
    selected: ModelRow | RequestRow | None = None,
) -> list[Line]:
    """A head and at most `most` rows, the last of which counts hidden ones. Narrow tables drop their last columns."""
    visible = list(columns)
    while len(visible) > 2 and sum(column.width or NARROWEST for column in visible) + len(visible) >= width:
        visible.pop(-2 if visible[-1].key == "speed" else -1)
    spare = width - 2 - sum(column.width for column in visible) - (len(visible) - 1)
    widths = [column.width or min(max(spare, NARROWEST), WIDEST) for column in visible]
    places = [columns.index(column) for column in visible]
    marks = [("▾" if down else "▴") if key and column.key == key else "" for column in visible]
    titles = zip(visible, marks, widths, strict=True)
    head = [fit(column.title + mark, size, right=column.right) for column, mark, size in titles]
    table: list[Line] = [[(fit(" " + " ".join(head), width), "head")]]
    fitting = rows if len(rows) <= most else rows[: max(most - 1, 0)]
    for row in fitting:
        values = show(row)
        spans: Line = [("›" if row is selected else " ", "value")]
        for place, column, size in zip(places, visible, widths, strict=True):
            text, style = values[place]
            spans += [(fit(text, size, right=column.right), style), (" ", "")]
        table.append(spans[:-1])
    if len(rows) > len(fitting) and most > 0:
        table.append([(fit(f" and {len(rows) - len(fitting)} more", width), "dim")])
    return table


def _model(row: ModelRow) -> Sequence[Span]:
    state = {"ready": "good", "loading": "warn", "failed": "bad"}.get(row.state, "dim")
    return (
        (f"{row.name}: {row.error}" if row.error else row.name, "bad" if row.error else ""),
        (row.state, state),
        (f"{row.memory / GIB:.1f} GiB" if row.memory else "", ""),
        (str(row.context) if row.context else "", ""),
        (str(row.running), "value" if row.running else "dim"),
        (str(row.waiting), "warn" if row.waiting else "dim"),
        (f"{row.speed:.1f}" if row.speed is not None else "", "value"),
        (_span(row.unload_in) if row.unload_in is not None else "", "dim"),
        (row.encoded, ""),
    )


def _request(row: RequestRow) -> Sequence[Span]:
    return (
        (row.id[:8], "dim"),
        (row.model, ""),
        (row.client, ""),
        (row.state, "good" if row.state == "running" else "warn"),
        (_span(row.since), ""),
        (str(row.tokens) if row.tokens else "", ""),
        (f"{row.speed:.1f}" if row.speed is not None else "", "value"),
    )


def _node(row: ClusterRow) -> Sequence[Span]:
    return ((row.name, ""), (row.role, "dim"), (row.model, ""), (row.chip, ""))


def _neighbour(row: NeighbourRow) -> Sequence[Span]:
    return ((row.name, ""), (str(row.processes) if row.processes else "", ""), (row.turn, "warn"))


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.0f} h"


def _footer(view: View, width: int, *, paused: bool, message: str) -> Line:
    """What just happened, or the keys that fit, each of them whole."""
    if message:
        return [(fit(f" {message}", width), "foot")]
    turn, wait = ("▾" if view.order.down else "▴"), ("resume" if paused else "pause")
    acts = [f"{key} {verb} {name[:20]}" for key, (verb, name) in actions(view).items()]
    select = ["↑↓ select"] if view.models or view.requests else []
    keys = " q quit"
    for part in (
        *acts,
        f"s sort: {view.order.column}",
        f"r {turn}",
        f"space {wait}",
        "h hour" if view.past is None else "h seconds",
        *select,
    ):
        keys += f"   {part}" if cells(keys) + cells(part) + 3 <= width else ""
    return [(fit(keys, width), "foot")]


def actions(view: View) -> dict[str, tuple[str, str]]:
    """What keys do to the selected row: a verb, and what it is for."""
    row = view.selected
    if isinstance(row, RequestRow):
        return {"x": ("stop", row.id)}
    if row is not None:
        return {"u": ("unload", row.name)} if row.state in ("ready", "loading") else {"l": ("load", row.name)}
    return {}
