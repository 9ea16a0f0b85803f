"""Memory of the caller's is never written to, and memory that is used again is large enough and held by no tensor."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import counterpoint as cp
from counterpoint.core.tensors import buffers
from counterpoint.core.tensors.buffers import LARGE, BufferPool
from tests.algorithms.batches import images, plan_for, targets

pytestmark = pytest.mark.kind("30")

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "itself": lambda x: x,
    "view": lambda x: x.view(x.shape),
    "detached": lambda x: x.detach(),
    "transposed": lambda x: x.transpose(-1, -2),
    "part": lambda x: x[..., 1:],
    "real part": lambda x: x.movedim(1, -1).movedim(-1, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", VIEWS)
@pytest.mark.parametrize("contract", ["off", "first_steps"])
@pytest.mark.parametrize("method", ["cutout", "cutmix", "mixup", "trivial_augment"])
def test_a_step_that_returns_a_view_gives_the_next_no_memory_of_the_callers(
    way: str, contract: str, method: str
) -> None:
    class Views(cp.Algorithm[None], name="views"):
        @cp.transform(inputs=cp.Edit(cp.IMAGES, acts=frozenset({cp.Axis.POSITION}), resizes=True))
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_inputs(VIEWS[way](batch.inputs))

    plan = plan_for([Views(before=method), method], inputs="unit", contract=contract)
    assert plan.order.index("views") < plan.order.index(method)
    for further in (False, True):
        x = tuple(images(6, kind="unit") for _ in range(2)) if further else images(6, kind="unit")
        before = tuple(each.clone() for each in x) if further else x.clone()
        for step in range(5):
            plan(x, targets(6), step=step, repeat=True)
        assert all(map(torch.equal, x, before)) if further else torch.equal(x, before)


def test_the_batch_that_gives_the_losses_of_samples_is_not_written_to() -> None:
    class Spoils(cp.Algorithm[None], name="spoils"):
        """Changes the kind of the inputs, in place where it may."""

        @cp.transform(inputs=cp.Edit(frozenset({cp.UNIT}), gives=cp.NORMALIZED, form=cp.Form.AFFINE))
        def apply(self, batch: cp.Batch, draws: None) -> cp.Batch:
            return batch.with_inputs(batch.inputs.mul_(2) if batch.writable else batch.inputs * 2)

    plan = plan_for([Spoils(), {"name": "selective_backprop", "selection": "top"}], inputs="unit", contract="off")
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(105, 4))
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    engine = cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    x = images(6, kind="unit")
    with engine.batch(x.clone(), targets(6), donate=True) as batch:
        assert torch.equal(seen[0], x * 2)
        assert all(any(torch.equal(row, kept * 2) for kept in x) for row in batch.inputs)


@pytest.mark.parametrize("methods", [["mixup"], ["cutout", "cutmix", "label_smoothing"]], ids=str)
def test_a_compiled_plan_edits_several_inputs_of_each_batch(methods: list[Any]) -> None:
    plan = plan_for(methods, contract="off")
    fast = replace(plan, backend="eager")
    for step in range(5):
        views = tuple(images(4).roll(step + shift, 2) for shift in range(2))
        found, wanted = fast(views, targets(4), step=step), plan(views, targets(4), step=step)
        assert torch.equal(found[1], wanted[1])
        assert all(map(torch.equal, found[0], wanted[0]))
        assert len(found[0]) == 2


@st.composite
def forms(draw: st.DrawFn) -> Tensor:
    dtype = draw(st.sampled_from([torch.uint8, torch.float32, torch.float64]))
    count = (LARGE // dtype.itemsize) + draw(st.integers(-3, 3) | st.integers(0, 2 * LARGE // dtype.itemsize))
    return torch.empty(count, dtype=dtype, device="meta")


@pytest.mark.slow
@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(forms(), st.booleans()), min_size=2, max_size=8))
def test_every_tensor_has_memory_of_its_own_that_is_large_enough(wanted: list[tuple[Tensor, bool]]) -> None:
    pool, held = BufferPool(), []
    for number, (form, keep) in enumerate(wanted):
        made = pool.empty_like(form)
        assert (made.shape, made.dtype) == (form.shape, form.dtype)
        assert made.untyped_storage().nbytes() >= form.numel() * form.element_size()
        made.fill_(number)
        if keep:
            held.append((number, made))
        del made
        assert all(bool((tensor == own).all()) for own, tensor in held)


def test_memory_that_autograd_saved_is_not_lent_again() -> None:
    pool, form = BufferPool(), torch.empty(LARGE, dtype=torch.float32, device="meta")
    weight = torch.tensor(2.0, requires_grad=True)
    saved = pool.empty_like(form).fill_(3.0)
    loss = (weight * saved).sum()
    place = saved.data_ptr()
    del saved
    for _ in range(4):
        other = pool.empty_like(form)
        assert other.data_ptr() != place
        other.zero_()
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.item() == 3.0 * LARGE


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes in bytes of the buffers that are allocated during the test."""
    sizes: list[int] = []
    allocate = buffers._allocated

    def counted(size: int) -> Any:
        sizes.append(size)
        return allocate(size)

    monkeypatch.setattr(buffers, "_allocated", counted)
    return sizes


def form_of(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device="meta")


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("held", [0, 1])
def test_sizes_that_alternate_are_allocated_once_each(allocated: list[int], count: int, held: int) -> None:
    """With ``held``, a step makes its tensor while that of the step before is still in use."""
    pool, sizes, in_use = BufferPool(), [LARGE + number for number in range(count)], deque[Tensor](maxlen=held)
    for step in range(50):
        in_use.append(pool.empty_like(form_of(sizes[step % count])))
    assert sorted(allocated) == (sizes if count > 1 or not held else [LARGE, LARGE])


def test_a_step_of_two_sizes_allocates_two_of_each_while_the_last_results_are_in_use(allocated: list[int]) -> None:
    pool, results = BufferPool(), list[Tensor]()
    for _ in range(50):
        results = [pool.empty_like(form_of(size)) for size in (LARGE, 2 * LARGE)]
    assert sorted(allocated) == [LARGE, LARGE, 2 * LARGE, 2 * LARGE]
    assert [result.nbytes for result in results] == [LARGE, 2 * LARGE]


def test_the_pool_of_the_process_serves_two_batch_sizes(allocated: list[int]) -> None:
    plan = plan_for(["mixup"], contract="off")
    for step in range(20):
        size = 8 - step % 2
        plan(torch.zeros(size, 3, 128, 128), targets(size), step=step)
    assert all(allocated.count(size) <= 1 for size in allocated)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=60))
def test_freed_memory_is_bounded_and_no_tensor_shares_memory(requests: list[tuple[int, int]]) -> None:
    """Each request is a size, and how many of the oldest tensors are freed before it."""
    pool, in_use = BufferPool(), deque[Tensor]()
    for size, freed in requests:
        for _ in range(min(freed, len(in_use))):
            in_use.popleft()
        assert len(pool._free) <= 4
        in_use.append(pool.empty_like(form_of(LARGE + size)))
        lent = {tensor.data_ptr() for tensor in in_use}
        assert len(lent) == len(in_use)
        assert lent.isdisjoint(buffer.memory.ctypes.data for buffer in pool._free)


def test_a_buffer_of_a_size_that_is_no_longer_used_is_given_back() -> None:
    pool = BufferPool()
    old = pool.empty_like(form_of(2 * LARGE)), pool.empty_like(form_of(LARGE))
    del old
    for request in range(1, 70):
        pool.empty_like(form_of(LARGE))
        kept = sorted(buffer.memory.size for buffer in pool._free)
        assert kept == ([LARGE, 2 * LARGE] if request < 64 else [LARGE])


def test_a_buffer_that_is_used_again_starts_over() -> None:
    pool = BufferPool()
    for request in range(300):
        pool.empty_like(form_of(2 * LARGE if request % 63 == 0 else LARGE))
        assert [buffer.memory.size for buffer in pool._free].count(2 * LARGE) == 1


def test_the_buffer_that_was_freed_last_is_used_first() -> None:
    pool = BufferPool()
    first, other, second = (pool.empty_like(form_of(size)) for size in (LARGE, 2 * LARGE, LARGE))
    place = second.data_ptr()
    del first, second, other
    made = pool.empty_like(form_of(LARGE))
    assert made.data_ptr() == place
    assert [buffer.memory.size for buffer in pool._free] == [LARGE, 2 * LARGE]


def test_threads_share_a_pool() -> None:
    """Each thread finds the values that it wrote, whichever thread frees a tensor."""
    pool, passed, wrong = BufferPool(), deque[Tensor](maxlen=3), list[int]()

    def work(number: int) -> None:
        for step in range(60):
            made = pool.empty_like(form_of(LARGE + step % 2))
            made[::4096] = number
            passed.append(pool.empty_like(form_of(LARGE + step % 3)))
            if not bool((made[::4096] == number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(pool._free) <= 4


@pytest.mark.parametrize("shape", [(2, 3, 300, 300), (4, 8, 128, 129)])
def test_a_form_that_is_laid_out_otherwise_keeps_its_layout(shape: tuple[int, ...]) -> None:
    pool = BufferPool()
    for given_form in (torch.empty(shape), torch.empty(shape).to(memory_format=torch.channels_last)):
        made = pool.empty_like(given_form)
        assert made.stride() == torch.empty_like(given_form).stride()


@pytest.mark.slow
def test_the_check_of_a_compiled_step_leaves_a_donated_batch_to_the_edit() -> None:
    """The check runs beside the compiled edit, and must not write into what that is given."""
    plan = replace(plan_for(["cutout"]), backend="eager")
    for step in (5, 6, 7, 8):
        x = images(6)
        wanted = plan_for(["cutout"], contract="off")(x.clone(), targets(6), step=step)[0]
        seen: list[bool] = []
        run = plan.runner.compiled.run if plan.runner.compiled is not None else None
        assert run is not None

        def watched(batch: cp.Batch, calls: Any, x: Tensor = x, run: Any = run, seen: list[bool] = seen) -> cp.Batch:
            seen.append(torch.equal(batch.inputs, images(6)))
            return run(batch, calls)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plan.runner.compiled, "run", watched)
            assert torch.equal(plan(x, targets(6), step=step, donate=True)[0], wanted)
        assert seen == [True]


@pytest.mark.slow
def test_a_compiled_plan_keeps_the_layout_of_each_batch() -> None:
    plan = plan_for(["mixup"], contract="off")
    fast = replace(plan, backend="eager")
    for step in range(8):
        x = images(6) if step % 2 else images(6).to(memory_format=torch.channels_last)
        found, wanted = fast(x, targets(6), step=step)[0], plan(x, targets(6), step=step)[0]
        torch.testing.assert_close(found, wanted)
        assert found.stride() == wanted.stride()
