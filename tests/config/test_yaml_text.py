"""YAML as people read it: what has one meaning is read so, all else is refused with its line."""

import math
import time

import pytest

from vla.config import Config, ConfigError, load_config
from vla.config.yaml_text import YamlError, parse_yaml
from vla.training import TrainConfig


class Numbers(Config):
    steps: int = 0
    rate: float = 0.0
    sizes: tuple[int, ...] = ()
    flag: bool = False
    flag_or_count: bool | int = 0
    name: str = ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("1:30", "1:30"),
        ("10", 10),
        ("-3", -3),
        ("0", 0),
        ("1e-3", 1e-3),
        ("3e4", 3e4),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("0x10", "0x10"),
        ("2026-11-29", "2026-11-29"),
        ("", None),
        ("~", None),
        ("null", None),
        ("[a, 1]", ["a", 1]),
        ("'010'", "010"),
        ("a: &x {b: 1}\nc: {<<: *x, d: 2}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)
def test_a_text_means(text: str, value):
    found = parse_yaml(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"line 3, column 1: 'a' is given twice, first in line 1"),
        ("x: {a: 1, a: 2}", "'a' is given twice"),
        ("steps: 010", "010 may be read in two ways; write 10"),
        ("steps: -007", "write 7"),
        ("a: &a [*a]", "an anchor that holds itself"),
        ("&a {b: *a}", "an anchor that holds itself"),
        ("[" * 900 + "]" * 900, "nested more than 60 deep"),
        ("[" * 5000 + "]" * 5000, "nested more than 60 deep"),
        ("a: [1, 2", "line 1"),
        ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: \x00", "special characters are not allowed"),
        ("x" * 5_000_000, "characters; expected at most"),
        ("a: " + "9" * 5000, "digits"),
    ],
)
def test_what_has_no_one_meaning_is_refused(text: str, message: str):
    with pytest.raises(YamlError, match=message):
        parse_yaml(text)


def test_aliases_of_aliases_are_counted_before_they_are_made():
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        levels.append(f"a{level}: &a{level} [{aliases}]")
    started = time.monotonic()
    with pytest.raises(YamlError, match=r"stands for .* values"):
        parse_yaml("\n".join(levels))
    assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "override", ["steps=true", "rate=false", "sizes=[1, true]", "name=true", "steps=yes"]
)
def test_a_truth_value_is_no_number(override: str):
    with pytest.raises(ConfigError, match=override.split("=")[0]):
        load_config(Numbers, {}, [override])


def test_a_truth_value_where_it_may_stand():
    read = load_config(Numbers, {}, ["flag=yes", "flag_or_count=true", "rate=1e-3", "name=no"])
    assert (read.flag, read.flag_or_count, read.rate, read.name) == (True, True, 1e-3, "no")


def test_a_setting_that_is_called_no():
    values = {"out": "o", "steps": 1, "data": {"path": "d"}, "policy": {"type": "mlp"}}
    config = load_config(TrainConfig, values, ["precision=no"])
    assert config.precision == "no"


def test_thousands_of_mistakes_are_not_all_listed():
    unknown = {f"key_{number}": number for number in range(20_000)}
    started = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(Numbers, unknown)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "and 19980 more mistakes"
    assert time.monotonic() - started < 5
