"""Which programs of an engine compile kernels. Pure.

SGLang, FlashInfer, DeepGEMM, Triton and PyTorch start these programs while a model is loaded, as
processes of the engine's unit. What they build is kept in the engine's cache, so the next start
needs none of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

COMPILERS = (
    # what runs the others
    *("ninja", "make", "cmake", "cargo"),
    # CUDA's
    *("nvcc", "cicc", "ptxas", "ptxas-blackwell", "cudafe++", "fatbinary", "nvlink", "tileiras"),
    # GNU's and LLVM's, which nvcc, ninja and Triton call
    *("cc", "c++", "gcc", "g++", "cc1", "cc1plus", "lto1", "as", "collect2"),
    *("clang", "clang++", "rustc"),
    *("ld", "ld.bfd", "ld.gold", "ld.lld", "lld", "mold"),
    # AMD's
    *("hipcc", "amdclang", "amdclang++"),
)
_COMPILER = re.compile(
    rf"(?:[a-z0-9_]+-linux-gnu-)?(?:{'|'.join(map(re.escape, COMPILERS))})(?:-\d+(?:[.]\d+)*)?"
)
"""With the target and the version that Debian puts into a name: ``x86_64-linux-gnu-g++-12``."""

_PROGRAM = re.compile(r"\"([^\"]+)\"|([^\s\"\[]\S*)")


def is_compiling(programs: Iterable[str]) -> bool:
    """Whether one of these programs, by the names of their files, is a compiler."""
    return any(_COMPILER.fullmatch(program) for program in programs)


def program_of(command_line: str) -> str:
    """The name of the program in a command line as systemd shows it, quoted where that is needed.
    Empty for ``[name]``: a process that has ended, and that nobody has waited for."""
    found = _PROGRAM.match(command_line)
    return (found[1] or found[2]).rpartition("/")[2] if found is not None else ""
