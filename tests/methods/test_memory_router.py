"""What a method keeps between tasks, and the router that is kept there."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import ShrunkCovariance
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from benchmark.data import phantom
from methods.independent_lora import IndependentLora
from methods.parts import backbones, router
from methods.parts.memory import Memory

names = st.text("abcxyz_09", min_size=1, max_size=8)
sizes = st.lists(st.integers(0, 4), max_size=3)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
contents = st.dictionaries(names, st.tuples(sizes, dtypes), max_size=5)


def tensors(content: dict[str, tuple[list[int], torch.dtype]]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: (5 * torch.rand(size, generator=generator)).to(dtype) for name, (size, dtype) in content.items()}


def memory_of(values: dict[str, Tensor]) -> Memory:
    memory = Memory()
    for name, value in values.items():
        memory[name] = value
    return memory


def routed_to(memory: Memory, features: Tensor) -> Tensor:
    """Of so many tasks the one of the largest score."""
    return router.task_scores(memory, features, 12).argmax(dim=1)


class Holder(nn.Module):
    """A method in small: parameters and a memory."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.memory = Memory()


# ---- memory ------------------------------------------------------------------------------------------------------


@given(contents)
def test_memory_is_a_dictionary(content: dict) -> None:
    values = tensors(content)
    memory = memory_of(values)
    assert list(memory) == list(values) and len(memory) == len(values) and bool(memory)
    assert all(torch.equal(memory[name], value) and memory[name].dtype == value.dtype for name, value in values.items())
    assert memory.get("missing name") is None and "missing name" not in memory
    assert memory.bytes() == sum(v.numel() * torch.tensor([], dtype=v.dtype).element_size() for v in values.values())
    for name in values:
        del memory[name]
        assert name not in memory
        with pytest.raises(KeyError):
            memory[name]
    assert memory.bytes() == 0


@given(contents, contents)
def test_a_checkpoint_restores_whatever_it_holds(content: dict, before: dict) -> None:
    """Also into a module whose memory holds other names and sizes."""
    source, target = Holder(), Holder()
    source.memory, target.memory = memory_of(tensors(content)), memory_of(tensors(before))
    state = source.state_dict()
    assert set(state) == {"layer.weight", "layer.bias", *(f"memory.{name}" for name in content)}
    outcome = target.load_state_dict(state, strict=False)
    assert outcome.missing_keys == []
    assert torch.equal(target.layer.weight, source.layer.weight)
    assert list(target.memory) == list(source.memory)
    assert all(torch.equal(target.memory[name], value) for name, value in source.memory.items())
    assert {name: v.dtype for name, v in target.memory.items()} == {name: v.dtype for name, v in source.memory.items()}


def test_what_is_kept_is_a_copy_without_a_graph() -> None:
    memory, value = Memory(), torch.ones(3, requires_grad=True)
    memory["kept"] = value * 2
    source = torch.zeros(2)
    memory["other"] = source
    source += 1
    assert not memory["kept"].requires_grad and torch.equal(memory["other"], torch.zeros(2))
    restored = Memory()
    state = memory.state_dict()
    restored.load_state_dict(state, strict=False)
    state["other"] += 7
    assert torch.equal(restored["other"], torch.zeros(2))


def test_memory_follows_the_dtype_of_its_module() -> None:
    holder = Holder()
    holder.memory["mean"], holder.memory["count"] = torch.ones(3), torch.ones(3, dtype=torch.int64)
    holder.to(torch.float64)
    assert holder.memory["mean"].dtype == holder.layer.weight.dtype == torch.float64
    assert holder.memory["count"].dtype == torch.int64


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5))
def test_append_puts_rows_below(counts: list[int]) -> None:
    memory = Memory()
    blocks = [torch.full((count, 2), float(i)) for i, count in enumerate(counts)]
    for block in blocks:
        memory.append("rows", block)
    assert torch.equal(memory["rows"], torch.cat(blocks))


def test_a_memory_is_itself_not_its_content() -> None:
    one, two = memory_of({"a": torch.ones(1)}), memory_of({"a": torch.ones(1)})
    assert one == one and one != two and len({one, two}) == 2


# ---- router ------------------------------------------------------------------------------------------------------


def draw(tasks: int, classes: int, samples: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(features, labels) per task; task t has labels t*classes ... and some of them may be missing."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(tasks * classes, 6, generator=generator)
    data = []
    for task in range(tasks):
        labels = task * classes + torch.randint(0, classes, (samples,), generator=generator)
        data.append((3 * centres[labels] + torch.randn(samples, 6, generator=generator), labels))
    return data


def naive_means(features: Tensor, labels: Tensor) -> dict[int, list[float]]:
    """Class -> unit mean of its samples' unit features, in plain Python."""
    means = {}
    for label in sorted({int(y) for y in labels}):
        total = [0.0] * features.shape[1]
        for x, y in zip(features.double().tolist(), labels.tolist(), strict=True):
            if y == label:
                norm = math.sqrt(sum(v * v for v in x))
                total = [t + v / norm for t, v in zip(total, x, strict=True)]
        norm = math.sqrt(sum(t * t for t in total))
        means[label] = [t / norm for t in total]
    return means


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 12), st.integers(0, 10**6))
def test_the_nearest_class_mean_by_a_plain_loop(tasks: int, classes: int, samples: int, seed: int) -> None:
    data, memory = draw(tasks, classes, samples, seed), Memory()
    known: list[tuple[int, list[float]]] = []
    for task, (features, labels) in enumerate(data):
        router.learn(memory, task, zip(features.split(5), labels.split(5), strict=True), "ncm")
        known += [(task, mean) for mean in naive_means(features, labels).values()]
    assert torch.allclose(memory["router_means"].double(), torch.tensor([m for _, m in known]).double(), atol=1e-5)
    assert memory["router_tasks"].tolist() == [task for task, _ in known]
    queries = torch.randn(9, 6, generator=torch.Generator().manual_seed(seed + 1))
    for query, routed in zip(queries.double().tolist(), routed_to(memory, queries).tolist(), strict=True):
        cosines = [sum(q * m for q, m in zip(query, mean, strict=True)) for _, mean in known]
        best = max(cosines)
        chosen = max(c for c, (task, _) in zip(cosines, known, strict=True) if task == routed)
        assert chosen >= best - 1e-5  # equal but for ties within rounding


def test_class_means_by_ascending_id() -> None:
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [0.0, 5.0], [4.0, 0.0], [1.0, 1.0]])
    means, ids = router.class_means(features, torch.tensor([9, 4, 4, 9, 6]))
    assert ids.tolist() == [4, 6, 9]
    assert torch.allclose(means, torch.tensor([[0.0, 1.0], [0.5**0.5, 0.5**0.5], [1.0, 0.0]]))


@pytest.mark.parametrize("kind", router.KINDS)
def test_it_finds_the_task_of_well_separated_samples_at_any_scale(kind: str) -> None:
    memory = Memory()
    data = draw(4, 2, 60, seed=1)
    for task, (features, labels) in enumerate(data):
        router.learn(memory, task, [(features, labels)], kind)
    for task, (features, _) in enumerate(data):
        routed = routed_to(memory, features)
        assert (routed == task).float().mean() > 0.8
        assert torch.equal(routed_to(memory, 7 * features), routed)


@pytest.mark.parametrize("kind", router.KINDS)
@given(st.integers(0, 10**6), st.permutations(range(8)), st.integers(1, 8))
@settings(max_examples=10)
def test_an_answer_does_not_depend_on_the_batch(kind: str, seed: int, order: list[int], cut: int) -> None:
    memory = Memory()
    for task, (features, labels) in enumerate(draw(3, 2, 8, seed)):
        router.learn(memory, task, [(features, labels)], kind)
    queries = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed))
    whole = routed_to(memory, queries)
    assert torch.equal(routed_to(memory, queries[order]), whole[order])
    assert torch.equal(routed_to(memory, queries[:cut]), whole[:cut])
    assert torch.equal(torch.cat([routed_to(memory, query[None]) for query in queries]), whole)


@pytest.mark.parametrize("kind", router.KINDS)
def test_learning_in_batches_is_learning_at_once(kind: str) -> None:
    (features, labels), one, two = draw(1, 3, 20, 0)[0], Memory(), Memory()
    router.learn(one, 0, [(features, labels)], kind)
    router.learn(two, 0, zip(features.split(3), labels.split(3), strict=True), kind)
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def unit(data: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.nn.functional.normalize(torch.cat([features for features, _ in data]).double(), dim=1)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 12), st.integers(0, 10**6))
@settings(max_examples=10)
def test_ridge_learned_task_by_task_is_the_regression_on_all_samples(
    tasks: int, classes: int, samples: int, seed: int
) -> None:
    """That of all samples at once with an intercept, by scikit-learn, to one column per task, each task of weight 1."""
    data, memory = draw(tasks, classes, samples, seed), Memory()
    counts = [max(1, samples - 3 * task) for task in range(tasks)]
    data = [(features[:count], labels[:count]) for count, (features, labels) in zip(counts, data, strict=True)]
    for task, (features, labels) in enumerate(data):
        router.learn(memory, task, [(features, labels)], "ridge")
    hidden = (unit(data) @ router.random_projection(6, router.RANDOM_FEATURES).double()).relu().numpy()
    targets, weights = np.eye(tasks)[np.repeat(np.arange(tasks), counts)], np.repeat(1 / np.array(counts), counts)
    model = Ridge(alpha=router.RIDGE, solver="cholesky").fit(hidden, targets, sample_weight=weights)
    assert np.allclose(memory["router_weights"].numpy(), np.atleast_2d(model.coef_), atol=1e-5)
    parts = [part - part.mean(axis=0) for part in np.split(hidden, np.cumsum(counts)[:-1])]
    within = sum(part.T @ part / len(part) for part in parts) / tasks
    centred = hidden - np.mean([part.mean(axis=0) for part in np.split(hidden, np.cumsum(counts)[:-1])], axis=0)
    scatter = (centred.T * weights) @ centred + router.RIDGE * np.eye(len(within))
    bias = (
        np.atleast_1d(model.intercept_)
        - 1 / tasks
        + np.trace(np.linalg.solve(scatter, within)) / (tasks * np.array(counts))
    )  # 1 / tasks: the mean of the targets, which changes no decision
    assert np.allclose(memory["router_bias"].numpy(), bias, atol=1e-3)


@given(st.integers(1, 3), st.integers(2, 3), st.integers(12, 20), st.integers(0, 10**6))
@settings(max_examples=10)
def test_mahalanobis_is_linear_discriminant_analysis(tasks: int, classes: int, samples: int, seed: int) -> None:
    """scikit-learn's LDA with equal priors decides by the same distances, with the same shrunken covariance."""
    data, memory = draw(tasks, classes, samples, seed), Memory()
    for task, (features, labels) in enumerate(data):
        router.learn(memory, task, [(features, labels)], "mahalanobis")
    labels = torch.cat([labels for _, labels in data])
    kept = labels.unique()
    shrunk = ShrunkCovariance(shrinkage=router.SHRINKAGE, assume_centered=True)
    means = {int(y): unit(data)[labels == y].mean(0) for y in kept}
    centred = torch.stack([z - means[int(y)] for z, y in zip(unit(data), labels, strict=True)])
    precision = torch.tensor(shrunk.fit(centred.numpy()).get_precision())
    queries = torch.nn.functional.normalize(torch.randn(9, 6, generator=torch.Generator().manual_seed(seed)), dim=1)
    for query, routed in zip(queries.double(), routed_to(memory, queries).tolist(), strict=True):
        distances = {y: float((query - mean) @ precision @ (query - mean)) for y, mean in means.items()}
        best = min(distances.values())
        chosen = min(d for y, d in distances.items() if y // classes == routed)
        assert chosen <= best * (1 + 1e-3) + 1e-3


def test_mahalanobis_has_the_mean_of_the_tasks_covariances() -> None:
    data, memory = draw(2, 2, 40, 3), Memory()
    data[1] = (3 * data[1][0][:8] + 1, data[1][1][:8])
    for task, (features, labels) in enumerate(data):
        router.learn(memory, task, [(features, labels)], "mahalanobis")
    own = []
    for features, labels in data:
        z = torch.nn.functional.normalize(features.double(), dim=1)
        centred = torch.stack([each - z[labels == y].mean(0) for each, y in zip(z, labels, strict=True)])
        own.append(centred.mT @ centred / len(z))
    assert torch.allclose(memory["router_covariances"] / 2, (own[0] + own[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", router.KINDS)
def test_a_task_weighs_the_same_however_many_samples_it_has(kind: str) -> None:
    """Each sample of the first task several times: all is equal but how certain the ridge router is of its mean."""
    data, once, often = draw(3, 2, 15, 0), Memory(), Memory()
    for task, (features, labels) in enumerate(data):
        router.learn(once, task, [(features, labels)], kind)
        router.learn(often, task, [(features, labels)] * (1 if task else 5), kind)
    names = {"ridge": ("weights",), "mahalanobis": ("weights", "bias"), "ncm": ("means",)}[kind]
    assert all(torch.allclose(often[f"router_{n}"], once[f"router_{n}"], rtol=1e-3, atol=1e-3) for n in names)


def alike(samples: int, shift: float, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes in 24 dimensions; a task differs from another one by ``shift`` alone, along one axis."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 2
    features = torch.randn(samples, 24, generator=generator)
    features[:, 0] += 6
    features[:, 1] += 2 * labels
    features[:, 2] += shift
    return features, labels


def recalls(kind: str, sizes: tuple[int, int], shift: float) -> list[float]:
    """The share of either task's samples that come back to it; of ``sizes`` samples each was learned."""
    memory = Memory()
    for task, size in enumerate(sizes):
        features, labels = alike(size, task * shift, task)
        router.learn(memory, task, [(features, labels + 2 * task)], kind)
    return [float((routed_to(memory, alike(400, t * shift, 9 + t)[0]) == t).float().mean()) for t in (0, 1)]


@pytest.mark.parametrize("kind", router.KINDS)
@pytest.mark.parametrize("shift", [1.2, 3.0])
def test_a_small_task_keeps_its_samples_beside_a_large_one_like_it(kind: str, shift: float) -> None:
    """Told apart at equal size at .65 or more: at 10:1 the small one and the mean stay within .15."""
    equal = recalls(kind, (1000, 1000), shift)
    assert min(equal) > 0.65
    for sizes, small in (((1000, 100), 1), ((100, 1000), 0)):
        unequal = recalls(kind, sizes, shift)
        assert unequal[small] > equal[small] - 0.15 and sum(unequal) > sum(equal) - 2 * 0.15


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="choose from ridge, mahalanobis, ncm"):
        IndependentLora(router="nearest")


def test_one_sample_a_class_is_no_error() -> None:
    for kind in router.KINDS:
        memory = Memory()
        for task in range(3):
            router.learn(memory, task, [(torch.eye(6)[2 * task : 2 * task + 2], torch.tensor([0, 1]))], kind)
        assert routed_to(memory, torch.eye(6)).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("generator", "factor", "other"),
    [("xray", "heart_size", "opacity_extent"), ("histopathology", "pleomorphism", "nuclear_density")],
)
def test_a_small_made_task_keeps_its_images_beside_a_large_one(generator: str, factor: str, other: str) -> None:
    """Frozen features of made tasks that differ in one factor, 960 images beside 96, by the default router."""
    low, high, frozen = [0.05, 0.3], [0.7, 0.95], backbones.load("phantom-clip", None)

    def features(task: int, count: int, split: int) -> tuple[Tensor, Tensor]:
        regions = [{factor: (low, high)[task], other: bounds} for bounds in (low, high)]
        images, labels = phantom.render_split(generator, regions, count, (77, task, split))
        pixels_BCHW = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        with torch.no_grad():
            return frozen.image((pixels_BCHW - frozen.mean) / frozen.std), torch.from_numpy(labels) + 2 * task

    learned, asked = ([features(task, count, split) for task in (0, 1)] for split, count in enumerate((960, 200)))

    def recall(*sizes: int) -> list[float]:
        memory = Memory()
        for task, size in enumerate(sizes):
            router.learn(memory, task, [tuple(rows[:size] for rows in learned[task])])
        return [float((routed_to(memory, asked[task][0]) == task).float().mean()) for task in (0, 1)]

    equal = recall(960, 960)
    assert min(equal) > 0.65
    for sizes, small in (((960, 96), 1), ((96, 960), 0)):
        unequal = recall(*sizes)
        assert unequal[small] > equal[small] - 0.15 and sum(unequal) > sum(equal) - 2 * 0.15
