"""Plans whose fingerprints are written down; ``python -m tests.fingerprints`` prints what they are now."""

from __future__ import annotations

import json
import locale
from typing import Any

from torch import nn

import counterpoint as cp
from counterpoint.core.declare.kinds import INPUT_KINDS

MULTICLASS: dict[str, Any] = {"loss": nn.CrossEntropyLoss(), "task": "multiclass", "num_classes": 10, "seed": 17}
NORMALIZE = {"name": "normalize", "mean": [0.1, 0.2, 0.3], "std": [0.7]}
WINDOW = {"start": "0.1dur", "end": "0.9dur", "every": 3, "p": 0.3}
LONG = {"batch_size": 33, "steps_per_epoch": 7, "max_duration": "13ep"}

PLANS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "nothing": ([], MULTICLASS),
    "blurpool": (["blurpool"], MULTICLASS),
    "cutmix": (["cutmix"], MULTICLASS),
    "cutout": ([{"name": "cutout", "fill": 1 / 3}], MULTICLASS),
    "ema": (["ema"], MULTICLASS),
    "gradient_clipping": (["gradient_clipping"], MULTICLASS),
    "label_smoothing": (["label_smoothing"], MULTICLASS),
    "manifold_mixup": ([{"name": "manifold_mixup", "module": "1"}], MULTICLASS),
    "mixup": (["mixup"], MULTICLASS),
    "normalize": ([NORMALIZE], {**MULTICLASS, "inputs": "bytes"}),
    "one_of": ([{"name": "one_of", "algorithms": ["cutmix", "mixup"], "weights": [1, 2.5]}], MULTICLASS),
    "sam": (["sam"], MULTICLASS),
    "selective_backprop": (["selective_backprop"], {**MULTICLASS, **LONG}),
    "swa": (["swa"], {**MULTICLASS, **LONG}),
    "trivial_augment": (["trivial_augment"], {**MULTICLASS, "inputs": "unit"}),
    "many": (
        ["ema", "trivial_augment", NORMALIZE, "cutout", {"name": "mixup", **WINDOW}, "label_smoothing", "sam"],
        {**MULTICLASS, **LONG, "inputs": "bytes"},
    ),
    "segmentation": (
        [{"name": "cutout", "masks": "ignore"}, {"name": "cutmix", "after": "cutout", "id": "paste"}],
        {"loss": nn.CrossEntropyLoss(ignore_index=255), "task": "segmentation", "num_classes": 21},
    ),
    "multilabel": (
        ["label_smoothing", "mixup"],
        {"loss": nn.BCEWithLogitsLoss(), "task": "multilabel", "num_classes": 5, "model_inputs": INPUT_KINDS},
    ),
    "regression": (["mixup"], {"loss": nn.MSELoss(), "task": "regression", "microbatches": 4}),
}


def fingerprints() -> dict[str, str]:
    """Compose every plan and return its fingerprint."""
    return {name: cp.compose(listed, **facts).fingerprint for name, (listed, facts) in PLANS.items()}


if __name__ == "__main__":
    locale.setlocale(locale.LC_ALL, "")
    print(json.dumps(fingerprints(), indent=4))
