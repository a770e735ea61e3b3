"""The router on a host whose drivers list the GPUs below $GPU_ROOT: started instead of
``llm_router``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llm_router import model_gpus
from llm_router.cli import main
from llm_router.host_gpus import read_host_gpus

if __name__ == "__main__":
    root = Path(os.environ["GPU_ROOT"])
    vars(model_gpus)["read_host_gpus"] = lambda: read_host_gpus(root)
    sys.exit(main(sys.argv[1:]))
