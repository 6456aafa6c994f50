"""The fluid queue of a spike, by hand."""

import math

import pytest

from penstock.plan.fluid import spike


def test_a_spike_by_hand():
    # 2/s on 4/s; five-fold for a minute: 6 more a second than are served, so 360 wait, the
    # last of them 90 s. They drain by 2 a second: three minutes.
    found = spike(2.0, 4.0, 5.0, 60.0)
    assert (found.backlog, found.wait_s, found.recovery_s) == (360, 90, 180)


def test_a_spike_that_the_fleet_carries_leaves_nothing():
    found = spike(2.0, 12.0, 5.0, 60.0)
    assert (found.backlog, found.wait_s, found.recovery_s) == (0, 0, 0)


def test_a_fleet_that_is_full_never_recovers():
    assert spike(4.0, 4.0, 5.0, 60.0).recovery_s == math.inf


@pytest.mark.parametrize("at", range(4))
def test_what_is_not_above_zero_is_named(at):
    values = [2.0, 4.0, 5.0, 60.0]
    values[at] = -1.0
    with pytest.raises(ValueError, match=("rate", "capacity", "factor", "seconds")[at]):
        spike(*values)
