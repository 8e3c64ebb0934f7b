"""The base of all policies: what every policy can do, and how it is stored.

A checkpoint folder holds `config.json`, `model.safetensors`, `spec.json`, `tokenizer.json`, the
language vectors of the training instructions, a model card, and checksums of all but the card; it
needs nothing else to run. Nothing in it is pickled.

B robots or windows, T steps, K actions per chunk, A action dimensions, S state dimensions, F
features, N steps of data, U distinct instructions, E numbers of an instruction's vector.
"""

from __future__ import annotations

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from jaxtyping import Float
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from vla.common.foreign.checksums import checksums_of_written
from vla.common.machine_faults import naming
from vla.config import CONFIG_VERSION, Config
from vla.models.checkpoint_files import (
    CONFIG_FILE,
    SPEC_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    CheckpointError,
    checked_device,
    find_checkpoint,
)
from vla.models.checkpoint_reading import load_weights, read_policy
from vla.models.former_members import FormerMembers
from vla.models.heads.base import Head
from vla.models.indicator import indicator_embedding, without_indicator
from vla.models.layers.low_rank import merged_state
from vla.models.model_card import model_card
from vla.models.normalisation import checked_states, language_scale, state_scale
from vla.models.roles import LANGUAGE, STATISTICS, Role, roles_by_type
from vla.tokenizers.base import ActionTokenizer, TokenizerError
from vla.tokenizers.language import (
    LanguageEncoder,
    save_embeddings,
)
from vla.types import ActionDistribution, Batch, ImageSize, Observation, PolicyOutput, Spec
from vla.types.finite import check_finite
from vla.types.tensors import to_ends


class PolicyConfig(Config, ABC):
    """Base of the configs registered under "policies"; a subclass adds `type: Literal["name"] =
    "name"`."""

    former_defaults: ClassVar[dict[str, Any]] = {}
    """Key -> what holds where a stored config lacks it, since it is from before the key: old
    checkpoints go on acting as they did (see `stored_values`)."""
    history: int = Field(default=6, ge=1, le=10000)
    """Time steps of context, T."""
    chunk: int = Field(default=1, ge=1, le=10000)
    """Actions per chunk, K."""
    standardise_language: bool = False
    """Scale the instruction's vector by mean and deviation over the training instructions. Sentence
    vectors of one grammar differ little from each other: without it a policy learns late which word
    matters."""
    indicator: bool = False
    """Read whether an action shall be better than usual: for `extraction: advantage_conditioned`
    (see `vla.models.indicator`). Needs an instruction's vector to be added to: `language: minilm`,
    or `blank` if there is one task."""

    @property
    def weights_file(self) -> str:
        """Name of the file of a checkpoint that holds `Policy.weights`."""
        return WEIGHTS_FILE

    @property
    def tokenizer_files(self) -> tuple[str, ...]:
        """Names of the files of a checkpoint that hold tokenizers."""
        return (TOKENIZER_FILE,)

    @abstractmethod
    def build(self, spec: Spec, *, from_checkpoint: bool = False) -> Policy:
        """A new policy for `spec`; with `from_checkpoint` no pretrained weights are fetched: they
        will be loaded."""

    def build_for(self, spec: Spec, folder: Path) -> Policy:
        """The policy into which the weights of the checkpoint `folder` will be loaded."""
        return self.new(spec, from_checkpoint=True)

    def new(self, spec: Spec, *, from_checkpoint: bool) -> Policy:
        """`build`; a config that has nothing to fetch need not know of `from_checkpoint`."""
        # plug-ins that have nothing to fetch need not declare an option that they would ignore
        parameters = inspect.signature(self.build).parameters.values()
        if any(p.name == "from_checkpoint" or p.kind is p.VAR_KEYWORD for p in parameters):
            return self.build(spec, from_checkpoint=from_checkpoint)
        return self.build(spec)

    def option(self, key: str) -> Any:
        """The value of a key that not every policy has, such as `head` or `lora`; None if this one
        has no such key."""
        return getattr(self, key) if key in type(self).model_fields else None


class Policy(
    FormerMembers,
    nn.Module,
    PyTorchModelHubMixin,
    library_name="vla",
    pipeline_tag="robotics",
    tags=["vla"],
):
    """A robot policy. Subclasses define `forward` and `step`.

    Attributes:
        config: what it was built from.
        spec: the robot it is for.
        history, chunk: T and K.
        feature_dim: F, the size of the features that `forward` gives.
        tokenizer: actions <-> ids.
        language: the frozen text encoder; its weights are no part of the policy. Policies that read
            the instruction themselves have one of no numbers.
        card: what the model card tells beside the spec, JSON types: {"data": {...}, "results":
            {...}}.

    Optional attributes, which a subclass may set:
        cameras: the cameras that it looks through, in its order; empty for those of its
            `VisionEncoder`, or all.
        image_sizes: camera -> the size to which it brings that camera's images before all else.
            Training data of more pixels are then held at that size. Control gives it images of the
            spec's size; it must act alike on both, but for rounding to 8 bits.
        counts_steps: every call of `act` is one step of the episode: a chunk cannot be executed in
            between.
        executed_actions: first actions of a chunk that its critic values, to be executed; or None.
        return_conditioned: `Observation.target_return` means something to it.
        success_conditioned: it is asked for success in place of a return.
        reads_words: it reads the instruction itself, so an indicator behind it needs no vector.
        extras: extra columns of the data that it reads.
        frozen_modules: names of modules that stay in evaluation mode while the rest trains: batch
            norms that are frozen.
        source: the folder or repository that it was loaded from; None if it is new or was trained.
    """

    feature_dim: int
    cameras: tuple[str, ...] = ()
    image_sizes: Mapping[str, ImageSize] = MappingProxyType({})
    counts_steps: bool = False
    executed_actions: int | None = None
    return_conditioned: bool = False
    success_conditioned: bool = False
    reads_words: bool = False
    extras: tuple[str, ...] = ()
    frozen_modules: frozenset[str] = frozenset()
    source: str | None = None
    robot_name: str = ""
    """Its robot's name, if it is one robot's part of a policy for several."""
    state_mean: Tensor
    state_std: Tensor
    language_mean: Tensor
    language_std: Tensor
    action_low: Tensor
    action_high: Tensor

    def __init__(
        self,
        config: PolicyConfig,
        spec: Spec,
        *,
        tokenizer: ActionTokenizer,
        language: str | None,
    ) -> None:
        super().__init__()
        self.config = config
        self.spec = spec
        self.tokenizer = tokenizer
        self.history = config.history
        self.chunk = config.chunk
        self.language = LanguageEncoder(language)
        self.card: dict[str, Any] = {}
        # buffers: they go with the weights, onto the device and into files
        self.register_buffer("state_mean", torch.zeros(spec.state_dim))
        self.register_buffer("state_std", torch.ones(spec.state_dim))
        if config.standardise_language:
            self.register_buffer("language_mean", torch.zeros(self.language.dim))
            self.register_buffer("language_std", torch.ones(self.language.dim))
        if config.indicator and not self.reads_words:
            self.indicator = indicator_embedding(self.language)
        # the spec is saved beside the weights: limits that were stored twice could disagree
        self.register_buffer("action_low", torch.tensor(spec.action_low), persistent=False)
        self.register_buffer("action_high", torch.tensor(spec.action_high), persistent=False)

    # --- what a policy defines --------------------------------------------------------------------

    def forward(self, batch: Batch) -> PolicyOutput:
        """Features and action distributions of every step of B windows."""
        raise TypeError(f"{type(self).__name__} does not define forward(batch)")

    def step(self, observation: Observation, memory: Any) -> tuple[PolicyOutput, Any]:
        """The output (B, 1, ...) for the present step alone, and the new memory."""
        raise TypeError(f"{type(self).__name__} does not define step(observation, memory)")

    def remember(self, memory: Any, actions: Float[Tensor, "B K A"]) -> Any:
        """The memory with the actions that are executed next.

        For policies that look back at what they did. Called by `act`, and again by whoever executes
        other actions than those.
        """
        return memory

    def parameter_roles(self) -> dict[str, Role]:
        """Name of a tensor in `state_dict` -> what it is for (see `vla.models.roles`).

        Here the roles that follow from types: heads, vision encoders, trunks. A policy with modules
        of its own adds theirs. It is not carried over to another state, other actions or swapped
        cameras while a tensor lacks a role.
        """
        own = {"state_mean": STATISTICS, "state_std": STATISTICS}
        if self.config.standardise_language:
            # how instructions are scaled belongs to the trunk that learned to read them
            own |= {"language_mean": LANGUAGE, "language_std": LANGUAGE}
        if self.config.indicator and not self.reads_words:
            own["indicator.weight"] = LANGUAGE
        return roles_by_type(self) | own

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode:
            # a training may change it: results must not be filed under the checkpoint's name
            self.source = None
        # without this the statistics of a frozen batch norm would go on moving
        for name in self.frozen_modules:
            self.get_submodule(name).eval()
        return self

    def features(self, batch: Batch) -> Float[Tensor, "B T F"]:
        """The features that `forward` gives. Policies that can leave the actions out for it, do."""
        return cast(PolicyOutput, self(batch)).features

    # --- what everyone calls ----------------------------------------------------------------------

    @property
    def unwrapped(self) -> Policy:
        """The policy that learns: itself, or the one inside if this one only decides by it.

        See `vla.models.policies.guided`: what acts need not be what was trained, and resuming and
        fine-tuning need what was.
        """
        return self

    @property
    def robot_names(self) -> tuple[str, ...]:
        """The robots that it is for; none if it is for one (see
        `vla.models.policies.multi_robot`)."""
        return ()

    def within_limits(self, actions: Float[Tensor, "... A"]) -> Float[Tensor, "... A"]:
        """Robot units, clamped to the spec's range; binary dimensions at their nearer end."""
        clamped = actions.clamp(self.action_low, self.action_high)
        return to_ends(clamped, self.spec.action_names, self.spec.binary_ends)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.state_mean.device

    @torch.no_grad()
    def act(
        self,
        observation: Observation,
        memory: Any = None,
        *,
        generator: torch.Generator | None = None,
        temperature: float = 0.0,
        choose: Callable[[ActionDistribution], Tensor] | None = None,
    ) -> tuple[Float[Tensor, "B K A"], Any]:
        """The next actions of B robots, on the CPU and within the spec's range; and the memory.

        Args:
            observation: what the robots see now.
            memory: what the last call returned (`select`ed and `stack`ed at will); None at the
                start of episodes.
            generator: source of randomness if temperature > 0, on the policy's device.
            temperature: 0 for the most likely actions, 1 for samples.
            choose: gives chunks (B, T, K, A) of the distribution, in place of `sample`.

        Raises:
            SpecError: the observation does not fit the policy's spec.
            RuntimeError: the policy is in training mode.
            ValueError: memory of another number of robots, or a negative temperature.
            ActionError: what was computed holds NaN or infinity.
        """
        if self.training:
            raise RuntimeError("act needs evaluation mode: call policy.eval() first")
        observation.check(self.spec)
        if memory is not None and memory.batch_size != observation.batch_size:
            raise ValueError(
                f"memory of {memory.batch_size} robots with an observation of "
                f"{observation.batch_size}; use memory.select(rows) when robots drop out and "
                "stack([...]) when they join"
            )
        output, memory = self.step(observation.to(self.device), memory)
        if choose is None:
            actions_BTKA = output.actions.sample(generator, temperature=temperature)
        else:
            actions_BTKA = choose(output.actions)
        # before they are clamped, which makes a limit of infinity
        check_finite(actions_BTKA[:, -1], output.features[:, -1], observation, self.spec)
        actions_BKA = self.within_limits(actions_BTKA[:, -1])
        # only now are the actions known, so they join the memory one step after what was seen
        return actions_BKA.cpu(), self.remember(memory, actions_BKA)

    def fit(
        self,
        actions: Any,
        states: Any,
        instructions: Sequence[str],
        *,
        lengths: Sequence[int] | None = None,
    ) -> None:
        """Fits tokenizer, heads and state normalisation to data, and embeds the instructions.

        Args:
            actions: (N, A), robot units, of episodes side by side.
            states: (N, S), robot units.
            instructions: the texts of the data.
            lengths: steps of each episode; None if there is one.

        Raises SpecError if the states are not (N, S), or hold NaN or infinity.
        """
        self.tokenizer.fit(actions, lengths=lengths)
        for module in self.modules():
            if isinstance(module, Head):
                module.fit(torch.as_tensor(actions).float(), lengths=lengths)
        states_NS = checked_states(states, self.spec.state_names)
        if self.spec.state_dim:
            mean_S, std_S = state_scale(states_NS)
            self.state_mean.copy_(mean_S)
            self.state_std.copy_(std_S)
        vectors_UE = self.language.embed(list(dict.fromkeys(instructions)))
        if self.config.standardise_language:
            mean_E, std_E = language_scale(vectors_UE)
            self.language_mean.copy_(mean_E)
            self.language_std.copy_(std_E)

    def use_tokenizer(self, tokenizer: ActionTokenizer) -> None:
        """Policy and heads take a tokenizer of the same sizes in place of theirs."""
        self.tokenizer = tokenizer
        for module in self.modules():
            if isinstance(module, Head):
                module.set_tokenizer(tokenizer)

    def normalised_state(self, state: Float[Tensor, "... S"]) -> Float[Tensor, "... S"]:
        """The state less the mean of the training data, in units of its standard deviation."""
        return (state - self.state_mean) / self.state_std

    def embed_instructions(
        self, instructions: Sequence[str]
    ) -> tuple[Float[Tensor, "U E"], Tensor]:
        """Vectors of the distinct instructions, and which of them each instruction is (B,).

        An indicator behind an instruction (`vla.models.indicator`) is no part of its sentence.
        """
        distinct = list(dict.fromkeys(instructions))
        place = {text: number for number, text in enumerate(distinct)}
        index_B = torch.tensor([place[text] for text in instructions], device=self.device)
        # one by one: a vector's last bits depend on the texts encoded beside it, and control must
        # not depend on who has asked for which text first
        sentences = distinct
        if self.config.indicator:
            sentences = [without_indicator(text) for text in distinct]
        vectors_UE = torch.cat([self.language.embed([text]) for text in sentences])
        vectors_UE = self.scaled_language(vectors_UE.to(self.device))
        if self.config.indicator:
            # behind the scaling, which is of sentences
            vectors_UE = vectors_UE + self.indicator.of(distinct)
        return vectors_UE, index_B

    def scaled_language(self, vectors: Float[Tensor, "U E"]) -> Float[Tensor, "U E"]:
        """Sentence vectors as the policy reads them (see `PolicyConfig.standardise_language`)."""
        if not self.config.standardise_language:
            return vectors
        return (vectors - self.language_mean) / self.language_std

    # --- storage ----------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """The tensors that a checkpoint holds: views, but for adapters merged into their layers."""
        return merged_state(self)

    def save_tokenizer(self, folder: Path) -> None:
        """Writes `config.tokenizer_files` into the folder of a checkpoint."""
        self.tokenizer.save(folder / TOKENIZER_FILE)

    def load_tokenizer(self, folder: Path) -> None:
        """The inverse of `save_tokenizer`.

        Raises TokenizerError if the tokenizer is not of the kind that the policy was built for.
        """
        tokenizer = ActionTokenizer.load(folder / TOKENIZER_FILE)
        tokenizer.check_spec(self.spec)
        sizes = [(t.chunk, t.num_tokens, t.vocab_size) for t in (tokenizer, self.tokenizer)]
        if sizes[0] != sizes[1]:
            raise TokenizerError(
                f"{TOKENIZER_FILE}: (chunk, tokens, ids) are {sizes[0]}, the policy's config says "
                f"{sizes[1]}; the files belong to different checkpoints"
            )
        self.use_tokenizer(tokenizer)

    def save_extra_files(self, folder: Path) -> None:
        """Writes files that only checkpoints of this policy hold; here none."""

    def _save_pretrained(self, save_directory: Path) -> None:
        """Called by `save_pretrained` and `push_to_hub`."""
        # without the card, which is for people: they may write into it
        written = checksums_of_written(save_directory, without=["README.md"])
        with naming(save_directory), written:
            self._write_files(save_directory)

    def _write_files(self, folder: Path) -> None:
        header: dict[str, Any] = {
            "version": CONFIG_VERSION,
            "type": self.config.model_dump()["type"],
            "config": self.config.model_dump(mode="json"),
            "card": self.card,
        }
        (folder / CONFIG_FILE).write_text(json.dumps(header, indent=2) + "\n")
        weights = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.weights().items()
        }
        save_file(weights, folder / self.config.weights_file, metadata={"format": "pt"})
        self.spec.save(folder / SPEC_FILE)
        self.save_tokenizer(folder)
        save_embeddings(folder, self.language.cached())
        self.save_extra_files(folder)
        text = model_card(
            header["config"],
            self.spec,
            self.card,
            language=self.language.name,
            instructions=list(self.language.cached()),
            parameters=sum(p.numel() for p in self.parameters()),
        )
        (folder / "README.md").write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        **options: Any,
    ) -> Self:
        """The policy of a checkpoint folder or a repository of the hub, in evaluation mode.

        Args:
            options: `device`; for the hub also `revision`, `token`, `cache_dir`, `force_download`,
                `local_files_only`.

        Raises:
            CheckpointError: see `load_policy`; or the checkpoint holds a policy of another class.
        """
        device = options.pop("device", "cpu")
        policy = _load(pretrained_model_name_or_path, device, **options)
        if not isinstance(policy, cls):
            raise CheckpointError(
                f"{pretrained_model_name_or_path}: holds a {type(policy).__name__}, "
                f"not a {cls.__name__}; use load_policy"
            )
        return policy


def load_policy(path: str | Path, *, device: torch.device | str = "cpu") -> Policy:
    """The policy of a checkpoint, of whatever registered type, in evaluation mode.

    Args:
        path: a folder; or, if there is no such folder, a repository of the Hugging Face hub as
            "user/name". For a revision or a private repository see `Policy.from_pretrained`.
        device: where it is to compute.

    Raises:
        CheckpointError: the folder or a file is missing, truncated, damaged, of another version, or
            does not fit; or the hub has no such repository, or is out of reach.
        UserError: this machine has no such device.
    """
    return _load(path, device)


def _load(path: str | Path, device: torch.device | str, **options: Any) -> Policy:
    """`load_policy`; `options` are the hub's."""
    device = checked_device(device)
    policy: Policy = read_policy(find_checkpoint(path, options))
    policy.source = str(path)
    return policy.to(device).eval()


__all__ = ["CheckpointError", "Policy", "PolicyConfig", "load_policy", "load_weights"]
