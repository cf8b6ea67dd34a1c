"""The vision-language backbone says what transformers' own model says, in four layouts, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from methods.parts import language_models
from methods.parts.experts import Experts
from methods.parts.language import LanguageBackbone
from methods.parts.tokens import UNLEARNED
from tests.methods.layouts import LAYOUTS

QUESTIONS = ("Is there a gland?", "Which colour?", "Describe the opacity of the left lung in a short report, please.")
ANSWERS = ("yes", "a large opacity.", "no")
LIMIT = 12
PLACES = 7  # linear layers of a block that LoRA adapts by default


@dataclass
class Layout:
    """A folder, transformers' own model and processor of it, and the backbone that is made of it."""

    folder: Path
    model: Any
    processor: Any
    backbone: LanguageBackbone
    images: Tensor

    def asked(self, row: int) -> dict[str, Tensor]:
        """What its own processor makes of a question about an image."""
        text = self.processor.apply_chat_template([self.turn(row)], add_generation_prompt=True, tokenize=False)
        return self.inputs(text, row)

    def turn(self, row: int) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[row]}]}

    def inputs(self, text: str, row: int) -> dict[str, Tensor]:
        begins = self.processor.tokenizer.bos_token
        options = {"add_special_tokens": not (begins and text.startswith(begins))}
        return dict(self.processor(text=[text], images=[[self.images[row]]], return_tensors="pt", **options))

    def told(self, row: int, answer: str) -> tuple[dict[str, Tensor], int]:
        """What it makes of the whole conversation up to the answer's end, and how many tokens of it are the prompt."""
        reply = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        text = self.processor.apply_chat_template([self.turn(row), reply], tokenize=False).rstrip()
        inputs, length = self.inputs(text, row), self.asked(row)["input_ids"].shape[1]
        end = self.backbone.chat.stops[0]
        if inputs["input_ids"][0, -1] != end:  # LLaVA-1.5's template writes none
            more = {"input_ids": end, "attention_mask": 1}
            inputs |= {name: F.pad(inputs[name], (0, 1), value=value) for name, value in more.items()}
        return inputs, length

    @torch.no_grad()
    def logits(self, row: int, answer: str) -> tuple[Tensor, Tensor, Tensor]:
        """(K + 1, V) of the answer's tokens and what follows, (K,) these tokens, and the loss over them."""
        inputs, length = self.told(row, answer)
        labels = inputs["input_ids"].clone()
        labels[:, :length] = UNLEARNED
        out = self.model(**inputs, labels=labels)
        return out.logits[0, length - 1 :], inputs["input_ids"][0, length:], out.loss

    def batch(self, answers: Sequence[str] = ANSWERS, rows: Sequence[int] = (0, 1, 2)) -> dict[str, Tensor]:
        prompts, targets = self.backbone.prompts(QUESTIONS), self.backbone.targets(answers)
        made = {"image": self.images, "prompt": prompts, "target": targets, "target_mask": targets >= 0}
        return {name: values[list(rows)] for name, values in made.items()}


OFTEN = ("idefics3", "qwen2_vl")  # the others' decoder is that of tiny-llava, which most tests are made with


@pytest.fixture(
    scope="module", params=[*OFTEN, *(pytest.param(name, marks=pytest.mark.slow) for name in {*LAYOUTS} - {*OFTEN})]
)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = LAYOUTS[request.param](folder), AutoProcessor.from_pretrained(folder)
    if hasattr(processor.image_processor, "do_image_splitting"):
        processor.image_processor.do_image_splitting = False
        processor.image_processor.size = {"longest_edge": 64}
    backbone = language_models.load(f"local-dir:{folder}")
    side = backbone.image_size
    images = torch.randint(0, 256, (3, 3, side, side), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    return Layout(folder, model, processor, backbone, images)


def test_prompts_are_what_its_own_processor_makes(layout: Layout) -> None:
    for row, ids in enumerate(layout.backbone.prompts(QUESTIONS).tolist()):
        own = layout.asked(row)["input_ids"][0].tolist()
        assert ids == own + [-1] * (len(ids) - len(own))


def test_outputs_and_losses_are_those_of_its_own_forward(layout: Layout) -> None:
    batch = layout.batch()
    with torch.no_grad():
        spoken = layout.backbone.spoken(batch)
    losses = layout.backbone.losses(spoken, batch)
    for row, answer in enumerate(ANSWERS):
        logits, ids, loss = layout.logits(row, answer)
        assert batch["target"][row][batch["target_mask"][row]].tolist() == ids.tolist()
        assert torch.allclose(spoken[row, : len(logits)], logits, atol=1e-5)
        assert losses[row].item() == pytest.approx(loss.item(), abs=1e-5)
    assert layout.backbone.objective(batch).item() == pytest.approx(losses.mean().item(), abs=1e-6)


@pytest.mark.parametrize("stops", [0, 1])
def test_greedy_answers_are_its_own(layout: Layout, stops: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And end where it ends; a model drawn at random ends none, so a token that it does write is made to end them."""
    if stops:
        monkeypatch.setattr(layout.backbone.chat, "stops", [int(layout.backbone.written(layout.batch(), 3)[0, 2])])
    written = layout.backbone.written(layout.batch(), LIMIT)
    assert written.shape == (3, LIMIT)
    for row in range(len(QUESTIONS)):
        inputs = layout.asked(row)
        with torch.no_grad():
            ends = {"eos_token_id": layout.backbone.chat.stops, "pad_token_id": layout.backbone.chat.pad}
            own = layout.model.generate(**inputs, max_new_tokens=LIMIT, do_sample=False, **ends)
        own = own[0, inputs["input_ids"].shape[1] :].tolist()
        assert written[row].tolist() == own + [-1] * (LIMIT - len(own))
        (text,) = layout.backbone.texts(written[row : row + 1])
        stopped = own[-1] in layout.backbone.chat.stops
        assert (text.stopped, text.tokens) == (stopped, len(own) - stopped)
        assert text == layout.processor.tokenizer.decode(own[: text.tokens], skip_special_tokens=True).strip()
    assert not stops or bool((written[0] == -1).any())


def test_what_is_said_does_not_depend_on_the_batch(layout: Layout) -> None:
    whole, candidates = layout.batch(), ["yes", "no", "a large opacity."]
    written, likely = layout.backbone.written(whole, LIMIT), layout.backbone.likelihood(whole, candidates)
    with torch.no_grad():
        spoken = layout.backbone.spoken(whole)
    for rows, filled in (([0], 5), ([1, 2], 0), ([2, 0], 1)):
        batch = layout.batch(rows=rows)
        batch["prompt"] = F.pad(batch["prompt"], (0, filled), value=-1)
        assert torch.equal(layout.backbone.written(batch, LIMIT), written[rows])
        assert torch.allclose(layout.backbone.likelihood(batch, candidates), likely[rows], atol=1e-5)
        with torch.no_grad():
            assert torch.allclose(layout.backbone.spoken(batch), spoken[rows], atol=1e-5)


def test_keys_and_values_of_some_samples_are_held_at_a_time(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many bytes as were held of one sample more do not let it join; what is said is the same."""
    whole, candidates, seen = layout.batch(), ["yes", "no", "a large opacity."], []
    written, likely = layout.backbone.written(whole, LIMIT), layout.backbone.likelihood(whole, candidates)
    decoded = layout.backbone._decoded

    def watched(tokens: Any, cache: Any = None) -> Tensor:
        made = decoded(tokens, cache)
        held = [part for layer in cache.layers for part in (layer.keys, layer.values)] if cache is not None else []
        seen.append(sum(part.nbytes for part in held))
        return made

    monkeypatch.setattr(layout.backbone, "_decoded", watched)
    layout.backbone.written(whole, LIMIT), layout.backbone.likelihood(whole, candidates)
    most = max(seen) // 2  # what fits half of the samples
    seen.clear()
    monkeypatch.setattr("methods.parts.language.MOST_CACHE", most)
    assert torch.equal(layout.backbone.written(whole, LIMIT), written)
    assert torch.allclose(layout.backbone.likelihood(whole, candidates), likely, atol=1e-5)
    assert 0 < max(seen) <= most


def test_likelihood_is_minus_the_loss_of_each_candidate(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = ["yes", "a large opacity.", "no gland"]
    batch = {name: values for name, values in layout.batch().items() if not name.startswith("target")}
    mean, total = layout.backbone.likelihood(batch, candidates), layout.backbone.likelihood(batch, candidates, "sum")
    for row in range(len(QUESTIONS)):
        for place, candidate in enumerate(candidates):
            _, ids, loss = layout.logits(row, candidate)
            assert mean[row, place].item() == pytest.approx(-loss.item(), abs=1e-5)
            assert total[row, place].item() == pytest.approx(-loss.item() * len(ids), abs=1e-4)
    monkeypatch.setattr("methods.parts.language.MOST_LOGITS", 1)  # a row at a time
    assert torch.allclose(layout.backbone.likelihood(batch, candidates), mean, atol=1e-5)
    one = layout.backbone.likelihood(batch, candidates[:1])
    assert torch.allclose(one, mean[:, :1], atol=1e-5)


def test_features_stand_for_pixels(layout: Layout) -> None:
    batch = layout.batch()
    features = batch | {"image": layout.backbone.seen(batch["image"])}
    assert features["image"].shape == (3, layout.backbone.chat.image_ids.count(layout.backbone.chat.image_token), 32)
    with torch.no_grad():
        assert torch.allclose(layout.backbone.spoken(batch), layout.backbone.spoken(features), atol=1e-6)
    assert torch.equal(layout.backbone.written(batch, LIMIT), layout.backbone.written(features, LIMIT))
    assert torch.allclose(layout.backbone.glance(batch), layout.backbone.glance(features), atol=1e-6)
    each = torch.cat([layout.backbone.seen(image[None]) for image in batch["image"]])
    assert torch.allclose(features["image"], each, atol=1e-5)


def test_positions_are_its_own(layout: Layout) -> None:
    """Of Qwen2-VL time, row and column; of others how many tokens were before."""
    prompt_BL = layout.backbone.prompts(QUESTIONS)
    missing_B1 = (prompt_BL < 0).sum(dim=1, keepdim=True)
    left = torch.stack([row.roll(int(n)) for row, n in zip(prompt_BL, missing_B1, strict=True)])
    found = layout.backbone._positions(left == layout.backbone.chat.image_token, left >= 0)
    assert (layout.backbone.grid is not None) == hasattr(layout.model.model, "get_rope_index")
    for row in range(len(QUESTIONS)):
        inputs = layout.asked(row)
        if layout.backbone.grid is None:
            own = torch.arange(inputs["input_ids"].shape[1])
        else:
            kinds, grid = inputs["mm_token_type_ids"], inputs["image_grid_thw"]
            own = layout.model.model.get_rope_index(inputs["input_ids"], kinds, grid)[0][:, 0]
        assert torch.equal(found[..., row, int(missing_B1[row]) :], own)


def test_a_glance_sees_neither_answers_nor_adapters(layout: Layout) -> None:
    backbone = language_models.load(f"local-dir:{layout.folder}")
    before = backbone.glance(layout.batch())
    assert before.shape == (3, backbone.embedding) and before.isfinite().all()
    assert torch.equal(backbone.glance(layout.batch(["no", "no", "no"])), before)
    unanswered = {name: values for name, values in layout.batch().items() if not name.startswith("target")}
    assert torch.equal(backbone.glance(unanswered), before)
    experts = drawn(backbone, "a")
    with experts.blend({}, live="a"):
        assert torch.equal(backbone.glance(layout.batch()), before)
    other = layout.batch() | {"image": layout.images.flip(0)}
    assert not torch.allclose(backbone.glance(other)[0], before[0], atol=1e-3)
    assert not torch.allclose(before[0], backbone.glance(layout.batch(rows=[1]) | {"image": layout.images[:1]})[0])


def test_watch_sees_what_attention_is_given(layout: Layout) -> None:
    """Of every token that there is, in the order of the samples, and of nothing that only fills."""
    batch, seen = layout.batch(), {}
    layout.backbone.watch(batch, lambda layer, x_ND: seen.__setitem__(layer, x_ND))
    assert sorted(seen) == [0, 1] and not layout.backbone.decoder.layers[0].self_attn._forward_pre_hooks
    own: dict[int, list[Tensor]] = {0: [], 1: []}
    blocks = layout.model.get_decoder().layers
    hooks = [
        block.self_attn.register_forward_pre_hook(
            lambda module, args, kwargs, layer=layer: own[layer].append(kwargs["hidden_states"][0]), with_kwargs=True
        )
        for layer, block in enumerate(blocks)
    ]
    for row, answer in enumerate(ANSWERS):
        with torch.no_grad():
            layout.model(**layout.told(row, answer)[0])
    for hook in hooks:
        hook.remove()
    for layer in seen:
        assert torch.allclose(seen[layer], torch.cat(own[layer]), atol=1e-5)


def drawn(backbone: LanguageBackbone, name: str) -> Experts:
    """An expert whose weights all differ from 0."""
    experts = Experts(backbone.adapted, 2, 4.0)
    experts.add(name)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        for parameter in experts.parameters(name):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return experts


def test_an_expert_is_on_the_decoder_alone_and_peft_reads_it(layout: Layout, tmp_path: Path) -> None:
    from peft import PeftModel

    backbone = language_models.load(f"local-dir:{layout.folder}")
    experts = drawn(backbone, "a")
    names = [name for name, module in backbone.adapted.named_modules() if hasattr(module, "lora_A")]
    (decoder,) = (name for name, module in backbone.adapted.named_modules() if module is backbone.decoder)
    assert len(names) == PLACES * backbone.depth == len(experts.layers)
    assert all(name.startswith(f"{decoder}.layers.") for name in names)
    assert sum(".mlp." in name for name in names) == 3 * backbone.depth
    assert not any(word in name for name in names for word in ("vision", "visual", "projector", "connector", "lm_head"))
    experts.save("a", tmp_path)
    plain = AutoModelForImageTextToText.from_pretrained(layout.folder).eval()
    theirs = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    batch = layout.batch()
    with torch.no_grad():
        with experts.blend({"a": 1.0}):
            folded = backbone.spoken(batch)
        with experts.blend({}, live="a"):
            live = backbone.spoken(batch)
        for row, answer in enumerate(ANSWERS):
            inputs, length = layout.told(row, answer)
            logits = theirs(**inputs).logits[0, length - 1 :]
            assert torch.allclose(live[row, : len(logits)], logits, atol=1e-5)
            assert torch.allclose(folded[row, : len(logits)], logits, atol=1e-4)
            assert not torch.allclose(layout.logits(row, answer)[0], logits, atol=1e-2)


def test_gradients_of_an_expert_apart_are_those_of_one_sample_each(layout: Layout) -> None:
    backbone = language_models.load(f"local-dir:{layout.folder}")
    experts, batch = drawn(backbone, "a"), layout.batch()
    with experts.apart("a", 3) as own:
        losses = backbone.losses(backbone.spoken(batch), batch)
        grads = torch.autograd.grad(losses.sum(), own)
    with experts.blend({}, live="a"):
        for row in range(3):
            parameters = experts.parameters("a")
            alone = torch.autograd.grad(backbone.objective(layout.batch(rows=[row])), parameters)
            for together, single in zip(grads, alone, strict=True):
                assert torch.allclose(together[row], single, rtol=1e-3, atol=1e-4)
