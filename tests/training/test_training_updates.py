"""The order of updates: pure, seeded, exact."""

from __future__ import annotations

import pytest

from psr_runtime.config import OptimizerConfig
from psr_runtime.training.update_trainer import learning_rate_scale
from psr_runtime.training.updates import Updates


def updates(count: int = 10, **changes: object) -> Updates:
    lengths = [5 + 3 * number % 7 for number in range(count)]
    settings = {"epochs": 2, "global_batch": 4, "micro_batch": 3, "seed": 0, **changes}
    return Updates(lengths, list(range(1, count + 1)), **settings)  # type: ignore[arg-type]


def records(update: dict) -> list[int]:
    return [record for micro in update["micro"] for record in micro]


def test_every_epoch_holds_every_record_once_in_batches_of_the_global_size() -> None:
    plan = updates()
    sizes = [len(records(plan[number])) for number in range(len(plan))]
    assert sizes == [4, 4, 2, 4, 4, 2]
    assert sorted(records(plan[0]) + records(plan[1]) + records(plan[2])) == list(range(10))
    assert sorted(records(plan[3]) + records(plan[4]) + records(plan[5])) == list(range(10))
    assert plan.first_epoch == 3


def test_the_count_is_that_of_the_global_batch() -> None:
    update = updates()[0]
    assert update["count"] == sum(record + 1 for record in records(update))


def test_the_cut_into_micro_batches_does_not_move_records_between_updates() -> None:
    for number in range(6):
        whole, cut = updates(micro_batch=100)[number], updates(micro_batch=1)[number]
        assert records(whole) == records(cut)
        assert whole["count"] == cut["count"]
        assert [len(micro) for micro in cut["micro"]] == [1] * len(records(cut))


def test_neighbours_in_a_micro_batch_have_neighbouring_lengths() -> None:
    lengths = [5 + 3 * number % 7 for number in range(10)]
    for update in updates():
        of_batch = [lengths[record] for record in records(update)]
        assert of_batch == sorted(of_batch, reverse=True)


def test_seeds_and_epochs_give_other_orders_and_the_same_seed_the_same() -> None:
    plan = updates()
    assert list(plan) == list(updates())
    assert list(plan) != list(updates(seed=1))
    assert records(plan[0]) != records(plan[3])


def test_groups_follow_each_other_shuffled_within_themselves() -> None:
    plan = updates(groups=[6, 4], global_batch=2, epochs=1)
    order = [record for update in plan for record in sorted(records(update))]
    assert sorted(order[:6]) == [0, 1, 2, 3, 4, 5]
    assert sorted(order[6:]) == [6, 7, 8, 9]
    assert order != list(range(10))


@pytest.mark.parametrize("schedule", ["Cosine", "Linear", "Constant"])
@pytest.mark.parametrize("count", [1, 2, 100])
def test_no_update_has_a_learning_rate_of_zero(schedule: str, count: int) -> None:
    config = OptimizerConfig(schedule=schedule, warmup_ratio=0.1)
    scales = [learning_rate_scale(number, count, config) for number in range(count)]
    assert min(scales) > 0
    assert max(scales) == 1


def test_cosine_warms_up_and_falls_to_zero_after_the_last_update() -> None:
    config = OptimizerConfig(schedule="Cosine", warmup_ratio=0.03)
    scales = [learning_rate_scale(number, 100, config) for number in range(101)]
    assert scales[:4] == [0.25, 0.5, 0.75, 1.0]
    assert scales[3:] == sorted(scales[3:], reverse=True)
    assert scales[100] == pytest.approx(0)
    assert learning_rate_scale(50, 100, OptimizerConfig(schedule="Linear", warmup_ratio=0)) == 0.5
