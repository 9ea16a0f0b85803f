"""A plan in Lightning's loop."""

from importlib import import_module

try:
    import_module("lightning.pytorch")
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "counterpoint.integrations.lightning needs Lightning: pip install 'counterpoint[lightning]'", name=error.name
    ) from error

from counterpoint.integrations.lightning.callback import CounterpointCallback, original_targets

__all__ = ["CounterpointCallback", "original_targets"]
