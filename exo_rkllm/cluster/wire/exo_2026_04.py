"""exo's release 1.0.71 of 2026-04-23 (libp2p): main's types of 2026-06 without what came to them in between."""

from exo_rkllm.cluster.wire import exo_2026_06

NAME = "1.0.71"
COMMITS = ("fd707de",)
VERSIONS = ("v0.0.1",)
TRANSPORT = "libp2p"

TABLE = exo_2026_06.TABLE

# Fields of a type, or a whole type where none is named.
WITHOUT = """
ModelCard: backends reasoning_dialect
RunnerReady: prefill_server_port
RunnerFailed: diagnostics
ErrorChunk: diagnostics
TextGenerationTaskParams: prefill_endpoint
State: node_backends instance_links prefill_server_ports custom_model_cards
NodeBackends
SetInstanceLink
DeleteInstanceLink
InstanceLinkCreated
InstanceLinkDeleted
InstanceLink
RunnerDiagnostic
Backend
"""
