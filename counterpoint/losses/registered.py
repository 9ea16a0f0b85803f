"""The settings of the losses, under the module that installations made before they were moved have as entry points."""

from __future__ import annotations

from counterpoint.losses.binary import BinaryCrossEntropy
from counterpoint.losses.cross_entropy import CrossEntropy
from counterpoint.losses.focal import BinaryFocal, Focal
from counterpoint.losses.kl import KLDivergence
from counterpoint.losses.nll import NegativeLogLikelihood
from counterpoint.losses.regression import MeanAbsoluteError, MeanSquaredError

__all__ = [
    "BinaryCrossEntropy",
    "BinaryFocal",
    "CrossEntropy",
    "Focal",
    "KLDivergence",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "NegativeLogLikelihood",
]
