"""Build the model and the data, the config's or the user's, and check that they fit each other."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from counterpoint.core.declare.kinds import BYTES, FEATURES, IMAGE, TASKS, TOKENS, Field
from counterpoint.core.errors import ConfigError, DataError
from counterpoint.core.remedies import Write
from counterpoint.core.run.plan import Plan
from counterpoint.trainer.config.components import build_component
from counterpoint.trainer.config.run_config import RunConfig
from counterpoint.trainer.config.validation_errors import setting_error
from counterpoint.trainer.data.dataset import Data, DataModule, DatasetConfig, DataSpec
from counterpoint.trainer.data.examples import Failure, attempt
from counterpoint.trainer.data.user_loader import first_batch

__all__ = ["asked_batch_size", "bring_together", "check_loaders", "check_prepared"]

_BATCH_SIZE: int = DatasetConfig.model_fields["batch_size"].default
_OTHER = "use a model that fits the data, or other data"
_SAY_IT = "say what is true of your data by spec=counterpoint.trainer.DataSpec(task, inputs, input_shape, num_classes)"


def bring_together(
    config: RunConfig,
    device: torch.device,
    *,
    model: nn.Module | None = None,
    train_data: Data | None = None,
    eval_data: Data | None = None,
    spec: DataSpec | None = None,
    model_inputs: Collection[str] | None = None,
) -> tuple[nn.Module, DataModule, Tensor]:
    """Return the model, on ``device``, the data of a run, and what the model gives; arguments as of ``Trainer``.

    The model has been run on one training input, in evaluation mode, and gave these outputs, of the right shape.
    Raises ``ConfigError`` and ``DataError`` where something is missing or does not fit.
    """
    if train_data is None:
        data = _config_data(config)
    elif eval_data is None:
        raise ConfigError("train_data is given without eval_data; give both")
    else:
        data = DataModule(train_data, eval_data, spec or _stated(config, train_data, own_model=model is not None))
    data = replace(data, spec=spec or data.spec, evaluation=data.evaluation if eval_data is None else eval_data)
    for name, part in (("training", data.train), ("evaluation", data.evaluation)):
        _check_input(_first_input(part, name), data.spec, name)
    model = (_build(config, data.spec) if model is None else model).to(device)
    first = _first_input(data.train, "training").to(device)
    if data.spec.inputs == BYTES.name and BYTES.name not in (model_inputs or ()):
        first = first.float()  # the plan converts all bytes before this model
    outputs = _run(model, first)
    if data.spec.num_classes is None and TASKS[data.spec.task].classes and outputs.ndim > 1:
        data = replace(data, spec=replace(data.spec, num_classes=outputs.shape[1]))
    _check_outputs(outputs, data.spec)
    _check_classes(data.spec)
    return model, data, outputs


def asked_batch_size(config: RunConfig, train: Data, given: int | None) -> int:
    """Return how many examples a device batch is to hold: as given, as a DataLoader has it, or by the config.

    It is 0 for a DataLoader whose batches are of no one size.
    Raises ``ConfigError`` if two of them differ, or the number given is none.
    """
    if given is not None and (not isinstance(given, int) or isinstance(given, bool) or given < 1):
        raise ConfigError(f"batch_size: {given!r} is not allowed; give a whole number, at least 1")
    stated = {} if config.data is None else {"the config's data.batch_size": int(config.data.batch_size)}
    if isinstance(train, DataLoader):
        stated = {} if train.batch_size is None else {"that of the DataLoader": int(train.batch_size)}
    for name, number in stated.items():
        if given not in (None, number):
            raise ConfigError(f"batch_size: {given} was given, and {name} is {number}; state one of them")
        return number
    unstated = 0 if isinstance(train, DataLoader) else _BATCH_SIZE
    return unstated if given is None else given


def check_loaders(data: DataModule, ranks: int) -> None:
    """Raise ``DataError`` for a DataLoader in one of several processes: each would get the same batches."""
    loaders = [name for name in ("train", "evaluation") if isinstance(getattr(data, name), DataLoader)]
    if ranks > 1 and loaders:
        raise DataError(
            f"{' and '.join(loaders)}: a DataLoader gives each of {ranks} processes the same; give the data set that "
            "it loads, and batch_size to Trainer"
        )


def _config_data(config: RunConfig) -> DataModule:
    if config.data is None:
        message = "data: is missing; write a registered data set, such as `data: digits`, or give Trainer data"
        raise setting_error(message, (Write(("data",), "digits"),))
    data = build_component("data", config.data)
    if not isinstance(data, DataModule):
        raise ConfigError(
            f"data: its build must return a DataModule, and returned {type(data).__name__}; use other data"
        )
    return data


def _stated(config: RunConfig, train_data: Data, *, own_model: bool) -> DataSpec:
    """Return what can be known of given data: by its first item and a given model, or by the config's data."""
    inputs = _first_input(train_data, "training")
    if own_model or not TASKS[config.task].classes:
        return DataSpec(config.task, _kind_of(inputs), tuple(inputs.shape))
    if config.data is None:
        raise ConfigError(f"the model of the config needs the number of classes; {_SAY_IT}")
    return _config_data(config).spec


def _kind_of(inputs: Tensor) -> str:
    if inputs.dtype == torch.uint8:
        return BYTES.name
    if not inputs.is_floating_point():
        return TOKENS.name
    return IMAGE.name if inputs.ndim == 3 else FEATURES.name


def _first_input(data: Data, name: str) -> Tensor:
    return _first_example(data, name)[0]


def _first_example(data: Data, name: str) -> tuple[Tensor, int | Tensor]:
    if isinstance(data, DataLoader):
        inputs, targets = first_batch(data, name)
        return inputs[0], targets[0]
    if len(data) == 0:
        raise DataError(f"the {name} data is empty; give it at least 1 example")
    item = attempt(lambda: data[0], 0)
    if isinstance(item, Failure):
        raise DataError(item.message if item.message.startswith("data.") else f"the {name} data: {item.message}")
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], Tensor):
        raise DataError(f"the items of the {name} data must be (input tensor, target), and the first is {item!r:.80}")
    return item[0], item[1]


def _check_input(inputs: Tensor, spec: DataSpec, name: str) -> None:
    if tuple(inputs.shape) != spec.input_shape:
        raise DataError(
            f"the first input of the {name} data has shape {tuple(inputs.shape)}, and {spec.input_shape} was stated; "
            f"{_SAY_IT}"
        )
    if spec.inputs == BYTES.name and inputs.dtype != torch.uint8:
        raise DataError(
            f"the first input of the {name} data is of {inputs.dtype}, and bytes, which are uint8, were stated; "
            f"{_SAY_IT}"
        )


def _build(config: RunConfig, spec: DataSpec) -> nn.Module:
    if config.model is None:
        message = "model: is missing; write a registered model, such as `model: small_cnn`, or give Trainer one"
        raise setting_error(message, (Write(("model",), "small_cnn"),))
    # torch's initialisers take their numbers from the global generator, which is left as it was found.
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(config.seed)
        model = build_component("model", config.model, spec)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model: its build must return a torch.nn.Module, and returned {type(model).__name__}; use another model"
        )
    return model


def check_prepared(plan: Plan, model: nn.Module, data: DataModule, accelerator: Accelerator) -> None:
    """Check that a model takes an input as the plan makes it of one of another kind, such as in half precision.

    Raises ``ConfigError`` if it does not.
    """
    if not any(step.before[Field.INPUTS] != step.after[Field.INPUTS] for step in plan.steps):
        return
    inputs, target = _first_example(data.train, "training")
    given = inputs[None].to(accelerator.device), torch.as_tensor(target)[None].to(accelerator.device)
    prepared, _ = plan.prepare(*given)
    with accelerator.autocast():
        _run(model, prepared[0], fix="let the plan give float32, or compute in half precision: `precision: bf16`")


def _run(model: nn.Module, inputs: Tensor, *, fix: str = _OTHER) -> Tensor:
    """Run the model on one input, and leave it in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
            outputs = model(inputs[None])
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        form = f"shape {tuple(inputs.shape)}" + ("" if inputs.dtype == torch.float32 else f" and {inputs.dtype}")
        raise ConfigError(f"model: it cannot take an input of {form}: {error}; {fix}") from error
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not isinstance(outputs, Tensor):
        raise ConfigError(f"model: it must return a tensor of outputs, and returned {type(outputs).__name__}")
    return outputs


def _check_outputs(outputs: Tensor, spec: DataSpec) -> None:
    if not TASKS[spec.task].classes:
        return
    axes = "(N, classes, positions)" if spec.task == "segmentation" else "(N, classes)"
    right = outputs.ndim > 2 if spec.task == "segmentation" else outputs.ndim == 2
    if not right or outputs.shape[1] != spec.num_classes:
        raise ConfigError(
            f"model: for {spec.task} it must give outputs {axes} with {spec.num_classes} classes, and for one input it "
            f"gave the shape {tuple(outputs.shape)}; {_OTHER}"
        )


def _check_classes(spec: DataSpec) -> None:
    if spec.num_classes == 1 and spec.task in ("multiclass", "segmentation"):
        named = f", {spec.classes[0]!r}" if spec.classes else ""
        raise DataError(
            f"data: it has a single class{named}, and a loss over one class is always 0; give data of two classes at "
            "least, such as one folder of images for each"
        )
