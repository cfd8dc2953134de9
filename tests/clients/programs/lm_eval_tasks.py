"""lm-evaluation-harness: a task that generates, as gsm8k does, and one that compares log probabilities."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))
from simulator import tokenizer

HEAD = """dataset_path: json
dataset_kwargs: {data_files: {test: questions.jsonl}}
test_split: test
doc_to_text: "{{question}}"
"""
GENERATES = """task: generates
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 32, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
COMPARES = """task: compares
output_type: multiple_choice
doc_to_choice: ["Hello there.", "Other words."]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def write_tokenizer(folder: Path) -> None:
    """The simulated models' own ids, for words and signs."""
    folder.mkdir(exist_ok=True)
    vocabulary = {piece.decode("latin-1"): number for piece, number in tokenizer.ids().items()}
    split = {"type": "Split", "pattern": {"Regex": r" ?\w+|[^\w]"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<|endoftext|>"}
    file = {"version": "1.0", "added_tokens": [], "decoder": {"type": "Fuse"}, "pre_tokenizer": split, "model": model}
    (folder / "tokenizer.json").write_text(json.dumps(file))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def results(task: str, model: str, arguments: str, *more: str) -> dict[str, float]:
    command = [Path(sys.executable).with_name("lm_eval"), "--model", model, "--model_args", arguments]
    command += ["--tasks", task, "--include_path", ".", "--output_path", f"{task}-results", *more]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    file = max(Path(f"{task}-results").rglob("results*.json"), key=lambda one: one.stat().st_mtime)
    return json.loads(file.read_text())["results"][task]


write_tokenizer(Path("tokenizer"))
for name, text in (("generates", GENERATES), ("compares", COMPARES)):
    Path(f"{name}.yaml").write_text(text + HEAD)
questions = [{"question": text, "answer": "Hello there."} for text in ("hi", "say hello")]
Path("questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))

chat = f"model=qwen3-4b,base_url={sys.argv[1]}/v1/chat/completions"
assert results("generates", "local-chat-completions", chat, "--apply_chat_template")["exact_match,none"] == 1.0
if sys.argv[2] != "1.1.4":  # which gives no logits
    completions = f"model=qwen3-4b,base_url={sys.argv[1]}/v1/completions,tokenizer=tokenizer"
    assert 0.0 <= results("compares", "local-completions", completions)["acc,none"] <= 1.0
print(version("lm_eval"))
