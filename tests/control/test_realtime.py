"""Real-time chunking: weights and plans by hand, and a policy whose chunks arrive late."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_policies import TEXTS, mlp

from vla.config import UserError
from vla.control import BatchedPolicy, ControlSettings, EpisodeState, RealtimeSettings
from vla.control.realtime import (
    averaged,
    blended,
    delay_steps,
    nearest,
    prefix_weights,
)
from vla.control.realtime_methods import abilities_of, chosen_method
from vla.control.realtime_plan import check_lengths, next_actions
from vla.types import Spec

SPEC = Spec({}, ("x",), ("u", "v"), (-1.0, 2.0), (1.0, 4.0), 20)


# --- formulas -----------------------------------------------------------------------------------------


def test_delays_are_whole_steps():
    assert [delay_steps(s, 20) for s in (0.0, 0.01, 0.05, 0.051, 0.1)] == [0, 1, 1, 2, 2]
    assert delay_steps(0.1, 30) == 3  # 0.1 * 30 is a little more than 3


def test_weights_by_hand():
    """H = 8, s = 2, d = 2: the chunk before ends after 6, and c falls by fifths."""
    c = np.array([4, 3, 2, 1]) / 5
    exp = [1, 1, *(c * (np.exp(c) - 1) / (math.e - 1)), 0, 0]
    assert prefix_weights(8, 2, 2).tolist() == pytest.approx(exp)
    assert prefix_weights(8, 2, 2, "linear").tolist() == pytest.approx([1, 1, *c, 0, 0])
    assert prefix_weights(8, 2, 2, "ones").tolist() == [1] * 6 + [0] * 2
    assert prefix_weights(8, 2, 2, "zeros").tolist() == [1, 1] + [0] * 6


def test_a_delay_beyond_the_end_is_lowered():
    assert prefix_weights(4, 3, 2).tolist() == [1, 1, 0, 0]


def test_the_nearest_draw_by_hand():
    chunks = torch.tensor([[[[3.0], [0.0]]], [[[0.0], [9.0]]], [[[1.0], [1.0]]]])
    previous = torch.zeros(1, 2, 1)
    assert nearest(chunks, previous, torch.tensor([1.0, 0.0])).flatten().tolist() == [0, 9]
    assert nearest(chunks, previous, torch.tensor([1.0, 1.0])).flatten().tolist() == [1, 1]


def test_every_robot_has_its_own_nearest_draw():
    chunks = torch.arange(6.0).view(3, 2, 1, 1)
    found = nearest(chunks, torch.tensor([4.0, 1.0]).view(2, 1, 1), torch.ones(1))
    assert found.flatten().tolist() == [4, 1]


def test_a_blend_by_hand():
    found = blended(np.array([[1.0], [2.0]]), np.array([[3.0], [4.0], [5.0]]))
    assert found.flatten().tolist() == pytest.approx([0.3 + 2.1, 0.6 + 2.8, 5.0])


def test_an_ensemble_by_hand():
    old, new = np.array([[1.0]]), np.array([[3.0], [5.0]])
    share = 1 / (1 + math.exp(-0.01))
    assert averaged([old, new]).flatten().tolist() == pytest.approx([share + 3 * (1 - share), 5])


# --- plans --------------------------------------------------------------------------------------------


def chunk(start):
    return np.arange(start, start + 4, dtype=np.float32)[:, None]


def executed(method, delay=1, every=2, **options):
    """What is executed of the chunks 0 1 2 3, 10 11 12 13, 20 21 22 23."""
    settings = RealtimeSettings(delay=delay, method=method, **options)
    plan, found = None, []
    for start in (0, 10, 20):
        actions, plan = next_actions(plan, chunk(start), settings, every, np.zeros(1, np.float32))
        found.append(actions.flatten().tolist())
    return found


def test_plans_by_hand():
    assert executed("switch") == [[0, 1], [2, 11], [12, 21]]
    assert executed("switch", delay=2) == [[0, 1], [2, 3], [12, 13]]
    assert executed("hold") == [[0, 1], [0, 10, 11], [0, 20, 21]]
    assert executed("hold", action_kind="absolute") == [[0, 1], [1, 10, 11], [11, 20, 21]]


def test_a_blend_goes_on_from_what_was_planned():
    first, second, third = executed("blend")
    assert (first, second) == ([0, 1], [2, pytest.approx(0.3 * 3 + 0.7 * 11)])
    # 12 stood alone at the end of the second chunk
    assert third == [12, pytest.approx(0.3 * 13 + 0.7 * 21)]


def test_an_ensemble_keeps_all_chunks_that_speak():
    old = 1 / (1 + math.exp(-0.01))
    assert executed("ensemble")[1] == [2, pytest.approx(3 * old + 11 * (1 - old))]
    assert executed("ensemble")[2] == [12, pytest.approx(13 * old + 21 * (1 - old))]


def test_without_delay_the_new_chunk_is_executed():
    for method in ("switch", "hold"):
        assert executed(method, delay=0) == [[0, 1], [10, 11], [20, 21]]


def test_standing_still_stays_within_the_limits():
    policy = BatchedPolicy(
        mlp(SPEC, chunk=4),
        ControlSettings(replan_every=2, realtime=RealtimeSettings(delay=1, method="hold")),
    )
    # of v, whose least value is 2, that is the nearest to 0
    assert second_actions(policy)[0].tolist() == [0, 2]


@pytest.mark.parametrize(
    ("length", "delay", "every", "message"),
    [
        (4, 2, 1, r"it must be 2 to 2: set replan_every=2"),
        (8, 2, 7, r"it must be 2 to 6: set replan_every=6"),
        (4, 3, 3, r"set method=hold, or train the policy with policy\.chunk=6"),
    ],
)
def test_chunks_that_end_too_early_are_refused(length, delay, every, message):
    with pytest.raises(UserError, match=message):
        check_lengths(length, RealtimeSettings(delay=delay), every)


def test_standing_needs_no_overlap():
    check_lengths(4, RealtimeSettings(delay=9, method="hold"), 4)
    with pytest.raises(UserError, match="set replan_every=4"):
        check_lengths(4, RealtimeSettings(delay=1, method="hold"), 5)


# --- policies -----------------------------------------------------------------------------------------

FLOW = {"type": "flow", "hidden": 16, "depth": 1, "integration_steps": 4}


def state(number, plan=None):
    return EpisodeState(np.full(1, number, np.float32), TEXTS[0], plan=plan)


def second_actions(policy):
    """What one robot executes after its second observation."""
    episode = state(0.0)
    policy.act([episode], {}, seed=1)
    episode.robot_state = np.ones(1, np.float32)
    return policy.act([episode], {}, seed=2)[0]


def late(policy, method, delay=1, **options):
    realtime = RealtimeSettings(delay=delay, method=method)
    return BatchedPolicy(policy, ControlSettings(replan_every=2, realtime=realtime, **options))


@pytest.mark.parametrize("method", ["guidance", "prefix", "bid", "blend", "ensemble", "switch"])
def test_actions_under_way_are_executed_whatever_comes(method):
    policy = mlp(SPEC, chunk=4, head={**FLOW, "prefix_max": 2})
    batched = late(policy, method)
    episode = state(0.0)
    batched.act([episode], {}, seed=1)
    under_way = episode.plan.rest
    episode.robot_state = np.ones(1, np.float32)
    found = batched.act([episode], {}, seed=2)[0]
    assert found.shape == (2, 2)
    assert np.array_equal(found[0], under_way[0])
    # and again the same
    assert np.array_equal(second_actions(batched), found)


def test_methods_differ_behind_what_is_under_way():
    policy = mlp(SPEC, chunk=4, head={**FLOW, "prefix_max": 2})
    methods = ("guidance", "prefix", "bid", "blend", "switch")
    found = {method: second_actions(late(policy, method))[1].tolist() for method in methods}
    assert len({tuple(values) for values in found.values()}) == len(methods)


def test_guidance_comes_nearer_to_the_chunk_before_than_switching():
    policy = mlp(SPEC, chunk=4, head=FLOW)
    distances = {}
    for method in ("guidance", "switch"):
        batched = late(policy, method)
        episode = state(0.0)
        batched.act([episode], {}, seed=1)
        before = episode.plan.rest[1]
        episode.robot_state = np.full(1, 3, np.float32)
        distances[method] = np.abs(batched.act([episode], {}, seed=2)[0][1] - before).sum()
    assert distances["guidance"] < distances["switch"]


def test_robots_that_start_share_no_chunk_with_those_that_run():
    """Each robot gets what it would get alone."""
    policy = mlp(SPEC, chunk=4, head=FLOW)
    batched = late(policy, "guidance")
    running = state(0.0)
    batched.act([running], {}, seed=1)
    alone = late(policy, "guidance").act([state(1.0, plan=running.plan)], {}, seed=2)[0]
    new_alone = late(policy, "guidance").act([state(2.0)], {}, seed=2)[0]
    both = late(policy, "guidance").act([state(1.0, plan=running.plan), state(2.0)], {}, seed=2)
    assert np.allclose(both[0], alone, atol=1e-6)
    assert np.allclose(both[1], new_alone, atol=1e-6)


# --- what a policy can --------------------------------------------------------------------------------


def abilities(**options):
    policy = mlp(SPEC, chunk=4, **options)
    seen = replace(SPEC.fake_observation(1), instruction=[TEXTS[0]])
    return abilities_of(policy, seen)


def test_abilities_follow_from_the_head():
    rest = ["blend", "ensemble", "switch", "hold"]
    assert list(abilities(head=FLOW).methods) == ["guidance", "bid", *rest]
    assert next(iter(abilities(head={**FLOW, "prefix_max": 2}).methods)) == "prefix"
    tokens = {"type": "autoregressive", "hidden": 16, "heads": 2}
    assert list(abilities(head=tokens).methods) == ["prefix", "bid", *rest]
    assert list(abilities(head={"type": "categorical"}).methods) == ["bid", *rest]
    # a point, of which all draws are the same
    assert list(abilities(head={"type": "regression"}).methods) == rest
    assert abilities(head=FLOW).chunk == 4


def test_auto_takes_the_best_that_the_policy_can():
    trained = abilities(head={**FLOW, "prefix_max": 1})
    assert chosen_method("auto", trained, 1) == "prefix"
    assert chosen_method("auto", trained, 2) == "guidance"
    assert chosen_method("auto", abilities(head={"type": "categorical"}), 1) == "bid"
    assert chosen_method("auto", abilities(head={"type": "regression"}), 1) == "blend"


def test_what_a_policy_cannot_is_refused_with_what_it_can():
    with pytest.raises(UserError, match=r"'guidance'.*: bid, blend, ensemble, switch, hold"):
        chosen_method("guidance", abilities(head={"type": "categorical"}), 1)
    with pytest.raises(UserError, match=r"at most 1 actions.*policy\.head\.prefix_max=2"):
        chosen_method("prefix", abilities(head={**FLOW, "prefix_max": 1}), 2)


class Point:
    """An actor that knows nothing but its actions."""

    spec, history = SPEC, 1

    def act(self, observation, memory=None):
        return torch.zeros(observation.batch_size, 4, 2), memory


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replan_every": None}, "replan_every is null"),
        ({"ensemble": 0.1}, "set method=ensemble"),
    ],
)
def test_settings_that_contradict_are_refused(changes, message):
    settings = ControlSettings(**{"realtime": RealtimeSettings(delay=1), **changes})
    with pytest.raises(UserError, match=message):
        BatchedPolicy(Point(), settings)


def test_an_actor_without_a_distribution_cannot_be_guided():
    with pytest.raises(UserError, match="set method=blend"):
        late(Point(), "guidance")
    assert late(Point(), "blend").act([state(0.0)], {})[0].shape == (2, 2)


def test_a_policy_that_must_see_every_step_is_refused():
    actor = Point()
    actor.history = 3
    with pytest.raises(UserError, match=r"must see every step.*policy\.history=1"):
        BatchedPolicy(actor, ControlSettings(realtime=RealtimeSettings(delay=1)))
