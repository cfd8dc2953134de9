"""The model families of the vendor's runtime: how each is known by name, and how it is spoken to without a template."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Plain templates in our own words, for models that came without one. They say what each family's markup is, no more.


def _turns(start: str, end: str, *, user: str = "user", assistant: str = "assistant", system: str = "system") -> str:
    """`start` holds ROLE where the role's name belongs."""
    words = {"user": user, "assistant": assistant, "system": system, "tool": user}
    table = ", ".join(f"'{role}': '{word}'" for role, word in words.items())
    begin = start.replace("ROLE", "' + names[message.role] + '")
    answer = start.replace("ROLE", assistant)
    return (
        f"{{%- set names = {{{table}}} %}}{{%- for message in messages %}}"
        f"{{{{ '{begin}' + message.content + '{end}' }}}}{{%- endfor %}}"
        f"{{%- if add_generation_prompt %}}{{{{ '{answer}' }}}}{{%- endif %}}"
    )


CHATML = _turns("<|im_start|>ROLE\\n", "<|im_end|>\\n")
LLAMA = "{{- bos_token }}" + _turns("<|start_header_id|>ROLE<|end_header_id|>\\n\\n", "<|eot_id|>")
GEMMA = "{{- bos_token }}" + _turns("<start_of_turn>ROLE\\n", "<end_of_turn>\\n", assistant="model", system="user")
PHI = _turns("<|ROLE|>\\n", "<|end|>\\n")
GLM = "[gMASK]sop" + _turns("<|ROLE|>\\n ", "")
DEEPSEEK = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- {'user': '<｜User｜>', 'tool': '<｜User｜>', 'assistant': '<｜Assistant｜>', 'system': ''}[message.role] }}"
    "{{- message.content }}"
    "{{- '<｜end▁of▁sentence｜>' if message.role == 'assistant' else '' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<｜Assistant｜>' }}{%- endif %}"
)
TELECHAT = (
    "{%- for message in messages %}{{- {'user': '<_user>', 'tool': '<_user>', 'assistant': '<_bot>', "
    "'system': '<_system>'}[message.role] + message.content }}{{- '<_end>' if message.role == 'assistant' else '' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<_bot>' }}{%- endif %}"
)
ZEPHYR = _turns("<|ROLE|>\\n", "</s>\\n")


@dataclass(frozen=True, slots=True)
class Family:
    """One row: the names that mean it, the markup, and rows of `formats`."""

    pattern: str
    template: str
    stop: tuple[str, ...] = ()
    bos: str = ""
    tools: str = ""
    reasoning: str = ""
    reuse: bool = True


# The first row whose pattern is in the model's name; more special rows stand first.
FAMILIES: dict[str, Family] = {
    "deepseek-r1": Family(
        r"deepseek-?r1|r1-distill", DEEPSEEK, ("<｜end▁of▁sentence｜>",), "<｜begin▁of▁sentence｜>", "deepseek", "think"
    ),
    "deepseek": Family(r"deepseek", DEEPSEEK, ("<｜end▁of▁sentence｜>",), "<｜begin▁of▁sentence｜>"),
    "qwen3.5": Family(r"qwen-?3[._]5|qwen-?3[._]6", CHATML, ("<|im_end|>", "<|endoftext|>"), "", "qwen-xml", "think"),
    "qwen3": Family(r"qwen-?3|qwq", CHATML, ("<|im_end|>", "<|endoftext|>"), "", "hermes", "think"),
    "qwen": Family(r"qwen", CHATML, ("<|im_end|>", "<|endoftext|>"), "", "hermes"),
    "tinyllama": Family(r"tiny-?n?y?-?llama", ZEPHYR, ("</s>",)),
    "llama": Family(
        r"llama-?3|llama3", LLAMA, ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"), "<|begin_of_text|>", "llama"
    ),
    "gemma4": Family(r"gemma-?4", GEMMA, ("<turn|>",), "<bos>", "gemma", "channel", reuse=False),
    "gemma": Family(r"gemma", GEMMA, ("<end_of_turn>", "<eos>"), "<bos>", reuse=False),
    "phi": Family(r"phi-?[34]", PHI, ("<|end|>", "<|endoftext|>"), "", "phi"),
    "minicpm": Family(r"minicpm", CHATML, ("<|im_end|>", "</s>"), "", "minicpm", "thought"),
    "internlm": Family(r"internlm", "<s>" + CHATML, ("<|im_end|>", "</s>"), "", "internlm"),
    "chatglm": Family(r"chatglm|glm-?4|glm-?edge", GLM, ("<|user|>", "<|observation|>", "<|endoftext|>"), "", "glm"),
    "smollm3": Family(r"smollm-?3", CHATML, ("<|im_end|>",), "", "hermes", "think"),
    "smollm": Family(r"smollm|smolvlm", CHATML, ("<|im_end|>",)),
    "telechat": Family(r"telechat", TELECHAT, ("<_end>",), "", "hermes"),
    "chatml": Family(r"", CHATML, ("<|im_end|>",)),
}


def family_of(*names: str) -> str:
    """The family that the first telling name means; `chatml` where none tells."""
    for name in names:
        for family, row in FAMILIES.items():
            if row.pattern and re.search(row.pattern, name, re.IGNORECASE):
                return family
    return "chatml"
