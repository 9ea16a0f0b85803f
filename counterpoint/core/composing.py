"""Compose a list of methods: check it, and return the plan that runs."""

from __future__ import annotations

from collections.abc import Sequence

from counterpoint.core.check.catalog import Catalog
from counterpoint.core.check.compose import compose as check
from counterpoint.core.check.fixes.terms import Terms
from counterpoint.core.check.members import Resolver
from counterpoint.core.declare.effects import Contract
from counterpoint.core.declare.loss import LossSpec
from counterpoint.core.faults import Fault
from counterpoint.core.plan.facts import Facts
from counterpoint.core.run.plan import Plan

__all__ = ["compose"]


def compose(
    algorithms: Sequence[object],
    *,
    resolve: Resolver,
    facts: Facts,
    loss: LossSpec | None = None,
    strict_order: bool = False,
    terms: Terms = Terms.PYTHON,
    contract: Contract = Contract.FIRST_STEPS,
    backend: str | None = None,
    catalog: Catalog | None = None,
    faults: Sequence[Fault] = (),
) -> Plan:
    """Check that methods fit each other, the data and the loss, order them, and return the plan.

    ``backend`` is the one of ``torch.compile`` for the batch steps, if they are to be compiled. The other arguments are
    those of ``counterpoint.core.check.compose.compose``. Raises ``CompositionError`` with every fault there is.
    """
    checked = check(
        algorithms,
        resolve=resolve,
        facts=facts,
        loss=loss,
        strict_order=strict_order,
        terms=terms,
        contract=contract,
        catalog=catalog,
        faults=faults,
    )
    return Plan.of(checked, backend=backend)
