"""An exported vision-language model: what stands beside its adapter, so that transformers and PEFT alone can ask it."""

from __future__ import annotations

from pathlib import Path

from benchmark.data.task_keys import LIMIT
from benchmark.deploy.trained import Trained
from benchmark.record.files import write_text
from benchmark.running.seeds import seeded
from benchmark.stream import Task
from methods.parts import language_models
from methods.parts.language import LanguageBackbone

BASE = "base"  # folder of the frozen model, of one that is had nowhere else
USE = '''"""Ask the exported model: python use.py IMAGE "QUESTION". Needs torch, transformers, peft and pillow."""

import sys
from pathlib import Path

from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

HERE = Path(__file__).resolve().parent
BASE = {base}
SIDE, LONGEST, STOPS = {side}, {longest}, {stops}  # pixels, tokens of an answer, and those that end it
QUESTION = {question!r}


def load():
    """The frozen model with the adapter, and its processor."""
    processor = AutoProcessor.from_pretrained(BASE)
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype="auto")
    if model.num_parameters() < 10**9:
        model = model.float()
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False
        processor.image_processor.size = processor.image_processor.max_image_size
    return PeftModel.from_pretrained(model, HERE).eval(), processor


def squared(image):
    """The shorter side scaled to SIDE, the centre cut out: what the model was trained on."""
    size = [int(SIDE * side / min(image.size)) for side in image.size]
    left, top = (round((side - SIDE) / 2) for side in size)
    image = image if image.mode in ("L", "RGB") else image.convert("RGB")
    return image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE)).convert("RGB")


def inputs(processor, image, question):
    """What the model reads of an image and a question."""
    turn = {{"role": "user", "content": [{{"type": "image"}}, {{"type": "text", "text": question}}]}}
    text = processor.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
    begins = processor.tokenizer.bos_token
    special = not (begins and text.startswith(begins))
    return processor(text=[text], images=[[squared(image)]], return_tensors="pt", add_special_tokens=special)


def ask(model, processor, image, question):
    """The answer, written greedily."""
    read = inputs(processor, image, question)
    made = model.generate(**read, max_new_tokens=LONGEST, do_sample=False, eos_token_id=STOPS, pad_token_id=STOPS[0])
    told = made[0, read["input_ids"].shape[1] :].tolist()
    told = told[: next((at for at, token in enumerate(told) if token in STOPS), len(told))]
    return processor.tokenizer.decode(told, skip_special_tokens=True).strip()


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or not (QUESTION or len(sys.argv) == 3):
        sys.exit(__doc__)
    with Image.open(sys.argv[1]) as opened:
        print(ask(*load(), opened, sys.argv[2] if len(sys.argv) == 3 else QUESTION))
'''


def add_use(trained: Trained, task: Task, to: Path) -> None:
    """Write ``use.py``, and the frozen model itself where it is drawn or shipped with this suite."""
    name, language, base = trained.record.config.backbone, trained.method.language, f'HERE / "{BASE}"'
    if name.startswith(language_models.HUB):
        base = repr(name.removeprefix(language_models.HUB))
    elif name.startswith(language_models.LOCAL):
        base = repr(str(Path(name.removeprefix(language_models.LOCAL)).resolve()))
    else:
        with seeded(trained.record.seed, "backbone"):
            _save(language_models.load(name), to / BASE)
    longest = task.max_new_tokens or max(each.max_new_tokens for each in trained.stream) or LIMIT
    told = {"side": language.image_size, "longest": longest, "stops": language.chat.stops}
    write_text(to / "use.py", USE.format(base=base, question=task.instruction, **told))


def _save(language: LanguageBackbone, to: Path) -> None:
    """The model and its processor as transformers keeps them, without a progress bar."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        language.adapted.save_pretrained(to)
        language.chat.processor.save_pretrained(to)
    finally:
        if shown:
            logging.enable_progress_bar()


def command(to: Path) -> str:
    """How to ask the exported model."""
    return (
        f'python {to / "use.py"} IMAGE "QUESTION"    (or PeftModel.from_pretrained(model of transformers, {str(to)!r}))'
    )
