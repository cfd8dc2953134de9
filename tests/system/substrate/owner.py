"""What an owner types, as README.md and docs/installing.md have it; the repository is a folder instead of a server."""

from __future__ import annotations

from tests.system.substrate.computer import Computer

PORT = 52415
ADD_REPOSITORY = """
install -D -m 644 /srv/share/exo-rkllm.gpg /etc/apt/keyrings/exo-rkllm.gpg
cat > /etc/apt/sources.list.d/exo-rkllm.sources <<EOF
Types: deb
URIs: file:/srv/share
Suites: $(. /etc/os-release && echo $VERSION_CODENAME)
Components: main
Signed-By: /etc/apt/keyrings/exo-rkllm.gpg
EOF
# The roots have a Debian mirror, which nothing here can reach.
rm -f /etc/apt/sources.list
apt-get -qq update
"""
APT = "DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Dpkg::Use-Pty=0"
MODEL = "demo"


def add_repository(computer: Computer) -> None:
    computer.run(ADD_REPOSITORY, timeout=60)


def apt(computer: Computer, words: str) -> str:
    return computer.run(f"{APT} {words} 2>&1", timeout=120)


def add_model(computer: Computer, name: str = MODEL, options: str = "") -> None:
    computer.run(
        f"exo-rkllm-simulator model /tmp/{name}.rkllm {options} && exo-rkllm import --move /tmp/{name}.rkllm",
        timeout=60,
    )


def chat(words: str = "hello", model: str = MODEL) -> str:
    """The request of README.md, streamed."""
    body = f'{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "{words}"}}]}}'
    return f"curl -sSN http://127.0.0.1:{PORT}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
