"""One way to print a measurement: several rounds, so that the spread is seen beside the middle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    unit: str
    rounds: Sequence[float]
    bar: str = ""

    def cells(self) -> tuple[str, ...]:
        ordered = sorted(self.rounds)
        middle = ordered[len(ordered) // 2]
        return (self.what, *(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
                             for value in (ordered[0], middle, ordered[-1])), self.unit, self.bar)  # fmt: skip


def show(title: str, rows: Sequence[Row]) -> None:
    cells = [("", "min", "median", "max", "unit", "bar"), *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    print(f"\n{title}")
    for line in cells:
        texts = [text.ljust(width) if column in {0, 4, 5} else text.rjust(width)
                 for column, (text, width) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
        print("  " + "  ".join(texts).rstrip())
