"""How parrot models are spoken to, and what their config.json means."""

from exo_rkllm.plugins import ModelSpec, register_model

TEMPLATE = """\
{%- for message in messages %}
    {{- '<|' + message.role + '|>' + message.content + '<|squawk|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
{%- endif %}"""


def layers(config):
    """parrot models count their blocks in pairs."""
    return 2 * config["n_pairs"]


# Made once, outside the function: the same spec again changes nothing, so `register` may be called twice.
SPEC = ModelSpec(
    model_type="parrot",
    names=r"parrot|polly",
    template=TEMPLATE,
    stop=("<|squawk|>",),
    reasoning=("<muse>", "</muse>"),
    config_adapter={"num_hidden_layers": layers, "hidden_size": "$d_model"},
    metadata={"made_by": "the example of exo-rkllm"},
)


def register():
    register_model(SPEC)
