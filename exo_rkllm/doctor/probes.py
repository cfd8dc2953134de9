"""What only a board can show, each with its command: the table behind `selftest` and firmware_notes/hardware-checks.md.

A row is either one of our own measurements, a command whose output goes into the report, or something that a person
has to do. What the reference marks as reported or unverified ends up here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

from exo_rkllm.board import kernel_log

Kind: TypeAlias = Literal["measured", "command", "by hand"]


class HardwareProbe(NamedTuple):
    """`command` and `shows` may name {npu}, {address}, {card} and {render}; `expect` is what the reference says, and
    where; `shows` is the pattern of it that a command's output has to match. `answer` says where the answer to an open
    question is read.

    `live` ones ask the running system, and not files that could stand below another root.
    """

    key: str
    kind: Kind
    question: str
    command: str
    expect: str
    shows: str = ""
    root: bool = False
    live: bool = False
    answer: str = ""


QUIET = r"\A(?![\s\S]*(?:{}))".format("|".join(kind.pattern.pattern for kind in kernel_log.KINDS))
OWN = "exo-rkllm selftest --model NAME --only "
BINDING = "# after the first block of docs/rkllm-binding.md, with `import time` and `seconds = []`"
PROBES: tuple[HardwareProbe, ...] = (
    # ── the kernel's files ──────────────────────────────────────────────────────────────────────
    HardwareProbe(
        "identity",
        "command",
        "Names of the board, its SoC and its kernel",
        "tr '\\0' '\\n' </sys/firmware/devicetree/base/model; echo; "
        "tr '\\0' '\\n' </sys/firmware/devicetree/base/compatible; cat /proc/sys/kernel/osrelease; "
        "head -4 /etc/os-release",
        "A row of npu-platform 1.7; a string that is missing there must be added.",
        r"^rockchip,r[kv]\d{4}",
    ),
    HardwareProbe(
        "driver",
        "command",
        "Which driver is bound, and its version without root",
        "ls -l /sys/bus/platform/drivers/RKNPU /sys/bus/platform/drivers/rocket 2>&1; cat /sys/module/rknpu/version",
        "One .npu device below RKNPU, version 0.9.8 (npu-platform 3.4, 5.1).",
        r"RKNPU:[\s\S]*{npu} ->[\s\S]*^0\.9\.8$",
    ),
    HardwareProbe(
        "nodes",
        "command",
        "Device nodes, their groups and their names in sysfs",
        "ls -l /dev/dri /dev/dma_heap /dev/rknpu /dev/accel 2>&1; cat /sys/class/drm/*/device/uevent 2>/dev/null",
        "The card in video and the render node in render, both 0660; DRIVER=RKNPU (npu-platform 2.1, 2.2).",
        r"^DRIVER=RKNPU$",
    ),
    HardwareProbe(
        "udev",
        "command",
        "What udev knows about the NPU's nodes, and whether the package's rules applied",
        "udevadm info -q property /sys/bus/platform/devices/{npu}; udevadm info -q property {render}",
        "SYSTEMD_ALIAS=/exo/rkllm/npu on the platform device, tag systemd on the node (udev/70-exo-rkllm.rules).",
        r"^SYSTEMD_ALIAS=/exo/rkllm/npu$",
        live=True,
    ),
    HardwareProbe(
        "classes",
        "command",
        "Class names for DeviceAllow=char-...",
        "grep -E 'drm|accel|misc|dma_heap' /proc/devices",
        "drm, misc, dma_heap (npu-platform 4, unverified there).",
        r"\bdrm$",
        live=True,
    ),
    HardwareProbe(
        "devfreq",
        "command",
        "Clocks, governors and how long each clock was used",
        'cd /sys/class/devfreq && for d in *.npu dmc; do echo "== $d"; head $d/governor $d/available_governors '
        "$d/cur_freq $d/min_freq $d/max_freq $d/available_frequencies; cat $d/trans_stat; done",
        "The governor performance is offered for the NPU and for dmc (npu-platform 3.3).",
        r"== .*\.npu\n[\s\S]*\bperformance\b[\s\S]*== dmc\n[\s\S]*\bperformance\b",
    ),
    HardwareProbe(
        "thermal",
        "command",
        "Thermal zones by type, and cooling devices",
        "cd /sys/class/thermal && grep -H . thermal_zone*/type thermal_zone*/temp cooling_device*/type",
        "An npu-thermal zone on RK3588 and RK3576; on RK3576 a devfreq cooling device (npu-platform 3.6).",
        r"type:(?:npu|soc|cpu)-thermal$",
    ),
    HardwareProbe(
        "interrupts",
        "command",
        "One interrupt row per core, shared with the IOMMU",
        "grep -E '{address}|iommu' /proc/interrupts | cut -c1-200",
        "Three rows on RK3588, two on RK3576, hwirq 142 to 144 or 279 and 280 (npu-platform 1.3).",
        r"{npu}",
    ),
    HardwareProbe(
        "load-line",
        "command",
        "The driver's load line, byte by byte",
        "od -c /sys/kernel/debug/rknpu/load; cat /sys/kernel/debug/rknpu/power /sys/kernel/debug/rknpu/version",
        "One of the forms of npu-platform 3.2.",
        r"N +P +U +l +o +a +d",
        root=True,
    ),
    HardwareProbe(
        "service-view",
        "command",
        "Whether the sandboxed service can read the counters",
        "nsenter -t $(systemctl show -p MainPID --value exo-rkllm) -m head /run/exo-rkllm/rknpu/load",
        "The same line that root sees (npu-platform 4, method A).",
        r"^NPU load:",
        root=True,
        live=True,
    ),
    HardwareProbe(
        "kernel-log",
        "command",
        "Messages of the kernel about the NPU",
        "dmesg | grep -iE 'rknpu|fdab|27700000|iommu.*npu|rocket' | tail -60",
        "No failed, timeout or soft reset; only the harmless lines of npu-platform 6, note 12.",
        QUIET,
        root=True,
        live=True,
    ),
    # ── with a model ────────────────────────────────────────────────────────────────────────────
    HardwareProbe(
        "answers",
        "measured",
        "Load time, prompt and answer speed, memory, and the library's first log lines",
        f"{OWN}answers",
        "The vendor's table at full clocks (rkllm-runtime 5.1).",
    ),
    HardwareProbe(
        "load-follows",
        "measured",
        "Whether the NPU's load, clock and temperature change while a model answers",
        f"{OWN}load-follows",
        "65 to 70 % on each core while decoding on RK3588 (npu-platform 3.2).",
    ),
    HardwareProbe(
        "power-tail",
        "measured",
        "How long the NPU stays powered after the last token",
        f"{OWN}power-tail",
        "About 3 s (npu-platform 3.1, delayms).",
    ),
    HardwareProbe(
        "reading-wakes-nothing",
        "measured",
        "Whether a sleeping NPU stays asleep while all counters are read ten times",
        f"{OWN}reading-wakes-nothing",
        "runtime_active_time does not grow (npu-platform 3.4).",
    ),
    HardwareProbe(
        "prefix-reuse",
        "measured",
        "Whether the second turn of a conversation reuses the first from the cache",
        f"{OWN}prefix-reuse",
        "Cached prompt tokens, and a shorter time to the first token (rkllm-runtime 2.10).",
    ),
    HardwareProbe(
        "abort",
        "measured",
        "How long an abort in the middle of an answer takes",
        f"{OWN}abort",
        "One token while decoding; up to about 1.3 s during prefill (rknn-llm issue 400).",
    ),
    HardwareProbe(
        "vision",
        "measured",
        "Whether a model that sees names the colour of a square, and what encoding takes",
        "exo-rkllm selftest --vision",
        "About 0.9 s an image once the encoder is loaded (Qwen3-VL-2B, rknn-vision 3); nothing hangs beside a language "
        "model in another domain.",
    ),
    HardwareProbe(
        "vision-domains",
        "by hand",
        "Whether the encoder and the language model keep to their address windows",
        "exo-rkllm run NAME 'What is this?' --image FILE; sudo dmesg | grep -iE 'rknpu|iommu' | tail",
        "No failed to submit: librknnrt is in domain 0, the language model in 1 or above (rknn-vision 3).",
        root=True,
    ),
    # ── what nobody has measured yet (board-facts 14), kept beside the model ────────────────────
    HardwareProbe(
        "end-token",
        "measured",
        "Which id ends an answer; every load of the file ends answers there, too",
        f"{OWN}end-token",
        "An event without text before the end (1.3.1, A); that it carries the id is inferred (board-facts 14, row 2).",
        answer="`end_tokens` in selftest.json: every load of the file ends answers there.",
    ),
    HardwareProbe(
        "logits-rows",
        "measured",
        "How many rows of logits a prompt gives",
        f"{OWN}logits-rows",
        "Nobody says: one a token, or the last one alone (board-facts 1; 14, row 15).",
        answer="`logits_rows` in selftest.json, which exo-rkllm show tells; the last row is right either way.",
    ),
    HardwareProbe(
        "temperature-zero",
        "measured",
        "Whether temperature 0 is greedy",
        f"{OWN}temperature-zero",
        "Nobody says; top_k 1 repeats itself within one version (board-facts 9).",
        answer="`temperature_zero_is_greedy` in selftest.json, which exo-rkllm show tells.",
    ),
    HardwareProbe(
        "long-abort",
        "measured",
        "Whether an abort cuts the reading of a prompt of some 500 tokens short",
        f"{OWN}long-abort",
        "Nobody says; prompts below 100 tokens were read to their end (board-facts 4; 14, row 13).",
        answer="`abort_in_prefill_seconds` in selftest.json, which exo-rkllm show tells.",
    ),
    HardwareProbe(
        "prompt-cache",
        "measured",
        "Whether a saved prompt spares its prefill, how long it takes to load, and whether it can be after an abort",
        f"{OWN}prompt-cache",
        "It spares it, as with keep_history 0 the file is matched by its beginning (board-facts 2, A): a library that "
        "appended to it would read the prompt again. After an abort the next run of 1.2.3 crashed, of others nobody "
        "says.",
        answer="`prompt_cache_spares` and `prompt_cache_after_abort` in selftest.json, by which the daemon keeps "
        "conversations that others displace.",
    ),
    HardwareProbe(
        "opened",
        "measured",
        "Which device nodes the library opens",
        f"{OWN}opened",
        "A card node, and perhaps /dev/dma_heap (npu-platform 2.3).",
    ),
    HardwareProbe(
        "memory-freed",
        "measured",
        "Whether unloading frees all memory",
        f"{OWN}memory-freed",
        "Within 64 MiB of what was available before (one process per model).",
    ),
    # ── what a person has to do ─────────────────────────────────────────────────────────────────
    HardwareProbe(
        "driver-reload",
        "by hand",
        "What happens when the driver is unbound under load and bound again",
        "exo-rkllm run NAME 'count to 500' & echo {npu} | sudo tee /sys/bus/platform/drivers/RKNPU/unbind; sleep 3; "
        "echo {npu} | sudo tee /sys/bus/platform/drivers/RKNPU/bind; exo-rkllm doctor",
        "The request fails with the reason; the daemon stays up and serves again after the bind (npu-platform 12).",
        root=True,
    ),
    HardwareProbe(
        "bind-after-reload",
        "by hand",
        "Whether the service still sees the counters after the driver was bound again",
        "after driver-reload: systemctl status run-rkllm-npu.mount; exo-rkllm doctor; exo-rkllm top --once",
        "Yes, through the mount and without a restart; the folder that the unit binds stays empty (npu-platform 12).",
        root=True,
    ),
    HardwareProbe(
        "clocks",
        "by hand",
        "What [board] performance = true changes, and that everything is restored",
        "grep -H . /sys/class/devfreq/*/governor /sys/devices/system/cpu/cpufreq/*/scaling_governor before, while a "
        "model is loaded, and after systemctl stop exo-rkllm",
        "performance while the model is loaded, and the same values before and after (npu-platform 6, notes 2 to 5).",
        root=True,
    ),
    HardwareProbe(
        "two-models",
        "by hand",
        "Two models in two IOMMU domains at the same time",
        "exo-rkllm load A; exo-rkllm load B; exo-rkllm ps; sudo dmesg | grep -i 'iommu domain' | tail",
        "Both ready in different domains; switch messages are informational (npu-platform 6, notes 8 and 9).",
    ),
    HardwareProbe(
        "mdwe",
        "by hand",
        "Whether the library works when memory cannot be both writable and executable",
        "sudo systemd-run --wait --pipe -p MemoryDenyWriteExecute=yes -p User=exo-rkllm exo-rkllm run NAME hello",
        "Unverified (npu-platform 4); the result decides whether the unit can set it.",
        root=True,
    ),
    HardwareProbe(
        "window",
        "by hand",
        "What n_keep -1 keeps and drops when an answer passes the context",
        BINDING
        + """
with loaded(max_context_len=512) as session:  # and RKLLM_LOG_LEVEL=2 in the environment
    ask(session, PromptInput("Count from one to a thousand, in words."))""",
        "The answer goes on (1.3.1, A); `delete the kv cache in [a, b)` says what went (board-facts 3, nobody says).",
        answer="`n_keep` under [options] of the card, which every load reads; the daemon ends answers before that.",
    ),
    HardwareProbe(
        "vector-reuse",
        "by hand",
        "Whether hidden states and logits reuse a prompt that was read before",
        BINDING
        + """
with loaded() as session:
    for _ in range(2):
        began = time.monotonic()
        session.run(PromptInput("word " * 300), print, RunSpec(mode="hidden"), lambda *rows: None)
        seconds.append(time.monotonic() - began)""",
        "Nobody says; without a clear between them such runs became slower within hours (board-facts 1, B).",
        answer="Nothing reads it, as the cache is cleared after each such run. Attach the times to an issue.",
    ),
    HardwareProbe(
        "cache-after-abort",
        "by hand",
        "Whether the cache that an abort leaves can be reused, which a repaired answer would gain by",
        BINDING
        + """
with loaded(top_k=1) as session:
    question = PromptInput("word " * 300 + "How many words were these?")
    fresh, stats = ask(session, question, max_new_tokens=16)
    session._forget = lambda: None  # which clears the cache
    session.run(question, lambda text, token, waiting: (session.abort(), None)[1])
    again, after = ask(session, question, max_new_tokens=16)
print(fresh == again, stats.prefill_tokens, after.prefill_tokens)""",
        "Nobody says. The same answer from fewer prompt tokens: it can be.",
        answer="Nothing reads it: the cache is cleared after each abort, and a repair reads its prompt again. Attach "
        "the line to an issue.",
    ),
    HardwareProbe(
        "daemon-cost",
        "by hand",
        "How long the daemon takes to be ready, and what it adds to a token on these cores",
        "sudo systemctl restart exo-rkllm; "
        "systemctl show exo-rkllm -p ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic\n"
        "cd CHECKOUT && .venv/bin/python -m bench http",
        "By estimate ready after 1.05 to 1.6 s on a Cortex-A55; docs/performance.md has a virtual machine's ratios.",
    ),
    HardwareProbe(
        "embedding-cosine",
        "by hand",
        "How far the vectors of Qwen3-Embedding are from the original's",
        'curl -s localhost:52415/v1/embeddings -d \'{"model": "NAME", "input": "A lighthouse by the sea."}\'\n'
        "# and its cosine with the vector of sentence-transformers for the same text",
        "Nobody says; one report has them not as good as the original's (board-facts 8, issue 515).",
        answer="[embedding] in the card, which every request for vectors reads: the pooling or suffix that is nearer.",
    ),
    HardwareProbe(
        "batch",
        "by hand",
        "Whether n_batch 4 gives more tokens a second than four answers in a row",
        BINDING
        + """
with loaded(n_batch=4, max_new_tokens=64) as session:
    began = time.monotonic()
    session.run_batch([PromptInput("Hello")] * 4, lambda step, waiting: None)
    seconds.append(time.monotonic() - began)""",
        "Nobody says: no public program uses it (board-facts 10).",
        answer="Nothing reads it: the daemon gives one answer at a time to a model. Attach the times to an issue.",
    ),
    HardwareProbe(
        "pause-and-clear",
        "by hand",
        "Whether a paused run goes on rightly after a range of the cache was cleared (1.3.1)",
        BINDING
        + """
with loaded() as session:
    session.run(PromptInput("Count to twenty."), lambda text, token, waiting: PAUSE)
    (size,) = session.kv_size()
    session.clear_kv(ranges=[(size - 4, size)])
    answer, stats = ask(session, PromptInput("Count to ten."))""",
        "1.3.0 resumes the old answer and reads no new prompt (board-facts 4, A); with a range cleared: nobody says.",
        answer="Nothing reads it: the daemon aborts and never pauses. Attach the answer to an issue.",
    ),
    HardwareProbe(
        "hub",
        "by hand",
        "Whether the Hub is searched and the short names and the vendor's library lead where they should",
        "exo-rkllm search qwen3\n"
        "exo-rkllm pull qwen3:1.7b    # and each short name of docs/models.md; Ctrl-C once it tells the file\n"
        "sudo exo-rkllm runtime --install latest",
        "Conversions for this SoC with their sizes; each name's file; a library of the checksum that is known here.",
    ),
    HardwareProbe(
        "throttle",
        "by hand",
        "What a hot board does, as exo-rkllm top shows it",
        "exo-rkllm top while requests follow one another for twenty minutes, without a fan",
        "On RK3588 the NPU's limit drops to 800 MHz above 85 degrees and returns below 80 (npu-platform 3.6).",
    ),
)
