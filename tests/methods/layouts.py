"""Vision-language models of three layouts, tiny and drawn at random, with processors of their own, as folders.

``write_tiny_llava`` makes what is shipped as ``methods/weights/tiny-llava``: run this file to make it anew. The others
have the tokenizers, chat templates and marks of the models they are named after, a few hundred kB each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from benchmark.data.phantom import vocabulary
from benchmark.pretrain.llava_layout import SPECIAL, TEMPLATE, word_tokenizer

VICUNA = (  # of llava-hf/llava-1.5
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
UTTERANCES = (  # of HuggingFaceTB/SmolVLM
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
CHATML = (  # of Qwen/Qwen2-VL
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _corpus() -> list[str]:
    return [f"{word} a {word}" for word in vocabulary.words()] * 2


def piece_tokenizer() -> PreTrainedTokenizerFast:
    """Llama's way: pieces of words, a mark for every space and one before the text, ``<s>`` in front."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    special = [AddedToken(mark, normalized=False) for mark in SPECIAL[:-1]]
    alphabet = [*map(chr, range(33, 127)), "▁", "\n"]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer, trained.pre_tokenizer = made.normalizer, pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    trained.train_from_iterator(_corpus(), trainer)
    made.model = trained.model
    made.add_special_tokens(special)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"}, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def byte_tokenizer(marks: Sequence[str], **named: Any) -> PreTrainedTokenizerFast:
    """GPT-2's way: pieces of words in bytes, a space belonging to the word behind it; ``marks`` are tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(_corpus(), trainer)
    made.add_special_tokens([AddedToken(mark, normalized=False) for mark in marks])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, model_input_names=["input_ids", "attention_mask"], **named
    )  # fmt: skip


def tiny_llava(tokenizer: PreTrainedTokenizerFast, template: str = TEMPLATE) -> tuple[LlavaConfig, LlavaProcessor]:
    """LLaVA's layout: 64 px in 16 patches, two blocks of width 32 that see and two that write."""
    side = {"height": 64, "width": 64}
    images = CLIPImageProcessor(
        size=side, crop_size=side, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=16, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template, image_token="<image>",
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


def tiny_idefics3() -> tuple[Idefics3Config, Idefics3Processor]:
    """SmolVLM's and Idefics3's layout: four tokens of an image between marks, one head of keys for two that ask, the
    words embedded as they are told."""
    marks = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<global-img>", "<image>", "<end_of_utterance>",
             "<fake_token_around_image>", "<row_1_col_1>", "<row_1_col_2>")  # fmt: skip
    tokenizer = byte_tokenizer(marks, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<|im_end|>")
    images = Idefics3ImageProcessor(size={"longest_edge": 128}, max_image_size={"longest_edge": 64})
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=UTTERANCES)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 64, "patch_size": 16}  # fmt: skip
    end, start = (tokenizer.convert_tokens_to_ids(mark) for mark in ("<end_of_utterance>", "<|im_start|>"))
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=2048, pad_token_id=tokenizer.pad_token_id, bos_token_id=start,
        eos_token_id=end, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    config = Idefics3Config(
        vision_config=vision, text_config=text, scale_factor=2, tie_word_embeddings=True,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return config, processor


def tiny_qwen2_vl() -> tuple[Qwen2VLConfig, Qwen2VLProcessor]:
    """Qwen2-VL's layout: images of any size (here 48 px at most, nine tokens), positions of three axes."""
    marks = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
             "<|video_pad|>")  # fmt: skip
    tokenizer = byte_tokenizer(marks, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    size = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    parts = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2, "size": size}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**parts), tokenizer, Qwen2VLVideoProcessor(**parts), chat_template=CHATML
    )
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in marks}
    vision = {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2}
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048, "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
    }  # fmt: skip
    config = Qwen2VLConfig(
        vision_config=vision, text_config=text, image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"], tie_word_embeddings=False,
    )  # fmt: skip
    return config, processor


def write_tiny_llava(folder: Path) -> None:
    """The files of ``tiny-llava``: a layout and its processor, without weights."""
    config, processor = tiny_llava(word_tokenizer(vocabulary.words()))
    processor.save_pretrained(folder)
    config.save_pretrained(folder)
    for file in folder.glob("*.json"):  # lines that a version control can show
        told = json.loads(file.read_text())
        told.pop("transformers_version", None)
        file.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def _whole(cls: Any, made: tuple[Any, Any], folder: Path) -> Any:
    """A model of drawn weights; its folder is what ``local-dir:`` takes."""
    config, processor = made
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = cls(config).eval()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model


def llava(folder: Path) -> Any:
    """With a token a word."""
    return _whole(LlavaForConditionalGeneration, tiny_llava(word_tokenizer(vocabulary.words())), folder)


def llava_of_pieces(folder: Path) -> Any:
    """With pieces of words and the template of LLaVA-1.5."""
    return _whole(LlavaForConditionalGeneration, tiny_llava(piece_tokenizer(), VICUNA), folder)


def idefics3(folder: Path) -> Any:
    return _whole(Idefics3ForConditionalGeneration, tiny_idefics3(), folder)


def qwen2_vl(folder: Path) -> Any:
    return _whole(Qwen2VLForConditionalGeneration, tiny_qwen2_vl(), folder)


LAYOUTS: dict[str, Callable[[Path], Any]] = {
    "llava": llava, "llava_of_pieces": llava_of_pieces, "idefics3": idefics3, "qwen2_vl": qwen2_vl,
}  # fmt: skip


if __name__ == "__main__":
    write_tiny_llava(Path(__file__).resolve().parents[2] / "methods" / "weights" / "tiny-llava")
