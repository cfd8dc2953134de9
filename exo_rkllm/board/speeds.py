"""The vendor's benchmark of release 1.3.0 as named speeds: `rk3588/qwen2.5-1.5b`, `rk3576/qwen3-0.6b/w8a8`.

128 prompt tokens and 64 new ones at maximum clocks; image rows (`.../image`) have their own prompt lengths.
A name without a quantisation means the first column of its table.
"""

from __future__ import annotations

from dataclasses import dataclass

# model: (ttft ms, tokens/s, MB) a column
_RK3588 = """
qwen2-0.5b       145.90 41.58 669.56
minicpm4-0.5b    135.29 45.34 534.82
qwen3-0.6b       199.09 32.91 791.11
tinyllama-1.1b   243.93 24.43 1093.66
qwen2.5-1.5b     378.31 16.69 1689.21
rwkv7-1.5b       634.34 13.82 1486.19
internlm2-1.8b   380.14 15.45 1775.56
gemma2-2b        598.41 10.37 2779.22
gemma3n-2b       1124.51 9.91 2702.59
telechat2-3b     618.48 10.18 2788.39
phi3-3.8b        1017.28 7.45 3758.34
minicpm3-4b      1408.49 5.94 4384.02
chatglm3-6b      1352.94 4.98 5985.99
qwen3-vl-2b      383.62 14.98 1868.98
deepseekocr-3b   701.21 31.60 3066.66
qwen3.5-0.8b     587.74 27.05 1039.66
qwen3.5-2b       776.95 13.59 2121.91
qwen3.5-4b       2068.88 6.22 4575.78
gemma4-e2b       599.06 11.12 2498.70
"""
_RK3576 = """
qwen2-0.5b       342.37 32.56 443.44   361.78 30.33 463.23   344.27 21.73 678.43
minicpm4-0.5b    330.80 34.57 334.68   359.16 32.66 374.36   321.12 23.28 541.17
qwen3-0.6b       468.61 24.85 512.71   506.41 23.48 545.35   461.54 17.17 796.26
tinyllama-1.1b   543.68 19.71 601.09   672.61 18.08 690.76   534.13 12.18 1092.87
rwkv7-1.5b       1572.09 10.18 835.34  1733.08 9.49 925.54   1534.47 7.05 1494.13
internlm2-1.8b   765.92 13.55 975.04   986.14 12.05 1070.44  750.31 7.86 1782.05
gemma2-2b        997.92 9.14 1542.14   1312.15 8.27 1629.59  956.77 5.24 2784.78
gemma3n-2b       3260.05 7.78 1577.52  - - -                 2995.26 4.90 2715.83
telechat2-3b     1153.96 8.97 1525.80  1408.37 8.14 1644.32  1029.04 5.12 2794.56
phi3-3.8b        1829.12 6.58 1995.78  2253.14 6.06 2151.47  1615.97 3.74 3767.28
minicpm3-4b      2536.68 4.87 2380.24  3117.53 4.46 2660.66  2539.92 3.01 4410.50
chatglm3-6b      2166.69 4.63 3023.39  2966.85 4.14 3253.12  1948.12 2.48 5967.63
qwen3-vl-2b      802.94 12.68 1058.56  983.20 11.42 1146.77  785.79 7.62 1876.62
deepseekocr-3b   1034.97 24.38 1790.30 - - -                 1242.78 17.26 3109.59
qwen3.5-0.8b     1369.31 18.79 689.50  1392.09 17.88 687.38  1342.54 13.18 1047.08
qwen3.5-2b       1661.01 11.03 1236.12 1852.42 10.10 1280.15 1678.11 6.73 2131.55
qwen3.5-4b       3976.41 5.02 2420.34  4476.37 4.60 2564.89  3906.19 3.03 4591.72
gemma4-e2b       1219.25 9.23 1463.42  1445.36 8.27 1564.91  1166.94 5.56 2548.73
"""
_RK3562 = """
qwen2-0.5b       640.65 13.56 647.63
minicpm4-0.5b    676.77 10.07 511.48
qwen3-0.6b       881.86 10.94 773.44
qwen3.5-0.8b     3750.55 7.69 1020.72
"""
_RV1126B = """
qwen2-0.5b       656.86 20.91 410.82   687.00 17.69 391.32   651.31 13.63 646.17
minicpm4-0.5b    680.03 23.24 302.85   693.41 19.24 301.88   665.94 15.16 509.6
qwen3-0.6b       956.32 15.04 488.64   1017.06 12.53 473.77  944.30 10.22 773.11
qwen3.5-0.8b     4359.89 10.18 659.16  4560.21 9.07 616.98   4392.52 7.23 1017.12
"""
# model, prompt tokens, then ttft ms and tokens/s on RK3588 (w8a8) and RK3576 (w4a16); no memory column
_IMAGES = """
qwen2-vl-2b      196 632.6 16.6   1234.9 14.57
qwen2.5-vl-3b    196 1120 8.66    2130 7.87
minicpm-v-2_6    64  826 4.18     1230 3.85
smolvlm-256m     128 77.3 78      180 57.73
qwen3-vl-2b      196 649 14.91    1587 10.36
deepseekocr-3b   128 696 31.8     1010 22.3
qwen3.5-0.8b     216 1560 27      3400 15.4
"""
# What users measured: base ms and ms a prompt token (fitted to several lengths), ms a decode step. GZA, 1.2.3; RLL,
# 1.2.1, a 16K file, which slows it down; ORK, 1.2.3, its step by the vendor's table.
_MEASURED = """
rk3588/qwen3-1.7b  63 2.3 76.5
rk3588/qwen3-0.6b  37 3.4 60.5
rk3576/qwen3-4b    198 18 200
"""
# Qwen3 0.6B on RK3588: 17.5 tokens/s at 70 positions fall to 13.3 at about 1000 (RLL, A). Other models and longer
# contexts were not measured, so nothing is extrapolated beyond.
MEASURED_SLOWDOWN, SLOWDOWN_TOKENS = 0.25, 1000
_TABLES = (
    ("rk3588", ("w8a8",), _RK3588),
    ("rk3576", ("w4a16", "w4a16_g128", "w8a8"), _RK3576),
    ("rk3562", ("w8a8",), _RK3562),
    ("rv1126b", ("w4a16", "w4a16_g128", "w8a8"), _RV1126B),
)


@dataclass(frozen=True, slots=True)
class Speed:
    """One cell of the benchmark, or one measurement; `memory_mb` is 0 where the table has none.

    The vendor's table has one prompt length a model. `base_ms` None: a prompt takes one decode step and a slope, as
    every measurement at several lengths does (board-facts 11; the reading is ours, C).
    """

    prompt_tokens: int
    ttft_ms: float
    decode_tps: float
    memory_mb: float
    base_ms: float | None = None
    decode_slowdown: float = MEASURED_SLOWDOWN

    @property
    def prefill_base_ms(self) -> float:
        return round(1000 / self.decode_tps, 3) if self.base_ms is None else self.base_ms

    def first_seconds(self, tokens: int) -> float:
        """Until the first token after a prompt of so many."""
        return self.prefill_base_ms / 1000 + tokens / self.prefill_tps

    @property
    def prefill_tps(self) -> float:
        return self.prompt_tokens / ((self.ttft_ms - self.prefill_base_ms) / 1000)


def speeds() -> dict[str, Speed]:
    """Every cell by `soc/model/quantisation`, each model's first column by `soc/model`, and `measured/soc/model`."""
    found: dict[str, Speed] = {}
    for soc, columns, table in _TABLES:
        for line in table.strip().splitlines():
            model, *cells = line.split()
            for column, (ttft, tps, memory) in zip(columns, zip(*[iter(cells)] * 3, strict=True), strict=True):
                if ttft == "-":
                    continue
                speed = Speed(128, float(ttft), float(tps), float(memory))
                found[f"{soc}/{model}/{column}"] = speed
                found.setdefault(f"{soc}/{model}", speed)
    for line in _MEASURED.strip().splitlines():
        name, *cells = line.split()
        base, slope, step = map(float, cells)
        found[f"measured/{name}"] = Speed(128, base + 128 * slope, 1000 / step, 0.0, base)
    for line in _IMAGES.strip().splitlines():
        model, *cells = line.split()
        tokens, *numbers = map(float, cells)
        for soc, (ttft_ms, decode_tps) in zip(("rk3588", "rk3576"), (numbers[:2], numbers[2:]), strict=True):
            found[f"{soc}/{model}/image"] = Speed(int(tokens), ttft_ms, decode_tps, 0.0)
    return found


# ── what slows a model down ──────────────────────────────────────────────────────────────────────


# Weight and source of each brake; A: measured with numbers, one variable at a time (board-facts 11).
MEMORY_CLOCK = "about half the tokens a second (5.5 instead of 11.2 were measured; rknn-llm issues 532 and 409)"
NO_MEMORY_CONTROL = "up to about 45 % of the tokens a second (rknn-llm issue 409, reported by users)"
NARROW_MEMORY = "about half the tokens a second (a memory bus of 32 bits; rknn-llm issue 409, reported by users)"
CPU_GOVERNOR = "5 to 8 % of the tokens a second (rknn-llm issues 532 and 409, measured)"
GROUPED_W8A8 = "28 % of the tokens a second against w8a8 (rknn-llm issues 532 and 409, measured)"


def expected_speed(soc: str, model: str, length: int = 0) -> tuple[float, str] | None:
    """Tokens a second that the vendor measured for a model of this name, less the slope for `length` tokens.

    The second value names the cell of the benchmark. None where no figure is known.
    """
    words = model.lower().replace("_", "-")
    rows = speeds()
    names = {name.split("/")[1] for name in rows if name.startswith(f"{soc}/")}
    best = max((name for name in names if name.replace("_", "-") in words), key=len, default=None)
    if best is None:
        return None
    quantizations = [name.split("/")[2] for name in rows if name.startswith(f"{soc}/{best}/")]
    hits = [one for one in quantizations if one != "image" and one.replace("_", "-") in words]
    row = f"{soc}/{best}"
    cell = f"{row}/{max(hits, key=len)}" if hits else row if row in rows else f"{row}/image"
    slope = 1 - MEASURED_SLOWDOWN * min(length, SLOWDOWN_TOKENS) / SLOWDOWN_TOKENS
    return rows[cell].decode_tps * slope, cell


def outlook(soc: str, model: str) -> str:
    """What to expect of a model of this name at full clocks, for a short and a long conversation; empty if unknown."""
    short, long = expected_speed(soc, model), expected_speed(soc, model, SLOWDOWN_TOKENS)
    parts = []
    if short is not None and long is not None:
        parts.append(
            f"{short[0]:.1f} tokens/s at full clocks by the vendor, about {long[0]:.1f} after {SLOWDOWN_TOKENS} tokens"
        )
    if grouped(model):
        parts.append(f"w8a8_g128 costs {GROUPED_W8A8}")
    return "; ".join(parts)


def grouped(model: str) -> bool:
    """Whether a file of this name is quantised in groups of 128 on eight bits, which are slower."""
    return "w8a8-g128" in model.lower().replace("_", "-")
