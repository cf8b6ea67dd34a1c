"""Backbones: the unfused towers against the fused originals, each hook of the seam, class texts, loading."""

from __future__ import annotations

import json
import math
import shutil
import socket
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub import constants
from open_clip.hf_model import HFTextEncoder
from safetensors.torch import save_file
from torch import Tensor, nn

from methods.parts import backbones, hub
from methods.parts.backbones import PLACES, Backbone, TextTower, Tower


def pixels(count: int = 3, size: int = tiny.SIZE) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def tokens() -> Tensor:
    return tiny.tokenize(
        ["a chest x-ray showing nothing", "short", "one two three four five six seven eight nine ten eleven"]
    )


def agree(one: Tensor, two: Tensor, tolerance: float = 1e-5) -> None:
    assert one.shape == two.shape
    assert (one - two).abs().max() <= tolerance * (1 + two.abs().max())


# ---- parity with the fused models ---------------------------------------------------------------------------------

VISIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layer scale": {"ls_init_value": 0.5},
    "average pool": {"pool_type": "avg"},
    "norm after pool": {"pool_type": "avg", "final_ln_after_pool": True},
    "attentional pool": {"attentional_pool": True, "attn_pooler_heads": 2},
    "no first norm": {"no_ln_pre": True},
    "patch dropout": {"patch_dropout": 0.5},
    "larger patches": {"patch_size": 16},
}
TEXTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no causal mask": {"no_causal_mask": True},
    "last token": {"pool_type": "last", "no_causal_mask": True, "proj_bias": True},
    "end token": {"pool_type": "eos", "eos_id": tiny.VOCABULARY - 1},
    "layer scale": {"ls_init_value": 0.5},
}


def parity(model: nn.Module, size: int = tiny.SIZE) -> Backbone:
    """Unfused equals fused: both towers, and the logits."""
    with torch.no_grad():
        image, text = model.encode_image(pixels(size=size)), model.encode_text(tokens())
        logits, _ = model.get_logits(pixels(size=size), tokens())
        backbone = Backbone(model, tiny.tokenize, "tiny")
        agree(backbone.image(pixels(size=size)), image)
        agree(backbone.text(tokens()), text)
        agree(backbone.logits(image, F.normalize(text, dim=-1)), logits)
    assert image.std(dim=0).mean() > 1e-2 and text.std(dim=0).mean() > 1e-2  # the outputs tell inputs apart
    assert not any(p.requires_grad for p in backbone.parameters()) and not any(m.training for m in backbone.modules())
    return backbone


@pytest.mark.parametrize("quick_gelu", [False, True])
@pytest.mark.parametrize("vision", VISIONS.values(), ids=VISIONS.keys())
def test_open_clip_images_agree(vision: dict[str, Any], quick_gelu: bool) -> None:
    parity(tiny.clip(vision, quick_gelu=quick_gelu))


@pytest.mark.parametrize("make", [tiny.clip, tiny.custom_clip])
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_open_clip_texts_agree(text: dict[str, Any], make: Any) -> None:
    parity(make(text=text))


@pytest.mark.parametrize("double", [False, True])
def test_parity_is_rounding_only(double: bool) -> None:
    model = tiny.clip().to(torch.float64 if double else torch.float32)
    x = pixels().to(model.logit_scale.dtype)
    with torch.no_grad():
        expected = model.encode_image(x)
        agree(Backbone(model, tiny.tokenize, "tiny").image(x), expected, 1e-13 if double else 1e-5)


TIMM: dict[str, dict[str, Any]] = {
    "class token": {"global_pool": "token"},
    "average": {"global_pool": "avg"},
    "map pool without class token (SigLIP)": {"global_pool": "map", "class_token": False},
    "registers": {"reg_tokens": 3, "global_pool": "token"},
    "layer scale, no qkv bias, first norm": {"init_values": 0.5, "qkv_bias": False, "pre_norm": True},
    "positions without prefix": {"no_embed_class": True, "dynamic_img_size": True},
}


def with_timm(trunk: nn.Module, text: dict[str, Any] | None = None) -> nn.Module:
    """A CustomTextCLIP whose vision tower is open_clip's adapter around a timm trunk."""
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": tiny.SIZE}
    model = tiny.custom_clip(vision, text)
    model.visual.trunk = trunk
    model.visual.head.proj = nn.Linear(trunk.num_features, tiny.EMBED, bias=False)
    return tiny.prepared(model)


def timm_vit(**arguments: Any) -> nn.Module:
    arguments = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": tiny.SIZE} | arguments
    return timm.models.vision_transformer.VisionTransformer(num_classes=0, **arguments)


@pytest.mark.parametrize("arguments", TIMM.values(), ids=TIMM.keys())
def test_timm_images_agree(arguments: dict[str, Any]) -> None:
    parity(with_timm(timm_vit(**arguments)))


def test_biomedclips_kind_of_tower_agrees() -> None:
    """vision_cfg as in BiomedCLIP's own config, the tiny model of the same family."""
    vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    backbone = parity(tiny.custom_clip(vision), size=224)
    assert (backbone.image_size, backbone.width, len(backbone.image.blocks)) == (224, 192, 12)


def test_a_bert_text_tower_stays_itself() -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=tiny.VOCABULARY, pad_token_id=0, **small)
    model = with_timm(timm_vit())
    model.text = HFTextEncoder("bert", tiny.EMBED, config, "cls_last_hidden_state_pooler", "mlp", pretrained=False)
    backbone = parity(tiny.prepared(model))
    assert backbone.text is model.text and not isinstance(backbone.text, TextTower)
    labels = [tiny.label(0, "one lung", "two lungs"), tiny.label(1, "a liver")]
    with torch.no_grad():
        expected = F.normalize(F.normalize(model.text(tiny.tokenize(labels[0].prompts)), dim=-1).mean(0), dim=-1)
    agree(backbone.class_features(labels)[0], expected)


UNSUPPORTED = {
    "resnet": lambda: tiny.clip({"layers": [1, 1, 1, 1], "width": 16}),
    "q and k normalised": lambda: tiny.clip({"block_type": "custom", "qk_norm": True}),
    "text blocks": lambda: tiny.clip(text={"scale_fc": True}),
    "text with a class token": lambda: tiny.custom_clip(text={"embed_cls": True}),
    "timm q and k normalised": lambda: with_timm(timm_vit(qk_norm=True)),
    "timm post-norm": lambda: with_timm(timm_vit(block_fn=timm.models.vision_transformer.ResPostBlock)),
    "timm parallel": lambda: with_timm(timm_vit(block_fn=timm.models.vision_transformer.ParallelScalingBlock)),
    "no transformer": lambda: with_timm(timm.create_model("test_efficientnet", num_classes=0)),
}


@pytest.mark.parametrize("make", UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_cannot_be_unfused_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"not supported|no vision transformer"):
        Backbone(make(), tiny.tokenize, "tiny")


# ---- the seam ----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["open_clip image", "timm image", "text"])
def tower_and_input(request: pytest.FixtureRequest) -> tuple[Tower, Tensor]:
    if request.param == "timm image":
        return Backbone(with_timm(timm_vit()), tiny.tokenize, "tiny").image, pixels()
    backbone = tiny.backbone()
    return (backbone.text, tokens()) if request.param == "text" else (backbone.image, pixels())


def width(tower: Tower) -> int:
    return tower.blocks[0].q.in_features


@torch.no_grad()
def test_hooks_that_do_nothing_change_nothing(tower_and_input: tuple[Tower, Tensor]) -> None:
    tower, inputs = tower_and_input
    plain, none = tower(inputs), torch.zeros(1, 0, width(tower))
    assert torch.equal(tower(inputs, edit_tokens=lambda layer, x: x), plain)
    assert torch.equal(tower(inputs, prefix=lambda layer: None), plain)
    assert torch.equal(tower(inputs, beside_mlp=lambda layer, h: None), plain)
    assert torch.equal(tower(inputs, observe=lambda layer, x: None), plain)
    agree(tower(inputs, beside_mlp=lambda layer, h: torch.zeros_like(h)), plain, 1e-6)
    agree(tower(inputs, prefix=lambda layer: (none, none)), plain, 1e-6)


def test_edit_tokens_adds_prompts() -> None:
    tower, prompts = tiny.backbone().image, torch.randn(1, 5, tiny.WIDTH, requires_grad=True)
    lengths: list[int] = []

    def prompted(layer: int, x_BND: Tensor) -> Tensor:
        if layer == 0:
            x_BND = torch.cat([x_BND[:, :1], prompts.expand(len(x_BND), -1, -1), x_BND[:, 1:]], dim=1)
        return x_BND

    edited = tower(pixels(), edit_tokens=prompted, observe=lambda layer, x: lengths.append(x.shape[1]))
    own = 1 + (tiny.SIZE // 8) ** 2
    assert lengths == [own + 5] * tiny.LAYERS
    assert (edited - tower(pixels())).abs().max() > 1e-3
    edited.sum().backward()
    assert prompts.grad.abs().min() > 0

    with torch.no_grad():  # the same by the blocks themselves
        x = prompted(0, tower.embed(pixels()))
        for block in tower.blocks:
            x = x + by_hand(block, block.norm1(x))
            x = x + block.fc2(F.gelu(block.fc1(block.norm2(x))))
        agree(edited.detach(), tower.pool(x, pixels()))


def by_hand(
    block: nn.Module, x_BND: Tensor, keys: Tensor | None = None, values: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Attention head by head, with rows in front of the keys and values."""
    q, k, v = (F.linear(x_BND, layer.weight, layer.bias) for layer in (block.q, block.k, block.v))
    extra = 0 if keys is None else keys.shape[1]
    if keys is not None and values is not None:
        k = torch.cat([keys.expand(len(k), -1, -1), k], 1)
        v = torch.cat([values.expand(len(v), -1, -1), v], 1)
    size = q.shape[-1] // block.heads
    heads = []
    for h in range(block.heads):
        part = slice(h * size, (h + 1) * size)
        weights = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        if causal:
            future = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).triu(1 + extra)
            weights = weights.masked_fill(future, -math.inf)
        heads.append(weights.softmax(-1) @ v[..., part])
    return F.linear(torch.cat(heads, -1), block.out.weight, block.out.bias)


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_a_prefix_is_attended_to(tower_and_input: tuple[Tower, Tensor], batch: int) -> None:
    tower, inputs = tower_and_input
    causal = isinstance(tower, TextTower)
    generator = torch.Generator().manual_seed(2)
    keys, values = torch.randn(2, batch, 4, width(tower), generator=generator)
    changed = tower(inputs, prefix=lambda layer: (keys, values) if layer == 1 else None)
    x = tower.embed(inputs)
    for layer, block in enumerate(tower.blocks):
        rows = (keys, values) if layer == 1 else (None, None)
        x = x + by_hand(block, block.norm1(x), *rows, causal=causal)
        x = x + block.mlp(block.norm2(x))
    agree(changed, tower.pool(x, inputs))
    assert (changed - tower(inputs)).abs().max() > 1e-3


@torch.no_grad()
def test_beside_mlp_adds_exactly_what_it_returns(tower_and_input: tuple[Tower, Tensor]) -> None:
    tower, inputs = tower_and_input
    delta = torch.randn(1, 1, width(tower), generator=torch.Generator().manual_seed(3))
    seen: dict[int, Tensor] = {}
    tokens_after: dict[int, Tensor] = {}

    def beside(layer: int, h_BND: Tensor) -> Tensor | None:
        seen[layer] = h_BND
        return delta.expand_as(h_BND) if layer == 0 else None

    def edit(layer: int, x_BND: Tensor) -> Tensor:
        tokens_after[layer] = x_BND
        return x_BND

    plain: dict[int, Tensor] = {}
    tower(inputs, edit_tokens=lambda layer, x: plain.setdefault(layer, x))
    tower(inputs, edit_tokens=edit, beside_mlp=beside)
    agree(tokens_after[1] - plain[1], delta.expand_as(plain[1]), 1e-6)
    block = tower.blocks[0]
    agree(plain[1], seen[0] + block.mlp(block.norm2(seen[0])))  # h is the MLP's input before its norm
    assert sorted(seen) == list(range(len(tower.blocks)))


@torch.no_grad()
def test_observe_sees_the_input_of_attention(tower_and_input: tuple[Tower, Tensor]) -> None:
    tower, inputs = tower_and_input
    observed: dict[int, Tensor] = {}
    entered: dict[int, Tensor] = {}
    attended: dict[int, Tensor] = {}
    for layer, block in enumerate(tower.blocks):
        block.q.register_forward_hook(lambda module, args, out, layer=layer: attended.setdefault(layer, args[0]))
    tower(inputs, edit_tokens=lambda layer, x: entered.setdefault(layer, x), observe=observed.__setitem__)
    assert sorted(observed) == list(range(len(tower.blocks)))
    for layer, block in enumerate(tower.blocks):
        assert torch.equal(observed[layer], block.norm1(entered[layer]))
        assert torch.equal(observed[layer], attended[layer])


def test_blocks_have_the_six_named_linear_layers(tower_and_input: tuple[Tower, Tensor]) -> None:
    for block in tower_and_input[0].blocks:
        assert all(isinstance(block.get_submodule(place), nn.Linear) for place in PLACES)


# ---- class texts -------------------------------------------------------------------------------------------------


def test_class_features_average_the_prompts_and_are_computed_once() -> None:
    backbone = tiny.backbone()
    calls: list[int] = []
    backbone.text.register_forward_hook(lambda module, args, out: calls.append(len(args[0])))
    labels = [tiny.label(0, "a red cell", "cell of red colour", "red"), tiny.label(1, "white cell")]
    features_CE = backbone.class_features(labels)
    with torch.no_grad():
        for label, feature_E in zip(labels, features_CE, strict=True):
            rows = [backbone.text(tiny.tokenize([prompt]))[0] for prompt in label.prompts]
            mean_E = sum(row / row.norm() for row in rows) / len(rows)
            agree(feature_E, mean_E / mean_E.norm())
    assert torch.allclose(features_CE.norm(dim=-1), torch.ones(2)) and not features_CE.requires_grad
    calls.clear()
    again_CE = backbone.class_features(labels[::-1])
    assert torch.equal(again_CE, features_CE.flip(0)) and calls == []
    backbone.class_features([*labels, tiny.label(7, "platelet", "a platelet")])
    assert calls == [2]  # only what is new


# ---- loading -----------------------------------------------------------------------------------------------------

CONFIG = {"embed_dim": tiny.EMBED, "vision_cfg": tiny.VISION, "text_cfg": tiny.TEXT | {"vocab_size": 49408}}


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, Tensor]:
    """Random weights of CONFIG, to be written as the test needs them."""
    return tiny.shake(open_clip.model.CLIP(**json.loads(json.dumps(CONFIG)))).state_dict()


def fused(weights: dict[str, Tensor]) -> nn.Module:
    model = open_clip.model.CLIP(**json.loads(json.dumps(CONFIG))).eval()
    model.load_state_dict(weights)
    return model


def folder_of(tmp_path: Path, preprocess: dict[str, Any]) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": preprocess}))
    return folder


def test_a_local_folder_is_loaded_with_its_own_preprocessing(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    folder = folder_of(tmp_path, {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]})
    save_file(weights, folder / "open_clip_model.safetensors")
    backbone = backbones.load(f"local-dir:{folder}")
    assert torch.equal(backbone.mean, torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
    assert torch.equal(backbone.std, torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
    assert backbone.image_size == tiny.SIZE and backbone.name == f"local-dir:{folder}"
    with torch.no_grad():
        agree(backbone.image(pixels()), fused(weights).encode_image(pixels()))
    assert backbone.tokenizer(["a", "b"]).shape == (2, tiny.CONTEXT)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_architecture_is_loaded_with_a_weights_file(
    tmp_path: Path, weights: dict[str, Tensor], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    (tmp_path / "tiny-arch.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / "tiny-arch.json")
    file = tmp_path / f"weights{suffix}"
    torch.save(weights, file) if suffix == ".pt" else save_file(weights, file)
    backbone = backbones.load("tiny-arch", str(file))
    with torch.no_grad():
        agree(backbone.image(pixels()), fused(weights).encode_image(pixels()))
    with pytest.raises(ValueError, match="weights"):  # no weights: never a random model in silence
        backbones.load("tiny-arch")
    file.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match="tiny-arch"):
        backbones.load("tiny-arch", str(file))


def test_the_shipped_backbone_loads() -> None:
    backbone = backbones.load("phantom-clip")
    side = backbone.image_size
    assert backbone.name == "phantom-clip" and backbone.image(torch.rand(2, 3, side, side)).shape[0] == 2
    assert torch.isfinite(backbone.class_features([tiny.label(0)])).all()
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "name, pretrained",
    [
        ("phantom-klip", None),
        ("ViT-B-16/no-such-tag", None),
        ("RN50-", None),
        ("local-dir:/no/such/folder", None),
        ("", None),
    ],
)
def test_a_wrong_name_is_one_line(name: str, pretrained: str | None) -> None:
    with pytest.raises(ValueError) as caught:
        backbones.load(name, pretrained)
    message = str(caught.value)
    assert repr(name) in message and "\n" not in message


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, {})
    with pytest.raises(ValueError, match="weights"):
        backbones.load(f"local-dir:{folder}")
    (folder / "open_clip_config.json").unlink()
    with pytest.raises(ValueError, match=r"open_clip_config\.json"):
        backbones.load(f"local-dir:{folder}")


def test_loading_leaves_logging_as_it_was() -> None:
    import logging

    before = logging.root.manager.disable
    backbones.load("phantom-clip")
    with pytest.raises(ValueError, match="phantom-klip"):
        backbones.load("phantom-klip")
    assert logging.root.manager.disable == before


HUBS = {
    "hf-hub:owner/name": "hf download owner/name --local-dir FOLDER; bring the folder here and say local-dir:FOLDER",
    "ViT-B-16/openai": "--backbone ViT-B-16 --pretrained FOLDER/FILE",
}


@pytest.mark.parametrize("name", HUBS)
def test_where_no_hub_is_reached_it_is_said_at_once_and_what_to_do(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(ValueError, match=HUBS[name]) as refused:
        backbones.load(name)
    assert "127.0.0.1 cannot be reached" in str(refused.value) and not constants.HF_HUB_OFFLINE


def test_the_hub_is_looked_for_where_its_proxy_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for proxy in (f"http://127.0.0.1:{listening.getsockname()[1]}", f"127.0.0.1:{listening.getsockname()[1]}"):
            monkeypatch.setattr(hub, "getproxies", lambda proxy=proxy: {"https": proxy})
            assert hub.reachable()
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://127.0.0.1:9"})
    assert not hub.reachable()


@pytest.mark.parametrize("size", [96, [64, 96]])
def test_weights_of_another_image_size_are_one_sentence(size: object, tmp_path: Path) -> None:
    for file in (backbones.WEIGHTS / "phantom-clip").iterdir():
        shutil.copy(file, tmp_path)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"]["image_size"] = size
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"its weights are of images of 64 pixels a side, its open_clip"):
        backbones.load(f"local-dir:{tmp_path}")
