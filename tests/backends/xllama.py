"""llama.cpp's server out of the package xllamacpp, with the few flags of llama-server that the tests give."""

from __future__ import annotations

import argparse
import threading

import xllamacpp

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for flag in ("-m", "--host", "--alias", "--api-key"):
        parser.add_argument(flag, required=True)
    for number in ("--port", "-c", "-np", "-t"):
        parser.add_argument(number, type=int, required=True)
    given = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = given.m
    params.hostnames, params.port = [given.host], given.port
    params.model_alias, params.api_keys = {given.alias}, [given.api_key]
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = given.c, given.np, given.t
    server = xllamacpp.Server(params)
    threading.Event().wait()
