"""methods/README.md on large models: its tables are the formulas', the formulas the model's, its commands are right."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmark.config import arguments, families
from benchmark.config.registry import card
from benchmark.data import catalog
from methods.parts import lean_layers
from methods.parts.experts import Experts
from tests import seven_billion

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "methods" / "README.md").read_text(encoding="utf-8").split("## Real vision-language models")[1]


def test_the_tables_are_what_the_formulas_give() -> None:
    for table in seven_billion.tables():
        assert table in README


def test_the_sizes_are_those_of_transformers() -> None:
    """Every parameter of a LLaVA of other sizes too, and of PEFT's LoRA on its decoder."""
    from peft import LoraConfig, get_peft_model
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    small = seven_billion.Sizes(3, 48, 112, 100, 1, 5, 32, 80, 8, 17)
    for sizes in (seven_billion.LLAVA, small):
        side = sizes.patch * round((sizes.positions - 1) ** 0.5)
        vision = CLIPVisionConfig(
            hidden_size=sizes.vision_width, intermediate_size=sizes.vision_inner, num_attention_heads=16,
            num_hidden_layers=sizes.vision_layers, image_size=side, patch_size=sizes.patch,
        )  # fmt: skip
        text = LlamaConfig(
            hidden_size=sizes.width, intermediate_size=sizes.inner, num_hidden_layers=sizes.layers,
            num_attention_heads=16, vocab_size=sizes.words,
        )  # fmt: skip
        with torch.device("meta"):
            model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
        assert sum(parameter.numel() for parameter in model.parameters()) == sizes.all
    pattern = r".*language_model\.layers\..*_proj"
    peft = get_peft_model(model, LoraConfig(r=4, target_modules=pattern))
    assert peft.get_nb_trainable_parameters()[0] == seven_billion.lora(4, small)


@pytest.mark.parametrize(("held", "cast"), [(torch.bfloat16, False), (torch.float16, True)])
def test_the_activations_are_what_autograd_keeps(
    held: torch.dtype, cast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Of a small Llama with LoRA as PEFT computes it on a GPU; where weights are cast those are kept as well."""
    from transformers import LlamaConfig, LlamaModel

    monkeypatch.setattr(lean_layers, "DEVICES", ())
    sizes, tokens = seven_billion.Sizes(layers=3, width=64, inner=172, words=8), (2, 50)
    model = nn.Module()
    model.model = LlamaModel(LlamaConfig(
        hidden_size=sizes.width, intermediate_size=sizes.inner, num_hidden_layers=sizes.layers, num_attention_heads=4,
        vocab_size=sizes.words,
    ))  # fmt: skip
    model.get_decoder = lambda: model.model  # type: ignore[assignment]
    model.to(held).requires_grad_(False)
    experts = Experts(model, 1, 1)
    experts.add("one")
    experts.activate("one")
    frozen = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}  # by storage; they stay alive, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in frozen:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model.model(inputs_embeds=torch.randn(*tokens, sizes.width, dtype=held))
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    told = 2 * seven_billion.kept(cast, sizes) * sizes.layers * tokens[0] * tokens[1] + cast * 2 * sizes.linear
    assert total == pytest.approx(told, rel=0.1)


def test_its_commands_are_understood() -> None:
    """As make hands them on: methods, streams, backbones and presets that there are."""
    lines = re.findall(r"^ {4}(make bench .*)$", README, re.MULTILINE)
    assert len(lines) >= 2
    for line in lines:
        told = subprocess.run(
            ["make", "-n", *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        (command,) = (each for each in told.splitlines() if " -m benchmark run " in each)
        config, method, _ = arguments.parse("run", shlex.split(command.partition(" run ")[2]), with_class=False)
        assert families.speaks(config.backbone) and catalog.load(config.stream, None).stream
        assert method == card(config.method) and (config.epochs, config.method_args["rank"]) == (3, 64)
