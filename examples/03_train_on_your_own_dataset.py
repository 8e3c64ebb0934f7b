"""Write your own robot's episodes, train a small RT-1 on them, load it and act.

Replace `recordings()` by your own: a list of episodes with pictures, states, actions and an instruction.
usage: python examples/03_train_on_your_own_dataset.py [FOLDER]
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import vla

# What the robot sees and does. Images are uint8 (height, width, 3); actions must lie within low..high.
SPEC = vla.Spec(
    cameras={"front": (48, 48)},
    state_names=("x", "y"),
    action_names=("dx", "dy"),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    control_hz=10.0,
)
COLOURS = {"red": (220, 40, 40), "blue": (40, 60, 220)}


def picture(places: dict[str, np.ndarray]) -> np.ndarray:
    """A white square in which each colour is a dot of 6 pixels."""
    image = np.full((48, 48, 3), 255, np.uint8)
    for colour, place in places.items():
        row, column = ((place + 1) / 2 * 41).astype(int)
        image[row : row + 6, column : column + 6] = COLOURS[colour]
    return image


def recordings(count: int, steps: int = 12) -> Iterator[vla.Episode]:
    """A point that moves to the dot that the instruction names."""
    rng = np.random.default_rng(0)
    for index in range(count):
        colour = list(COLOURS)[index % 2]
        places = {c: rng.uniform(-1, 1, 2) for c in COLOURS}
        state = np.cumsum(np.vstack([rng.uniform(-1, 1, 2), np.zeros((steps - 1, 2))]), axis=0)
        actions = np.empty((steps, 2))
        for t in range(steps):
            actions[t] = np.clip(3 * (places[colour] - state[t]), -1, 1)
            if t + 1 < steps:
                state[t + 1] = state[t] + 0.2 * actions[t]
        near = np.linalg.norm(state - places[colour], axis=1) < 0.2
        yield vla.Episode(
            images={"front": np.stack([picture(places)] * steps)},
            state=state.astype(np.float32),
            actions=actions.astype(np.float32),
            rewards=near.astype(np.float32),
            success=near,
            terminated=bool(near[-1]),
            instruction=f"go to the {colour} dot",
        )


def main(folder: Path, episodes: int = 200, steps: int = 800) -> None:
    with vla.DatasetWriter(folder / "dataset", SPEC, robot_type="point") as writer:
        for episode in recordings(episodes):
            writer.add_episode(episode)

    config = vla.load_config(
        vla.TrainConfig,
        {
            "out": str(folder / "run"),
            "data": {"path": str(folder / "dataset")},
            "policy": {
                "type": "rt1",
                "history": 1,
                "trunk": "test_efficientnet",
                "stride": 8,
                "token_positions": True,
                "state_token": True,
                "width": 64,
                "depth": 2,
                "heads": 4,
                "key_dim": 16,
                "feed_forward": "gelu",
            },
            "optim": {"lr": 1e-3, "warmup_steps": 10},
            "steps": steps,
            "ema_decay": None,
            "validate_every": None,
            "save_every": None,
        },
    )
    vla.train(config)

    policy = vla.load_policy(folder / "run" / "policy")
    episode = next(recordings(1))
    observation = vla.Observation.from_numpy(
        {"front": episode.images["front"][0]}, episode.state[0], "go to the red dot"
    )
    actions, _ = policy.act(observation)
    print("action", actions[0, 0].tolist(), "recorded", episode.actions[0].tolist())


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
