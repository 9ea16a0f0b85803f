"""Parts of Hugging Face's ``Trainer`` that its documentation does not promise, in one place.

``tests/integrations/transformers/test_compat.py`` fails if one of them is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

__all__ = ["TRIED", "PrivateTrainer"]

TRIED = ("4.52.1", "5.23.0")
"""The releases of transformers that this file was tried on."""


class PrivateTrainer(Trainer):
    """Hugging Face's ``Trainer``, with public names for private parts."""

    def batch_on_device(self, batch: Any) -> Any:
        """Move a batch of the loader to the device, as the Trainer does for each batch."""
        return self._prepare_inputs(batch)

    def is_checkpoint(self, folder: str | None, internal: bool) -> bool:
        """Whether ``save_model`` writes the weights of a checkpoint, from which training can be resumed.

        ``internal`` is its argument ``_internal_call``: the Trainer sets it in its own calls, for checkpoints and for
        uploads to the hub.
        """
        return internal and folder is not None and Path(folder).name == self._checkpoint_name()

    def _checkpoint_name(self) -> str:
        return f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Log no warning of weights that the Trainer has not loaded: ``complete_weights`` loads or refuses them."""
