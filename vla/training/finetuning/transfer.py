"""Fine-tuning on another robot: a new policy with the old one's trunk.

What was kept and what was re-initialised stands in `transfer.json` of the run directory; a resumed
run reads there which parameters learn.
"""

from __future__ import annotations

from vla.config import ConfigError
from vla.models.policy import Policy, PolicyConfig, load_policy
from vla.models.transfer.cameras import cameras_of, paired_cameras
from vla.models.transfer.transfer_weights import copy_weights
from vla.training.config import TransferConfig
from vla.training.finetuning.fitting import fit_policy, fit_transferred
from vla.training.finetuning.trainable import choose_trained
from vla.training.finetuning.transfer_record import TRANSFER_FILE, Transfer, percent_kept
from vla.training.patterns import matching
from vla.types import Spec


def transferred_policy(
    init_from: str,
    settings: TransferConfig,
    policy: PolicyConfig | None,
    spec: Spec,
) -> tuple[Policy, Transfer]:
    """A new policy for `spec` with all that fits of the one in `init_from`; and what did.

    Args:
        init_from: folder of the old policy.
        settings: how it becomes the new one.
        policy: what the new policy is built from; None for what the old one was.
        spec: the new robot.

    Raises:
        ConfigError: cameras that do not exist, statistics that cannot be kept, or too little of the
            trunk fits.
        CheckpointError: the policy cannot be read.
        RoleError: a policy does not tell what its parameters are for, and the robots differ.
    """
    # a policy that chooses by a critic is no start: what it chooses from is
    old = load_policy(init_from).unwrapped
    wanted = policy if policy is not None else _config_for(spec, old, settings)
    # pretrained weights that it would fetch are in the checkpoint, if both name the same ones
    same_weights = all(
        wanted.option(part) == old.config.option(part) for part in ("trunk", "backbone", "base")
    )
    new: Policy = wanted.new(spec, from_checkpoint=same_weights)
    _check_cameras(settings, old, new)
    if settings.keep_statistics:
        _keep_tokenizer(old, new)
    if old.language.name == new.language.name:
        new.language.preload(old.language.cached())
    cameras = paired_cameras(old, new, settings.cameras)
    reinitialise = None
    if settings.reinitialise is not None:
        names = list(new.state_dict())
        reinitialise = matching(settings.reinitialise, names, key="transfer.reinitialise")
    tensors = copy_weights(
        old,
        new,
        cameras=cameras,
        reinitialise=reinitialise,
        keep_statistics=settings.keep_statistics,
        same_robot=settings.same_robot,
    )
    if not tensors.kept or tensors.share < settings.min_loaded:
        # a fine-tuning that begins from next to nothing looks like one until its results come
        raise ConfigError(
            [
                f"init_from: of {init_from} fits {percent_kept(tensors)}, "
                f"{tensors.share:.1%} in the mean; transfer.min_loaded is "
                f"{settings.min_loaded:.0%}. First: {tensors.mismatch}. Leave policy out, or give "
                "it the checkpoint's sizes"
            ]
        )
    return new, Transfer(init_from, tensors, _differences(old.spec, spec), cameras)


def _config_for(spec: Spec, old: Policy, settings: TransferConfig) -> PolicyConfig:
    """The checkpoint's config, looking through the new robot's cameras."""
    named = old.config.option("cameras")
    if not named or all(camera in spec.cameras for camera in named):
        return old.config
    chosen = []
    for camera in named:
        chosen += [new for new, source in settings.cameras.items() if source == camera]
    # if none was named: all that the new robot has
    return old.config.model_copy(update={"cameras": chosen or None})


def _check_cameras(settings: TransferConfig, old: Policy, new: Policy) -> None:
    """Raises ConfigError if a camera in `transfer.cameras` is none of the policies'."""
    problems = []
    for names, known, whose in (
        (list(settings.cameras), cameras_of(new), "new"),
        (list(settings.cameras.values()), cameras_of(old), "old"),
    ):
        for camera in names:
            if camera not in known:
                problems.append(
                    f"transfer.cameras: no camera {camera!r} in the {whose} policy; it has: "
                    f"{', '.join(known) or 'none'}"
                )
    if problems:
        raise ConfigError(problems)


def _keep_tokenizer(old: Policy, new: Policy) -> None:
    """Raises ConfigError if the old statistics do not fit the new policy's state or actions."""
    problems = []
    for name in ("state_names", "action_names", "action_low", "action_high", "binary_actions"):
        ours = getattr(new.spec, name)
        theirs = getattr(old.spec, name)
        if ours != theirs:
            problems.append(
                f"transfer.keep_statistics: {name} are {list(ours)}, those of the checkpoint "
                f"{list(theirs)}; set it to false"
            )
    old_kind, new_kind = (
        (type(tokenizer).__name__, tokenizer.chunk, tokenizer.num_tokens, tokenizer.vocab_size)
        for tokenizer in (old.tokenizer, new.tokenizer)
    )
    if old_kind != new_kind:
        problems.append(
            f"transfer.keep_statistics: the tokenizer (kind, chunk, tokens, ids) is {new_kind}, "
            f"that of the checkpoint {old_kind}; set it to false"
        )
    if problems:
        raise ConfigError(problems)
    new.use_tokenizer(old.tokenizer)


def _differences(old: Spec, new: Spec) -> list[str]:
    """How the two robots differ, a line each."""
    lines = [line.replace("expected", "was") for line in old.differences(new)]
    # nothing is resampled: the same chunk takes another time on the new robot
    if old.control_hz != new.control_hz:
        lines.append(f"control_hz is {new.control_hz:g}, was {old.control_hz:g}")
    return lines


__all__ = [
    "TRANSFER_FILE",
    "Transfer",
    "choose_trained",
    "fit_policy",
    "fit_transferred",
    "transferred_policy",
]
