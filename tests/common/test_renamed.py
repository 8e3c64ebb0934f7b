"""Former names of attributes and members: they work, and say once what to write now."""

from __future__ import annotations

import sys
import types

import pytest

from vla.common import renamed
from vla.common.renamed import RenamedWarning, accept_former_members, former_attributes

FORMER = {"rests": "skips"}


@pytest.fixture(autouse=True)
def _nothing_was_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renamed, "_announced", set())


class Base:
    def __init_subclass__(cls) -> None:
        accept_former_members(cls, FORMER)

    @property
    def skips(self) -> list[str]:
        return ["base"]

    rests = skips


def test_a_former_attribute_of_a_module(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    module = types.ModuleType("somewhere")
    module.today = object()
    module.__getattr__ = former_attributes("somewhere", {"once": "today"})
    monkeypatch.setitem(sys.modules, "somewhere", module)
    with pytest.warns(RenamedWarning, match=r"somewhere\.once is now called today; the old name"):
        assert module.once is module.today
    assert module.once is module.today
    assert not recwarn.list, "said once"
    with pytest.raises(AttributeError, match="'somewhere' has no attribute 'never'"):
        _ = module.never


def test_a_subclass_that_defines_the_former_name() -> None:
    with pytest.warns(RenamedWarning, match=r"Old\.rests is now called skips"):

        class Old(Base):
            @property
            def rests(self) -> list[str]:
                return [*super().rests, "old"]

    assert Old().skips == Old().rests == ["base", "old"]


def test_a_subclass_that_defines_todays_name_is_read_by_either(
    recwarn: pytest.WarningsRecorder,
) -> None:
    class New(Base):
        @property
        def skips(self) -> list[str]:
            return [*super().skips, "new"]

    class Below(New):
        pass

    assert New().skips == New().rests == Below().rests == ["base", "new"]
    assert not recwarn.list
