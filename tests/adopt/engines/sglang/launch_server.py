"""``python -m sglang.launch_server``, as far as a start script sees it."""

from __future__ import annotations

import argparse

from standin import become

parser = argparse.ArgumentParser()
parser.add_argument("--model-path", required=True)
parser.add_argument("--served-model-name")
parser.add_argument("--port", type=int, default=30000)
options, _ = parser.parse_known_args()
become("sglang", name=options.served_model_name or options.model_path, port=options.port)
