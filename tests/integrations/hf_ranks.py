"""Train the recipe in Hugging Face's Trainer as one of several processes, which torchrun starts."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from tests.integrations import hf, recipe


def main(folder: Path, sam: bool, microbatches: int) -> None:
    """Train, evaluate, and write what this process ended with."""
    options = {"train_dataset": hf.samples(2 * microbatches)}
    settings = {"gradient_accumulation_steps": microbatches, "save_strategy": "steps", "save_steps": recipe.STEPS}
    trainer = hf.trainer(folder / "run", recipe.plan(sam=sam), None, options, ddp_backend="gloo", **settings)
    trainer.train()
    loss = trainer.evaluate()["eval_loss"]
    found = {**trainer.model.state_dict(), **trainer.engine.state_dict(), "eval_loss": torch.tensor(loss)}
    torch.save(found, folder / f"{trainer.args.process_index}.pt")
    # At an ordinary end torch now and then aborts, on threads of its connections; what is tested is done by then.
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "sam", int(sys.argv[3]))
