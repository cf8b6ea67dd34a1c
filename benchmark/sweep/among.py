"""A method among the rows of a stream's table: run in the cells that these have, then compared with each of them.

The same stream, orders, seeds and backbone. Without a preset rivals are the rows of the same budget: those whose
settings differ from the method's in arguments of methods alone, and have the defaults of these. With one they are the
rows that stand under it too, each with its own values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.compare import comparisons
from benchmark.compare.entries import by_key, card_of, counts, stale
from benchmark.compare.leaderboard import reference_cells
from benchmark.compare.presets import OFFICIAL, TUNED, beside, presets
from benchmark.compare.rows import DEFAULT, LeaderboardRow, PairRow
from benchmark.config import arguments
from benchmark.config.resolve import Plan, resolve
from benchmark.errors import UserError, unknown
from benchmark.record.schema import PROTOCOLS, Record
from benchmark.record.shelves import stored_beside
from benchmark.record.stored import read_all
from benchmark.sweep import sweep
from benchmark.sweep.forecast import finds_cuda

if TYPE_CHECKING:
    from rich.console import Console

OF_THE_TABLE = ("--seed", "--order", "--seeds", "--orders", "--limit", "--split")


@dataclass(frozen=True)
class Among:
    """A method, and the rows that it is compared with.

    Attributes:
        plan: of one of its runs.
        preset: under which its rivals stand, tuned or official; empty where they have its budget.
        rivals: names of methods that are compared with it; none: every row that fits.
        cells: (order, seed) that most of these rows have.
        missing: those of them that are to be run.
    """

    plan: Plan
    preset: str
    rivals: tuple[str, ...]
    cells: tuple[tuple[int, int], ...]
    missing: tuple[tuple[int, int], ...]

    def sides(self) -> tuple[list[Record], list[list[Record]]]:
        """The method's runs in these cells, its own rather than stored ones, and those of every rival."""
        rows = _rows(self.plan)
        alike = sorted((runs for runs in rows if _same(runs, self.plan)), key=lambda runs: runs[0].own)
        mine = [run for runs in alike[-1:] for run in runs if (run.order, run.seed) in self.cells]
        fit = [*alike[:-1], *(runs for runs in rows if _fits(runs, self.plan, self.preset))]
        return mine, [runs for runs in fit if _named(runs, self.rivals)]

    def standing(self, rows: Sequence[LeaderboardRow], sides: Sequence[Sequence[Record]]) -> list[LeaderboardRow]:
        """The rows of a leaderboard that are of these runs, each once: under the rivals' preset where it has it."""
        names, preset = {(runs[0].named, runs[0].key) for runs in sides}, self.preset or DEFAULT
        of_them = [row for row in rows if (row.method, row.key) in names]
        there = {(row.method, row.key) for row in of_them if row.preset == preset}
        return [row for row in of_them if row.preset == preset or (row.method, row.key) not in there]


def asked(method: str, stream: str, rivals: Sequence[str], options: Sequence[str]) -> Among:
    """What would be compared.

    Args:
        rivals: names of methods; none: every row that fits.
        options: others of ``run``.

    Raises:
        UserError: an option that does not fit, or no row to compare with.
    """
    for option in options:
        if option.split("=")[0] in OF_THE_TABLE:
            raise UserError(f"{option.split('=')[0]}: compare runs the seeds, orders and samples of the table's rows")
    config, card, _ = arguments.parse("run", [*options, "--method", method, "--stream", stream], with_class=False)
    plan = resolve(config, card, finds_cuda(config))
    preset = _preset(plan, arguments.preset_of(options))
    rows = _rows(plan)
    fit = [runs for runs in rows if _fits(runs, plan, preset)]
    having = f"{preset} values" if preset else _budget(plan) or "the defaults"
    where = f"on {plan.stream_folder} with {having} and {plan.config.backbone}"
    if not fit:
        raise UserError(f"compare: no runs of other methods {where}; make sweep METHODS=... makes some")
    known = sorted({runs[0].method for runs in fit})
    for name in rivals:
        if name not in (*known, card.name):
            raise unknown("method", name, known, f"--with: those with runs {where}")
    chosen = [runs for runs in fit if _named(runs, rivals)] or fit
    had = [[(run.order, run.seed) for run in runs] for runs in chosen]
    cells = reference_cells(had) or sorted({cell for each in had for cell in each})
    alike = sorted((runs for runs in rows if _same(runs, plan)), key=lambda runs: runs[0].own)
    there = {(run.order, run.seed) for runs in alike[-1:] for run in runs}
    if alike and not alike[-1][0].own and stored_beside(Path(config.results)):  # it stands as it is, or is made anew
        there = set() if stale(alike[-1], plan.code) or not there & set(cells) else set(cells)
    return Among(plan, preset, tuple(rivals), tuple(cells), tuple(cell for cell in cells if cell not in there))


def run(among: Among, argv: Sequence[str], console: Console) -> int:
    """Run what is missing, as a sweep does; 1 if a cell failed.

    Args:
        argv: options of ``run`` but for the method, the stream, the seed and the order.
    """
    if not among.missing:
        return 0
    config = among.plan.config
    seeds, orders = (",".join(map(str, sorted({cell[at] for cell in among.missing}))) for at in (1, 0))
    grid = ["--methods", config.method, "--streams", config.stream, "--seeds", seeds, "--orders", orders, *argv]
    whole = sweep.planned(grid, "compare")
    cells = (cell for cell in whole.cells if (cell.plan.config.order, cell.plan.config.seed) in among.missing)
    return sweep.run(replace(whole, cells=tuple(cells)), console)


def differences(mine: Sequence[Record], others: Sequence[Sequence[Record]]) -> list[PairRow]:
    """The method minus every rival, protocol by protocol, the largest difference first."""
    found = [row for protocol in PROTOCOLS for row in comparisons.against(mine, others, protocol)]
    return sorted(found, key=lambda row: (PROTOCOLS.index(row.protocol), -row.difference, row.method_b))


def _rows(plan: Plan) -> list[list[Record]]:
    return by_key(filter(counts, read_all(Path(plan.config.results), plan.stream_folder)))


def _same(runs: Sequence[Record], plan: Plan) -> bool:
    return (runs[0].method, runs[0].key) == (plan.card.name, plan.key)


def _fits(runs: Sequence[Record], plan: Plan, preset: str) -> bool:
    """Whether the method is compared with this row."""
    if _same(runs, plan) or runs[0].backbone != plan.config.backbone:
        return False
    return preset in presets(runs[0], card_of(runs[0])) if preset else runs[0].settings == _budget(plan)


def _preset(plan: Plan, name: str) -> str:
    """Under which preset the rivals stand whose values the plan has but for arguments of the method; empty for none."""
    if not name:
        return ""
    values = arguments.preset_values(name, plan.card, plan.config.stream, plan.config.backbone)
    other = [word for word in beside(plan.made_with, plan.card, values).split() if not word.startswith("method.")]
    if other:
        raise UserError(f"--preset {name}: compare takes rows with these values, not with {' '.join(other)}")
    return TUNED if name == TUNED else OFFICIAL


def _budget(plan: Plan) -> str:
    """The settings but for the method's own arguments."""
    return replace(plan.config, method_args=plan.card.defaults).settings(plan.card)


def _named(runs: Sequence[Record], rivals: Sequence[str]) -> bool:
    return not rivals or runs[0].method in rivals
