"""What the admired small engines fail at, one test each, and the finer promises."""

from __future__ import annotations

import pytest

from penstock.schedule import Policy, QueueFull, RequestRefused, Sequence, State
from tests.schedule.world import World

SMALL = Policy(max_running=4, max_step_tokens=20)


def test_prompt_larger_than_the_pool_is_refused_with_the_numbers() -> None:
    world = World(SMALL, pages=4, page_size=4)
    with pytest.raises(RequestRefused, match="prompt has 40 tokens; the KV pool holds 16"):
        world.add("big", [1] * 40, 2)
    assert not world.scheduler.has_work
    world.add("next", [1, 2, 3], 5)
    world.run()
    world.verify()


def test_a_sequence_that_would_outgrow_the_pool_alone_is_refused_and_told_what_fits() -> None:
    world = World(SMALL, pages=4, page_size=4)
    with pytest.raises(RequestRefused, match=r"Lower max_tokens to 7") as refused:
        world.add("long", [1] * 10, 8)
    assert refused.value.field == "max_tokens"
    world.add("fits", [1] * 10, 7)
    world.run()
    world.verify()


def test_two_that_fit_alone_but_not_together_both_finish() -> None:
    world = World(Policy(max_running=4, max_step_tokens=20, reserve=0.0), pages=8, page_size=2)
    world.add("a", [1, 2, 3], 13)
    world.add("b", [4, 5, 6], 13)
    world.run()
    world.verify()


def test_abort_in_the_step_after_its_prefill() -> None:
    world = World(SMALL, pages=8, page_size=4)
    world.add("other", [9] * 6, 6)
    world.add("gone", [1, 2, 3, 4, 5, 6, 7, 8, 9], 8)
    assert world.step()
    plan = world.schedule()
    assert plan is not None
    stopped, *_ = world.compute(plan)
    world.scheduler.abort("gone")
    world.scheduler.abort("gone")
    world.scheduler.apply(plan, stopped)
    world.check()
    assert world.texts["gone"].ends == ["abort"]
    world.run()
    world.verify()


def test_abort_of_a_waiting_sequence_frees_its_place_in_the_queue() -> None:
    world = World(Policy(max_running=1, max_step_tokens=20, max_waiting=1), 8, 4)
    world.add("runs", [1, 2], 5)
    world.step()
    world.add("waits", [1, 3], 5)
    with pytest.raises(QueueFull):
        world.add("refused", [1, 4], 5)
    world.scheduler.abort("waits")
    world.step()
    world.add("later", [1, 4], 5)
    world.run()
    world.verify()


def test_decodes_go_on_while_a_new_prompt_arrives_every_step() -> None:
    world = World(Policy(max_running=40, max_step_tokens=60), pages=200, page_size=4)
    world.add("first", [7] * 8, 30)
    world.step()
    first = world.sequences["first"]
    for i in range(25):
        if first.state.name != "DECODE":
            break
        length = first.length
        world.add(f"n{i}", [i + 1] * 17, 3)
        world.step()
        assert first.length == length + 1 or first.state.name == "ENDED"
    world.run()
    world.verify()


def test_prompts_go_on_while_decodes_fill_the_house() -> None:
    """A full house of decodes leaves room for a page of prefill in every step."""
    world = World(Policy(max_running=8, max_step_tokens=12), pages=100, page_size=4)
    for i in range(7):
        world.add(f"d{i}", [i + 1], 60)
    world.step()
    world.add("prompt", [3] * 40, 2)
    for _ in range(11):
        world.step()
    assert len(world.texts["prompt"].tokens) > 40
    world.run()
    world.verify()


def test_sixty_requests_with_one_prefix_compute_it_once() -> None:
    world = World(Policy(max_running=64, max_step_tokens=256), pages=400, page_size=16)
    prefix = [(i * 7) % 49 + 1 for i in range(640)]
    for i in range(60):
        world.add(f"r{i}", [*prefix, i % 49 + 1, 1 + i // 49], 1)
    world.run()
    world.verify()
    assert world.computed_tokens == 640 + 60 * 2
    assert sum(s.cached for s in world.sequences.values()) == 59 * 640


def test_preempted_work_resumes_before_what_waits() -> None:
    world = World(Policy(max_running=3, max_step_tokens=30, reserve=0.0), pages=8, page_size=2)
    for name, first in (("a", 1), ("b", 2), ("c", 3), ("d", 4)):
        world.add(name, [first, 5, 6], 9)
    fresh, contests = set(world.sequences.values()), 0
    while world.scheduler.has_work:
        plan = world.schedule()
        assert plan is not None
        started = [c.sequence for c in plan.chunks if c.start == 0 and not c.sequence.preemptions]
        displaced = [
            s for s in world.sequences.values() if s.preemptions and s.state is State.WAITING
        ]
        contests += any(s.state is State.WAITING for s in fresh - set(started)) and bool(displaced)
        fresh -= set(started)
        for newcomer in started:
            assert not any(s.order < newcomer.order for s in displaced)
        world.finish(plan)
        world.check()
    world.verify()
    assert contests, "no newcomer ever waited behind a preempted one: this test showed nothing"


def test_a_failed_step_ends_what_ran_and_spares_what_waits() -> None:
    world = World(Policy(max_running=2, max_step_tokens=20), pages=20, page_size=4)
    for i in range(4):
        world.add(f"r{i}", [5, 6, 7, 8, 9], 6)
    world.step()
    assert world.schedule() is not None
    world.scheduler.fail()
    world.check()
    assert [t.ends for t in world.texts.values()] == [["error"], ["error"], [], []]
    assert world.scheduler.pool.free == world.scheduler.pool.total
    world.run()
    assert all(t.ends in (["stop"], ["length"]) for t in list(world.texts.values())[2:])


def test_urgent_requests_overtake_the_queue_but_not_what_runs() -> None:
    world = World(Policy(max_running=1, max_step_tokens=20), pages=20, page_size=4)
    world.add("runs", [1, 2], 3)
    world.step()
    world.add("late", [1, 3], 1, priority=1)
    world.add("urgent", [1, 4], 1, priority=0)
    ends: list[str] = []
    while world.scheduler.has_work:
        world.step()
        ends += [n for n, t in world.texts.items() if t.ends and n not in ends]
    assert ends == ["runs", "urgent", "late"]


def test_static_batches_wait_to_fill_and_keep_their_rows() -> None:
    policy = Policy(max_running=2, max_step_tokens=30, batching="static", fill_wait_s=3.0)
    world = World(policy, pages=40, page_size=4)
    world.add("a", [1, 2], 2)
    assert not world.step()
    assert world.scheduler.wake_at == 3.0
    world.add("b", [1, 9], 5)
    paddings = []
    world.add("c", [1, 8], 2)
    while world.scheduler.has_work:
        plan = world.schedule()
        if plan is not None:
            paddings.append(plan.padding)
            assert "c" not in {s.id for s in plan.decodes} or paddings[-1] == 0
            world.finish(plan)
        world.check()
        world.now += 1.0
    world.verify()
    assert max(paddings) == 1


def test_a_server_like_vllm_serves_the_same_text() -> None:
    policy = Policy.vllm_like(max_running=5, max_step_tokens=18)
    world = World(policy, pages=10, page_size=4)
    for i in range(12):
        world.add(f"r{i}", [7] * (i % 3) * 4 + [i + 1] * 7, 14)
    world.run()
    world.verify()
    assert world.scheduler.preemptions


def test_bad_policies_are_refused() -> None:
    with pytest.raises(ValueError, match="Raise it to at least 24"):
        World(Policy(max_running=8, max_step_tokens=20), 10, 16)
    with pytest.raises(ValueError, match="reserve=1.5"):
        World(Policy(reserve=1.5), 10, 16)


def test_live_work_takes_the_seats_of_batch_work() -> None:
    world = World(Policy(max_running=2, max_step_tokens=24), pages=20, page_size=4)
    for i in range(4):
        world.add(f"batch{i}", [i + 1] * 6, 12, priority=10)
    for _ in range(3):
        world.step()
    world.add("live", [9] * 6, 4)
    world.step()
    assert world.sequences["live"].computed == 6
    assert world.scheduler.preemptions == 1
    assert world.scheduler.running == 2
    world.run()
    world.verify()


def test_live_work_takes_the_pages_of_batch_work() -> None:
    world = World(Policy(max_running=4, max_step_tokens=24), pages=6, page_size=4)
    for i in range(2):
        world.add(f"batch{i}", [i + 1] * 8, 4, priority=10)
    world.step()
    world.add("live", [9] * 16, 4)
    world.step()
    assert world.sequences["live"].computed == 16
    assert [s.state.name for s in world.sequences.values()] == ["WAITING", "WAITING", "DECODE"]
    world.run()
    world.verify()


def test_equal_priority_preempts_nobody_for_a_seat() -> None:
    world = World(Policy(max_running=2, max_step_tokens=24), pages=20, page_size=4)
    for i in range(3):
        world.add(f"r{i}", [i + 1] * 6, 12, priority=3)
    world.run()
    assert world.scheduler.preemptions == 0


def test_the_queue_takes_all_choices_or_none() -> None:
    world = World(Policy(max_running=1, max_step_tokens=24, max_waiting=2), 20, 4)
    three = [Sequence(id=i, prompt=2, limit=5) for i in range(3)]
    with pytest.raises(RequestRefused, match="max_waiting"):
        world.scheduler.add(*three)
    assert not world.scheduler.has_work
    world.scheduler.add(three[0])
    with pytest.raises(QueueFull, match="max_waiting"):
        world.scheduler.add(*three[1:])
    assert world.scheduler.waiting == 1


def test_beams_that_can_never_run_are_refused() -> None:
    world = World(Policy(max_running=4, max_step_tokens=24), pages=8, page_size=4)
    with pytest.raises(RequestRefused, match="max_running"):
        world.add_group("wide", 5, [1, 2], 3)
    with pytest.raises(RequestRefused, match="enough for 9 tokens each"):
        world.add_group("long", 4, [1] * 8, 3)
    world.add_group("fits", 4, [1] * 6, 3)
    world.run()
    world.verify()
