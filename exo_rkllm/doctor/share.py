"""The result of `exo-rkllm bench` as values, and as one HTML page without the owner's network or files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from exo_rkllm.board.counters import Reading
from exo_rkllm.doctor.benchmark import SpeedRow
from exo_rkllm.doctor.measure import MIB, TimedReading
from exo_rkllm.doctor.report import ReportLine, publishable
from exo_rkllm.doctor.verdict import SpeedVerdict

# Names of other people's programs are nobody's business.
WITHOUT_FACT = "other programs"
WIDTH, HEIGHT, LEFT = 640, 120, 60
STYLE = """
:root{color-scheme:light dark;--line:#2563eb;--ink:#1f2937;--soft:#6b7280;--rule:#d1d5db;--back:#fff}
@media(prefers-color-scheme:dark){:root{--line:#60a5fa;--ink:#e5e7eb;--soft:#9ca3af;--rule:#374151;--back:#111827}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--back);max-width:46rem;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left}
svg{width:100%;height:auto}svg text{font-size:12px;fill:var(--soft)}
svg .inside{fill:var(--back)}
.bar{fill:var(--line)}.mark{stroke:var(--ink);stroke-width:2}.curve{fill:none;stroke:var(--line);stroke-width:2}
.rule{stroke:var(--rule)}footer{color:var(--soft);font-size:.85rem;margin-top:2rem}
"""
COLUMNS = ("", "read", "reused", "first token", "prompt", "answer", "picture")


@dataclass(frozen=True, slots=True)
class BenchReport:
    """`memory` is what the model takes, None where that was not seen; `facts` name the board and its software."""

    model: str
    board: str
    facts: tuple[tuple[str, str], ...]
    load_seconds: float | None
    memory: int | None
    rows: tuple[SpeedRow, ...]
    timeline: tuple[TimedReading, ...]
    verdict: SpeedVerdict
    now: float

    def plain(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "board": self.board,
            "facts": dict(self.facts),
            "load_seconds": self.load_seconds,
            "memory": self.memory,
            "rows": [asdict(row) for row in self.rows],
            "verdict": asdict(self.verdict),
            "timeline": [
                {"seconds": round(one.seconds, 2)} | {name: value(one.reading) for name, value in SERIES.items()}
                for one in self.timeline
            ],
        }


def _megahertz(name: str) -> Callable[[Reading], float | None]:
    def value(reading: Reading) -> float | None:
        clock = getattr(reading, name)
        return None if clock is None else clock.hertz / 1e6

    return value


# What a reading tells over time, with its unit.
SERIES: dict[str, Callable[[Reading], float | None]] = {
    "NPU MHz": _megahertz("clock"),
    "memory MHz": _megahertz("ddr"),
    "degrees": lambda reading: reading.celsius,
    "NPU load %": lambda reading: 100 * max(reading.load) if reading.load else None,
    "free memory MiB": lambda reading: None if reading.memory_available is None else reading.memory_available / MIB,
    "watts": lambda reading: reading.watts,
}


def cells(row: SpeedRow) -> tuple[str, ...]:
    """One line of the table; an estimate has a ~, and what is not known is empty."""
    if row.skipped:
        return (row.name, "", "", "", "", "", "")
    return (
        row.name,
        f"{'' if row.counted else '~'}{row.read}",
        str(row.reused) if row.counted else "",
        f"{row.first_seconds:.2f} s",
        f"{row.prefill_tps:.0f} tokens/s" if row.prefill_tps else "",
        f"{row.decode_tps:.1f} tokens/s" if row.decode_tps else "",
        f"{row.encode_seconds:.2f} s" if row.encode_seconds else "",
    )


def ranges(timeline: Sequence[TimedReading]) -> Iterator[tuple[str, float, float]]:
    """Each series that was readable, with its lowest and its highest value."""
    for name, value in SERIES.items():
        values = [number for one in timeline if (number := value(one.reading)) is not None]
        if values:
            yield name, min(values), max(values)


def page(report: BenchReport) -> str:
    """One self-contained page: no script, nothing to fetch, no name or address of the machine."""
    verdict = report.verdict
    stamp = time.strftime("%Y-%m-%d", time.gmtime(report.now))
    title = escape(f"{report.model} on {report.board}")
    memory = "" if report.memory is None else f" It takes {report.memory / MIB:.0f} MiB of memory."
    load = "" if report.load_seconds is None else f" It was loaded in {report.load_seconds:.1f} s."
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width">',
        f"<title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1><p><strong>{_text(verdict.sentence)}</strong>{load}{memory}</p>",
        "<h2>Answer, tokens a second</h2>",
        _bars(report),
        "<h2>Each question</h2>",
        _table(report.rows),
        *([f"<h2>What slows it down</h2><ul>{''.join(map(_brake, verdict.brakes))}</ul>"] if verdict.brakes else []),
        "<h2>The board meanwhile</h2>",
        *(_curve(report.timeline, name, low, high) for name, low, high in ranges(report.timeline)),
        "<h2>Where</h2><ul>",
        *(f"<li>{_text(name)}: {_text(fact)}</li>" for name, fact in report.facts if fact),
        f"</ul><footer>exo-rkllm bench, {stamp}</footer></html>",
    ]
    return "\n".join(parts) + "\n"


def _text(text: str) -> str:
    return escape(publishable(text))


def _brake(line: ReportLine) -> str:
    fact = "held the NPU as well." if line.check == WITHOUT_FACT else line.finding.fact
    return f"<li>{_text(line.check)}: {_text(fact)}</li>"


def _table(rows: Sequence[SpeedRow]) -> str:
    head = "".join(f"<th>{name}" for name in COLUMNS)
    lines = [
        f'<tr><td>{_text(row.name)}<td colspan="{len(COLUMNS) - 1}">{_text(row.skipped)}'
        if row.skipped
        else "<tr>" + "".join(f"<td>{_text(cell)}" for cell in cells(row))
        for row in rows
    ]
    return f"<table><tr>{head}{''.join(lines)}</table>"


def _bars(report: BenchReport) -> str:
    """One bar a question; a line stands where the vendor's figure is."""
    rows = [row for row in report.rows if row.decode_tps]
    comparison = report.verdict.comparison
    top = max([*(row.decode_tps for row in rows), comparison.expected_tps if comparison else 0.0, 1.0])
    scale = (WIDTH - LEFT - 40) / top
    left = LEFT + 30
    height = 26 * len(rows) + (20 if comparison else 0)
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="tokens a second">']
    for number, row in enumerate(rows):
        y = 26 * number
        wide = row.decode_tps * scale
        parts.append(
            f'<text x="0" y="{y + 15}">{_text(row.name)}</text>'
            f'<rect class="bar" x="{left}" y="{y}" width="{wide:.1f}" height="20"/>'
            f'<text class="inside" x="{left + 6}" y="{y + 15}">{row.decode_tps:.1f}</text>'
        )
    if comparison is not None:
        x, end = left + comparison.expected_tps * scale, 26 * len(rows)
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{end}"/>'
            f'<text x="{x:.1f}" y="{end + 14}" text-anchor="end">the vendor: {comparison.expected_tps:.1f}</text>'
        )
    return "".join(parts) + "</svg>"


def _curve(timeline: Sequence[TimedReading], name: str, low: float, high: float) -> str:
    value = SERIES[name]
    known = [(one.seconds, number) for one in timeline if (number := value(one.reading)) is not None]
    length = max(known[-1][0] - known[0][0], 1e-9)
    room = max(high - low, 1e-9)
    points = " ".join(
        f"{LEFT + (seconds - known[0][0]) / length * (WIDTH - LEFT - 10):.1f},"
        f"{HEIGHT - 25 - (number - low) / room * (HEIGHT - 50):.1f}"
        for seconds, number in known
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(name)}">'
        f'<line class="rule" x1="{LEFT}" x2="{WIDTH - 10}" y1="{HEIGHT - 25}" y2="{HEIGHT - 25}"/>'
        f'<text x="0" y="14">{_text(name)}</text><text x="0" y="30">{high:.0f}</text>'
        f'<text x="0" y="{HEIGHT - 22}">{low:.0f}</text><polyline class="curve" points="{points}"/>'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{length:.0f} s</text></svg>'
    )
