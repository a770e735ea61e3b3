"""Compile SGLang's own activation kernel as a load does, for a GPU that need not be there.

compile.py 12.0     prints the seconds, and the file that was kept
"""

import os
import sys
import time
from pathlib import Path

import torch
from sglang.kernels.jit.utils.arch import override_jit_cuda_arch
from sglang.kernels.ops.activation.activation import activation_module

major, minor = map(int, sys.argv[1].split("."))
began = time.monotonic()
with override_jit_cuda_arch(major, minor):
    # compiled, linked and loaded
    module = activation_module(torch.bfloat16)
assert module.run_activation is not None
kept = list(Path(os.environ["HOME"]).rglob(f"sm{major}{minor}*/*activation*/**/*.so"))
print(f"compiled for {sys.argv[1]} in {time.monotonic() - began:.1f} s: {kept[-1]}")
