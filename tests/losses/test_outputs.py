"""Outputs of another kind than a loss takes are found on the first batches, and what torch allows is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core.run.training.model_requirements import check_model
from counterpoint.losses import (
    LOG_PROBABILITIES,
    LOGITS,
    PROBABILITIES,
    BinaryFocalLoss,
    FocalLoss,
    ThresholdedBCEWithLogitsLoss,
    resolve_loss,
)

INFINITE = float("inf")
LOSSES: dict[str, tuple[nn.Module, str]] = {
    "nll": (nn.NLLLoss(), "multiclass"),
    "kl": (nn.KLDivLoss(reduction="batchmean"), "multiclass"),
    "bce of probabilities": (nn.BCELoss(), "multilabel"),
}


def plan_for(loss: Any, task: str = "multiclass", **facts: Any) -> cp.Plan:
    return cp.compose([], loss=loss, task=task, num_classes=5, **facts)


def targets_for(task: str, loss: nn.Module) -> Tensor:
    labels = torch.eye(5)
    return labels if task == "multilabel" or isinstance(loss, nn.KLDivLoss) else torch.arange(5)


@pytest.mark.parametrize("name", LOSSES)
def test_logits_are_refused_in_the_first_calls_alone(name: str) -> None:
    loss, task = LOSSES[name]
    logits, targets = 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(1)), targets_for(task, loss)
    plan = plan_for(loss, task)
    for _ in range(2):
        with pytest.raises(cp.DataError, match=rf"the loss {type(loss).__name__} takes .*probabilities, and .*: use "):
            plan.loss(logits, targets)
    for later in (plan, plan_for(loss, task, contract="off")):
        assert outcome(later.loss, logits, targets) == outcome(loss, logits, targets)


def outcome(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> object:
    """What a loss gives, to seven digits, or the type of what it raises."""
    try:
        return float(f"{loss(outputs, targets).item():.6g}")
    except RuntimeError as error:
        return type(error)


@pytest.mark.kind("30")
def test_the_losses_here_give_numbers_and_an_error() -> None:
    """So that the comparisons above are of both."""
    logits = 3 * torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    found = {name: outcome(loss, logits, targets_for(task, loss)) for name, (loss, task) in LOSSES.items()}
    assert found["bce of probabilities"] is RuntimeError
    assert found["nll"] == pytest.approx(-logits.diagonal().mean().item(), rel=1e-5)
    assert found["kl"] == pytest.approx(-logits.diagonal().sum().item() / 5, rel=1e-5)


def test_always_means_always() -> None:
    plan = plan_for(nn.NLLLoss(), contract="always")
    right, wrong = torch.zeros(2, 5).log_softmax(1), torch.zeros(2, 5)
    for _ in range(3):
        plan.loss(right, torch.tensor([0, 4]))
    with pytest.raises(cp.DataError, match="add up to 5, not to 1"):
        plan.loss(wrong, torch.tensor([0, 4]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [1, 2, 1000, 50_000])
@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
def test_rounding_is_no_fault(dtype: torch.dtype, classes: int, scale: float) -> None:
    logits = scale * torch.randn(4, classes, 2, generator=torch.Generator().manual_seed(3))
    assert LOG_PROBABILITIES.wrong(logits.log_softmax(1).to(dtype)) == ""
    for shift in (0.25, -0.25):
        assert "add up to" in LOG_PROBABILITIES.wrong((logits.log_softmax(1) + shift).to(dtype))


@pytest.mark.parametrize(
    "row",
    [
        [0.0, -INFINITE, -INFINITE],  # a certain class
        [INFINITE, 1.0, 1.0],
        [float("nan"), 1.0, 1.0],
        [-INFINITE, -INFINITE, -INFINITE],
    ],
)
def test_what_is_infinite_or_no_number_is_left_as_torch_has_it(row: list[float]) -> None:
    outputs, targets = torch.tensor([row, [1 / 3] * 3]), torch.tensor([0, 1])
    outputs[1] = outputs[1].log()
    plan = cp.compose([], loss=nn.NLLLoss(reduction="none"), task="multiclass", num_classes=3)
    assert torch.equal(
        plan.loss(outputs, targets).nan_to_num(9), nn.NLLLoss(reduction="none")(outputs, targets).nan_to_num(9)
    )


@pytest.mark.parametrize(
    ("loss", "outputs"),
    [
        (nn.CrossEntropyLoss(), LOGITS),
        (FocalLoss(), LOGITS),
        (nn.NLLLoss(), LOG_PROBABILITIES),
        (nn.KLDivLoss(), LOG_PROBABILITIES),
        (nn.BCEWithLogitsLoss(), LOGITS),
        (ThresholdedBCEWithLogitsLoss(0.2), LOGITS),
        (BinaryFocalLoss(), LOGITS),
        (nn.BCELoss(), PROBABILITIES),
        (nn.MSELoss(), None),
        (nn.L1Loss(), None),
    ],
    ids=lambda given: type(given).__name__,
)
def test_the_known_losses_say_what_they_take(loss: nn.Module, outputs: cp.OutputKind | None) -> None:
    spec = resolve_loss(loss)
    assert spec is not None
    assert spec.outputs == outputs
    assert LOGITS.wrong(torch.full((2, 3), 1e9)) == ""


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ([[0.0, 0.25], [1.0, 0.5]], ""),
        ([[0.0, 0.25], [1.0, 1.5]], "one is 1.5, outside 0 to 1"),
        ([[0.0, 0.25], [-0.5, 1.0]], "one is -0.5, outside 0 to 1"),
        ([[0.0, float("nan")]], ""),
    ],
)
def test_probabilities_lie_from_0_to_1(outputs: list[list[float]], said: str) -> None:
    assert PROBABILITIES.wrong(torch.tensor(outputs)) == said


@pytest.mark.kind("30")
@pytest.mark.parametrize(("total", "said"), [(1.0005, ""), (0.9995, ""), (1.004, "1"), (0.996, "0.996"), (2.5, "2.5")])
def test_the_probabilities_of_a_row_add_up_to_1_within_a_thousandth(total: float, said: str) -> None:
    right = torch.tensor([0.2, 0.3, 0.5])
    outputs = torch.stack([right, right * total]).log()[..., None].expand(2, 3, 4)
    wanted = f"the exponentials of a row add up to {said}, not to 1" if said else ""
    assert LOG_PROBABILITIES.wrong(outputs) == wanted
    assert LOG_PROBABILITIES.wrong(outputs[:0]) == LOG_PROBABILITIES.wrong(outputs[0, 0]) == ""


def test_a_loss_of_ones_own_says_what_it_takes() -> None:
    unit = cp.OutputKind(
        "vectors of length 1",
        lambda outputs: "" if torch.allclose(outputs.norm(dim=1), torch.ones(len(outputs))) else "one is longer",
        "end the model with nn.functional.normalize",
    )
    loss = cp.LossSpec("arc", lambda outputs, targets: outputs.sum(), frozenset({cp.INDEX}), outputs=unit)
    plan = plan_for(loss)
    with pytest.raises(cp.DataError, match="the loss arc takes vectors of length 1, and one is longer: end the model"):
        plan.loss(torch.ones(2, 5), torch.tensor([0, 1]))
    model = nn.Linear(5, 5)
    check_model(plan, model, outputs=torch.eye(5))
    with pytest.raises(cp.CompositionError, match="one is longer") as caught:
        check_model(plan, model, outputs=torch.ones(2, 5))
    assert [(fault.code, fault.fix) for fault in caught.value.faults] == [("loss-outputs", unit.fix)]


def test_what_a_loss_takes_changes_no_gradient_and_no_fingerprint() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(5)).requires_grad_()
    for contract in ("off", "always"):
        logits.grad = None
        plan_for(nn.NLLLoss(), contract=contract).loss(logits.log_softmax(1), torch.arange(4)).backward()
        assert logits.grad is not None
        expected = torch.autograd.grad(nn.CrossEntropyLoss()(logits, torch.arange(4)), logits)[0]
        torch.testing.assert_close(logits.grad, expected)
    assert plan_for(nn.NLLLoss()).fingerprint == plan_for(nn.NLLLoss(), contract="off").fingerprint


@pytest.mark.slow
def test_a_compiled_loss_is_one_graph() -> None:
    plan = plan_for(nn.NLLLoss())
    compiled = torch.compile(plan.loss, backend="eager", fullgraph=True)
    right = torch.zeros(2, 5).log_softmax(1)
    assert torch.equal(compiled(right, torch.tensor([0, 4])), plan.loss(right, torch.tensor([0, 4])))


@pytest.mark.kind("30")
@pytest.mark.parametrize(
    ("loss", "task", "right"),
    [
        (nn.CrossEntropyLoss(), "multiclass", torch.zeros(5, 5)),
        (FocalLoss(), "multiclass", torch.zeros(5, 5)),
        (nn.NLLLoss(), "multiclass", torch.zeros(5, 5).log_softmax(1)),
        (nn.KLDivLoss(reduction="batchmean"), "multiclass", torch.zeros(5, 5).log_softmax(1)),
        (nn.BCEWithLogitsLoss(), "multilabel", torch.zeros(5, 5)),
        (BinaryFocalLoss(), "multilabel", torch.zeros(5, 5)),
        (nn.BCELoss(), "multilabel", torch.full((5, 5), 0.2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_outputs_of_another_number_of_classes_are_refused(loss: nn.Module, task: str, right: Tensor) -> None:
    """Also where the targets would fit them, which torch computes without a word."""
    plan, targets = plan_for(loss, task), targets_for(task, loss)
    assert torch.isfinite(plan.loss(right, targets))
    fewer = targets[:, :4] if targets.ndim == 2 else targets.clamp(max=3)
    with pytest.raises(cp.DataError, match=rf"the loss {type(loss).__name__} takes outputs of shape \(N, 5, ...\)"):
        plan.loss(right[:, :4], fewer)
