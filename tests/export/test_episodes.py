"""Whole episodes of an exported policy are those of the policy, whatever its head."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from small_policies import TEXTS, fitted, mlp, rt1

from vla.config import lookup
from vla.control import BatchedPolicy, EpisodeState
from vla.export import ExportedPolicy, export_onnx, load
from vla.models import Policy
from vla.types import Spec

STEPS = 5
HEADS: dict[str, dict[str, Any]] = {
    "categorical": {"tokenizer": {"type": "bins", "num_bins": 16, "binary": ["grip"]}},
    "regression": {},
    "gaussian": {},
    "gaussian_mixture": {"head": {"type": "gaussian_mixture", "over": "action"}},
    "squashed": {},
    "cvae": {},
    "flow": {"head": {"type": "flow", "integration_steps": 3, "depth": 1}},
    "clusters": {"tokenizer": {"type": "kmeans", "centres": 5}},
}
TOLERANCE = 3e-5
"""Rounding of float32: largest through a flow, whose network is asked at every step of integration."""


def play(actor: Any, spec: Spec, robots: int, **options: Any) -> np.ndarray:
    """The actions of an episode in which the last robot is asked for something else halfway."""
    memory = None
    chosen = []
    for step in range(2 * STEPS):
        observation = spec.fake_observation(robots, seed=step)
        observation.instruction[:] = [TEXTS[0]] * robots
        observation.instruction[-1] = TEXTS[step // STEPS]
        actions, memory = actor.act(observation, memory, **options)
        chosen.append(actions.numpy())
        assert memory.batch_size == robots
    return np.stack(chosen)


def assert_equal_episodes(policy: Policy, exported: Any) -> None:
    for robots in (1, 3):
        expected = play(policy, policy.spec, robots)
        found = play(exported, policy.spec, robots)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        # or equal actions would say nothing
        assert np.ptp(expected, axis=0).max() > 10 * TOLERANCE


@pytest.fixture(scope="module", params=HEADS)
def pair(request, spec: Spec, tmp_path_factory) -> tuple[Policy, ExportedPolicy]:
    """A policy with a head of each kind, and the same exported."""
    head = request.param
    policy = mlp(spec, **{"head": {"type": head}, **HEADS[head]})
    folder = tmp_path_factory.mktemp(head) / "out"
    description = export_onnx(policy, folder)
    assert description.agreement["largest_action_difference_of_range"] < TOLERANCE
    return policy, load(folder)


def test_heads(pair: tuple[Policy, ExportedPolicy]):
    assert_equal_episodes(*pair)


@pytest.mark.parametrize("pair", ["flow"], indirect=True)
def test_a_flow_draws_as_the_policy_does(pair: tuple[Policy, ExportedPolicy], spec: Spec):
    drawn = []
    for actor in pair:
        torch.manual_seed(5)
        drawn.append(play(actor, spec, 3, temperature=0.5))
    np.testing.assert_allclose(drawn[1], drawn[0], atol=TOLERANCE)
    assert np.abs(drawn[0] - play(pair[0], spec, 3)).max() > 0.01


@pytest.fixture(scope="module")
def both(spec: Spec, tmp_path_factory) -> tuple[Policy, ExportedPolicy]:
    """An RT-1 with all that it can read, and the same exported."""
    policy = rt1(
        spec,
        cameras=None,
        state_token=True,
        image_size=(24, 24),
        standardise_language=True,
        indicator=True,
        positions="rotary",
        token_positions=True,
        chunk=2,
    )
    folder = tmp_path_factory.mktemp("rt1") / "out"
    export_onnx(policy, folder)
    return policy, load(folder, threads=1)


def test_rt1_with_all_that_it_reads(both: tuple[Policy, ExportedPolicy]):
    assert_equal_episodes(*both)


def test_robots_of_different_age_join(both: tuple[Policy, ExportedPolicy], spec: Spec):
    observation = spec.fake_observation(2, seed=3)
    observation.instruction[:] = [TEXTS[0], f"{TEXTS[1]}\nAdvantage: positive"]
    pairs = []
    for actor in both:
        _, old = actor.act(observation)
        _, old = actor.act(observation, old)
        _, young = actor.act(observation)
        mixed = type(old).stack([young.select([1]), old.select([0])]).select([1, 0])
        pairs.append(actor.act(observation, mixed)[0].numpy())
    np.testing.assert_allclose(pairs[1], pairs[0], atol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"history": 1},
        {"experts": {"num_local_experts": 4}},
        {"attention": "flex", "dropout": 0.0, "norm": "group"},
        {"feed_forward": "swiglu", "norm": "frozen_batch", "token_learner": False, "stride": 32},
        {"head": {"type": "flow", "integration_steps": 3}, "chunk": 2},
        {"tokenizer": {"type": "bins", "num_bins": 8}, "head": {"type": "autoregressive"}},
    ],
)
def test_rt1(changes: dict[str, Any], spec: Spec, tmp_path):
    policy = rt1(spec, **changes)
    export_onnx(policy, tmp_path / "out")
    assert_equal_episodes(policy, load(tmp_path / "out"))


def test_binary_dimensions(spec: Spec, tmp_path):
    binary = dataclasses.replace(spec, binary_actions=("grip",))
    policy = mlp(binary, head={"type": "gaussian"}, chunk=3)
    export_onnx(policy, tmp_path / "out")
    exported = load(tmp_path / "out")
    assert exported.spec.binary_actions == ("grip",)
    assert set(np.unique(play(exported, binary, 3)[..., 2])) == {0.0, 0.5}
    assert_equal_episodes(policy, exported)


@pytest.mark.slow
def test_q_transformer(spec: Spec, tmp_path):
    policy = rt1(spec)
    values = {**policy.config.model_dump(), "type": "q_transformer", "tokenizer": {"type": "bins"}}
    values["head"] = {"type": "q_values", "hidden": 16, "heads": 2}
    torch.manual_seed(0)
    policy = fitted(lookup("policies", "q_transformer")(**values).build(spec))
    export_onnx(policy, tmp_path / "out")
    assert_equal_episodes(policy, load(tmp_path / "out"))


def test_control_batches_it_like_a_policy(both: tuple[Policy, ExportedPolicy], spec: Spec):
    """Episodes of different age share a batch, as in rollouts and in the server."""
    chosen = []
    for actor in both:
        batched = BatchedPolicy(actor)
        batched.check(spec)
        episodes = [EpisodeState(instruction=TEXTS[row]) for row in range(2)]
        actions: list[np.ndarray] = []
        for step, rows in enumerate([[0], [0, 1], [1, 0], [1]]):
            seen = spec.fake_observation(2, seed=step)
            for row in rows:
                episodes[row].robot_state = seen.state[row].numpy()
            images = {camera: image[rows].numpy() for camera, image in seen.images.items()}
            actions += batched.act([episodes[row] for row in rows], images)
        chosen.append(np.stack(actions))
    np.testing.assert_allclose(chosen[1], chosen[0], atol=TOLERANCE)
