#!/usr/bin/env python3
"""``vllm serve MODEL``, as far as a unit sees it."""

from __future__ import annotations

import argparse

from standin import become

parser = argparse.ArgumentParser()
parser.add_argument("serve", choices=["serve"])
parser.add_argument("model")
parser.add_argument("--served-model-name")
parser.add_argument("--port", type=int, default=8000)
options, _ = parser.parse_known_args()
become("vllm", name=options.served_model_name or options.model, port=options.port)
