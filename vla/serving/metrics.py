"""Counters of a server, and their text form for Prometheus (exposition format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter, defaultdict

LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
HELP = {
    "vla_requests_total": "Messages received, by protocol.",
    "vla_errors_total": "Messages answered with an error, by kind.",
    "vla_refused_total": "Connections and messages refused, by reason.",
    "vla_resets_total": "Episodes begun, by reason.",
    "vla_missed_steps_total": "Control steps that the policy did not see, by the clients' count.",
    "vla_deadline_misses_total": "Answers later than one control period after the observation.",
    "vla_shield_interventions_total": "Chunks of the policy that a shield replaced.",
    "vla_recorded_steps_total": "Observations recorded with what the robot was sent.",
    "vla_unrecorded_steps_total": "Observations that should have been, and were not, by reason.",
    "vla_connections": "Clients that are connected.",
    "vla_batch_size": "Robots in one call of the policy.",
    "vla_latency_seconds": "From the receipt of an observation to its actions.",
}
"""Name -> what it counts."""


class Metrics:
    """What a server counts; may be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._histograms: dict[str, _Histogram] = {
            "vla_batch_size": _Histogram(BATCH_BUCKETS),
            "vla_latency_seconds": _Histogram(LATENCY_BUCKETS),
        }

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Adds to a counter; connections that close add -1."""
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            self._counts[name, text] += amount  # type: ignore[assignment]  # seconds are no int

    def observe(self, name: str, value: float) -> None:
        """Adds a value to a histogram."""
        with self._lock:
            self._histograms[name].add(value)

    def value(self, name: str, **labels: str) -> float:
        """What a counter stands at."""
        text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            return self._counts[name, text]

    def batch_sizes(self) -> tuple[int, float]:
        """Calls of the policy, and robots in all of them."""
        with self._lock:
            histogram = self._histograms["vla_batch_size"]
            return histogram.count, histogram.total

    def text(self) -> str:
        """All of them, for a scraper."""
        with self._lock:
            counts = dict(self._counts)
            histograms = {name: h.lines(name) for name, h in self._histograms.items()}
        of_name: dict[str, list[str]] = defaultdict(list)
        for (name, labels), value in sorted(counts.items()):
            of_name[name].append(f"{name}{{{labels}}} {value:g}" if labels else f"{name} {value:g}")
        lines = []
        for name, explanation in HELP.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            kind = "histogram" if name in histograms else kind
            lines += [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]
            lines += histograms.get(name) or of_name.get(name, [])
        return "\n".join(lines) + "\n"


class _Histogram:
    """How many values are at most each bound."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """Prometheus counts up: each bucket holds those of the smaller ones too."""
        found, below = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{name}_sum {self.total:g}", f"{name}_count {below}"]
