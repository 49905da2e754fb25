"""Who trains what, and when, in a study: each training by one worker, whatever the seeds and jobs."""

import operator

from medvlm_r1.experiments.study import every_seed


def test_arms_that_share_a_training_follow_one_another_and_are_told_in_the_order_given():
    asked = []

    def work(seed, name):
        asked.append((seed, name))
        return f"{name}{seed}"

    assert list(every_seed(work, {"base": "", "grpo": "a", "blank": "b", "early": "a"}, 2, 1).items()) == [
        ("base", ["base0", "base1"]),
        ("grpo", ["grpo0", "grpo1"]),
        ("blank", ["blank0", "blank1"]),
        ("early", ["early0", "early1"]),
    ]
    assert asked == [(seed, name) for seed in (0, 1) for name in ("base", "grpo", "early", "blank")]


def test_two_workers_find_the_same_as_one():
    arms = {"x": 1, "yz": 2, "w": 1}
    assert (
        every_seed(operator.mul, arms, 3, 2) == every_seed(operator.mul, arms, 3, 1) == {"x": ["", "x", "xx"], "yz": ["", "yz", "yzyz"], "w": ["", "w", "ww"]}
    )
