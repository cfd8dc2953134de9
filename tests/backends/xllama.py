"""llama.cpp's server out of the package xllamacpp, with the flags of llama-server that we give."""

from __future__ import annotations

import argparse
import os
import threading

import xllamacpp

if __name__ == "__main__":
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-m", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--alias", default="")
    parser.add_argument("--api-key", default=os.environ.get("LLAMA_API_KEY", ""))
    parser.add_argument("-c", type=int, default=0)
    parser.add_argument("-np", "--parallel", type=int, default=1)
    parser.add_argument("-t", type=int, default=1)
    parser.add_argument("--jinja", action="store_true")
    given, others = parser.parse_known_args()
    if others:
        raise SystemExit(f"error: invalid argument: {others[0]}")
    params = xllamacpp.CommonParams()
    params.model.path = given.m
    params.hostnames, params.port = [given.host], given.port
    params.model_alias = {given.alias} - {""}
    params.api_keys = [given.api_key] if given.api_key else []
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = given.c, given.parallel, given.t
    server = xllamacpp.Server(params)
    threading.Event().wait()
