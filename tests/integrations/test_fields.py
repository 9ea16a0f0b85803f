"""Fields find tensors in any nesting of containers, and write into copies of those containers alone."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import FrozenInstanceError, dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import BatchEncoding, BatchFeature

import counterpoint as cp
from counterpoint.algorithms import SelectiveBackprop
from counterpoint.integrations.fields import FIRST_AND_SECOND, Fields


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass(frozen=True)
class Frozen:
    a: Any
    b: Any


@dataclass
class Counted:
    """A dataclass that computes a field, and counts how often it does."""

    a: Any
    b: Any
    built: list[int] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.built.append(1)


@dataclass(frozen=True, slots=True)
class Slotted:
    a: Any
    b: Any


class Triple(tuple[Any, ...]):
    pass


def by_position(make: Callable[[list[Any]], Any]) -> Callable[[Any, Any], tuple[Any, tuple[Any, Any]]]:
    return lambda a, b: (make([a, b]), (0, 1))


def by_name(make: Callable[[dict[str, Any]], Any]) -> Callable[[Any, Any], tuple[Any, tuple[Any, Any]]]:
    return lambda a, b: (make({"a": a, "b": b}), ("a", "b"))


CONTAINERS = [
    by_position(list),
    by_position(tuple),
    by_position(Triple),
    by_position(lambda items: dict(enumerate(items))),
    by_name(dict),
    by_name(OrderedDict),
    by_name(lambda items: defaultdict(list, items)),
    by_name(UserDict),
    by_name(MappingProxyType),
    by_name(BatchEncoding),
    by_name(BatchFeature),
    by_name(lambda items: Pair(**items)),
    by_name(lambda items: Frozen(**items)),
    by_name(lambda items: Counted(**items)),
    by_name(lambda items: Slotted(**items)),
]
"""Each makes a container of two things, and gives the keys by which it holds them."""


@dataclass
class Tree:
    """A nested batch, the paths of its tensors, and every container in it."""

    batch: Any
    tensors: dict[tuple[Any, ...], Tensor]
    others: dict[tuple[Any, ...], object]
    containers: dict[tuple[Any, ...], object]


def leaf(value: object) -> Tree:
    tensors = {(): value} if isinstance(value, Tensor) else {}
    return Tree(value, tensors, {} if isinstance(value, Tensor) else {(): value}, {})


def joined(parts: tuple[Callable[..., Any], Tree, Tree]) -> Tree:
    make, one, other = parts
    batch, keys = make(one.batch, other.batch)
    tree = Tree(batch, {}, {}, {(): batch})
    for key, part in zip(keys, (one, other), strict=True):
        for kind in ("tensors", "others", "containers"):
            getattr(tree, kind).update({(key, *path): value for path, value in getattr(part, kind).items()})
    return tree


LEAVES = st.one_of(
    st.builds(lambda size: torch.arange(size), st.integers(0, 3)),
    st.sampled_from(["text", None, 3, 0.5]),
    st.builds(object),
)
TREES = st.recursive(
    LEAVES.map(leaf),
    lambda inner: st.tuples(st.sampled_from(CONTAINERS), inner, inner).map(joined),
    max_leaves=8,
).filter(lambda tree: len(tree.tensors) >= 2)


@st.composite
def named(draw: st.DrawFn) -> tuple[Tree, Fields, list[tuple[Any, ...]]]:
    """A batch, fields that name some of its tensors, and where they are."""
    tree = draw(TREES)
    paths = draw(st.permutations(sorted(tree.tensors, key=str)))[: draw(st.integers(2, len(tree.tensors)))]
    spelled = [draw(st.sampled_from([path, ".".join(map(str, path))])) for path in paths]
    return tree, Fields(tuple(spelled[:-1]), spelled[-1]), paths


def reach(batch: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        batch = (
            batch[key] if isinstance(batch, Mapping | UserDict | list) or isinstance(key, int) else getattr(batch, key)
        )
    return batch


def assert_untouched(tree: Tree) -> None:
    for kind in (tree.tensors, tree.others, tree.containers):
        for path, value in kind.items():
            assert reach(tree.batch, path) is value


@pytest.mark.slow
@given(named())
def test_what_is_read_is_what_is_there(found: tuple[Tree, Fields, list[tuple[Any, ...]]]) -> None:
    tree, fields, paths = found
    inputs, targets = fields.read(tree.batch)
    for path, tensor in zip(paths, (*inputs, targets), strict=True):
        assert tensor is tree.tensors[path]


@pytest.mark.slow
@given(named())
def test_writing_what_was_read_gives_the_same_batch(found: tuple[Tree, Fields, list[tuple[Any, ...]]]) -> None:
    tree, fields, _ = found
    again = fields.write(tree.batch, *fields.read(tree.batch))
    for path, value in (tree.tensors | tree.others).items():
        assert reach(again, path) is value
    for path, container in tree.containers.items():
        assert type(reach(again, path)) is type(container)


@pytest.mark.slow
@given(named())
def test_writing_replaces_what_is_named_and_touches_nothing_else(
    found: tuple[Tree, Fields, list[tuple[Any, ...]]],
) -> None:
    tree, fields, paths = found
    new = [torch.zeros(2) for _ in paths]
    written = fields.write(tree.batch, new[:-1], new[-1])
    assert_untouched(tree)
    for path, tensor in zip(paths, new, strict=True):
        assert reach(written, path) is tensor
    for path, value in (tree.tensors | tree.others).items():
        assert path in paths or reach(written, path) is value
    for path, container in tree.containers.items():
        copied = any(named[: len(path)] == path for named in paths)
        assert type(reach(written, path)) is type(container)
        assert (reach(written, path) is container) is not copied


@pytest.mark.slow
@given(named(), st.data())
def test_a_wrong_path_is_named_with_what_is_there(
    found: tuple[Tree, Fields, list[tuple[Any, ...]]], data: st.DataObject
) -> None:
    tree, _, paths = found
    right = data.draw(st.sampled_from(paths))
    cut = data.draw(st.integers(0, len(right)))
    wrong = (*right[:cut], "nowhere")
    with pytest.raises(cp.DataError) as caught:
        Fields((wrong,), ("nothing",)).read(tree.batch)
    message = str(caught.value)
    assert f"no tensor at {'.'.join(map(str, wrong))!r}" in message
    assert f"the batch is {type(tree.batch).__name__}" in message
    held = tree.containers.get(right[:cut])
    if held is None:
        assert "which holds no places" in message
    else:
        first, second = {path[cut] for path in (tree.tensors | tree.others) if path[:cut] == right[:cut] and path[cut:]}
        assert repr(first) in message
        assert repr(second) in message


BATCH = {"views": [torch.zeros(8, 3), "left"], "label": torch.arange(8), "meta": {"id": 3}}


class TestMessages:
    @pytest.mark.parametrize(
        ("path", "why"),
        [
            ("image", "there is no 'image' among 'views', 'label', 'meta'"),
            ("views.2", "there is no '2' in 'views' among 0, 1"),
            ("views.1", "there is str, not a tensor"),
            ("views", "there is list with 0: a tensor (8, 3) of torch.float32, 1: str, not a tensor"),
            ("label.0", "'label' is a tensor (8,) of torch.int64, which holds no places"),
            ("meta.id.x", "'meta.id' is int, which holds no places"),
        ],
    )
    def test_each_says_what_is_there_and_what_the_batch_holds(self, path: str, why: str) -> None:
        with pytest.raises(cp.DataError) as caught:
            Fields((path,), "nothing").read(BATCH)
        assert str(caught.value) == (
            f"the batch has no tensor at {path!r}: {why}; the batch is dict with 'views': list with 0: a tensor (8, 3) "
            "of torch.float32, 1: str, 'label': a tensor (8,) of torch.int64, 'meta': dict with 'id': int"
        )

    def test_a_batch_that_holds_nothing(self) -> None:
        with pytest.raises(cp.DataError, match=r"at '0': there is no 0 among nothing; the batch is list$"):
            FIRST_AND_SECOND.read([])
        with pytest.raises(cp.DataError, match=r"'' is a tensor \(3,\) of torch.float32, which holds no places"):
            FIRST_AND_SECOND.read(torch.zeros(3))


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [("image", "label"), (0, 1), ((), 1), (["image"], "label")],
    ids=str,
)
def test_inputs_are_a_tuple_of_places(inputs: Any, targets: Any) -> None:
    with pytest.raises(cp.DataError, match="name a tuple of places"):
        Fields(inputs, targets)


@pytest.mark.parametrize(
    ("inputs", "targets"),
    [((0,), 0), ((0,), "0"), (("a", "a"), 1), (("a.b",), "a"), ((("a", 0),), "a.0"), (("a",), ("a", "b"))],
    ids=str,
)
def test_each_place_is_named_once(inputs: Any, targets: Any) -> None:
    with pytest.raises(cp.DataError, match="are one, or one holds the other"):
        Fields(inputs, targets)


def test_a_place_with_two_names_is_found_in_the_batch() -> None:
    with pytest.raises(cp.DataError, match="two of the places 'a', '0' are one in this batch"):
        Fields(("a",), 0).read(Pair(torch.zeros(1), torch.zeros(1)))


def test_named_tuples_have_positions_too_and_keys_may_hold_dots_and_digits() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert Fields((0,), "b").read(Pair(one, two)) == ((one,), two)
    assert Fields((("a.b",),), ("a", "b")).read({"a.b": one, "a": {"b": two}}) == ((one,), two)
    assert Fields(("0",), ("1",)).read({"0": one, 1: two, "2": None}) == ((one,), two)


def test_a_dataclass_is_copied_and_not_built_again() -> None:
    batch = Counted(torch.zeros(1), torch.zeros(1))
    batch.built.append(2)
    written = Fields(("a",), "b").write(batch, [torch.ones(1)], torch.ones(1))
    assert written.built is batch.built
    assert batch.built == [1, 2]
    frozen = Fields(("a",), "b").write(Frozen(torch.zeros(1), torch.zeros(1)), [torch.ones(1)], torch.ones(1))
    with pytest.raises(FrozenInstanceError):
        frozen.a = None  # type: ignore[misc]


def test_what_a_mapping_knows_beside_its_items_is_kept() -> None:
    batch = BatchEncoding({"x": torch.zeros(1), "y": torch.zeros(1)}, n_sequences=2)
    written = Fields(("x",), "y").write(batch, [torch.ones(1)], torch.ones(1))
    assert (written.n_sequences, written["x"].item(), batch["x"].item()) == (2, 1.0, 0.0)


def test_a_container_that_cannot_be_made_anew_is_refused() -> None:
    class Odd(tuple[Any, ...]):
        def __new__(cls, one: Any, two: Any) -> Odd:
            return super().__new__(cls, (one, two))

    with pytest.raises(cp.DataError, match="the Odd that holds 0 cannot be rebuilt"):
        FIRST_AND_SECOND.write(Odd(torch.zeros(1), torch.zeros(1)), [torch.ones(1)], torch.ones(1))


def test_as_many_tensors_as_places() -> None:
    with pytest.raises(cp.DataError, match="2 tensors for 1 places"):
        FIRST_AND_SECOND.write([torch.zeros(1), torch.zeros(1)], [torch.ones(1)] * 2, torch.ones(1))


class TestEdited:
    def engine(self, *methods: Any) -> cp.Engine:
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
        plan = cp.compose(
            [*methods], loss=nn.CrossEntropyLoss(), task="multiclass", num_classes=4, seed=17, contract="always"
        )
        return cp.Engine(plan, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))

    def views(self) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return torch.rand(8, 1, 4, 4, generator=generator), torch.rand(8, 1, 4, 4, generator=generator)

    def test_the_batch_keeps_its_structure_around_the_edits_of_the_plan(self) -> None:
        views, labels, weight = self.views(), torch.arange(8) % 4, torch.rand(8)
        batch = {"views": list(views), "target": Pair(labels, weight), "id": "first"}
        engine, plain = self.engine("cutout", "mixup", "ema"), self.engine("cutout", "mixup").plan
        for step in range(3):
            with Fields(("views.0", "views.1"), "target.a").edited(engine, batch) as edited:
                wanted, targets = plain(views, labels, step=step)
                assert all(map(torch.equal, edited["views"], wanted))
                assert torch.equal(edited["target"].a, targets)
                assert edited["target"].b is weight
                assert (type(edited["views"]), type(edited["target"]), edited["id"]) == (list, Pair, "first")
            assert engine.batches == step + 1
        assert batch["views"][0] is views[0]

    def test_fewer_samples_go_with_what_is_named_alone(self) -> None:
        engine, (images, other) = self.engine(SelectiveBackprop(keep=0.5)), self.views()
        labels = torch.arange(8) % 4
        with FIRST_AND_SECOND.edited(engine, (images, labels)) as edited:
            assert [len(part) for part in edited] == [4, 4]
        fields = Fields(("x",), "y")
        with pytest.raises(cp.DataError, match=r"leaves 4 of 8 samples, and cannot choose the same of 'more.w'"):
            fields.edited(engine, {"x": images, "y": labels, "more": {"w": other}}).__enter__()
        assert engine.draws() == {}
        assert engine.batches == 1
        whole = self.engine(SelectiveBackprop(keep=1.0))
        with fields.edited(whole, {"x": images, "y": labels, "more": {"w": other}}) as edited:
            assert edited["more"]["w"] is other


@pytest.mark.kind("8")
@pytest.mark.parametrize(
    ("batch", "fields"),
    [
        ({"image": torch.rand(2, 3), "label": torch.tensor([0, 1]), "id": ["a", "b"]}, Fields(("image",), "label")),
        ({"target": torch.tensor([0, 1]), "pixels": torch.rand(2, 3)}, Fields(("pixels",), "target")),
        ([{"x": torch.rand(2, 3)}, {"y": torch.tensor([0, 1])}], Fields(("0.x",), "1.y")),
    ],
)
def test_a_batch_of_another_structure_is_answered_with_the_fields_that_fit(batch: Any, fields: Fields) -> None:
    """What is printed is right: followed, it reads the batch."""
    with pytest.raises(cp.DataError, match="fields=Fields") as caught:
        FIRST_AND_SECOND.read(batch)
    printed = str(caught.value).rpartition("fields=")[2]
    assert eval(printed, {"Fields": Fields}) == fields
    (inputs,), targets = fields.read(batch)
    assert inputs.ndim == 2
    assert targets.tolist() == [0, 1]
