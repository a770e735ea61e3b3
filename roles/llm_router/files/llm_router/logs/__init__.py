"""The log: what a line looks like, and a writer that nobody waits for."""

from llm_router.logs.lines import Event, formatter
from llm_router.logs.setup import log_to_stderr, use_format

__all__ = ["Event", "formatter", "log_to_stderr", "use_format"]
