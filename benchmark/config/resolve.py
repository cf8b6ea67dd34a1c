"""The plan of a run: all that is decided before torch is imported, in the order in which tasks are learned."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from benchmark import kinds
from benchmark.config import families, registry
from benchmark.config.key import configuration, kept_key
from benchmark.config.registry import MethodCard
from benchmark.config.run_config import AUTO, RunConfig
from benchmark.data import catalog, identity, sources
from benchmark.data.catalog import Recipe, Source
from benchmark.data.places import data_folder, results_folder
from benchmark.data.settle import settled
from benchmark.errors import UserError, notice
from benchmark.kinds import Kind
from benchmark.record import provenance, shelves
from benchmark.record.schema import Configuration
from benchmark.record.stored import RECORD, run_path, runs_of, stream_folder
from benchmark.stream import Budget, Stream


@dataclass(frozen=True)
class Plan:
    """A resolved run: what it learns, how, where it goes, under which key.

    Attributes:
        recipe: the stream as its file lists it; ``identities`` of its tasks' samples, in listed order.
        stream, sources, samples: the tasks in the order of the run, where their samples come from, what they are.
        stream_folder: name of the stream's folder below ``runs``.
        precision: Lightning's, with ``auto`` resolved.
        made_with: the settings as the run's record keeps them.
        key: of the run, or under which records of an earlier edition hold the very same run.
    """

    config: RunConfig
    card: MethodCard
    recipe: Recipe = field(repr=False)
    identities: tuple[str, ...]
    stream_hash: str
    stream_folder: str
    precision: str
    made_with: Configuration = field(repr=False)
    key: str

    @property
    def permutation(self) -> tuple[int, ...]:
        return self.recipe.permutation(self.config.order)

    @cached_property
    def stream(self) -> Stream:
        return self.recipe.stream.reordered(self.permutation)

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(self.recipe.sources[listed] for listed in self.permutation)

    @property
    def samples(self) -> tuple[str, ...]:
        return tuple(self.identities[listed] for listed in self.permutation)

    @property
    def code(self) -> str:
        """The fingerprint of the working tree's code for this run."""
        return provenance.fingerprint(provenance.ROOT, self.card.file, self.recipe.source_kinds)

    @property
    def kind(self) -> Kind:
        return kinds.joined(self.stream.kinds)

    @property
    def budget(self) -> Budget:
        return self.config.budget

    @property
    def path(self) -> Path:
        """The run's folder."""
        config = self.config
        return run_path(Path(config.results), self.stream_folder, self.card.name, self.key, config.seed, config.order)

    @property
    def stored(self) -> Path | None:
        """Where the stored results have a record of this run, if they stand beside the folder that it goes to."""
        config, place = self.config, shelves.stored_beside(Path(self.config.results))
        if place is None:
            return None
        path = run_path(place, self.stream_folder, self.card.name, self.key, config.seed, config.order)
        return path if (path / RECORD).is_file() else None

    @property
    def title(self) -> str:
        return f"{self.card.name} on {self.stream_folder}, seed {self.config.seed}, order {self.config.order}"

    def replicate(self, seed: int, order: int) -> Plan:
        """The same run with another seed and order: of one key."""
        return replace(self, config=replace(self.config, seed=seed, order=order))


def resolve(config: RunConfig, card: MethodCard, cuda: bool) -> Plan:
    """Read the stream and the identity of its samples; nothing is written.

    Args:
        cuda: whether the run computes on a CUDA device; what ``--precision auto`` stands for depends on it.

    Raises:
        UserError: the stream file or one of its sources is wrong, or the method does not learn it.
    """
    if config.precision == "16-mixed" and not cuda:  # Lightning would train in bfloat16 instead
        raise UserError("--precision 16-mixed: needs a CUDA device; a CPU has 32-true and bf16-mixed")
    recipe = checked(config, card)
    config = replace(config, backbone=families.by_default(config.backbone, kinds.joined(recipe.stream.kinds)))
    for source in recipe.sources:
        if left := sources.passed_over(source):
            notice(f"passed over, for it is no class or split that is listed: {left}")
    identities = identity.identities(recipe)
    hashed = identity.stream_hash(recipe.stream, identities)
    precision = AUTO[cuda] if config.precision == "auto" else config.precision
    made_with = configuration(config, card, precision)
    folder = stream_folder(Path(config.results), recipe.stream.name, hashed)
    kept = [runs_of(place, folder, card.name) for place in shelves.read_from(Path(config.results))]
    key = kept_key(kept, made_with, card.defaults, hashed)
    return Plan(config, card, recipe, identities, hashed, folder, precision, made_with, key)


def checked(config: RunConfig, card: MethodCard) -> Recipe:
    """The stream, if the method learns its kind of task and the kind has what the settings ask for.

    Raises:
        UserError: naming the methods that learn it, or the folder or weights that are not there.
    """
    data_folder(config.data)
    results_folder(config.results)
    recipe = catalog.load(config.stream, Path(config.data))
    kind = kinds.joined(recipe.stream.kinds)
    stream = f"stream {config.stream!r} ({', '.join(recipe.stream.kinds)})"
    backbone = families.by_default(config.backbone, kind)
    if not families.learns(card.kinds, recipe.stream.kinds, backbone):
        others = ", ".join(
            name
            for name in registry.names()
            if families.learns(registry.card(name).kinds, recipe.stream.kinds, backbone)
        )
        where = f" on the vision-language model {backbone}" if families.speaks(backbone) else ""
        raise UserError(f"method {card.name!r} learns {', '.join(card.kinds)}, not {stream}{where}; "
                        f"these do: {others or 'none'}")  # fmt: skip
    families.check(backbone, config.pretrained, kind, stream)
    if config.over != "samples" and not families.speaks(backbone):
        raise UserError(f"--over {config.over}: only of answers in words tokens are learned, not of {stream}")
    if config.inputs != "both" and not kind.withheld:
        raise UserError(f"--inputs {config.inputs}: only fusion can do without an input, not {stream}")
    if config.gallery != "seen" and kind.labelled:
        raise UserError(f"--gallery {config.gallery}: only retrieval has a gallery, not {stream}")
    if config.devices > 1 and not card.flags["ddp"]:
        raise UserError(f"--devices {config.devices}: {card.name} needs whole batches and learns on one device")
    if config.devices > 1 and kind.whole_batch:
        raise UserError(f"--devices {config.devices}: {kind.name} contrasts the samples of a whole batch: one device")
    if config.devices > config.batch_size:
        raise UserError(f"--devices {config.devices}: more than the {config.batch_size} samples of a batch")
    return settled(recipe)
