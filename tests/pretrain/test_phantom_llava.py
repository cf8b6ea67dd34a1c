"""How phantom-llava is trained: the tower is phantom-clip's, the loss transformers' own, and a stopped training goes on
to the same bytes."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from transformers import AutoModelForImageTextToText, AutoProcessor

from benchmark.data import phantom
from benchmark.pretrain import lessons, llava_layout, muon, phantom_llava
from methods.parts import backbones, language_models


@pytest.fixture(scope="module")
def drawn() -> tuple[Any, Any]:
    return phantom_llava.drawn()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight images of every generator."""
    monkeypatch.setattr(lessons, "CHUNK", 8)


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_the_tower_is_that_of_phantom_clip(drawn: tuple[Any, Any]) -> None:
    model, processor = drawn
    _, clip, _ = backbones.opened("phantom-clip")
    pixels = processor.image_processor(images=list(images(4)), return_tensors="pt")["pixel_values"]
    tower = model.model.vision_tower
    with torch.no_grad():
        last = tower(pixels, output_hidden_states=True).hidden_states[-1]
        ours, theirs = tower.post_layernorm(last[:, 0]) @ clip.visual.proj, clip.visual(pixels)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not any(p.requires_grad for p in tower.parameters())


def test_lessons_are_what_the_chat_template_writes(drawn: tuple[Any, Any], small: None) -> None:
    """And the loss is that of the whole model, shown pixels and told which tokens are to be said."""
    model, processor = drawn
    known = phantom_llava.made(1, 1, processor, model.model.vision_tower)
    assert len(known.ids_NL) == 8 * len(phantom.GENERATORS)
    made, talks = lessons.chunk("ct", 0, phantom_llava.forbidden.regions(phantom_llava.KINDS)["ct"])
    for number in (0, 3):
        turns: list[dict[str, Any]] = []
        for asked, answer in talks[number]:
            shown = [] if turns else [{"type": "image"}]
            turns.append({"role": "user", "content": [*shown, {"type": "text", "text": asked}]})
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        written = processor.apply_chat_template(turns, tokenize=False)
        image = torch.from_numpy(made[number]).permute(2, 0, 1)
        read = processor(text=[written], images=[[image]], return_tensors="pt", add_special_tokens=False)
        ids = known.ids_NL[number]
        assert read["input_ids"][0, 17:].tolist() == ids[ids != llava_layout.PAD].tolist()
        with torch.no_grad():
            logits = model(**read).logits[0, 16:-1]
            ours = phantom_llava.loss_of(model, known, torch.tensor([number]))
        losses = F.cross_entropy(logits, read["input_ids"][0, 17:], reduction="none")
        total = weight = 0.0
        for said in answered(read["input_ids"][0, 17:].tolist()):
            total += float(losses[said].sum()) * len(said) ** -0.5
            weight += len(said) ** 0.5
        assert float(ours) == pytest.approx(total / weight, rel=2e-3)  # features are kept as float16


def answered(ids: list[int]) -> list[list[int]]:
    """The places of every answer's tokens, its end with them."""
    found: list[list[int]] = []
    open_answer: list[int] | None = None
    for place, token in enumerate(ids):
        if token == llava_layout.ANSWER:
            open_answer = []
        elif open_answer is not None:
            open_answer.append(place)
            if token == llava_layout.END:
                found.append(open_answer)
                open_answer = None
    return found


def test_every_dialogue_is_in_one_batch_of_an_epoch_in_another_order_each() -> None:
    rng = np.random.default_rng(0)
    ids = torch.zeros(100, 40, dtype=torch.int16)
    for row in ids:
        row[: int(rng.integers(5, 40))] = 7
    known = phantom_llava.Lessons(torch.zeros(100, 1, 1), ids, torch.zeros(100, 40))
    one, again, other = (list(known.batches(10, seed)) for seed in (0, 0, 1))
    assert sorted(torch.cat(one).tolist()) == [*range(100)]
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    lengths = (ids > 0).sum(1)
    within = np.mean([float(lengths[batch].float().std()) for batch in one])
    assert within < 0.3 * float(lengths.float().std())


def test_a_stopped_training_goes_on_to_the_same_bytes(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=StringIO())
    monkeypatch.setattr(phantom_llava, "SAVED", 4)

    def trained(to: Path) -> None:
        phantom_llava.pretrain(to, 1, 1, 8, 3e-3, 1, console)

    trained(tmp_path / "straight")
    real, steps = phantom_llava.loss_of, [0]

    def stops(*asked: Any) -> Any:
        steps[0] += 1
        if steps[0] == 7:
            raise KeyboardInterrupt
        return real(*asked)

    monkeypatch.setattr(phantom_llava, "loss_of", stops)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped")
    assert (tmp_path / "stopped" / phantom_llava.UNFINISHED).is_file()
    trained(tmp_path / "stopped")
    assert steps[0] > 7 and not (tmp_path / "stopped" / phantom_llava.UNFINISHED).exists()
    for file in (tmp_path / "straight").iterdir():
        assert file.read_bytes() == (tmp_path / "stopped" / file.name).read_bytes(), file.name
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "straight", dtype="auto")
    assert model.dtype == torch.float16 and AutoProcessor.from_pretrained(tmp_path / "straight").chat_template
    assert sum(file.stat().st_size for file in (tmp_path / "straight").iterdir()) < 8e6


def test_the_shipped_model_is_of_this_layout(drawn: tuple[Any, Any]) -> None:
    """And its tower is that of phantom-clip to the last bit."""
    shipped, (model, processor) = language_models.load(language_models.SHIPPED), drawn
    theirs = shipped.adapted.state_dict()
    assert {name: values.shape for name, values in model.state_dict().items()} == {
        name: values.shape for name, values in theirs.items()
    }
    for name, values in model.model.vision_tower.state_dict().items():
        assert torch.equal(values.half(), theirs[f"model.vision_tower.{name}"].half()), name
    assert shipped.chat.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    told = json.loads((language_models.FOLDER / language_models.SHIPPED / "config.json").read_text())
    assert told["vision_feature_layer"] == llava_layout.SEEN
    assert sum(file.stat().st_size for file in (language_models.FOLDER / language_models.SHIPPED).iterdir()) < 8e6


def test_the_shipped_model_sees() -> None:
    """Dialogues of no lesson's seed: open questions are answered far above the third that a guess gets."""
    model = language_models.load(language_models.SHIPPED)
    right = total = 0
    for name in ("xray", "dermoscopy"):
        rng = Random(f"unseen {name}")
        painter, shown, asked, answers = np.random.default_rng(5), [], [], []
        for _ in range(40):
            scene, factors = lessons.scene(name, [], rng)
            shown.append(phantom.generator(name).render(factors, painter, phantom.SIZE))
            exchange = lessons._open(scene, scene.focus, rng)
            asked.append(exchange.instruction)
            answers.append(exchange.answer)
        batch = {
            "image": torch.from_numpy(np.stack(shown)).permute(0, 3, 1, 2),
            "prompt": model.prompts(asked),
        }
        told = model.texts(model.written(batch, 12))
        right += sum(a == b for a, b in zip(told, answers, strict=True))
        total += len(told)
    assert right / total > 0.5


def test_muon_is_torchs_but_for_rounding() -> None:
    torch.manual_seed(0)
    shapes = [(16, 16), (16, 16), (40, 16), (16, 40)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    one = muon.Muon(ours, 1e-2)
    other = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        one.step()
        other.step()
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).norm().detach()) < 2e-3 * float(b.norm().detach())


def test_muons_updates_are_nearly_orthogonal() -> None:
    values = torch.linalg.svdvals(muon.orthogonal(torch.randn(5, 30, 12, generator=torch.Generator().manual_seed(0))))
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
