"""What is taken from a run: answers to new images and a task's LoRA; and the shipped backbones, trained anew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from benchmark.cli import typed
from benchmark.errors import UserError


def predict_(argv: Sequence[str]) -> int:
    """Task, class and probability of new images, or an answer in words, by the method of a run."""
    from benchmark.data import places

    parser = typed.parser("predict")
    parser.add_argument("--run", required=True, help="folder of a run that was made on this machine")
    parser.add_argument("--images", required=True, help="folder of images, or one image")
    parser.add_argument("--task", default=None, help="whose classes to choose from; default: the method finds the task")
    parser.add_argument("--inputs", type=Literal["image"] | None, default=None,
                        help="of a fusion run: answer from the image alone, without the text")  # fmt: skip
    parser.add_argument("--instruction", default=None, help="of a run that answers in words: what is asked of every "
                        "image; default: what the task itself asks")  # fmt: skip
    parser.add_argument("--to", default="predictions.csv", help="CSV that is written")
    parser.add_argument("--overwrite", action="store_true", help="replace the CSV if it is there")
    parser.add_argument("--top", "--top-k", type=int, default=1, help="rows for an image, likeliest class first")
    parser.add_argument("--abstain", type=float, default=0.0, help="no class below this probability")
    parser.add_argument("--calibrate", action="store_true", help="probabilities by the temperature that fits the "
                        "validation samples of the run's stream")  # fmt: skip
    parser.add_argument("--data", default=places.USUAL_DATA, help="with --calibrate: folder of these samples")
    parser.add_argument("--method", default=None, help="of a run whose method is a plug-in: package.module:Class, "
                        "which is imported then; never because a record says so")  # fmt: skip
    given = typed.parsed(parser, argv)
    places.writable(Path(given.to), f"--to {given.to}", folder=False)
    if given.calibrate:
        places.data_folder(given.data)
    from benchmark.deploy.predict import Request, predict

    calibrate = Path(given.data) if given.calibrate else None
    asked = Request(given.task, given.top, given.inputs, given.instruction, given.abstain, calibrate)
    said = predict(Path(given.run), Path(given.images), asked, Path(given.to), given.method, given.overwrite)
    typed.console().print(said, highlight=False, markup=False, soft_wrap=True)
    return 0


def export_(argv: Sequence[str]) -> int:
    """The LoRA that answers a task, for PEFT or folded into open_clip weights."""
    parser = typed.parser("export")
    parser.add_argument("--run", required=True, help="folder of a run that was made on this machine")
    parser.add_argument("--task", required=True, help="a task of its stream")
    parser.add_argument("--to", required=True, help="folder that is made")
    parser.add_argument("--format", type=Literal["peft", "open_clip"], default="peft", help="an adapter, or weights")
    parser.add_argument("--method", default=None, help="of a run whose method is a plug-in: package.module:Class, "
                        "which is imported then; never because a record says so")  # fmt: skip
    given = typed.parsed(parser, argv)
    from benchmark.data import places

    places.writable(Path(given.to), f"--to {given.to}", folder=True)
    from benchmark.deploy.export import export

    line = export(Path(given.run), given.task, Path(given.to), given.format, given.method)
    typed.console().print(line, highlight=False, markup=False, soft_wrap=True)
    return 0


def pretrain_(argv: Sequence[str]) -> int:
    """A shipped backbone, trained anew on made images; of phantom-llava a stopped training goes on."""
    from benchmark.config import families

    parser = typed.parser("pretrain")
    parser.add_argument("--model", type=Literal["phantom-clip", "phantom-llava"], default=families.USUAL,
                        help="which; phantom-llava has the image tower of the shipped phantom-clip")  # fmt: skip
    parser.add_argument("--to", type=str | None, default=None, help="folder that it is written to; default: its name")
    parser.add_argument("--samples", type=int | None, default=None, help="images to make (90,000; 60,000)")
    parser.add_argument("--epochs", type=int | None, default=None, help="passes over them (8; 3)")
    given = typed.parsed(parser, argv)
    to = given.model if given.to is None else given.to
    told = {name: given[name] for name in ("samples", "epochs") if given[name] is not None}
    if told.get("samples", 1000) < 1000 or told.get("epochs", 1) < 1:
        raise UserError("--samples must be at least 1000, --epochs at least 1")
    families.equipped(given.model, f"--model {given.model}")
    from benchmark.data import places

    places.writable(Path(to), f"--to {to}", folder=True)
    if given.model == families.SPEAKING:
        from benchmark.pretrain.phantom_llava import pretrain
    else:
        from benchmark.pretrain.phantom_clip import pretrain
    measured = pretrain(Path(to), **told, console=typed.console())
    print("  ".join(f"{name} {value:,.0f}" for name, value in measured.items()))
    print(f"use it: --backbone local-dir:{to}")
    return 0
