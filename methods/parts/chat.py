"""What a vision-language model is told and says, between text and tokens: its own processor and chat template.

The ids of instructions and answers have -1 where there is no token, at the right end. Legend as in ``methods.base``;
P image tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

NONE = -1  # where there is no token
PROBE = "probe"
AT_ONCE = 512  # texts that are tokenised at a time


class Chat:
    """The processor of a model: one image and one instruction a turn, then one answer.

    Attributes:
        image_size: pixels of a side of the images it is given.
        stops: ids that end an answer, the first of them the one that is learned.
        pad: an id for places without a token.
    """

    def __init__(self, processor: Any, image_size: int, image_token: int, stops: Sequence[int]) -> None:
        """Raises ValueError: the processor has no chat template, or puts the image's tokens elsewhere each time."""
        if not getattr(processor, "chat_template", None):
            raise ValueError("it has no chat template")
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.image_size, self.image_token = image_size, image_token
        images = processor.image_processor
        if hasattr(images, "do_image_splitting"):  # one image is one row of tokens, and is not blown up before
            images.do_image_splitting, images.size = False, images.max_image_size
        known = self.tokenizer.added_tokens_decoder
        self.marks = sorted({*self.tokenizer.all_special_tokens, *(str(t) for t in known.values() if t.special)})
        self.lead, self.before, after = self._around_answer()
        closing = [id for id in self._ids(after)[:1] if id in known]
        self.stops = list(dict.fromkeys([*closing, *stops]))
        if not self.stops:
            raise ValueError("nothing ends its answers")
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.stops[0]
        self.image_ids = self._image_ids(PROBE)
        if self.image_ids != self._image_ids(f"another {PROBE}"):
            raise ValueError("its processor gives an image other tokens with every instruction")

    def prompts(self, instructions: Sequence[str]) -> Tensor:
        """(M, L) the turn that shows an image and asks, up to where the answer begins, of each instruction."""
        rows = []
        for start in range(0, len(instructions), AT_ONCE):
            written = [self._asked(text) for text in instructions[start : start + AT_ONCE]]
            for ids in self.tokenizer(written, **self._special(written[0]))["input_ids"]:
                place = ids.index(self.image_token)
                rows.append([*ids[:place], *self.image_ids, *ids[place + 1 :]])
        return padded(rows)

    def targets(self, answers: Sequence[str]) -> Tensor:
        """(M, K) each answer and the token that ends it.

        Its tokens are those it has behind a prompt: alone, some tokenizers begin a text otherwise.
        """
        rows: list[list[int]] = []
        lead = self._ids(self.lead)
        for start in range(0, len(answers), AT_ONCE):
            written = [self.before + self._plain(text) for text in answers[start : start + AT_ONCE]]
            led = self.tokenizer([self.lead + text for text in written], add_special_tokens=False)["input_ids"]
            for text, ids in zip(written, led, strict=True):
                own = ids[len(lead) :] if ids[: len(lead)] == lead else self._ids(text)
                rows.append([*own, self.stops[0]])
        return padded(rows)

    def words(self, texts: Sequence[str]) -> Tensor:
        """(M, K) the ids of texts alone, without any mark."""
        return padded([self._ids(self._plain(text)) for text in texts])

    def text(self, ids: Sequence[int]) -> str:
        """What ids up to a stop say."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def pixels(self, images: Tensor) -> dict[str, Tensor]:
        """What the vision tower takes of uint8 images (N, 3, S, S)."""
        made = self.processor.image_processor(images=[[image] for image in images.cpu()], return_tensors="pt")
        return dict(made)

    def _turn(self, instruction: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": instruction}]}

    def _template(self, turns: list[dict[str, Any]], asks: bool) -> str:
        return self.processor.apply_chat_template(turns, add_generation_prompt=asks, tokenize=False)

    def _asked(self, instruction: str) -> str:
        return self._template([self._turn(self._plain(instruction))], asks=True)

    def whole(self, instruction: str, image: Tensor) -> dict[str, Tensor]:
        """What its own processor makes of a uint8 image (3, S, S) and an instruction."""
        written = self._asked(instruction)
        return dict(self.processor(text=[written], images=[[image]], return_tensors="pt", **self._special(written)))

    def _around_answer(self) -> tuple[str, str, str]:
        """What stands between a question and the place of its answer, what an answer begins with, what follows it."""
        reply = {"role": "assistant", "content": [{"type": "text", "text": PROBE * 3}]}
        whole = self._template([self._turn(PROBE), reply], asks=False)
        asked = self._template([self._turn(PROBE)], asks=True)
        told, _, after = whole.rpartition(PROBE * 3)
        before = told.removeprefix(asked) if told.startswith(asked) else ""
        return asked.rpartition(PROBE)[2], before, after.strip()

    def _special(self, written: str) -> dict[str, bool]:
        """Whether the tokenizer puts its own mark in front: not where the template has done so."""
        begins = self.tokenizer.bos_token
        return {"add_special_tokens": not (begins and written.startswith(begins))}

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _image_ids(self, instruction: str) -> list[int]:
        """The ids that an image of the usual size is given in the place of its mark."""
        written = self._asked(instruction)
        blank = torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8)
        full = self.whole(instruction, blank)["input_ids"][0].tolist()
        plain = self.tokenizer(written, **self._special(written))["input_ids"]
        place = plain.index(self.image_token)
        return full[place : len(full) - (len(plain) - place - 1)]

    def _plain(self, text: str) -> str:
        """A text without what would be read as a mark of the template, such as an image's place."""
        for mark in self.marks:
            text = text.replace(mark, " ")
        return text


def padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """(M, L) int64 of rows of any lengths, -1 behind each."""
    width = max(map(len, rows), default=0)
    filled = [[*row, *([NONE] * (width - len(row)))] for row in rows]
    return torch.tensor(filled, dtype=torch.long).view(len(rows), width)
