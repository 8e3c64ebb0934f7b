"""How a policy is served, as a config."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from vla.common.registry import names, unknown_name
from vla.config import PathText, RootConfig
from vla.control import ControlSettings
from vla.control.realtime import DRAWS, Schedule
from vla.control.shield_config import ShieldConfig
from vla.serving.pictures import Resize


class ServeConfig(RootConfig):
    """A policy server. `vla serve POLICY [key=value]`, or `vla.serving.serve(config)`."""

    policy: PathText
    """Folder of a checkpoint or of an exported policy, or a repository of the Hugging Face hub."""
    host: str = "127.0.0.1"
    """Address that it listens on. Any but this machine's own needs a key, or `insecure`."""
    port: int = Field(8000, ge=0, le=65535)
    """0: any free one; the line that the server prints says which."""
    protocol: str = "openpi"
    """The protocol of the path `/`; each of `vla list protocols` is at `/NAME` as well."""
    groot_port: int | None = Field(None, ge=0, le=65535)
    """Port at which GR00T's clients are answered too, by ZeroMQ (theirs is 5555); 0: any free one;
    null: they are not."""
    groot_actions: dict[str, list[str]] = Field(default_factory=dict)
    """Group of GR00T's answers -> the policy's actions in it, in order; {}: one group, `action`."""
    api_keys_file: PathText | None = None
    """File of keys, one `NAME KEY` a line, that only its owner may read (mode 600). The environment
    variable VLA_API_KEY holds one more."""
    insecure: bool = False
    """Listen beyond this machine without keys: whoever reaches the port moves the robot's
    policy."""
    tls_cert: PathText | None = None
    """Certificate chain (PEM); with `tls_key` the server speaks `wss://` alone."""
    tls_key: PathText | None = None
    """Private key of the certificate (PEM)."""
    origins: list[str] = Field(default_factory=list)
    """Pages of browsers that may connect, such as `http://localhost:5173`; robots send none."""
    device: str = "auto"
    """Where the policy computes: auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Threads of the policy's arithmetic on a CPU; null: half of the cores, as in evaluations."""
    max_batch: int = Field(16, ge=1, le=1024)
    """Most robots of one call of the policy. 1: the actions are those of a lone robot to the bit,
    for sums are rounded by the size of a batch."""
    max_wait_ms: float = Field(0.0, ge=0, le=1000)
    """How long a call waits for further robots; 0: not at all."""
    max_clients: int = Field(64, ge=1)
    """Connections at a time; more are answered with HTTP 503."""
    max_message_bytes: int | None = Field(None, ge=1024)
    """Of one message; null: four times the pixels of the policy's cameras, and 1 MiB."""
    max_rate: float | None = Field(None, gt=0)
    """Observations a second of a client that sends without waiting for answers; null: four times
    the control rate. Who waits for each answer is not held back."""
    idle_timeout_s: float = Field(300.0, gt=0)
    """A connection without a message for so long is closed."""
    idle_reset_s: float | None = Field(None, gt=0)
    """A robot that was silent for so long starts a new episode; null: only an explicit reset, a
    new connection and a new instruction start one."""
    default_prompt: str | None = None
    """The instruction of observations that bring none; null: they are refused."""
    resize: Resize = "none"
    """What happens to images of another size than the policy's: none (they are refused), stretch,
    or pad (the aspect is kept, black borders)."""
    record: PathText | None = None
    """Folder of a dataset to which all that robots see and are sent is added; null: nothing is
    kept."""
    keys: dict[str, str] = Field(default_factory=dict)
    """Key of the client's observation -> camera of the policy, `state` or `instruction`. Several
    keys of the state are joined in this order."""
    replan_every: int = Field(1, ge=1)
    """Actions of a chunk that are executed before the policy looks again, in protocols that ask
    for one action at a time (vla_eval). In openpi's the client decides; with a shield an answer has
    so many."""
    ensemble: float | None = Field(None, ge=0)
    """Average overlapping chunks with weights exp(-ensemble * i), oldest first; one action comes
    back for every observation. null: do not."""
    shield: ShieldConfig | None = None
    """Choose among several chunks of the policy by a risk network, such as `shield={path:
    runs/risk}`; each robot has a past of its own. null: the policy chooses."""
    method: Literal["auto", "prefix", "guidance", "bid", "blend", "switch"] = "auto"
    """How a chunk goes on from the actions that the client says are still in its queue
    (`vla/prefix`): see `vla eval realtime`. auto is the first of prefix, guidance, bid and blend
    that the policy can with so many actions under way."""
    schedule: Schedule = "exp"
    """How the weights of these actions fall off, of guidance and bid: exp, linear, ones or
    zeros."""
    draws: int = Field(DRAWS, ge=1, le=10000)
    """Chunks that are drawn, of bid."""
    temperature: float = Field(0.0, ge=0)
    """0: the policy's most likely actions, 1: samples of its distribution."""
    target_return: float | None = None
    """Return that a return-conditioned policy is asked for; null: its own."""

    @field_validator("protocol")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name not in names("protocols"):
            raise ValueError(f"no protocol {name!r}{unknown_name('protocols', name)}")
        return name

    @model_validator(mode="after")
    def _tls_is_whole(self) -> ServeConfig:
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ValueError(f"{given} is set without {missing}; set both, or neither")
        return self

    @model_validator(mode="after")
    def _chunks_in_one_way(self) -> ServeConfig:
        # an average over chunks needs a chunk of every step
        if self.ensemble is not None and self.replan_every > 1:
            raise ValueError(f"ensemble needs replan_every=1, got {self.replan_every}")
        return self

    def control(self, *, whole_chunks: bool) -> ControlSettings:
        """How the policy's chunks are executed.

        Args:
            whole_chunks: the client is given all actions and executes as many as it likes.
        """
        # a shield judges how a chunk begins, and has to be asked before what is far behind that
        given_whole = whole_chunks and self.shield is None
        return ControlSettings(
            replan_every=None if given_whole else self.replan_every,
            ensemble=self.ensemble,
            temperature=self.temperature,
            target_return=self.target_return,
            shield=self.shield,
        )
