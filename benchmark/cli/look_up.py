"""What there is: methods, streams, cards and backbones, the data of a stream, what a run still needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmark.cli import typed
from benchmark.disk import write_bytes
from benchmark.errors import UserError


def list_(argv: Sequence[str]) -> int:
    from benchmark.config import listing

    parser = typed.parser("list")
    parser.add_argument("what", nargs="?", default="all", help="methods, streams, cards or backbones")
    parser.add_argument("--names", action="store_true", help="names only, one a line")
    given = typed.parsed(parser, argv)
    listing.show_list(given.what, given.names, typed.console())
    return 0


def show(argv: Sequence[str]) -> int:
    from benchmark.config import listing

    parser = typed.parser("show")
    parser.add_argument("name", help="a method, a stream or a card")
    parser.add_argument("--data", default="data", help="folder in which relative paths of cards are looked up")
    given = typed.parsed(parser, argv)
    listing.show_one(given.name, Path(given.data), typed.console())
    return 0


def data_(argv: Sequence[str]) -> int:
    """What data are on this machine; of one stream what is in them, counted, and a page that shows them."""
    from benchmark.config import families, space
    from benchmark.data import catalog, doubles, places, sources, survey

    parser = typed.parser("data")
    parser.add_argument("--stream", default=None, help="count and show the data of this stream; default: what is here")
    parser.add_argument(
        "--data", default=places.USUAL_DATA, help="folder in which relative paths of cards are looked up"
    )
    parser.add_argument("--backbone", default=families.USUAL, help="whose image size the page shows")
    parser.add_argument("--to", default="build/data", help="folder that the page is written to")
    parser.add_argument("--download", action="store_true", help="get what the stream's sources download")
    parser.add_argument("--sheet", default=None, help="a PNG that is written as well: a row of images per modality")
    given, console = typed.parsed(parser, argv), typed.console()
    places.data_folder(given.data)
    if given.sheet is not None:
        typed.check_picture("--sheet", given.sheet)
        if given.stream is None:
            raise UserError(f"--sheet {given.sheet}: of which stream? --stream NAME")
    data, to = Path(given.data), Path(given.to)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    for name in [given.stream] if given.stream else catalog.names("streams"):
        lacking = [task for task in survey.readiness(name, data) if task.lacking]
        say(f"{name}: {f'{len(lacking)} tasks are not ready' if lacking else 'ready'}")
        if given.stream is None or not given.download:
            for task in lacking:
                say(f"  {task.task}: {task.lacking}" + (f"\n    {task.obtain}" if task.obtain else ""))
    if given.stream is None:
        return 0
    if lacking and not given.download:
        raise UserError(f"{given.stream}: {len(lacking)} tasks are not ready; --data DIR is where their files are, "
                        "--download gets what needs no hand")  # fmt: skip
    places.writable(to, f"--to {to}", folder=True)
    recipe = catalog.load(given.stream, data)
    found = [survey.surveyed(task, source) for task, source in zip(recipe.stream, recipe.sources, strict=True)]
    for line in survey.lines(found):
        say(line)
    twice = doubles.told(doubles.of_stream(recipe, [sources.identity(source) for source in recipe.sources]))
    say(f"stands twice: {twice}" if twice else "no image stands in two splits, or under two labels")
    from benchmark.record.files import write_text
    from benchmark.report.data_page import page

    size = space.image_size(given.backbone, None) or 224
    shown = page(recipe, found, twice, given.backbone, size, space.framing(given.backbone))
    write_text(to / f"{recipe.stream.name}.html", shown)
    say(str(to / f"{recipe.stream.name}.html"))
    if given.sheet is not None:
        from benchmark.report.contact_sheet import sheet

        write_bytes(Path(given.sheet), sheet(recipe, space.framing(given.backbone)))
        say(given.sheet)
    return 0


def needs(argv: Sequence[str]) -> int:
    """Print the extras of the package that runs of these streams need and that are not installed, one a line."""
    from benchmark import kinds
    from benchmark.config import families
    from benchmark.data import catalog

    parser = typed.parser("needs")
    parser.add_argument("--streams", default="phantom8", help="files of datasets/streams/ or paths of YAML files")
    parser.add_argument("--backbone", default=families.AUTO, help="as of run")
    parser.add_argument("--data", default="data", help="folder in which relative paths of cards are looked up")
    given = typed.parsed(parser, argv)
    streams = [catalog.load(name, Path(given.data)).stream for name in given.streams.replace(",", " ").split()]
    backbones = [families.by_default(given.backbone, kinds.joined(stream.kinds)) for stream in streams]
    if any(map(families.missing, backbones)):
        print(families.EXTRA)
    return 0
