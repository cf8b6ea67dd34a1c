"""The frozen vision-language model under every method, for streams that are answered in words.

A model of transformers' image-text-to-text classes: a vision tower whose features of an image stand among the tokens of
a prompt, and a decoder that writes on. LoRA adapts the decoder's linear layers, by their full names: the vision tower
has layers of the same names. Everything else is frozen, so that an image passes the tower once.

Legend as in ``methods.base``; P image tokens, L tokens of a prompt, M of an answer, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.stream import SHORTEST
from methods.parts.chat import NONE, Chat
from methods.parts.tokens import UNLEARNED, answer_labels, sample_losses, token_loss

__all__ = ["LanguageBackbone", "Written", "answer_labels", "token_loss"]

AT_ONCE = 64  # images that pass the tower together
MOST_LOGITS = 2**26  # that candidates of a batch are given at a time
MOST_CACHE = 2**33  # bytes of keys and values that are there together while answers are written or weighed


class Written(str):
    """An answer, of so many ``tokens``; ``stopped``: its writer ended it, and not the limit."""

    tokens: int
    stopped: bool

    def __new__(cls, text: str, tokens: int, stopped: bool) -> Written:
        made = super().__new__(cls, text)
        made.tokens, made.stopped = tokens, stopped
        return made


class LanguageBackbone(nn.Module):
    """A frozen vision-language model behind the names that a CLIP has too.

    Attributes:
        adapted: the model of transformers, whose decoder's linear layers LoRA adapts.
        image_size: pixels of a side.
        depth, width: blocks of the decoder and the width of their inputs.
    """

    speaks = True
    framing = SHORTEST  # of the image that its own processor is shown
    bound: Tensor  # no log-likelihood is further from 0

    def __init__(self, model: Any, processor: Any, image_size: int, name: str) -> None:
        super().__init__()
        self.adapted, self.name, self.image_size = model, name, image_size
        config, generation = model.config, model.generation_config
        ends = generation.eos_token_id if generation is not None else None
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.chat = Chat(processor, image_size, config.image_token_id, ends)
        self.over = "samples"
        self.register_buffer("bound", torch.tensor(500.0), persistent=False)
        self.requires_grad_(False)
        self.eval()
        self.grid = self._grid()

    # ---- its parts ------------------------------------------------------------------------------------------------

    @property
    def decoder(self) -> Any:
        return self.adapted.get_decoder()

    @property
    def depth(self) -> int:
        return len(self.decoder.layers)

    @property
    def width(self) -> int:
        return self.decoder.layers[0].self_attn.k_proj.in_features

    @property
    def embedding(self) -> int:
        """E, of :meth:`glance`."""
        return 2 * self.width

    def with_text(self) -> LanguageBackbone:
        """Text is an input at all times."""
        return self

    def _grid(self) -> tuple[int, int] | None:
        """Rows and columns of an image's tokens, where the model's positions have three axes; else None."""
        rope = getattr(self.decoder.config, "rope_parameters", None) or {}
        if "mrope_section" not in rope:
            return None
        seen = self.chat.pixels(torch.zeros(1, 3, self.image_size, self.image_size, dtype=torch.uint8))
        merged = self.adapted.config.vision_config.spatial_merge_size
        _, rows, columns = seen["image_grid_thw"][0].tolist()
        return rows // merged, columns // merged

    # ---- reading --------------------------------------------------------------------------------------------------

    def prompts(self, instructions: Sequence[str]) -> Tensor:
        """(M, L) ids, -1 where there is no token."""
        return self.chat.prompts(instructions)

    def targets(self, answers: Sequence[str]) -> Tensor:
        """(M, K) ids of answers with their end, -1 where there is no token."""
        return self.chat.targets(answers)

    @torch.no_grad()
    def seen(self, images: Tensor) -> Tensor:
        """(N, P, D) what the frozen tower and the projector make of uint8 images (N, 3, S, S)."""
        device, features = self.bound.device, []
        for part in images.split(AT_ONCE):
            pixels = {name: values.to(device) for name, values in self.chat.pixels(part).items()}
            features.append(torch.stack(list(self.adapted.get_image_features(**pixels).pooler_output)).float())
        return torch.cat(features)

    def _features(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, P, D) of the batch's images; of pixels that were not kept as features now."""
        image = batch["image"]
        return image if image.is_floating_point() else self.seen(image)

    @torch.no_grad()
    def glance(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, E) what a router sees, whatever is adapted: the mean of the image's features beside that of the words."""
        text_BD = self._mean_word(batch["prompt"])
        image_BD = self._features(batch).float().mean(dim=1)
        return torch.cat([F.normalize(image_BD, dim=-1), F.normalize(text_BD, dim=-1)], dim=1)

    @torch.no_grad()
    def described(self, texts: Sequence[str]) -> Tensor:
        """(n, D) unit features of texts, whatever is adapted: the direction of the mean of their words."""
        return F.normalize(self._mean_word(self.chat.words(texts).to(self.bound.device)), dim=-1)

    def _mean_word(self, ids_BL: Tensor) -> Tensor:
        """(B, D) the mean of the embeddings of tokens, -1 and an image's places left out."""
        words_BL1 = ((ids_BL != NONE) & (ids_BL != self.chat.image_token))[..., None].float()
        embedded_BLD = self.adapted.get_input_embeddings()(ids_BL.clamp(min=0)).float()
        return (embedded_BLD * words_BL1).sum(1) / words_BL1.sum(1).clamp(min=1)

    # ---- answering ------------------------------------------------------------------------------------------------

    def spoken(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, M + 1, V) logits of the target's tokens, each given those before it; the last row is of what follows."""
        hidden = self._decoded(self._told(batch))
        return self._logits(hidden[:, batch["prompt"].shape[1] - 1 :])

    def graded(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Scalar loss of :meth:`spoken`: the mean over samples of the mean over an answer's tokens."""
        return token_loss(logits, self._labels(batch), self.over)

    def losses(self, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """(B,) the loss of each sample."""
        return sample_losses(logits, self._labels(batch))

    def objective(self, batch: dict[str, Tensor]) -> Tensor:
        """Scalar cross-entropy of the answers' tokens, and of nothing else."""
        return self.graded(self.spoken(batch), batch)

    def soft(self, logits: Tensor, batch: dict[str, Tensor], labels: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """(B M, V) what two models are compared in, and (B M,) what each row counts: samples alike, then tokens."""
        mask_BM = batch["target_mask"].float()
        weight_BM = mask_BM / mask_BM.sum(dim=1, keepdim=True).clamp(min=1) / len(mask_BM)
        return logits[:, :-1].float().flatten(0, 1), weight_BM.flatten()

    @torch.no_grad()
    def written(self, batch: dict[str, Tensor], limit: int) -> Tensor:
        """(B, limit) ids of greedy answers, their end included; -1 behind it."""
        rows = self._at_once(batch["prompt"].shape[1] + limit)
        return torch.cat([self._written(part, limit) for part in _parts(batch, rows)])

    def _written(self, batch: dict[str, Tensor], limit: int) -> Tensor:
        prompt = self._asked(batch)
        stops, embed = torch.tensor(self.chat.stops, device=prompt.mask.device), self.adapted.get_input_embeddings()
        cache = self._cache()
        hidden = self._decoded(prompt, cache)[:, -1:]
        done_B1 = torch.zeros(len(prompt.mask), 1, dtype=torch.bool, device=prompt.mask.device)
        ids_BM: list[Tensor] = []
        while True:
            chosen_B1 = self._logits(hidden).argmax(dim=-1)
            ids_BM.append(chosen_B1.masked_fill(done_B1, NONE))
            done_B1 = done_B1 | torch.isin(chosen_B1, stops)
            if len(ids_BM) == limit or bool(done_B1.all()):
                break
            prompt = prompt.next(embed(chosen_B1))
            hidden = self._decoded(prompt, cache)
        found = torch.cat(ids_BM, dim=1)
        return F.pad(found, (0, limit - found.shape[1]), value=NONE)

    def texts(self, ids_BM: Tensor) -> list[Written]:
        """What :meth:`written` says."""
        answers = []
        for row in ids_BM.tolist():
            ids = [i for i in row if i != NONE]
            stopped = bool(ids) and ids[-1] in self.chat.stops
            ids = ids[:-1] if stopped else ids
            answers.append(Written(self.chat.text(ids), len(ids), stopped))
        return answers

    @torch.no_grad()
    def likelihood(self, batch: dict[str, Tensor], candidates: Sequence[str], over: str = "mean") -> Tensor:
        """(B, C) log-likelihood of every candidate as the answer, its end included: ``mean`` of its tokens, or ``sum``.

        The prompt is read once for all candidates. A sum favours short ones.
        """
        target_CK = self.chat.targets(candidates).to(self.bound.device)
        rows = max(1, MOST_LOGITS // (target_CK.numel() * self.adapted.config.get_text_config().vocab_size))
        rows = min(rows, self._at_once((batch["prompt"].shape[1] + target_CK.shape[1]) * len(target_CK)))
        each_BCK = torch.cat([self._likelihood(part, target_CK) for part in _parts(batch, rows)])
        return each_BCK.sum(-1) / (1 if over == "sum" else (target_CK != NONE).sum(-1))

    def _likelihood(self, batch: dict[str, Tensor], target_CK: Tensor) -> Tensor:
        """(B, C, K) log p of every token; 0 where there is none."""
        candidates, mask_CK = len(target_CK), target_CK != NONE
        prompt, cache = self._asked(batch), self._cache()
        first_B1D = self._decoded(prompt, cache)[:, -1:]
        rows = len(first_B1D)
        hidden = first_B1D.repeat_interleave(candidates, dim=0)
        if target_CK.shape[1] > 1:
            cache.batch_repeat_interleave(candidates)
            told = target_CK[:, :-1].clamp(min=0).repeat(rows, 1)
            more = prompt.repeated(candidates).next(self.adapted.get_input_embeddings()(told))
            hidden = torch.cat([hidden, self._decoded(more, cache)], dim=1)
        logp = self._logits(hidden).float().log_softmax(dim=-1)
        ids = target_CK.clamp(min=0).repeat(rows, 1)[..., None]
        each = logp.gather(-1, ids)[..., 0].masked_fill(~mask_CK.repeat(rows, 1), 0.0)
        return each.view(rows, candidates, -1)

    # ---- the decoder ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def watch(self, batch: dict[str, Tensor], observe: Callable[[int, Tensor], None]) -> None:
        """``observe(layer, x_ND)`` the inputs of every block's attention, of all tokens of prompts and targets."""
        prompt = self._told(batch)

        def hook(layer: int) -> Callable[..., None]:
            return lambda module, args, kwargs: observe(
                layer, (args[0] if args else kwargs["hidden_states"])[prompt.mask]
            )

        hooks = [
            block.self_attn.register_forward_pre_hook(hook(layer), with_kwargs=True)
            for layer, block in enumerate(self.decoder.layers)
        ]
        try:
            self._decoded(prompt)
        finally:
            for each in hooks:
                each.remove()

    def tokens(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, N) bool: which places of what the decoder reads, prompts and targets, hold a token."""
        return self._told(batch).mask

    def _told(self, batch: dict[str, Tensor]) -> Tokens:
        """The prompts, and behind them the targets where the batch has any."""
        prompt = self._asked(batch)
        if "target" not in batch:
            return prompt
        embedded = self.adapted.get_input_embeddings()(batch["target"].clamp(min=0))
        return prompt.followed_by(embedded, batch["target_mask"])

    def _asked(self, batch: dict[str, Tensor]) -> Tokens:
        """The prompts with their images, the padding moved to the left."""
        prompt_BL, image_BPD = batch["prompt"], self._features(batch)
        length = prompt_BL.shape[1]
        missing_B1 = (prompt_BL == NONE).sum(dim=1, keepdim=True)
        place_BL = torch.arange(length, device=prompt_BL.device) - missing_B1
        ids_BL = prompt_BL.gather(1, place_BL.clamp(min=0)).masked_fill(place_BL < 0, self.chat.pad)
        mask_BL = place_BL >= 0
        shows_BL = (ids_BL == self.chat.image_token) & mask_BL
        embedded_BLD = self.adapted.get_input_embeddings()(ids_BL)
        which_BL1 = (shows_BL.cumsum(dim=1) - 1).clamp(min=0)[..., None]
        shown_BLD = image_BPD.to(embedded_BLD.dtype).gather(1, which_BL1.expand(-1, -1, embedded_BLD.shape[-1]))
        embedded_BLD = torch.where(shows_BL[..., None], shown_BLD, embedded_BLD)
        return Tokens(embedded_BLD, mask_BL, self._positions(shows_BL, mask_BL))

    def _positions(self, shows_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """(B, L), or (3, B, L) where image tokens have a time, a row and a column; counted from the first token."""
        count_BL = mask_BL.cumsum(dim=1) - 1
        if self.grid is None:
            return count_BL.clamp(min=0)
        rows, columns = self.grid
        first_B1 = count_BL.masked_fill(~shows_BL, count_BL.shape[1]).amin(dim=1, keepdim=True)
        inside_BL = count_BL - first_B1
        after_BL = count_BL - rows * columns + max(rows, columns)
        told_BL = torch.where(inside_BL < 0, count_BL, after_BL)
        axes = (first_B1.expand_as(count_BL), first_B1 + inside_BL // columns, first_B1 + inside_BL % columns)
        return torch.stack([torch.where(shows_BL, axis, told_BL) for axis in axes]).clamp(min=0)

    def _at_once(self, tokens: int) -> int:
        """How many samples, of so many tokens each, are answered together."""
        keys = self.decoder.layers[0].self_attn.k_proj
        return max(1, MOST_CACHE // (2 * self.depth * keys.out_features * self.adapted.dtype.itemsize * tokens))

    def _cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.decoder.config)

    def _decoded(self, tokens: Tokens, cache: Any = None) -> Tensor:
        """(B, new tokens, D) after the last block."""
        return self.decoder(
            inputs_embeds=tokens.embedded, attention_mask=tokens.attended, position_ids=tokens.positions,
            past_key_values=cache, use_cache=cache is not None,
        ).last_hidden_state  # fmt: skip

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.adapted.get_output_embeddings()(hidden)

    def _labels(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, M + 1) the ids that :meth:`spoken` is to say next, where they are learned."""
        labels_BM = batch["target"].masked_fill(~batch["target_mask"], UNLEARNED)
        return F.pad(labels_BM, (1, 0), value=UNLEARNED)


class Tokens:
    """What the decoder reads next: ``embedded`` (B, N, D), their ``positions``, and which of all tokens so far are
    some: ``mask`` (B, N and those before)."""

    def __init__(self, embedded: Tensor, mask: Tensor, positions: Tensor) -> None:
        self.embedded, self.mask, self.positions = embedded, mask, positions

    @property
    def length(self) -> int:
        return self.embedded.shape[1]

    @property
    def attended(self) -> Tensor:
        """(B, 1, N, all so far) bool: what each token sees, those before it and itself.

        Made here, because transformers asks whether a mask of rows has any padding, and waits for the device. A place
        without a token sees itself, lest its mean be over nothing.
        """
        every, device = self.mask.shape[1], self.mask.device
        place_N1 = torch.arange(every - self.length, every, device=device)[:, None]
        other = torch.arange(every, device=device)
        return ((other <= place_N1) & self.mask[:, None] | (other == place_N1))[:, None]

    def followed_by(self, embedded: Tensor, mask: Tensor) -> Tokens:
        """These and more behind them, to be read at once."""
        more = self.next(embedded, mask)
        return Tokens(
            torch.cat([self.embedded, embedded], dim=1), more.mask, torch.cat([self.positions, more.positions], dim=-1)
        )

    def next(self, embedded: Tensor, mask: Tensor | None = None) -> Tokens:
        """More alone, where these have been read."""
        count = embedded.shape[1]
        last = self.positions[..., -1:]  # of text: its axes agree
        steps = torch.arange(1, count + 1, device=embedded.device)
        mask = mask if mask is not None else self.mask.new_ones(len(self.mask), count)
        return Tokens(embedded, torch.cat([self.mask, mask], dim=1), last + steps)

    def repeated(self, times: int) -> Tokens:
        """Every row so many times."""
        axis = self.positions.ndim - 2
        return Tokens(
            self.embedded, self.mask.repeat_interleave(times, dim=0), self.positions.repeat_interleave(times, dim=axis)
        )


def _parts(batch: dict[str, Tensor], rows: int) -> list[dict[str, Tensor]]:
    """A batch as several of at most so many samples."""
    starts = range(0, len(batch["prompt"]), rows)
    return [{name: values[start : start + rows] for name, values in batch.items()} for start in starts]
