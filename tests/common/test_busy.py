"""What is set for idle threads, and what is said of the load."""

from __future__ import annotations

import os
import sys

import pytest

import vla.cli  # noqa: F401  # loads the module that is patched below
from vla.common import busy
from vla.common.busy import (
    WAIT_VARIABLES,
    busy_remark,
    calm_idle_threads,
    cpu_load,
    idle_thread_variables,
)


def test_threads_sleep_at_once_where_cores_are_shared() -> None:
    assert idle_thread_variables({}, load=1.1) == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_threads_spin_for_a_short_time_on_a_quiet_machine() -> None:
    assert idle_thread_variables({}, load=1.0) == {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize("name", WAIT_VARIABLES)
@pytest.mark.parametrize("load", [0.0, 5.0])
def test_what_the_user_has_set_stays_alone(name: str, load: float) -> None:
    environment = {name: "0", "PATH": "/bin"}
    assert idle_thread_variables(environment, load) == {}


def test_the_load_at_the_start_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = os.cpu_count() or 1
    for load, expected in ((1.5, {"OMP_WAIT_POLICY"}), (0.5, {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"})):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load * cores, 0.0, 0.0))
        assert cpu_load() == pytest.approx(load)
        environment: dict[str, str] = {}
        calm_idle_threads(environment)
        assert set(environment) == expected


def test_a_system_without_a_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg")
    assert cpu_load() == 0.0


def test_the_command_calms_threads_but_not_those_of_a_benchmark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = sys.modules["vla.cli.app"]
    done: list[str] = []
    monkeypatch.setattr(app, "calm_idle_threads", lambda: done.append("calm"))
    monkeypatch.setattr(app, "app", lambda: done.append("run"))
    monkeypatch.setattr(sys, "argv", ["vla", "train", "x.yaml"])
    app.main()
    assert done == ["calm", "run"], "before anything is loaded"
    monkeypatch.setattr(sys, "argv", ["vla", "bench", "control_step"])
    app.main()
    assert done == ["calm", "run", "run"]


def test_the_remark_names_load_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy.os, "cpu_count", lambda: 2)
    assert busy_remark(1.0) is None
    text = busy_remark(6.0)
    assert text is not None
    assert "about 12 programs want this machine's 2 cores" in text
    assert "\n" not in text
