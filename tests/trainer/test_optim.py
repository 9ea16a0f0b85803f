from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from counterpoint import ConfigError, Duration
from counterpoint.trainer.optim import SGD, AdamW, Constant, Cosine, SchedulerConfig


def _rates(schedule: SchedulerConfig, total: int, steps_per_epoch: int = 10, lr: float = 0.5) -> list[float]:
    """The learning rate of each step of a run."""
    optimizer = SGD(lr=lr).build(nn.Linear(1, 1))
    scheduler = schedule.build(optimizer, total=total, steps_per_epoch=steps_per_epoch)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant() -> None:
    assert _rates(Constant(), 5) == [0.5] * 5


def test_cosine_is_half_a_period() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(20)]
    assert _rates(Cosine(), 20) == pytest.approx(expected, rel=1e-12)


def test_cosine_ends_at_its_final_factor() -> None:
    rates = _rates(Cosine(final=0.2), 1000)
    assert rates[-1] == pytest.approx(0.1, rel=1e-4)
    assert min(rates) >= 0.1


@pytest.mark.parametrize("warmup", ["4ba", "0.4ep", "0.2dur"])
def test_warmup_grows_in_equal_steps_and_the_rest_follows(warmup: str) -> None:
    rates = _rates(Cosine(warmup=Duration.parse(warmup)), 20)
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert rates[4:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 16)) / 2 for step in range(16)])


def test_a_run_of_nothing_but_warmup() -> None:
    assert _rates(Cosine(warmup=Duration.parse("1dur")), 4) == pytest.approx([0.125, 0.25, 0.375, 0.5])


def test_a_warmup_longer_than_the_run() -> None:
    with pytest.raises(ConfigError, match=r"scheduler.warmup: '3ep' is 30 batches, and the run has only 20"):
        _rates(Constant(warmup=Duration.parse("3ep")), 20)


def _trained(make: Any) -> torch.Tensor:
    model = nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    optimizer = make(model)
    for step in range(5):
        optimizer.zero_grad()
        model(torch.full((1, 3), step + 1.0, dtype=torch.float64)).pow(2).sum().backward()
        optimizer.step()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_sgd_is_the_textbook_update() -> None:
    lr, momentum, decay = 0.01, 0.8, 0.1
    velocity: list[torch.Tensor] = []

    def naive(model: nn.Module) -> Any:
        class Naive:
            def zero_grad(self) -> None:
                model.zero_grad()

            def step(self) -> None:
                with torch.no_grad():
                    for number, parameter in enumerate(model.parameters()):
                        gradient = parameter.grad + decay * parameter
                        if len(velocity) <= number:
                            velocity.append(gradient)
                        else:
                            velocity[number] = momentum * velocity[number] + gradient
                        parameter -= lr * velocity[number]

        return Naive()

    ours = _trained(SGD(lr=lr, momentum=momentum, weight_decay=decay).build)
    assert torch.allclose(ours, _trained(naive), rtol=1e-12)


def test_adamw_takes_every_setting() -> None:
    settings = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.3}
    ours = _trained(AdamW.model_validate({**settings, "betas": [0.8, 0.9]}).build)
    assert torch.equal(ours, _trained(lambda model: torch.optim.AdamW(model.parameters(), **settings)))


def test_frozen_parameters_are_left_out() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert [len(group["params"]) for group in SGD().build(model).param_groups] == [1]
    with pytest.raises(ConfigError, match="no parameters to train"):
        SGD().build(model.requires_grad_(False))


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValidationError, match="nesterov needs a momentum above 0"):
        SGD(nesterov=True, momentum=0.0)


@pytest.mark.parametrize(
    ("part", "settings"),
    [
        (SGD, {"lr": -0.1}),
        (SGD, {"lr": 0.0}),
        (SGD, {"lr": float("inf")}),
        (SGD, {"lr": float("nan")}),
        (SGD, {"lr": "0.1"}),
        (SGD, {"momentum": 1.0}),
        (AdamW, {"betas": [0.9]}),
        (AdamW, {"betas": [0.9, 1.0]}),
        (AdamW, {"betas": [0.9, "0.99"]}),
        (Cosine, {"final": 1.5}),
        (Cosine, {"warmup": "1 fortnight"}),
        (Cosine, {"warmup": 5}),
    ],
)
def test_settings_are_checked(part: type[SGD], settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        part.model_validate(settings)
