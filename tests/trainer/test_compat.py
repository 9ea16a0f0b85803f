"""The part of Accelerate that it does not promise is there, and still needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from counterpoint.trainer.loop.compat import reset_precision


@pytest.fixture(autouse=True)
def _one_process_alone() -> Iterator[None]:
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def test_another_precision_is_refused_without_it() -> None:
    Accelerator(mixed_precision="no")
    with pytest.raises(ValueError, match="already been initialized"):
        Accelerator(mixed_precision="bf16")


@pytest.mark.parametrize("precisions", [("no", "bf16"), ("bf16", "no"), ("bf16", "bf16", "no")])
def test_each_accelerator_has_the_precision_that_was_wanted(precisions: tuple[str, ...]) -> None:
    for precision in precisions:
        reset_precision(precision)
        assert Accelerator(mixed_precision=precision).mixed_precision == precision


def test_the_same_precision_keeps_the_state() -> None:
    state = Accelerator(mixed_precision="bf16").state
    reset_precision("bf16")
    assert state.initialized
    assert Accelerator().mixed_precision == "bf16"
