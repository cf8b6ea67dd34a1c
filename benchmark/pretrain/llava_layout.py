"""The layout of ``phantom-llava``: phantom-clip's image tower in transformers' names, a projector, a small Llama, and a
tokenizer that knows the words of the made streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transformers import LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>", "<answer>")
PAD, _, START, END, IMAGE, ANSWER = range(len(SPECIAL))
WORD = r"[^\W\d_]\w*(?:[-&][^\W\d_]\w*)*|\d+|[^\w\s]"  # as vocabulary.split
TEMPLATE = (
    "{% for turn in messages %}{% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% elif turn['role'] == 'user' %} {{ part['text'] }}"
    "{% else %} <answer> {{ part['text'] }} </s>{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %} <answer>{% endif %}"
)
WIDTH, BLOCKS, HEADS, INNER = 128, 4, 4, 344  # of the Llama
SEEN = [-2, -1]  # layers of the tower that the projector is shown: patches of one, the class token of the other


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for every word and mark, in lower case; whatever else is ``<unk>``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

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


def layout(words: Sequence[str], clip: Mapping[str, Any]) -> tuple[LlavaConfig, LlavaProcessor]:
    """Configuration and processor.

    Args:
        words: that have a token each.
        clip: ``open_clip_config.json`` of the tower.
    """
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaProcessor

    tower, shown = clip["model_cfg"]["vision_cfg"], clip["preprocess_cfg"]
    pixels, patch = tower["image_size"], tower["patch_size"]
    side, tokenizer = {"height": pixels, "width": pixels}, word_tokenizer(words)
    images = CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=shown["mean"], image_std=shown["std"]
    )
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=patch, vision_feature_select_strategy="full",
        num_additional_image_tokens=1, chat_template=TEMPLATE, image_token="<image>",
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=tower["width"], intermediate_size=4 * tower["width"], num_hidden_layers=tower["layers"],
        num_attention_heads=tower["width"] // tower["head_width"], image_size=pixels, patch_size=patch,
        projection_dim=clip["model_cfg"]["embed_dim"], hidden_act="gelu",
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=BLOCKS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=512, pad_token_id=PAD,
        bos_token_id=START, eos_token_id=END, tie_word_embeddings=True,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE, vision_feature_layer=SEEN,
        vision_feature_select_strategy="full", image_seq_length=(pixels // patch) ** 2 + 1, tie_word_embeddings=True,
    )  # fmt: skip
    config.architectures = ["LlavaForConditionalGeneration"]
    return config, processor


def tower_weights(clip: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image tower of open_clip's weights under the names of transformers' CLIPVisionModel."""
    named = {
        "embeddings.class_embedding": clip["visual.class_embedding"],
        "embeddings.patch_embedding.weight": clip["visual.conv1.weight"],
        "embeddings.position_embedding.weight": clip["visual.positional_embedding"],
    }
    for ours, theirs in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post")):
        named |= {f"{ours}.{part}": clip[f"visual.{theirs}.{part}"] for part in ("weight", "bias")}
    blocks = 1 + max(int(name.split(".")[3]) for name in clip if name.startswith("visual.transformer.resblocks."))
    for i in range(blocks):
        block, to = f"visual.transformer.resblocks.{i}", f"encoder.layers.{i}"
        for part in ("weight", "bias"):
            for side, values in zip("qkv", clip[f"{block}.attn.in_proj_{part}"].chunk(3), strict=True):
                named[f"{to}.self_attn.{side}_proj.{part}"] = values
            for ours, theirs in (
                ("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
            ):  # fmt: skip
                named[f"{to}.{ours}.{part}"] = clip[f"{block}.{theirs}.{part}"]
    return named
