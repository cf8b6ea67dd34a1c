"""The file of answers in words: an answer a line whatever it holds, the same bytes every time, damage told by name."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmark.errors import UserError
from benchmark.record.answers import AnswerLine, read_answers, zipped

LINE = AnswerLine("ct_vqa", 2, "given", 3, "Is it round?", "yes", "Yes.", "CLOSED", 3, True, 1.0, 1.0, True, "yes")
WILD = 'a\nb\r\u2028\u2029\x85\x00\x1b[2J\ud800 "quoted" {}, \\ é 漢字 🩺'


@given(st.lists(st.text(), max_size=3))
@example([WILD, "", "x" * 2000])
def test_every_answer_is_one_line_and_comes_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    lines = [replace(LINE, answer=text, prompt=text, reference=text, index=place) for place, text in enumerate(texts)]
    path = tmp_path_factory.mktemp("answers") / "answers.jsonl.gz"
    path.write_bytes(zipped(lines))
    content = gzip.decompress(path.read_bytes())
    assert content.isascii() and len(content.decode().splitlines()) == len(lines)
    assert [json.loads(line)["answer"] for line in content.splitlines()] == texts
    assert list(read_answers(path)) == lines


def test_the_same_answers_are_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = zipped([LINE, replace(LINE, answer=WILD)])
    monkeypatch.setattr("time.time", lambda: 2e9)
    assert zipped(iter([LINE, replace(LINE, answer=WILD)])) == first != zipped([LINE])
    assert first[4:8] == bytes(4) and first[9] == 255  # neither a time nor a system
    assert list(json.loads(gzip.decompress(first).splitlines()[0])) == [
        "task", "stage", "protocol", "index", "prompt", "reference", "answer", "type", "tokens", "stopped", "exact",
        "f1", "format_kept", "likeliest",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"no gzip", "cannot be read"),
        (zipped([LINE])[:-9], "cut short"),
        (gzip.compress(b"{}\n"), "line 1: no answer"),
        (gzip.compress(b"\n"), "line 1: no answer"),
        (gzip.compress(b"[" * 100_000), "line 1: no answer"),
        (gzip.compress(json.dumps(asdict(LINE)).encode() + b"\n\xff\n"), "line 2: no answer"),
        (gzip.compress(json.dumps(asdict(LINE) | {"f1": 2}).encode()), "line 1: no answer"),
        (gzip.compress(json.dumps(asdict(LINE) | {"protocol": "told"}).encode()), "line 1: no answer"),
        (gzip.compress(json.dumps(asdict(LINE) | {"type": "HALF"}).encode()), "line 1: no answer"),
        (zipped([LINE])[:12] + b"\xff" * 40, "damaged"),
        (None, "cannot be read (No such file or directory)"),
    ],
    ids=["text", "cut", "object", "line", "deep", "not utf-8", "number", "protocol", "type", "bytes", "none"],
)
def test_damage_is_told_in_one_line(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "answers.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_answers(path))
    assert says in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
