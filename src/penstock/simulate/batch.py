"""Batch jobs in the gaps: work that nobody waits for, behind all that somebody does."""

from __future__ import annotations

from penstock.record.record import Outcome
from penstock.simulate.call import Call
from penstock.simulate.cluster import Cluster, Place, State
from penstock.simulate.fleet import Batch
from penstock.simulate.result import BacklogReport

PRIORITY = 2  # requests that somebody waits for have 0, or 1 in the background


class Backlog:
    """Gives a replica one more request whenever it has fewer than `fill` to work on."""

    def __init__(self, cluster: Cluster, batch: Batch) -> None:
        self._cluster = cluster
        self._batch = batch
        self._left = batch.requests
        self._stopped = False
        self.finished = self.failed = 0
        self.prompt_tokens = self.output_tokens = 0
        cluster.on_room = self._fill
        for place in cluster.places:
            self._fill(place)

    def stop(self) -> None:
        """No more: the load is over, and what is left of the batch is not of its time."""
        self._stopped = True

    def report(self, end_s: float) -> BacklogReport:
        """What became of it, until the load was over and a last few had ended."""
        return BacklogReport(
            finished=self.finished,
            unfinished=self._left,
            failed=self.failed,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            output_tokens_per_s=self.output_tokens / end_s if end_s else 0.0,
        )

    def _fill(self, place: Place) -> None:
        batch, replica = self._batch, place.replica
        while (
            replica is not None
            and place.state is State.SERVING
            and self._left
            and not self._stopped
            and len(replica.calls) < batch.fill
        ):
            self._left -= 1
            call = Call(
                batch.prompt_tokens,
                batch.output_tokens,
                self._cluster.clock.now,
                self._ended,
                priority=PRIORITY,
                owner=self,
            )
            if not self._cluster.offer(call, place):
                return

    def _ended(self, call: Call) -> None:
        if call.outcome is Outcome.FINISHED:
            self.finished += 1
            self.prompt_tokens += call.prompt
            self.output_tokens += call.said
        else:
            self.failed += 1
