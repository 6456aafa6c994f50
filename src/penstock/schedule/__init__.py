"""One engine's decisions, in pure Python: no tensor, no clock of its own."""

from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.schedule.plan import Chunk, Ended, StepPlan
from penstock.schedule.policy import Policy
from penstock.schedule.scheduler import Scheduler
from penstock.schedule.sequence import Sequence, State

__all__ = [
    "Chunk",
    "Ended",
    "Policy",
    "QueueFull",
    "RequestRefused",
    "Scheduler",
    "Sequence",
    "State",
    "StepPlan",
]
