"""A look at a policy server from where the robot is: does it answer, how fast, does it fit.

Speaks openpi's protocol, so other servers of it can be asked too.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI, WebSocketException
from websockets.sync.client import ClientConnection, connect

from vla.common.errors import UserError
from vla.data import EpisodeDataset
from vla.types import Spec
from vla_client.client import is_address
from vla_client.codec import Limits, WireError, pack, unpack

TIMEOUT = 30.0
"""Seconds until an answer counts as missing."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of several tries."""

    p50: float
    p99: float
    count: int

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        values = 1000 * np.asarray(seconds)
        return cls(float(np.quantile(values, 0.5)), float(np.quantile(values, 0.99)), len(seconds))


@dataclass(frozen=True)
class Replay:
    """Recorded frames put through the server.

    Attributes:
        frames: how many.
        errors: name of an action dimension -> mean absolute difference between what the server
            gave and what was recorded, in robot units.
        shares: the same as a share of the dimension's range.
    """

    frames: int
    errors: dict[str, float]
    shares: dict[str, float]


@dataclass
class PingReport:
    """What a server said and how it behaved.

    Attributes:
        metadata: what it says of itself.
        network: of WebSocket pings, without the policy.
        answers: of observations of no robot; None for servers that do not say what they need.
        infer_ms: the median of what the server says it took for one.
        clock_offset_s: the server's clock less ours; None if it does not tell its time.
        differences: in what a dataset does not fit the server's policy.
        replay: None without a dataset.
    """

    url: str
    metadata: dict[str, Any]
    network: Latency
    answers: Latency | None = None
    infer_ms: float | None = None
    clock_offset_s: float | None = None
    differences: list[str] = field(default_factory=list)
    replay: Replay | None = None
    spec: Spec | None = None


def ping(
    url: str,
    *,
    api_key: str | None = None,
    count: int = 50,
    dataset: EpisodeDataset | None = None,
    episodes: int = 2,
) -> PingReport:
    """Asks a server how it is.

    Args:
        url: `ws://HOST:PORT` or `wss://...`.
        api_key: if it wants one.
        count: pings and observations that are timed.
        dataset: its spec is compared with the policy's, and its frames are put through the server.
        episodes: of the dataset, from the first on.

    Raises UserError if the server cannot be reached, refuses, or speaks another protocol.
    """
    with _client(url, api_key) as socket:
        metadata = _received(socket, url)
        if not isinstance(metadata, dict):
            raise UserError(f"{url}: did not greet with metadata; is it a server of openpi's kind?")
        report = PingReport(url, metadata, _network(socket, count))
        spec = report.spec = _spec(metadata, url)
        if spec is not None:
            _time_answers(socket, report, spec, count)
        if dataset is not None:
            if spec is None:
                raise UserError(f"{url}: does not say its spec, so no dataset can be compared")
            report.differences = spec.differences(dataset.spec)
    if dataset is not None and spec is not None and not report.differences:
        # of its own connection: what was timed is no past of a robot
        with _client(url, api_key) as socket:
            _received(socket, url)
            report.replay = _replay(socket, url, dataset, spec, episodes)
    return report


@contextlib.contextmanager
def _client(url: str, api_key: str | None) -> Iterator[ClientConnection]:
    headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
    if not is_address(url):
        raise UserError(f"{url}: is no address; write ws://HOST:PORT or wss://HOST:PORT")
    try:
        with connect(
            url,
            additional_headers=headers,
            compression=None,
            max_size=Limits().max_bytes,
            open_timeout=TIMEOUT,
        ) as socket:
            yield socket
    except InvalidStatus as error:
        status = error.response.status_code
        body = (error.response.body or b"").decode("utf-8", "replace").strip()[:200]
        remedy = "; give --api-key-env NAME" if status == 401 else ""
        raise UserError(f"{url}: refused with HTTP {status} ({body}){remedy}") from error
    except InvalidURI as error:
        raise UserError(f"{url}: is no address; write ws://HOST:PORT or wss://HOST:PORT") from error
    except InvalidHandshake as error:
        raise UserError(f"{url}: speaks no WebSocket ({error})") from error
    except (OSError, WebSocketException) as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
        raise UserError(f"{url}: {reason}; is `vla serve` running there?") from error


def _received(socket: ClientConnection, url: str) -> Any:
    try:
        answer = socket.recv(timeout=TIMEOUT)
    except TimeoutError:
        raise UserError(f"{url}: no answer within {TIMEOUT:g} s") from None
    if isinstance(answer, str):
        raise UserError(f"{url}: {answer.splitlines()[-1][:500] if answer else 'empty error'}")
    try:
        return unpack(answer)
    except WireError as error:
        raise UserError(f"{url}: answered with no message of openpi's protocol: {error}") from error


def _answered(
    socket: ClientConnection, url: str, spec: Spec
) -> tuple[np.ndarray, dict[str, float]]:
    """Actions (K, A) and times, of a server that may be of another kind, or lie."""
    answer = _received(socket, url)
    actions = answer.get("actions") if isinstance(answer, dict) else None
    if not isinstance(actions, np.ndarray) or not _is_chunk(actions, spec):
        raise UserError(
            f"{url}: answered without actions (K, {spec.action_dim}), which its spec promises; ask "
            "whoever runs it"
        )
    timing = answer.get("server_timing")
    # servers of others send what they like: what is no number is not shown
    times = {}
    for name, value in timing.items() if isinstance(timing, dict) else ():
        if isinstance(value, int | float) and np.isfinite(value):
            times[name] = float(value)
    return actions, times


def _is_chunk(actions: np.ndarray, spec: Spec) -> bool:
    if actions.ndim != 2 or actions.dtype.kind not in "fiu":
        return False
    return len(actions) > 0 and actions.shape[1] == spec.action_dim


def _spec(metadata: Mapping[str, Any], url: str) -> Spec | None:
    values = metadata.get("spec")
    try:
        return Spec.from_dict(values) if isinstance(values, dict) else None
    except UserError as error:
        raise UserError(f"{url}: {error}; ask whoever runs it") from error


def _network(socket: ClientConnection, count: int) -> Latency:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        if not socket.ping().wait(TIMEOUT):
            raise UserError(f"no pong within {TIMEOUT:g} s")
        times.append(time.perf_counter() - start)
    return Latency.of(times)


def _time_answers(socket: ClientConnection, report: PingReport, spec: Spec, count: int) -> None:
    """Times observations of no robot."""
    known = report.metadata.get("instructions")
    # one that the policy has learned needs no text encoder on the server
    prompt = "do task 0"
    if isinstance(known, list) and known and isinstance(known[0], str):
        prompt = known[0]
    seen: dict[str, Any] = {
        "images": {
            camera: np.zeros((h, w, 3), np.uint8) for camera, (h, w) in spec.cameras.items()
        },
        "state": np.zeros(spec.state_dim, np.float32),
        "prompt": prompt,
    }
    times, inside, offsets = [], [], []
    for _ in range(count):
        sent, start = time.time(), time.perf_counter()
        socket.send(pack(seen))
        _, timing = _answered(socket, report.url, spec)
        took = time.perf_counter() - start
        times.append(took)
        if "infer_ms" in timing:
            inside.append(timing["infer_ms"])
        if {"sent_unix_s", "received_unix_s"} <= set(timing):
            # as NTP: both ways are taken to last equally long
            there = timing["received_unix_s"] - sent
            back = timing["sent_unix_s"] - (sent + took)
            offsets.append((there + back) / 2)
    report.answers = Latency.of(times)
    report.infer_ms = float(np.median(inside)) if inside else None
    report.clock_offset_s = statistics.median(offsets) if offsets else None


def _replay(
    socket: ClientConnection, url: str, dataset: EpisodeDataset, spec: Spec, episodes: int
) -> Replay:
    """The first action of every chunk against the recorded one, episode by episode."""
    differences = []
    for number in range(min(episodes, dataset.num_episodes)):
        episode = dataset.episode(number)
        images = {camera: episode.frames(camera) for camera in spec.cameras}
        for step, instruction in enumerate(episode.step_instructions):
            seen = {
                "images": {camera: frames[step] for camera, frames in images.items()},
                "state": episode.state[step],
                "prompt": instruction,
                # each episode begins without a past, as on a robot
                "vla/reset": step == 0,
            }
            socket.send(pack(seen))
            given, _ = _answered(socket, url, spec)
            differences.append(np.abs(given[0] - episode.actions[step]))
    mean = np.mean(differences, axis=0)
    span = np.asarray(spec.action_high) - np.asarray(spec.action_low)
    names = spec.action_names
    return Replay(
        frames=len(differences),
        errors={name: float(error) for name, error in zip(names, mean, strict=True)},
        shares={name: float(share) for name, share in zip(names, mean / span, strict=True)},
    )
