"""Every bundled model on every shipped sheet: limits that make sense, or an error that helps."""

import pytest

from penstock.plan.limits import limits
from penstock.plan.point import Point
from penstock.plan.whatif import what_if
from penstock.predict.architecture import architecture, shapes
from penstock.predict.deployment import Deployment
from penstock.predict.sheet import devices


@pytest.mark.parametrize("name", shapes())
def test_limits_of_a_model_on_every_device(name):
    model, found = architecture(name), 0
    for device in devices().values():
        placed = Deployment(model, device, model.weights, tp=2)
        room = 0.9 * device.memory_bytes - 1.2e9 - placed.device_weight_bytes
        if room < 1000 * model.kv_bytes(900, "bf16", 2) / 900:
            with pytest.raises(ValueError, match=r"GB for weights and KV|room for"):
                limits(placed, 800, 200, [1])
            continue
        one = limits(placed, 800, 200, [1])
        found += 1
        for step in (*one.decode, *one.served, one.prefill):
            assert 0 < step.seconds < step.usually_s
        for answer in what_if(Point(placed, 800, 200, 1), {"bandwidth": "2", "capacity": "2"}):
            assert 0 <= answer.throughput <= 1
    assert found > 0
