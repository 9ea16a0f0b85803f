"""The config of a run: its keys, what each may hold, and the faults of a wrong one in the user's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from counterpoint.core.declare.algorithm import Algorithm
from counterpoint.core.declare.durations import Duration
from counterpoint.losses import CrossEntropy
from counterpoint.trainer.config.components import DEFAULTS, ComponentOf
from counterpoint.trainer.config.validation_errors import explain
from counterpoint.trainer.optim import SGD, Constant, OptimizerConfig, SchedulerConfig
from counterpoint.trainer.paths import FolderPath

__all__ = ["RunConfig"]

_Algorithms = Annotated[
    tuple[Annotated[Algorithm[Any], ComponentOf("algorithms")], ...], Field(strict=False, max_length=100)
]
_Tracker = Literal["aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"]
_Trackers = Annotated[tuple[_Tracker, ...], Field(strict=False)]
_Packages = Annotated[tuple[Annotated[str, Field(strict=True, min_length=1)], ...], Field(strict=False)]


class RunConfig(BaseModel):
    """Everything that decides a training run.

    ``data``, ``model``, ``loss``, ``optimizer``, ``scheduler`` and each of ``algorithms`` are components: a name, a
    mapping with ``name`` and settings, or an instance. They are looked up among the registered names, and hold the
    component's settings as an instance that ``build`` makes the real thing from. Frozen; a wrong value raises
    pydantic's ``ValidationError``, and from a file ``load_config`` turns that into a ``ConfigError``.

    >>> config = RunConfig(task="multiclass", data="digits", model="mlp", max_duration="2ep", algorithms=["mixup"])
    >>> config.data.batch_size, config.optimizer.lr, config.algorithms[0].alpha
    (128, 0.1, 0.2)
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    seed: int = Field(default=0, ge=0, lt=2**63, description="decides every random number of the run")
    task: Literal["multiclass", "segmentation", "multilabel", "regression"] = Field(description="what is learnt")
    data: Annotated[Any, ComponentOf("data")] | None = Field(
        default=None, description="the data set and its batch_size; none where Trainer is given data"
    )
    model: Annotated[Any, ComponentOf("model")] | None = Field(
        default=None, description="the model; none where Trainer is given one"
    )
    loss: Annotated[Any, ComponentOf("loss")] = Field(
        default_factory=CrossEntropy, description="the loss", json_schema_extra={"default": DEFAULTS["loss"]}
    )
    optimizer: Annotated[OptimizerConfig, ComponentOf("optimizer")] = Field(
        default_factory=SGD, description="the optimizer", json_schema_extra={"default": DEFAULTS["optimizer"]}
    )
    scheduler: Annotated[SchedulerConfig, ComponentOf("scheduler")] = Field(
        default_factory=Constant,
        description="the learning rate over the run",
        json_schema_extra={"default": DEFAULTS["scheduler"]},
    )
    max_duration: Duration = Field(description="length of the run, in epochs or batches")
    algorithms: _Algorithms = Field(default=(), description="the training methods")
    run_dir: FolderPath | None = Field(default=None, min_length=1, description="the folder that the run is written to")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="in which the model computes")
    accumulate: int = Field(default=1, ge=1, le=10**9, description="microbatches that a device batch is split into")
    compile: bool = Field(default=False, description="compile the steps that edit batches into one function")
    eval_every: Duration = Field(default=Duration(1.0, "ep"), description="how often the model is evaluated")
    checkpoint_every: Duration = Field(default=Duration(1.0, "ep"), description="how often a checkpoint is written")
    workers: int = Field(
        default=0, ge=0, le=10**6, description="processes that load data; 0 loads in the training process"
    )
    strict_order: bool = Field(default=False, description="refuse a composition whose order only the list decides")
    trackers: _Trackers = Field(default=(), description="experiment trackers that log the run, by Accelerate")
    plugins: _Packages = Field(default=(), description="packages that must be installed for this config")

    @field_validator("max_duration")
    @classmethod
    def _stands_alone(cls, length: Duration) -> Duration:
        if length.unit == "dur":
            raise ValueError("the length of the run is itself what 'dur' counts; write it as '10ep' or '500ba'")
        return length

    @field_validator("max_duration", "eval_every", "checkpoint_every")
    @classmethod
    def _lasts(cls, length: Duration) -> Duration:
        if length.value == 0:
            raise ValueError("a length of 0 is none; write one above 0, such as '1ep' or '500ba'")
        return length

    @field_validator("plugins")
    @classmethod
    def _installed(cls, packages: tuple[str, ...]) -> tuple[str, ...]:
        if absent := [package for package in packages if not _is_installed(package)]:
            raise ValueError(f"not installed: {', '.join(absent)}; run `pip install {' '.join(absent)}`")
        return packages

    @classmethod
    def parse(cls, tree: Mapping[str, Any], *, source: str = "config", overrides: Sequence[str] = ()) -> RunConfig:
        """Check what a config file or a mapping says.

        Raises ``ConfigError`` naming ``source``, and for each fault its key, value, what is allowed and the fix.

        >>> RunConfig.parse({"task": "multiclass", "max_duration": "2ep", "workers": -1}, source="run.yaml")
        Traceback (most recent call last):
            ...
        counterpoint.core.errors.ConfigError: run.yaml: 1 fault in the config:
          [bad-setting] workers = -1: is not allowed
            fix: write a whole number, at least 0 (default: 0)
        """
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise explain(error, cls, tree, source, overrides) from None

    def resolved(self) -> dict[str, Any]:
        """Return plain data with every default written out; parsing it gives an equal config."""
        return self.model_dump(mode="json")


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
