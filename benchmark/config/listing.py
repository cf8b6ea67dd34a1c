"""What there is: methods, streams, cards, backbones. No torch."""

from __future__ import annotations

from itertools import chain, repeat
from pathlib import Path
from textwrap import wrap

from rich.console import Console

from benchmark.config import registry
from benchmark.data import catalog
from benchmark.data.yaml_files import read
from benchmark.errors import unknown

BESIDE = 24  # letters: where the second column begins
TUNING = " [to tune on, never ranked]"
BACKBONES = [
    ("phantom-clip", "CLIP, shipped, 64 px, trained on made images: the default of classification, fusion, retrieval"),
    ("ViT-B-16/openai", "architecture/tag: any pair of open_clip.list_pretrained(), downloaded on first use"),
    (
        "hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "any open_clip model of the Hugging Face hub",
    ),
    ("local-dir:FOLDER", "open_clip_config.json and weights, or what transformers saves of a vision-language model"),
    ("ViT-B-16 --pretrained FILE", "an open_clip architecture with weights of your own"),
    ("phantom-llava", "vision-language, shipped, 64 px, trained on made images: the default where answers are words"),
    ("tiny-llava", "vision-language, a layout without trained weights: for tests"),
    ("hf:OWNER/NAME", "any image-text-to-text model of the Hugging Face hub whose processor has a chat template"),
]


def _file(folder: str, name: str) -> Path:
    return catalog.root() / folder / f"{name}.yaml"


def _yaml(folder: str, name: str) -> dict[str, object]:
    return read(_file(folder, name))


def rows(what: str) -> list[tuple[str, str]]:
    """(name, one line) of everything of one sort."""
    if what == "methods":
        cards = [registry.card(name) for name in registry.names()]
        found = {c.name: c.summary + ("" if c.group == "plain" else f" [{c.group}]") for c in cards}
        return sorted((found | {name: f"cannot be read: {why}" for name, why in registry.drafts().items()}).items())
    if what == "streams":
        streams = {name: _yaml("streams", name) for name in catalog.names("streams")}
        return [
            (name, f"{stream.get('description', '')}{'' if stream.get('ranked', True) else TUNING}")
            for name, stream in streams.items()
        ]
    if what == "cards":
        return [(name, str(_yaml("cards", name).get("title", ""))) for name in catalog.names("cards")]
    return BACKBONES


def show_list(what: str, names_only: bool, console: Console) -> None:
    """Print one list, or all of them.

    Raises:
        UserError: no such list.
    """
    lists = ("methods", "streams", "cards", "backbones")
    if what not in (*lists, "all"):
        raise unknown("list", what, lists)
    for one in lists if what == "all" else (what,):
        if names_only:
            unread = registry.drafts() if one == "methods" else {}
            print("\n".join(name for name, _ in rows(one) if name not in unread))
            continue
        console.print(one, style="bold")
        for name, text in rows(one):
            _show_line(name, text, console)
        console.print()


def _show_line(name: str, text: str, console: Console) -> None:
    """A name whole, and beside it, or where it is long below it, what it is, in lines that fit."""
    lines = wrap(text, max(20, console.width - BESIDE)) or [""]
    if len(name) + 2 > BESIDE:
        lines = ["", *lines]
    for first, line in zip(chain([name], repeat("")), lines, strict=False):
        console.print(f"{first:<{BESIDE}}{line}".rstrip(), highlight=False, markup=False, soft_wrap=True)


def show_one(name: str, data: Path, console: Console) -> None:
    """Print a method (paper, equations, arguments), a stream (its tasks) or a card in full.

    Raises:
        UserError: nothing has this name.
    """
    if name in (*registry.names(), *registry.drafts()) or ":" in name or name.endswith(".py"):
        card = registry.card(name)
        console.print(f"[bold]{name}[/]  {card.file}\n", highlight=False, soft_wrap=True)
        console.print(card.doc, markup=False, highlight=False)
        for argument, default in card.defaults.items():
            console.print(f"  --method.{argument} {default}", markup=False, highlight=False)
        for preset, values in card.presets.items():
            console.print(f"  --preset {preset}: {values}", markup=False, highlight=False, soft_wrap=True)
    elif name in catalog.names("streams") or name.endswith((".yaml", ".yml")):
        file = Path(name) if name.endswith((".yaml", ".yml")) else _file("streams", name)
        read(file)  # refuses what is no file, or no YAML
        console.print(f"[bold]{name}[/]  {file}", highlight=False, soft_wrap=True)
        console.print(file.read_text(encoding="utf-8-sig"), markup=False, highlight=False, soft_wrap=True)
    elif name in catalog.names("cards"):
        console.print(_file("cards", name).read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    else:
        raise unknown("name", name, [*registry.names(), *catalog.names("streams"), *catalog.names("cards")])
