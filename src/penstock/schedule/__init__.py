"""One engine's decisions, in pure Python: no tensor, no clock of its own."""

from penstock.schedule.errors import QueueFull, RequestRefused
from penstock.schedule.policy import Policy
from penstock.schedule.scheduler import Chunk, Ended, Scheduler, StepPlan
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
