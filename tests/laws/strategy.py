"""Random compositions: registered methods with random legal settings, facts, a loss, batches and a list order.

Most are meant to fit: methods are drawn one after another, of those whose declarations leave room for them. Some get a
fault on purpose. Everything follows from one number, so that cases do not depend on each other and cost little.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pydantic
import torch
from hypothesis import strategies as st

from counterpoint import DENSE, INDEX
from counterpoint.core import Algorithm
from counterpoint.core.declare.kinds import INPUT_KINDS, TASKS
from counterpoint.losses import resolve_loss
from counterpoint.losses.outputs import LOG_PROBABILITIES
from tests.laws.case import CLASSES, Composition
from tests.laws.draft import Draft, altered, claims_of, clash, leaves
from tests.laws.mistakes import MISTAKES
from tests.laws.settings import a_loss, accepted_by, legal, registered, registered_losses

KINDS = {kind.name: kind for kind in INPUT_KINDS if kind.name != "tokens"}
LENGTHS = (0, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 5, 5, 6, 6, 7)
FAULTY = 0.2
SCHEDULES: dict[str, tuple[Any, ...]] = {
    "start": ("0ba", "1ba", "0.25dur", "0.5ep"),
    "end": ("2ba", "3ba", "1ep", "0.75dur"),
    "every": (2, 3),
    "p": (0.3, 0.5, 0.8),
}


def an_algorithm(dice: Random, name: str, draft: Draft) -> Algorithm[Any]:
    """Draw a registered method with legal settings."""
    cls = registered()[name]
    for _ in range(100):
        settings = choices(dice, draft) if is_choice(cls) else legal(dice, name, cls)
        if dice.random() < 0.3 and may_be_skipped(cls):
            settings |= a_schedule(dice)
        if dice.random() < 0.1:
            settings["id"] = f"my_{name}"
        try:
            return cls.model_validate(settings)
        except pydantic.ValidationError:  # each setting is legal, and some of them not together
            continue
    raise AssertionError(f"no legal settings of {name} were found: say in SPECIAL what they may be")


def is_choice(cls: type[Algorithm[Any]]) -> bool:
    return cls.alternatives is not Algorithm.alternatives


def may_be_skipped(cls: type[Algorithm[Any]]) -> bool:
    """Whether a schedule means something for a method."""
    gives = any(edit.gives for effect in cls.declaration.transforms for edit in effect.edits.values())
    hooks = cls.declaration.hooks
    return not gives and (not hooks or bool(cls.declaration.transforms) or any(hook.event.in_batch for hook in hooks))


def a_schedule(dice: Random) -> dict[str, Any]:
    keys = dice.sample(sorted(SCHEDULES), dice.choice([1, 1, 1, 2]))
    settings = {key: dice.choice(SCHEDULES[key]) for key in keys}
    return settings if settings.keys() != {"start", "end"} else {"start": "1ba", "end": "3ba"}


def choices(dice: Random, draft: Draft) -> dict[str, Any]:
    """Draw the branches of a choice, of methods that edit batches alone, with a name each."""
    plain = [name for name, cls in registered().items() if not (is_choice(cls) or cls.declaration.hooks)]
    branches = Draft(draft.facts, draft.loss, kinds=set(draft.kinds))
    for _ in range(20):
        branch = an_algorithm(dice, dice.choice(plain), draft)
        if may_be_skipped(type(branch)) and draft.fits(branch):
            branches.add(branch)
        if len(branches.listed) == 3 or (branches.listed and dice.random() < 0.3):
            break
    if not branches.listed:
        branches.add(branch)
    weights = [dice.choice([0.25, 1, 1, 2]) for _ in branches.listed] if dice.random() < 0.4 else None
    return {"algorithms": branches.listed, "weights": weights}


def relay(dice: Random, draft: Draft, late: Algorithm[Any]) -> None:
    """Let a method take a slot of a batch from the batch on at which its owner ends, if that makes them fit."""
    taken = [claim for claim in claims_of(late) if any(clash(claim, other) for other in draft.claims)]
    if not taken or not all(claim.slot.per_batch for claim in taken):
        return
    owners = [item for item in draft.listed if any(clash(a, b) for a in claims_of(item) for b in claims_of(late))]
    free = Draft(draft.facts, draft.loss, kinds=draft.kinds)
    if len(owners) != 1 or owners[0].start.value or owners[0].end or not free.fits(late):
        return
    middle = dice.choice(["1ba", "2ba"])
    draft.listed[draft.listed.index(owners[0])] = altered(owners[0], end=middle)
    draft.add(altered(late, start=middle, end=None))


def fill(dice: Random, draft: Draft) -> None:
    """Draw the list."""
    names = sorted(registered())
    wanted = dice.choice(LENGTHS)
    givers = [
        name
        for name in names
        if any(e.gives for t in registered()[name].declaration.transforms for e in t.edits.values())
    ]
    for number in range(6 * wanted):
        if len(draft.listed) >= wanted:
            break
        early = number == 0 and givers and dice.random() < 0.5
        algorithm = an_algorithm(dice, dice.choice(givers if early else names), draft)
        if draft.fits(algorithm):
            draft.add(algorithm)
        elif dice.random() < 0.2:
            relay(dice, draft, algorithm)
    dice.shuffle(draft.listed)
    if dice.random() < 0.3:
        wish(dice, draft)


def wish(dice: Random, draft: Draft) -> None:
    """Let a method ask for its place beside another one that edits batches."""
    editing = [item for item in draft.listed if any(leaf.declared().transforms for leaf in leaves(item))]
    if len(editing) > 1:
        one, other = dice.sample(editing, 2)
        key = dice.choice(["after", "before"])
        draft.listed[draft.listed.index(one)] = altered(one, **{key: (other.identity,)})


def fitting_losses(task: str) -> list[str]:
    """Return the registered losses that are right for a task."""
    targets = TASKS[task].targets
    kinds = {targets, DENSE} if targets == INDEX else {targets}
    return [name for name in sorted(registered_losses()) if accepted_by(name) & kinds]


def a_draft(dice: Random) -> Draft:
    """Draw the facts and the loss, and take down which kinds there are and what the loss claims."""
    task = dice.choice(sorted(TASKS))
    loss = dice.choice(fitting_losses(task)) if dice.random() < 0.95 else "none"
    module = None if loss == "none" else a_loss(dice, loss)
    facts: dict[str, Any] = {
        "task": task,
        "num_classes": CLASSES,
        "inputs": dice.choice(
            [kind for kind in (*KINDS, "bytes", "unit") if (task, kind) != ("segmentation", "features")]
        ),
        "loss": module,
        "batch_size": dice.choice([1, 2, 3, 3, 4, 4, 5]),
        "steps_per_epoch": 2,
        "max_duration": "3ba",
        "seed": dice.randrange(2**32),
        "strict_order": dice.random() < 0.1,
        "model_inputs": set(KINDS) if dice.random() < 0.85 else None,
        "microbatches": 2 if dice.random() < 0.1 else 1,
        "contract": "always",
    }
    draft = Draft(facts, loss, kinds={KINDS[facts["inputs"]], TASKS[task].targets})
    if task in ("multiclass", "segmentation"):
        draft.kinds.add(DENSE)
    spec = None if module is None else resolve_loss(module)
    draft.claims += () if spec is None else spec.claims
    return draft


def composition(number: int) -> Composition:
    """Return the case of this number."""
    dice = Random(number)
    draft = a_draft(dice)
    fill(dice, draft)
    extra = an_algorithm(dice, dice.choice(sorted(registered())), draft)
    spec = None if draft.facts["loss"] is None else resolve_loss(draft.facts["loss"])
    size = draft.facts["batch_size"]
    aim = dice.choice(sorted(MISTAKES)) if dice.random() < FAULTY else None
    if aim is not None:
        MISTAKES[aim](dice, draft)
    return Composition(
        tuple(draft.listed),
        draft.facts,
        size,
        dice.choice([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
        dense=dice.random() < 0.3,
        seed=dice.randrange(1000),
        number=number,
        loss=draft.loss,
        log_p=spec is not None and spec.outputs == LOG_PROBABILITIES,
        rows=dice.choice([torch.float32, torch.float64]),
        aim=aim,
        extra=altered(extra, id="extra"),
        ignore_index=-100 if spec is None else spec.ignore_index,
    )


def compositions() -> st.SearchStrategy[Composition]:
    """Draw a case."""
    return st.integers(0, 2**64 - 1).map(composition)
