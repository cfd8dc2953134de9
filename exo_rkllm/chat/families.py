"""The model families of the vendor's runtime: how each is known by name, and how it is spoken to without a template.

The templates are plain ones in our own words, after each family's published markup. They serve models that came
without a template, and tools where the model's own template leaves them out though the family knows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from exo_rkllm.chat.formats import Reasoning, ToolFormat


def turns(
    start: str,
    end: str,
    *,
    before: str = "",
    user: str = "user",
    assistant: str = "assistant",
    system: str = "system",
    trim: bool = False,
) -> str:
    """The usual shape: every message between a start with the role's name and an end. ROLE stands for the name."""
    content = "message.content | trim" if trim else "message.content"
    return f"""\
{{%- set names = {{'user': '{user}', 'tool': '{user}', 'assistant': '{assistant}', 'system': '{system}'}} -%}}
{before}
{{%- for message in messages %}}
    {{{{- '{start.replace("ROLE", "' + names[message.role] + '")}' + {content} + '{end}' }}}}
{{%- endfor %}}
{{%- if add_generation_prompt %}}
    {{{{- '{start.replace("ROLE", assistant)}' }}}}
{{%- endif %}}"""


CHATML = turns("<|im_start|>ROLE\\n", "<|im_end|>\\n")
GEMMA = turns(
    "<start_of_turn>ROLE\\n",
    "<end_of_turn>\\n",
    before="{{- bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}",
    assistant="model",
    trim=True,
)
GEMMA_4 = turns("<|turn>ROLE\\n", "<turn|>\\n", before="{{- bos_token }}", assistant="model", trim=True)
PHI_3 = turns("<|ROLE|>\\n", "<|end|>\\n")
ZEPHYR = turns("<|ROLE|>\\n", "</s>\\n")

# Llama 3: a call is the whole answer, one JSON object; results come in an `ipython` turn.
LLAMA = """\
{{- bos_token }}
{%- macro turn(role, content) %}
    {{- '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + content + '<|eot_id|>' }}
{%- endmacro %}
{%- set words = namespace(system='') %}
{%- if messages[0].role == 'system' %}
    {%- set words.system = messages[0].content | trim %}
{%- endif %}
{%- if tools %}
    {%- set words.system = words.system + '\\n\\nThese functions can be called:\\n' %}
    {%- for tool in tools %}
        {%- set words.system = words.system + tool | tojson + '\\n' %}
    {%- endfor %}
    {%- set words.system = words.system + 'To call one, answer with nothing but a JSON object of the form ' %}
    {%- set words.system = words.system + '{"name": function name, "parameters": object of arguments}.' %}
{%- endif %}
{%- if words.system %}
    {{- turn('system', words.system | trim) }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- turn('ipython', message.content) }}
    {%- elif message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- turn('assistant', {'name': call.name, 'parameters': call.arguments} | tojson) }}
    {%- elif message.role != 'system' or not loop.first %}
        {{- turn(message.role, message.content | trim) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

# Phi-4-mini: the tools as a JSON list in the system turn, calls as a list between tags.
PHI_4 = """\
{%- if tools and messages[0].role != 'system' -%}
    {{- '<|system|><|tool|>' + tools | map(attribute='function') | list | tojson + '<|/tool|><|end|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|tool_response|>' + message.content + '<|end|>' }}
    {%- else %}
        {{- '<|' + message.role + '|>' + (message.content or '') }}
        {%- if tools and loop.first and message.role == 'system' %}
            {{- '<|tool|>' + tools | map(attribute='function') | list | tojson + '<|/tool|>' }}
        {%- endif %}
        {%- if message.tool_calls %}
            {{- '<|tool_call|>' + message.tool_calls | map(attribute='function') | list | tojson + '<|/tool_call|>' }}
        {%- endif %}
        {{- '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}"""

# InternLM 2: the tools in a second system turn named after the plugin token, results in an `environment` turn.
INTERNLM = """\
{{- bos_token }}
{%- macro offer() %}
    {{- '<|im_start|>system name=<|plugin|>\\n' + tools | map(attribute='function') | list | tojson + '<|im_end|>\\n' }}
{%- endmacro %}
{%- if tools and messages[0].role != 'system' %}
    {{- offer() }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|im_start|>environment name=<|plugin|>\\n' + message.content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {{- '<|action_start|><|plugin|>\\n' }}
            {{- {'name': call.function.name, 'parameters': call.function.arguments} | tojson + '<|action_end|>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
        {%- if tools and loop.first and message.role == 'system' %}
            {{- offer() }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# ChatGLM 3: a call is a turn with the tool's name in its header line, results come in an `observation` turn.
GLM = """\
{{- '[gMASK]sop' }}
{%- if tools %}
    {{- '<|system|>\\n Answer the following questions as best as you can. ' }}
    {{- 'You have access to the following tools:\\n' }}
    {{- tools | map(attribute='function') | list | tojson(indent=4) }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|observation|>\\n ' + message.content }}
    {%- else %}
        {%- if message.content or not message.tool_calls %}
            {{- '<|' + message.role + '|>\\n ' + (message.content or '') }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '<|assistant|>' + call.function.name + '\\n ```python\\ntool_call(' }}
            {%- for name, value in call.function.arguments | items %}
                {{- name + '=' + value | tojson + ('' if loop.last else ', ') }}
            {%- endfor %}
            {{- ')\\n```' }}
        {%- endfor %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}"""

DEEPSEEK = """\
{%- set starts = {'user': '<｜User｜>', 'tool': '<｜User｜>', 'assistant': '<｜Assistant｜>', 'system': ''} -%}
{{- bos_token }}
{%- for message in messages %}
    {{- starts[message.role] + message.content }}
    {{- '<｜end▁of▁sentence｜>' if message.role == 'assistant' else '' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<｜Assistant｜>' }}
{%- endif %}"""
DEEPSEEK_R1 = DEEPSEEK.replace("{{- '<｜Assistant｜>' }}", "{{- '<｜Assistant｜><think>\\n' }}")

TELECHAT = """\
{%- set starts = {'user': '<_user>', 'tool': '<_user>', 'assistant': '<_bot>', 'system': '<_system>'} -%}
{%- for message in messages %}
    {{- starts[message.role] + message.content + ('<_end>' if message.role == 'assistant' else '') }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<_bot>' }}
{%- endif %}"""


@dataclass(frozen=True, slots=True)
class Family:
    """One row: the names that mean it, its markup, and rows of `formats`, by name or (a plugin's) themselves."""

    pattern: str
    template: str
    stop: tuple[str, ...] = ()
    bos: str = ""
    tools: str | ToolFormat = ""
    reasoning: str | Reasoning = ""
    reuse: bool = True


# The first row whose pattern is in the model's name; more special rows stand first.
FAMILIES: Mapping[str, Family] = {
    "deepseek-r1": Family(
        pattern=r"deepseek-?r1|r1-distill",
        template=DEEPSEEK_R1,
        stop=("<｜end▁of▁sentence｜>",),
        bos="<｜begin▁of▁sentence｜>",
        tools="hermes",
        reasoning="think",
    ),
    "deepseek": Family(r"deepseek", DEEPSEEK, ("<｜end▁of▁sentence｜>",), "<｜begin▁of▁sentence｜>"),
    "qwen3.5": Family(
        r"qwen-?3[._][5-9]", CHATML, ("<|im_end|>", "<|endoftext|>"), tools="qwen-xml", reasoning="think"
    ),
    "qwen3": Family(r"qwen-?3|qwq", CHATML, ("<|im_end|>", "<|endoftext|>"), tools="hermes", reasoning="think"),
    "qwen": Family(r"qwen", CHATML, ("<|im_end|>", "<|endoftext|>"), tools="hermes"),
    "tinyllama": Family(r"tiny-?n?y?-?llama", ZEPHYR, ("</s>",)),
    "llama": Family(
        r"llama-?3", LLAMA, ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"), "<|begin_of_text|>", tools="llama"
    ),
    "gemma4": Family(
        pattern=r"gemma-?4",
        template=GEMMA_4,
        stop=("<turn|>", "<|tool_response>", "<eos>"),
        bos="<bos>",
        tools="gemma",
        reasoning="channel",
        reuse=False,
    ),
    "gemma": Family(r"gemma", GEMMA, ("<end_of_turn>", "<eos>"), "<bos>", tools="hermes", reuse=False),
    "phi4": Family(r"phi-?4", PHI_4, ("<|end|>", "<|endoftext|>"), tools="phi"),
    "phi3": Family(r"phi-?3", PHI_3, ("<|end|>", "<|endoftext|>"), tools="hermes"),
    "minicpm5": Family(r"minicpm-?5", CHATML, ("<|im_end|>", "</s>"), tools="minicpm-xml", reasoning="think"),
    "minicpm": Family(r"minicpm", CHATML, ("<|im_end|>", "</s>"), tools="minicpm", reasoning="thought"),
    "internlm": Family(r"internlm", INTERNLM, ("<|im_end|>", "</s>"), "<s>", tools="internlm"),
    "chatglm": Family(r"chatglm|glm-?[34]|glm-?edge", GLM, ("<|user|>", "<|observation|>"), tools="glm"),
    "smollm3": Family(r"smollm-?3", CHATML, ("<|im_end|>",), tools="hermes", reasoning="think"),
    "smollm": Family(r"smollm|smolvlm", CHATML, ("<|im_end|>",)),
    "telechat": Family(r"telechat", TELECHAT, ("<_end>",), tools="hermes"),
    "chatml": Family(r"", CHATML, ("<|im_end|>",)),
}


def family_of(*names: str, families: Mapping[str, Family] = FAMILIES) -> str:
    """The family that the first telling name means; `chatml` where none tells."""
    for name in names:
        for family, row in families.items():
            if row.pattern and re.search(row.pattern, name, re.IGNORECASE):
                return family
    return "chatml"
