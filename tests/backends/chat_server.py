"""Stands in for llama.cpp's server and for vLLM: the shapes that their manuals publish, behind the flags that we give.

It repeats the question, a word a chunk. `die at N`, `stall at N`, `cut at N`, `nonsense at N`, `redirect` and `busy`
in a question make it do so. Started as llama-server is; `--vllm` leaves out what only llama.cpp has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sys
from typing import Any

from aiohttp import web

KEY: web.AppKey[str] = web.AppKey("key", str)
PUBLIC: web.AppKey[tuple[str, ...]] = web.AppKey("public", tuple)


def words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


class Server:
    def __init__(self, model: str, context: int, key: str, *, vllm: bool) -> None:
        self.model, self.context, self.key, self.vllm = model, context, key, vllm
        self.running = 0
        self.more = 0

    async def health(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def props(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"default_generation_settings": {"n_ctx": self.context}})

    async def models(self, request: web.Request) -> web.StreamResponse:
        row: dict[str, Any] = {"id": self.model, "object": "model"}
        if self.vllm:
            row["max_model_len"] = self.context
        others = [{"id": f"other/model-{number}", "object": "model"} for number in range(self.more)]
        return web.json_response({"object": "list", "data": [*others, row]})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if not asked.keys() & {"messages", "prompt"}:
            return web.json_response({"error": {"message": "'messages' is required"}}, status=400)
        if "messages" in asked:
            content = asked["messages"][-1]["content"]
            question = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        else:
            question = asked["prompt"] if isinstance(asked["prompt"], str) else " ".join(map(str, asked["prompt"]))
        said = words(question)
        if question == "slow":
            await asyncio.sleep(3600)
        if "redirect" in question:
            return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"})
        if "busy" in question:
            return web.json_response({"error": {"message": "Too many."}}, status=429, headers={"Retry-After": "7"})
        if not isinstance(asked.get("messages", [{"content": ""}])[-1]["content"], str) and "blind" in question:
            text = f"{self.model} is not a multimodal model" if self.vllm else "image input is not supported - hint: x"
            return web.json_response({"error": {"message": text}}, status=400 if self.vllm else 500)
        if asked.get("top_k") == -5:
            return web.json_response({"error": {"message": "top_k must be -1 or more"}}, status=400)
        if asked.get("top_p") == 0.5:
            return web.json_response({"error": {"message": "top_p is not a good idea."}}, status=500)
        if len(said) >= self.context:
            text = (
                f"This model's maximum context length is {self.context} tokens."
                if self.vllm
                else f"the request exceeds the available context size ({self.context} tokens), try increasing it"
            )
            return web.json_response({"error": {"code": 400, "message": text}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        self.running += 1
        try:
            await self._answer(response, asked, question, said)
        finally:
            self.running -= 1
        return response

    async def _answer(
        self, response: web.StreamResponse, asked: dict[str, Any], question: str, said: list[str]
    ) -> None:
        limit = min(asked.get("max_tokens", self.context), self.context - len(said))
        trouble = {name: int(at) for name, at in re.findall(r"(die|stall|cut|nonsense) at (\d+)", question)}
        reason = "stop" if len(said) <= limit else "length"
        chat = "messages" in asked
        if asked.get("tools"):
            for part in (
                {"id": "c1", "function": {"name": "look", "arguments": '{"a"'}},
                {"function": {"arguments": ": 1}"}},
            ):
                await self._send(response, {"delta": {"tool_calls": [{"index": 0, **part}]}})
            said, reason = [], "tool_calls"
        if asked.get("chat_template_kwargs", {}).get("enable_thinking"):
            await self._send(response, {"delta": {"reasoning_content": "hm"}})
        for number, word in enumerate(said[:limit]):
            if trouble.get("die") == number:
                os.kill(os.getpid(), signal.SIGKILL)
            if trouble.get("stall") == number:
                await asyncio.sleep(3600)
            if trouble.get("cut") == number:
                return
            if trouble.get("nonsense") == number:
                await response.write(b"data: {nonsense\n\n")
            await self._send(response, {"delta": {"content": word}} if chat else {"text": word})
            await asyncio.sleep(0)
        sent = min(limit, len(said))
        await self._send(response, {"delta": {}, "finish_reason": reason})
        usage: dict[str, Any] = {"prompt_tokens": len(words(question)), "completion_tokens": sent}
        last: dict[str, Any] = {"choices": [], "usage": usage}
        if self.vllm:
            usage["prompt_tokens_details"] = {"cached_tokens": 1}
        else:
            last["timings"] = {
                "cache_n": 2,
                "prompt_n": 3,
                "prompt_ms": 12.5,
                "predicted_n": sent,
                "predicted_ms": 40.0,
            }
        await response.write(b"data: " + json.dumps(last).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")

    async def _send(self, response: web.StreamResponse, choice: dict[str, Any]) -> None:
        chunk = {"choices": [{"index": 0, "finish_reason": None, **choice}]}
        await response.write(b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n")


@web.middleware
async def keyed(request: web.Request, handler: Any) -> web.StreamResponse:
    key, public = request.app[KEY], request.app[PUBLIC]
    if key and request.path not in public and request.headers.get("Authorization") != f"Bearer {key}":
        return web.json_response({"error": {"message": "Invalid API Key"}}, status=401)
    answered: web.StreamResponse = await handler(request)
    return answered


def application(server: Server) -> web.Application:
    app = web.Application(middlewares=[keyed])
    app[KEY] = server.key
    # llama.cpp's shows the list of models to everybody, vLLM's does not.
    app[PUBLIC] = ("/health",) if server.vllm else ("/health", "/v1/models")
    app.add_routes(
        [
            web.get("/health", server.health),
            web.get("/props", server.props),
            web.get("/v1/models", server.models),
            web.post("/v1/chat/completions", server.chat),
            web.post("/v1/completions", server.chat),
        ]
    )
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("-m", "--host", "--port", "-c", "--parallel", "-t", "-ngl"):
        parser.add_argument(flag)
    parser.add_argument("--jinja", action="store_true")
    parser.add_argument("--fail")
    given = parser.parse_args()
    print(f"main: loading model {given.m}", flush=True)  # noqa: T201 - as llama-server does
    if given.fail:
        sys.exit(f"error: {given.fail}")
    server = Server(given.m, int(given.c or 4096), os.environ["LLAMA_API_KEY"], vllm=False)
    web.run_app(application(server), host=given.host, port=int(given.port), print=None)


if __name__ == "__main__":
    main()
