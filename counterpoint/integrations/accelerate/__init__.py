"""A plan in a loop on Hugging Face Accelerate."""

from counterpoint.integrations.accelerate.steps import AcceleratedSteps

__all__ = ["AcceleratedSteps"]
