"""Fleets in virtual time: the engine's own scheduler, driven by a step-time model.

from penstock.simulate import plan_of, read_fleet, simulate

fleet = read_fleet("fleet.toml")              # or Fleet(replicas=(Group(...),))
plan = plan_of(read_trace(path))              # or any plan of workload.source.Source
result = simulate(fleet, plan, seed=0)        # -> Simulated

simulate(fleet: Fleet, plan: Plan, seed: int = 0, *,
steps: Sequence[StepTime] = (),      # instead of the fleet's, one for each group
until_s: float | None = None,        # when the load stops
events: bool = False,                # keep the time of every token
leaps: bool = True) -> Simulated

result.ttft_s, .tpot_s, .e2e_s, .queue_s      # arrays of seconds, a row for each request,
result.finished, result.column("asked_ns")    #   in the order in which they ended
result.summary(slos)                          # figures as a dictionary
result.run(slos)                              # as a Run of one point, for every report
"""

from penstock.simulate.fleet import Fleet, Group, read_fleet
from penstock.simulate.result import Simulated
from penstock.simulate.run import plan_of, simulate

__all__ = ["Fleet", "Group", "Simulated", "plan_of", "read_fleet", "simulate"]
