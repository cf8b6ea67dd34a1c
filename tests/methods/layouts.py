"""Vision-language models of three layouts, tiny and drawn at random, with processors of their own, as folders.

``write_tiny_llava`` makes what is shipped as ``methods/weights/tiny-llava``: run this file to make it anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from benchmark.data.phantom import vocabulary

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<answer>")
WORD = r"[^\W\d_]\w*(?:[-&][^\W\d_]\w*)*|\d+|[^\w\s]"
TEMPLATE = (
    "{% for turn in messages %}{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif turn['role'] == 'user' %} {{ part['text'] }}"
    "{% else %} <answer> {{ part['text'] }} </s>{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} <answer>{% endif %}"
)


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for every word and mark, in lower case; whatever else is ``<unk>``."""
    ids = {word: i for i, word in enumerate([*SPECIAL, *words])}
    made = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "removed", invert=True)
    made.add_special_tokens([AddedToken(mark, normalized=False) for mark in SPECIAL])
    made.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def tiny_llava(words: Sequence[str]) -> tuple[LlavaConfig, LlavaProcessor]:
    """LLaVA's layout: 64 px in 16 patches, two blocks of width 32 that see and two that write."""
    tokenizer = word_tokenizer(words)
    side = {"height": 64, "width": 64}
    images = CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=16, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE, image_token="<image>",
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16,
        projection_dim=32,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=2, eos_token_id=3,
        tie_word_embeddings=False, initializer_range=0.2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=SPECIAL.index("<image>"), vision_feature_layer=-1,
        vision_feature_select_strategy="default", image_seq_length=16, tie_word_embeddings=False,
    )  # fmt: skip
    config.architectures = ["LlavaForConditionalGeneration"]
    return config, processor


def write_tiny_llava(folder: Path) -> None:
    """The files of ``tiny-llava``: a layout and its processor, without weights."""
    config, processor = tiny_llava(vocabulary.words())
    processor.save_pretrained(folder)
    config.save_pretrained(folder)
    for file in folder.glob("*.json"):  # lines that a version control can show
        told = json.loads(file.read_text())
        told.pop("transformers_version", None)
        file.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def whole_llava(folder: Path, words: Sequence[str]) -> Any:
    """The same with drawn weights: what ``local-dir:`` takes."""
    config, processor = tiny_llava(words)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


if __name__ == "__main__":
    write_tiny_llava(Path(__file__).resolve().parents[2] / "methods" / "weights" / "tiny-llava")
