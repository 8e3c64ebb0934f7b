"""A vision-language model that is asked whether the task is done, on a small real one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import vlm_toys
from pydantic import ValidationError

from vla.models.checkpoint_files import CheckpointError
from vla.models.rewards.base import RewardError
from vla.models.rewards.storage import load_reward, save_reward
from vla.models.rewards.vlm import VLMReward, VLMRewardConfig

PROMPT = "Is {instruction} done? True or False"


@pytest.fixture(scope="module", params=["smolvlm", "paligemma"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vlm_toys.FAMILIES[request.param](tmp_path_factory.mktemp("vlm") / request.param)


def build(base: Path, **changes: object) -> VLMReward:
    settings = {"base": str(base), "prompt": PROMPT, "history": 5, "frames": 3, **changes}
    model = VLMRewardConfig(**settings).build(vlm_toys.SPEC, None)
    assert isinstance(model, VLMReward)
    return model.eval()


@torch.no_grad()
def test_the_score_is_the_models_own_log_probability(base: Path) -> None:
    model = build(base)
    batch = vlm_toys.SPEC.fake_batch(2, 5, 1)
    score, success = model.judge_last(batch)
    # by the model itself, with its processor and its output layer: first, middle and last frame
    trunk = model.trunk
    for row in range(2):
        seen = np.flatnonzero(batch.mask[row].numpy())
        places = seen[np.linspace(0, len(seen) - 1, 3).round().astype(int)]
        images = [batch.images["front"][row, t].permute(2, 0, 1) for t in places]
        prompt = trunk.prompt([PROMPT.replace("{instruction}", batch.instruction[row])], [images])
        fields = {k: v for k, v in prompt.fields.items() if k != "labels"}
        logits = trunk.model(**fields).logits[0, -1].float()
        log_probs = logits.log_softmax(-1)
        ids = [
            trunk.tokenizer(t, add_special_tokens=False)["input_ids"][0] for t in ("True", "False")
        ]
        assert float(score[row]) == pytest.approx(float(log_probs[ids[0]]), abs=1e-4)
        both = log_probs[ids].softmax(0)
        assert float(success[row]) == pytest.approx(float(both[0]), abs=1e-4)


@torch.no_grad()
def test_padding_is_not_shown_and_steps_see_no_later_frame(base: Path) -> None:
    model = build(base)
    batch = vlm_toys.SPEC.fake_batch(1, 5, 1)
    whole = model.score(batch)
    assert whole.shape == (1, 5)
    images = dict(batch.images)
    images["front"] = images["front"].clone()
    images["front"][:, 4] = 0
    changed = model.score(type(batch)(**{**vars(batch), "images": images}))
    torch.testing.assert_close(changed[:, :4], whole[:, :4])
    assert not torch.allclose(changed[:, 4], whole[:, 4])
    # a first step is asked about its own frame alone
    mask = torch.tensor([[False, False, False, False, True]])
    first = model.score(type(batch)(**{**vars(batch), "mask": mask}))[:, 4]
    alone = model.score(batch.steps(4, 5))[:, 0]
    torch.testing.assert_close(first, alone)


def test_a_folder_names_the_base_and_knows_it_again(base: Path, tmp_path: Path) -> None:
    model = build(base)
    save_reward(model, tmp_path / "reward")
    # the base's weights stay where they are
    assert (tmp_path / "reward" / "model.safetensors").stat().st_size < 1000
    batch = vlm_toys.SPEC.fake_batch(1, 5, 1)
    loaded = load_reward(tmp_path)
    torch.testing.assert_close(loaded.judge_last(batch)[0], model.judge_last(batch)[0])
    other = vlm_toys.FAMILIES[base.name](tmp_path / "other", seed=1)
    text = (tmp_path / "reward" / "config.json").read_text()
    (tmp_path / "reward" / "config.json").write_text(text.replace(str(base), str(other)))
    with pytest.raises(CheckpointError, match="the reward model was saved with"):
        load_reward(tmp_path)


def test_what_cannot_be_asked_is_refused(base: Path) -> None:
    with pytest.raises(RewardError, match="there is no camera 'side'; there are: front, wrist"):
        build(base, camera="side")
    with pytest.raises(ValidationError, match="found it 0 times"):
        build(base, prompt="Is it done?")
