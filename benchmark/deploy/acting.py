"""Which LoRA acts when a task of a finished run is answered with its identity given: one expert, or a sum of several.

A sum of several (stacked LoRA, MSLoRA-CR) is again one LoRA, of all their ranks together:
sum_i w_i s B_i A_i = [w_1 s B_1 ... w_n s B_n] [A_1; ...; A_n].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmark import kinds
from benchmark.deploy.trained import Trained
from benchmark.errors import UserError
from benchmark.stream import Task
from methods.base import Batch, IncrementalMethod
from methods.parts.chat import PROBE
from methods.parts.experts import Blend, Experts
from methods.parts.peft_layers import is_factor

Factors = dict[str, tuple[Tensor, Tensor]]  # by path of the adapted layer: A (R, D_in) and B (D_out, R)
CLOSE = 1e-4  # features and logits of a token; logits of classes are a hundred times as large


def factors(trained: Trained, task: Task) -> tuple[Factors, Experts]:
    """The update of every adapted layer below the tower, as the two factors whose product is the whole of it.

    Raises:
        UserError: none acts, or the answer is not that of a tower with these folded in (prompts, gates, other heads,
            merged updates, tuned parts of the backbone).
    """
    method, name = trained.method, trained.record.method
    experts: Any = getattr(method, "experts", None)
    if not isinstance(experts, Experts):
        raise UserError(f"{name} answers without LoRA experts: there is no adapter to export")
    blend = _acting(trained, experts, task)
    own = {id(layer): place for place, layer in enumerate(experts.layers)}
    found = {}
    for path, module in experts.tower.named_modules():
        if id(module) in own:
            place = own[id(module)]
            As, Bs = [], []
            for expert, weight in blend.items():
                A, B = (side[place].detach() for side in experts.factors(expert))
                As.append(A)
                Bs.append(B * experts.scale * (weight[place] if isinstance(weight, tuple) else weight))
            found[path] = torch.cat(As), torch.cat(Bs, dim=1)
    return found, experts


def _acting(trained: Trained, experts: Experts, task: Task) -> Blend:
    """The experts that are folded into the weights while the task is answered, with their weights."""
    method, name = trained.method, trained.record.method
    batch, seen = _probe(method, task), []
    watched = method.language.decoder if method.backbone.speaks else method.backbone.image
    watch = watched.register_forward_pre_hook(
        lambda *_: seen.append((dict(experts.folded), experts.live, bool(experts.dense)))
    )
    with torch.no_grad():
        told = _answers(method, task, batch)
        watch.remove()
        blend, live, merged = seen[-1] if seen else ({}, None, False)
        if merged:
            raise UserError(f"{name} answers {task.name} with merged updates that are no LoRA: no adapter is the same")
        if not blend and live is None:
            raise UserError(f"{name} answers {task.name} without a LoRA: there is no adapter to export")
        blend = blend | ({live: 1.0} if live is not None else {})
        texts = [] if method.backbone.speaks or not task.labels else [method.backbone.class_features(task.labels)]
        with experts.blend(blend):
            plain = _plain(method, task, batch, texts)
    tuned = [key for key in method.state_dict() if key.startswith("backbone.") and not is_factor(key)]
    if tuned or not all(mine.shape == theirs.shape and torch.allclose(mine, theirs, atol=close)
                        for (mine, close), theirs in zip(told, plain, strict=True)):  # fmt: skip
        raise UserError(f"{name} answers with more than LoRA in the towers: an adapter alone would answer otherwise")
    return blend


def _probe(method: IncrementalMethod, task: Task) -> Batch:
    """Images of noise; of a vision-language model with a question and the beginning of an answer."""
    size = method.backbone.image_size
    pixels = torch.randint(256, (4, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    if not method.backbone.speaks:
        return {"image": pixels}
    language = method.language
    asked, target = language.prompts([task.instruction or PROBE]), language.targets([PROBE])
    batch = {"image": language.seen(pixels), "prompt": asked.repeat(4, 1), "target": target.repeat(4, 1)}
    return batch | {"target_mask": batch["target"] >= 0}


def _answers(method: IncrementalMethod, task: Task, batch: Batch) -> list[tuple[Tensor, float]]:
    """What the method says of the probe, each with how close a tower with its LoRA has to come."""
    shown = {name: values for name, values in batch.items() if not name.startswith("target")}
    scores = [(method.scores(shown, task.labels, task).float(), 100 * CLOSE)] if task.labels else []
    if not method.backbone.speaks:
        return [*scores, (method.represent(shown, task), CLOSE)]
    language = method.language
    spoken = [(method.answered(language.spoken, batch, task).float(), CLOSE)]
    if kinds.of(task.kind).speaks:
        spoken += [(_codes([str(answer) for answer in method.answer(shown, task)]), 0.0)]
    return [*scores, *spoken]


def _plain(method: IncrementalMethod, task: Task, batch: Batch, texts: list[Tensor]) -> list[Tensor]:
    """The same of the backbone as it stands, in the order of :func:`_answers`; ``texts``: features of the classes."""
    if not method.backbone.speaks:
        features_BE = method.backbone.image(method.views(batch["image"], False))
        return [*(method.backbone.logits(features_BE, text_CE).float() for text_CE in texts), features_BE]
    language = method.language
    scores = [language.likelihood(batch, [label.name for label in task.labels])] if task.labels else []
    spoken = [language.spoken(batch).float()]
    if kinds.of(task.kind).speaks:
        spoken += [_codes([str(answer) for answer in language.texts(language.written(batch, task.max_new_tokens))])]
    return [*scores, *spoken]


def _codes(texts: list[str]) -> Tensor:
    """The characters of some texts, as numbers that can be compared."""
    return torch.tensor([float(ord(character)) for character in "\0".join(texts)])
