"""Runs a policy on an instruction in Meta-World, and films it.

    python examples/02_run_a_policy_on_an_instruction.py [CHECKPOINT] ["close the window"]

Without a checkpoint a small policy that has learned nothing waves its arm.
"""

import sys
import tempfile

import numpy as np

import vla
from vla.sim_eval import film_strip
from vla.sim_eval.envs.metaworld import MetaworldConfig


def untrained() -> str:
    """Folder of a checkpoint that was never trained."""
    spec = MetaworldConfig(image_size=64).spec()
    small = {
        "trunk": "tinynet_e",
        "stride": 16,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "key_dim": 16,
        "history": 2,
    }
    policy = vla.RT1Config(**small).build(spec)
    policy.fit(
        np.random.default_rng(0).uniform(-1, 1, (100, 4)), np.zeros((100, 4)), ["close the window"]
    )
    folder = tempfile.mkdtemp()
    policy.save_pretrained(folder)
    return folder


policy = vla.load_policy(sys.argv[1] if len(sys.argv) > 1 else untrained())
instruction = sys.argv[2] if len(sys.argv) > 2 else "close the window"
env = MetaworldConfig(
    image_size=policy.spec.cameras["corner2"][0], horizon=150 if len(sys.argv) > 1 else 30
).make("window-close")

observation, info = env.reset(seed=1)
memory, frames, over = None, [observation["images"]["corner2"]], False
while not over:
    seen = vla.Observation.from_numpy(observation["images"], observation["state"], instruction)
    actions, memory = policy.act(seen, memory)  # (1 robot, K actions ahead, 4 dimensions)
    observation, reward, terminated, truncated, info = env.step(actions[0, 0].numpy())
    frames.append(observation["images"]["corner2"])
    over = info["success"] or truncated

print(
    f"{instruction!r}: {'solved' if info['success'] else info['failure']} after {len(frames) - 1} steps"
)
print("picture:", film_strip("runs/rollout.png", frames, instruction))
env.close()
