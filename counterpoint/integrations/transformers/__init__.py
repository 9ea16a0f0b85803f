"""A plan in the ``Trainer`` of Hugging Face's transformers."""

from importlib import import_module

try:
    import_module("transformers")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "counterpoint.integrations.transformers needs Hugging Face's transformers: "
        "pip install 'counterpoint[transformers]'",
        name=error.name,
    ) from error

from counterpoint.integrations.transformers.trainer import IMAGES_AND_LABELS, CounterpointTrainer

__all__ = ["IMAGES_AND_LABELS", "CounterpointTrainer"]
