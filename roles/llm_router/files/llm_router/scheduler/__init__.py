"""The scheduler: the only owner of "who may use a device group now"."""

from llm_router.scheduler.core import Core, Failure, Refusal
from llm_router.scheduler.service import Lease, Scheduler, Ticket

__all__ = ["Core", "Failure", "Lease", "Refusal", "Scheduler", "Ticket"]
