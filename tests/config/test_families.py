"""Which backbone by default, what learns on it, and what is refused in one line before anything is imported."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmark import kinds
from benchmark.config import arguments, families
from benchmark.config.resolve import Plan, resolve
from benchmark.errors import UserError

CLASSES, WORDS = ("classification",), ("generation",)
LEARNED = ("classification", "generation")


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """A folder of a CLIP, one of a model of transformers, one with neither's file."""
    files = {"clip": ["open_clip_config.json"], "both": ["open_clip_config.json", "config.json"],
             "speaks": ["config.json"], "empty": []}  # fmt: skip
    for name, names in files.items():
        (tmp_path / name).mkdir()
        for file in names:
            (tmp_path / name / file).write_text(json.dumps({}))
    return {name: f"local-dir:{tmp_path / name}" for name in files}


def test_a_stream_that_is_answered_in_words_has_a_default_of_its_own() -> None:
    for asked, backbone in (
        (CLASSES, "phantom-clip"), (("fusion",), "phantom-clip"), (("retrieval",), "phantom-clip"),
        (WORDS, "phantom-llava"), (("classification", "fusion"), "phantom-llava"), (LEARNED, "phantom-llava"),
    ):  # fmt: skip
        assert families.by_default("auto", kinds.joined(asked)) == backbone
        assert families.by_default("ViT-B-16/openai", kinds.joined(asked)) == "ViT-B-16/openai"
    assert families.by_default("tiny-llava", kinds.joined(CLASSES)) == "tiny-llava"


def test_names_and_files_tell_what_speaks(folders: dict[str, str]) -> None:
    spoken = {name: families.speaks(backbone) for name, backbone in folders.items()}
    assert spoken == {"clip": False, "both": False, "speaks": True, "empty": False}
    assert all(map(families.speaks, ("phantom-llava", "tiny-llava", "hf:owner/name")))
    for clip in ("phantom-clip", "ViT-B-16/openai", "hf-hub:owner/name", "local-dir:", "local-dir:/nowhere"):
        assert not families.speaks(clip)


def test_what_learns_from_questions_learns_all_that_is_asked_in_words() -> None:
    for asked in (WORDS, CLASSES, ("fusion",), ("classification", "fusion", "generation")):
        assert families.learns(LEARNED, asked, "tiny-llava")
        assert not families.learns(("classification", "fusion", "retrieval"), asked, "tiny-llava")
    assert not families.learns((*LEARNED, "retrieval"), ("retrieval",), "tiny-llava")
    assert not families.learns((*LEARNED, "retrieval"), ("retrieval", "generation"), "tiny-llava")
    assert families.learns(CLASSES, CLASSES, "phantom-clip") and not families.learns(CLASSES, WORDS, "phantom-clip")


def refusal(backbone: str, asked: tuple[str, ...], pretrained: str | None = None) -> str:
    with pytest.raises(UserError) as refused:
        families.check(backbone, pretrained, kinds.joined(asked), "stream 's' (…)")
    assert str(refused.value).isprintable()
    return str(refused.value)


@pytest.mark.parametrize("asked", [WORDS, LEARNED, ("classification", "fusion")])
@pytest.mark.parametrize("clip", ["phantom-clip", "ViT-B-16/openai", "hf-hub:a/b", "clip", "both"])
def test_a_clip_is_not_asked_in_words(clip: str, asked: tuple[str, ...], folders: dict[str, str]) -> None:
    line = refusal(folders.get(clip, clip), asked)
    assert "--backbone" in line and "phantom-llava" in line and "a CLIP learns streams of one kind" in line


def test_a_folder_without_a_model(folders: dict[str, str]) -> None:
    for backbone in (folders["empty"], "local-dir:/nowhere", "local-dir:"):
        line = refusal(backbone, WORDS)
        assert line.startswith(f"--backbone {backbone}: config.json") and "CLIP" not in line


NO_NAMES = ("hf:", "hf:name", "hf:a/b/c", "hf:../x", "hf:a/b c", "hf:https://x.org/a", "hf:a/b@", "hf:a/b@c@d")


@pytest.mark.parametrize("backbone", NO_NAMES)
def test_names_that_are_none(backbone: str) -> None:
    assert "expected hf:OWNER/NAME" in refusal(backbone, WORDS)


def test_a_model_of_transformers_says_itself_which_weights(folders: dict[str, str]) -> None:
    for backbone in ("phantom-llava", "tiny-llava", "hf:owner/name", folders["speaks"]):
        families.check(backbone, None, kinds.joined(WORDS), "s")
        families.check(backbone, None, kinds.joined(CLASSES), "s")
        assert "--pretrained openai: backbone" in refusal(backbone, WORDS, "openai")
    folder = Path(folders["speaks"].removeprefix("local-dir:"))
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    assert "--backbone" in refusal(folders["speaks"], CLASSES)


@pytest.mark.parametrize("missing", [("transformers",), ("sacrebleu",), ("transformers", "sacrebleu")])
def test_without_its_packages(missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "find_spec", lambda name: None if name in missing else find_spec(name))
    line = refusal("tiny-llava", WORDS)
    assert f"needs {' and '.join(missing)}: pip install 'mbil-bench[generation]'" in line
    families.check("phantom-clip", None, kinds.joined(CLASSES), "s")  # which needs neither


def test_the_loss_may_be_over_tokens_where_there_are_some() -> None:
    def planned(*more: str) -> Plan:
        config, card, _ = arguments.parse("run", ["--method", "ewc", *more], with_class=False)
        return resolve(config, card, cuda=False)

    usual, released = (planned("--stream", "smoke_generation", *more) for more in ((), ("--over", "tokens")))
    assert usual.key != released.key and released.made_with.over == "tokens" and usual.made_with.over == "samples"
    with pytest.raises(UserError, match="--over tokens: only of answers in words"):
        planned("--stream", "smoke", "--over", "tokens")


def test_a_folder_without_its_prefix_is_told_how_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert refusal(str(tmp_path), CLASSES) == f"--backbone {tmp_path}: a folder is given as local-dir:{tmp_path}"
