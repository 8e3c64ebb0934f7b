"""Configs: every mistake is one line with the dotted key, what was expected and the nearest name."""

from __future__ import annotations

import warnings
from pathlib import PosixPath
from typing import Annotated, Any, ClassVar, Literal

import pytest
import yaml

from vla import config as config_module
from vla.common import registry, renamed
from vla.common.renamed import RenamedWarning
from vla.config import (
    Choice,
    Config,
    ConfigError,
    RootConfig,
    UserError,
    dump_config,
    load_config,
    lookup,
    register,
    registered,
    schema,
    validate,
)
from vla.training import TrainConfig, train


class Optim(Config):
    lr: float = 1e-3
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)


class Run(RootConfig):
    policy: Annotated[Any, Choice("policies")]
    optim: Optim = Optim()
    mode: Literal["fast", "full"] = "fast"
    steps: int = 10


GOOD: dict[str, Any] = {"policy": {"type": "rt1", "history": 2}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"stepss": 3}, "stepss: unknown key (did you mean 'steps'?)"),
        ({"optim": {"lrr": 1}}, "optim.lrr: unknown key (did you mean 'lr'?)"),
        (
            {"policy": {"type": "rt1", "histroy": 2}},
            "policy.histroy: unknown key (did you mean 'history'?)",
        ),
        ({"policy": {"type": "rt11"}}, "policy.type: no 'rt11' (did you mean 'rt1'?)"),
        ({"policy": {"history": 2}}, "policy: needs a `type`"),
        ({"steps": "many"}, "steps: input should be a valid integer"),
        ({"mode": "fats"}, "mode: no 'fats' (did you mean 'fast'?)"),
        ({"optim": {"lr": "x"}}, "optim.lr: input should be a valid number"),
        ({"version": 7}, "format version 7"),
        (
            {"policy": {"type": "rt1", "tokenizer": {"type": "binz"}}},
            "policy.tokenizer.type: no 'binz' (did you mean 'bins'?)",
        ),
    ],
)
def test_a_mistake_is_one_line(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Run, {**GOOD, **change})
    assert len(caught.value.problems) == 1
    assert expected in caught.value.problems[0]


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Run, {"policy": {"type": "rt1", "histroy": 1}, "steps": "x", "mod": 1})
    assert len(caught.value.problems) == 3


def test_required_key() -> None:
    with pytest.raises(ConfigError, match="policy: is required"):
        validate(Run, {})


def test_missing_file_names_the_nearest(tmp_path: Any) -> None:
    (tmp_path / "metaworld.yaml").write_text("steps: 1")
    with pytest.raises(
        ConfigError, match=r"metawrld.yaml: no such file \(did you mean 'metaworld.yaml'\?\)"
    ):
        load_config(Run, tmp_path / "metawrld.yaml")


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", ""])
def test_a_file_that_is_no_mapping(tmp_path: Any, text: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml: "):
        load_config(Run, path)


def test_overrides_reach_into_choices_and_make_what_is_absent() -> None:
    run = load_config(
        Run, GOOD, ["policy.history=4", "optim.lr=3e-4", "optim.betas=[0.5, 0.6]", "mode=full"]
    )
    assert (run.policy.history, run.optim.lr, run.optim.betas, run.mode) == (
        4,
        3e-4,
        (0.5, 0.6),
        "full",
    )


@pytest.mark.parametrize("text", ["steps", "=3", "a..b=1"])
def test_an_override_without_key_or_value(text: str) -> None:
    with pytest.raises(ConfigError, match="expected key=value"):
        load_config(Run, GOOD, [text])


def test_sections(tmp_path: Any) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"train": {**GOOD, "steps": 7}, "eval": {}}))
    assert load_config(Run, path, section="train").steps == 7
    with pytest.raises(ConfigError, match="no section 'collect', it has: eval, train"):
        load_config(Run, path, section="collect")


def test_dump_and_load_are_inverse(tmp_path: Any) -> None:
    run = load_config(Run, GOOD, ["steps=3"])
    path = tmp_path / "c.yaml"
    path.write_text(dump_config(run))
    assert load_config(Run, path) == run


def test_configs_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        validate(Run, GOOD).steps = 4  # type: ignore[misc]


def test_schema_has_the_help_texts_and_the_choices() -> None:
    text = str(schema(Run))
    assert "Learning rate." in text
    assert "rt1" in text
    assert "token_learner" in str(schema(TrainConfig))


def test_registry_scans_folders_and_names_the_nearest() -> None:
    assert "rt1" in registered("policies")
    assert "bins" in registered("tokenizers")
    assert "bc" in registered("objectives")
    assert "metaworld" in registered("envs")
    with pytest.raises(KeyError, match="did you mean 'metaworld'"):
        lookup("envs", "metaworl")
    with pytest.raises(KeyError, match="did you mean 'policies'"):
        registered("policy")


def test_what_is_registered_later_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(registry._registry["policies"])
    monkeypatch.setitem(registry._registry, "policies", known)

    @register("policies", "late")
    class Late(Config):
        type: Literal["late"] = "late"
        depth: int = 1

    assert validate(Run, {"policy": {"type": "late", "depth": 3}}).policy == Late(depth=3)
    assert "late" in str(schema(Run))
    with pytest.raises(ConfigError, match=r"policy.dept: unknown key \(did you mean 'depth'\?\)"):
        validate(Run, {"policy": {"type": "late", "dept": 3}})


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="'rt1' is registered by"):

        @register("policies", "rt1")
        class Other(Config):
            type: Literal["rt1"] = "rt1"

    assert config_module.lookup("policies", "rt1").__name__ == "RT1Config"


def test_a_kind_that_is_not_there() -> None:
    with pytest.raises(KeyError, match=r"no kind 'polices' \(did you mean 'policies'\?\)"):
        register("polices", "x")


def test_an_override_with_the_sections_name(tmp_path: Any) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"train": GOOD, "eval": {}}))
    with pytest.raises(
        ConfigError,
        match=r"leave `train\.` out: the section is chosen by the command; write steps=20",
    ):
        load_config(Run, path, ["train.steps=20"], section="train")
    with pytest.raises(
        ConfigError, match="reads the section `train`, not `eval`; leave this override out"
    ):
        load_config(Run, path, ["eval.steps=20"], section="train")

    class Demo(Config):
        train: Run

    assert load_config(Demo, {"train": GOOD}, ["train.steps=20"]).train.steps == 20, (
        "there it is a key"
    )


def test_a_dict_is_no_config_yet() -> None:
    values: Any = {"steps": 3}
    with pytest.raises(
        UserError,
        match=r"expected TrainConfig, got dict; use load_config\(vla\.TrainConfig, \{\.\.\.\}\)",
    ):
        train(values)
    with pytest.raises(
        UserError, match=r"got PosixPath; use load_config\(vla\.TrainConfig, 'c\.yaml'\)"
    ):
        train(PosixPath("c.yaml"))  # type: ignore[arg-type]


class Renamed(Config):
    former_keys: ClassVar[dict[str, str]] = {"least_kept": "min_loaded"}
    min_loaded: float = 0.5
    """Share."""


def test_a_former_key_works_and_says_once_what_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_announced", set())
    with pytest.warns(RenamedWarning, match="least_kept is now called min_loaded"):
        config = load_config(Renamed, {"least_kept": 0.25})
    assert config == Renamed(min_loaded=0.25)
    assert "least_kept" not in dump_config(config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_config(Renamed, {}, ["least_kept=0.25"]) == config


def test_a_former_key_beside_the_one_of_today() -> None:
    with pytest.raises(ConfigError, match="both are set; set min_loaded alone"):
        load_config(Renamed, {"least_kept": 0.25, "min_loaded": 0.5})
