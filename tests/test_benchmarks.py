"""The benchmarks run without any other library, and their references catch what is wrong."""

from __future__ import annotations

import pytest
import torch

from benchmarks.batches import CHAIN, Goal, bytes_and_labels, chains, singles
from benchmarks.check import check_batch, check_paste, holes_and_weights
from benchmarks.contenders import Ours


@pytest.mark.slow
def test_without_peers_ours_is_checked_and_no_goal_is_judged(capsys: pytest.CaptureFixture[str]) -> None:
    goals = [*chains([], 8, 16, "small", backend="none"), *singles([], 8, 16)]
    assert all(goal.line.endswith("| not judged |") for goal in goals)
    assert "chain, 8×3×16×16, small" in capsys.readouterr().out


def test_a_goal_is_held_to_its_side() -> None:
    assert [Goal("speed", 2, found).line.split("| ")[-1] for found in (2.0, 1.9)] == ["holds |", "MISSED |"]
    assert [Goal("cost", 2, found, at_least=False).line.split("| ")[-1] for found in (2.0, 2.1)] == [
        "holds |",
        "MISSED |",
    ]


def test_a_chain_that_is_off_is_caught() -> None:
    images, labels = bytes_and_labels(8, 16)
    ours = Ours("ours", CHAIN, inputs="bytes")
    inputs, targets = ours(images, labels)
    draws = ours.drawn(images)
    check_batch("ours", (inputs, targets), (images, labels), draws)
    for wrong in ((inputs * 1.01, targets), (inputs, targets.roll(1, 0)), (inputs.roll(1, 0), targets)):
        with pytest.raises(AssertionError, match="ours"):
            check_batch("ours", wrong, (images, labels), draws)


def test_what_others_draw_is_read_off_probes() -> None:
    def erase(images: torch.Tensor) -> torch.Tensor:
        images[:, :, :2] = 0
        return images

    def mix(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        share = torch.rand(())
        return share * images + (1 - share) * images.flip(0), labels

    holes, weights = holes_and_weights(erase, mix, torch.Size((4, 3, 8, 8)), 1)
    assert holes[:, :, :2].all()
    assert not holes[:, :, 2:].any()
    torch.manual_seed(1)
    share = torch.rand(()).double()
    torch.testing.assert_close(weights, share * torch.eye(4).double() + (1 - share) * torch.eye(4).double().flip(0))


def test_targets_that_do_not_follow_the_pasted_area_are_caught() -> None:
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)

    def paste(values: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pasted = values.clone()
        pasted[:, :, :4] = values.flip(0)[:, :, :4]
        rows = torch.nn.functional.one_hot(targets, 10).float()
        return pasted, share * rows + (1 - share) * rows.flip(0)

    share = 0.5
    check_paste("right", paste, images, labels, 0)
    share = 0.6
    with pytest.raises(AssertionError, match="wrong"):
        check_paste("wrong", paste, images, labels, 0)
