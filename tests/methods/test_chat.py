"""Between text and tokens: marks in what is asked, words that are unknown, how an answer begins and ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor

from benchmark.data.phantom import vocabulary
from methods.parts import language_models
from methods.parts.chat import Chat, padded
from tests.methods import layouts


def chat(made: tuple[Any, Any], stops: tuple[int, ...] = (3,)) -> Chat:
    config, processor = made
    return Chat(processor, 64, config.image_token_id, stops)


@pytest.fixture(scope="module")
def tiny() -> Chat:
    return language_models.load("tiny-llava").chat


def words(chat: Chat, ids: Any) -> list[str]:
    return chat.tokenizer.convert_ids_to_tokens([i for i in ids.tolist() if i >= 0])


def test_the_shipped_layout_is_made_of_todays_vocabulary(tmp_path: Path) -> None:
    """Whoever changes the made streams' words makes it anew (its README says how)."""
    layouts.write_tiny_llava(tmp_path)
    shipped = language_models.FOLDER / language_models.DRAWN
    assert {file.name for file in shipped.iterdir()} == {file.name for file in tmp_path.iterdir()} | {"README.md"}
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (shipped / file.name).read_bytes(), f"{file.name} is not what it would be today"


def test_every_word_of_the_made_streams_is_a_token_and_any_other_one_unknown(tiny: Chat) -> None:
    known = vocabulary.words()
    rows = [words(tiny, row) for row in tiny.targets(known)]
    assert rows == [[word, "</s>"] for word in known]
    assert words(tiny, tiny.targets(["Glandlike zebra 漢字, yes"])[0]) == [
        "<unk>",
        "<unk>",
        "<unk>",
        ",",
        "yes",
        "</s>",
    ]
    assert tiny.text(tiny.targets(["Large glands, no effusion."])[0, :-1].tolist()) == "large glands, no effusion."


def test_rows_are_filled_at_the_right(tiny: Chat) -> None:
    assert padded([[1, 2], [], [3]]).tolist() == [[1, 2], [-1, -1], [3, -1]]
    assert padded([]).shape == (0, 0) and padded([[]]).shape == (1, 0)
    rows = tiny.prompts(["yes?", "is it large?", "yes?"])
    assert rows[0].tolist() == rows[2].tolist() and (rows[0] == -1).sum() == 2 and (rows[1] >= 0).all()
    many = tiny.prompts([f"is it large? {'yes ' * (i % 3)}" for i in range(1030)])  # more than are cut at a time
    assert torch.equal(many[3 * 300], many[0]) and (many == tiny.image_token).sum(dim=1).eq(16).all()


@pytest.mark.parametrize("make", [layouts.tiny_idefics3, layouts.tiny_qwen2_vl])
def test_marks_in_what_is_asked_and_answered_are_plain_text(make: Any) -> None:
    """Those of images above all, of roles, and those that the processor's own list of special tokens lacks."""
    own = chat(make())
    marks = [str(token) for token in own.tokenizer.added_tokens_decoder.values()]
    assert len(marks) > len(own.tokenizer.all_special_tokens)
    plain = own.prompts(["is it ?"])[0]
    count = {mark: words(own, plain).count(mark) for mark in marks}
    for mark in [*marks, "".join(marks), f"<ima{marks[4]}ge>"]:
        asked = words(own, own.prompts([f"is it {mark}?"])[0])
        assert {known: asked.count(known) for known in marks} == count, mark
        assert not {*own.targets([f"yes {mark} no"])[0, :-1].tolist()} & {*own.tokenizer.added_tokens_decoder}


def test_an_answer_is_cut_as_it_stands_behind_its_prompt() -> None:
    """A tokenizer that marks the beginning of a text would begin an answer of its own with that mark."""
    own = chat(layouts.tiny_llava(layouts.piece_tokenizer(), layouts.VICUNA))
    asked = own._asked("is it large?")
    for answer in ("yes", "a large opacity.", "...", " yes ", "5 mm"):
        whole = own.tokenizer(f"{asked} {answer}")["input_ids"]
        told = own.targets([answer])[0].tolist()
        assert whole[-len(told) + 1 :] == told[:-1] and told[-1] == 3
        assert whole[: -len(told) + 1] == own.tokenizer(asked)["input_ids"]


def test_an_answer_ends_where_its_turn_does() -> None:
    own = chat(layouts.tiny_qwen2_vl(), ())
    assert words(own, torch.tensor(own.stops)) == ["<|im_end|>"]
    own = chat(layouts.tiny_idefics3(), (500, 505))
    assert words(own, torch.tensor(own.stops)) == ["<end_of_utterance>", "<|endoftext|>"]
    config, processor = layouts.tiny_llava(layouts.piece_tokenizer(), layouts.VICUNA)
    processor.chat_template = layouts.VICUNA.replace("content['text'] + ' '", "content['text'] + ' ### '")
    assert chat((config, processor)).stops == [3]  # not at whatever begins with a #
    with pytest.raises(ValueError, match="nothing ends its answers"):
        chat((config, processor), ())


def test_what_has_no_template_is_refused() -> None:
    config, processor = layouts.tiny_qwen2_vl()
    processor.chat_template = None
    with pytest.raises(ValueError, match="it has no chat template"):
        chat((config, processor))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("qwen")
    layouts.qwen2_vl(made)
    return made


def changed(folder: Path, to: Path, **files: Any) -> str:
    """A copy of a model's folder with some files changed by a function of their JSON, or (None) left out."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    for name, change in files.items():
        (path,) = to.glob(f"{name}.*")
        told = json.loads(path.read_text()) if change and path.suffix == ".json" else None
        path.unlink() if change is None else path.write_text(json.dumps(change(told)))
    return f"local-dir:{to}"


OWN = {"auto_map": {"AutoConfig": "own.Config"}, "model_type": "own"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"config": lambda told: told | {"model_type": "llama"}}, "'llama' is no image-text-to-text model"),
    ({"config": lambda told: told | {"model_type": "unheard_of"}}, "unheard_of"),
    ({"config": lambda told: told | OWN}, "Python of its own"),
    ({"chat_template": None}, "it has no chat template"),
    ({"processor_config": None}, "image processor"),
    ({"tokenizer": None}, "tokenizer"),
    ({"model": None}, "safetensors"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "says"), REFUSED)
def test_folders_that_are_no_such_model(files: dict[str, Any], says: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ValueError, match=says) as refused:
        language_models.load(changed(folder, tmp_path, **files))
    line = str(refused.value)
    assert line.startswith(f"backbone 'local-dir:{tmp_path}': ") and line.isprintable() and len(line) < 600


def test_a_model_that_shows_more_than_features_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here its own forward also changes what the decoder says."""
    from transformers import Qwen2VLForConditionalGeneration as Model

    forward = Model.forward

    def deeper(self: Any, *arguments: Any, **options: Any) -> Any:
        out = forward(self, *arguments, **options)
        out.logits = out.logits + 0.01 * torch.arange(out.logits.shape[-1])
        return out

    monkeypatch.setattr(Model, "forward", deeper)
    with pytest.raises(ValueError, match="more of an image than features"):
        language_models.load(f"local-dir:{folder}")


def test_an_image_is_as_large_as_its_processor_leaves_it(folder: Path, tmp_path: Path) -> None:
    assert language_models.load(f"local-dir:{folder}").image_size == 48  # not 448: that would be made small at once
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.size = {"shortest_edge": 256, "longest_edge": 2000**2}
    processor.save_pretrained(shutil.copytree(folder, tmp_path / "large"))
    assert language_models.load(f"local-dir:{tmp_path / 'large'}").image_size == 448
