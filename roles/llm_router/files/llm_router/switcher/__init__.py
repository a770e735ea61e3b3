"""The switcher: turns "serve this model" into a plan, and runs it."""

from llm_router.switcher.executor import Switcher
from llm_router.switcher.plan import Observed, Step, make_plan

__all__ = ["Observed", "Step", "Switcher", "make_plan"]
