"""The options of a made generation task, checked: what is talked about, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmark.data import phantom
from benchmark.data.catalog import Source
from benchmark.data.phantom import captions, reports, talk
from benchmark.data.sources.dialogues import YES_NO, check_legal
from benchmark.errors import UserError, shown, unknown

OPTIONS = ("talk", "factors", "words", "meanings", "regions", "region", "wording", "forms")
OF_CLASSES = ("words", "meanings", "regions")
LONGEST = 3  # words of an answer that names a class


def talk_of(source: Source, given: Mapping[str, Any]) -> talk.Talk:
    """What the ``given`` options say; the generator, the seed and the bounds of regions are checked already.

    Raises:
        UserError: an option is missing, wrong, or of no use to what is talked about.
    """
    where, kinds = source.where, given.get("talk")
    if source.instruction:
        raise UserError(f"{where}.instruction: made tasks bring their own")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list) or not kinds:
        raise UserError(
            f"{where}.talk: expected one or a list of {', '.join(talk.KINDS)}, got {shown(given.get('talk'))}"
        )
    for kind in kinds:
        if kind not in talk.KINDS:
            raise unknown("talk", kind, talk.KINDS, where)
    for options, owner in ((OF_CLASSES, "classes"), (("wording",), "report")):
        for key in options:
            if key in given and owner not in kinds:
                raise UserError(f"{where}.{key}: an option of talk: {owner}, which this task has not")
    if kinds == ["classes"] and "factors" in given:
        raise UserError(f"{where}.factors: no option of talk: classes, whose regions say what is drawn")
    wording, forms = given.get("wording", captions.USUAL), given.get("forms", talk.FORMS[0])
    if wording not in [*captions.WORDINGS]:
        raise unknown("wording", wording, captions.WORDINGS, where)
    if forms not in talk.FORMS:
        raise unknown("forms", forms, talk.FORMS, where)
    factors = _factors(given, kinds, where)
    words, meanings, regions = _words(given, where) if "classes" in kinds else ((), (), ())
    closed = [*(YES_NO if "closed" in kinds else ()), *words]
    check_legal(source, [(f"{where}.talk", answer) for answer in closed])
    bound = {*(factors if set(kinds) != {"classes"} else ()), *(factor for region in regions for factor in region)}
    for factor in given.get("region", {}):
        if factor in bound:
            raise UserError(f"{where}.region.{factor}: is talked about, and drawn for what is said of it")
    seed = (phantom.VERSION, given["seed"])
    region = {factor: (low, high) for factor, (low, high) in given.get("region", {}).items()}
    return talk.Talk(given["generator"], seed, tuple(kinds), factors, region, words, meanings, regions, wording, forms)


def least(made: talk.Talk) -> int:
    """How many samples a split has at least: each kind of turn twice, and every class."""
    return max(2, len(made.words)) * len(made.kinds)


def _factors(given: Mapping[str, Any], kinds: list[str], where: str) -> tuple[str, ...]:
    known = phantom.generator(given["generator"]).FACTORS
    factors = given.get("factors", [*known])
    if not isinstance(factors, list) or not factors:
        raise UserError(f"{where}.factors: expected a list of factors, got {shown(factors)}")
    for factor in factors:
        if factor not in [*known]:
            raise unknown("factor", factor, known, f"{where}.factors")
    if len(set(factors)) < len(factors):
        raise UserError(f"{where}.factors: expected different factors, got {shown(factors)}")
    few, many = reports.ALWAYS, reports.MOST
    if "report" in kinds and not few <= len(factors) <= many:
        raise UserError(f"{where}.factors: a report tells {few} to {many} factors, name them; got {shown(factors)}")
    return tuple(factors)


def _words(
    given: Mapping[str, Any], where: str
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[Mapping[str, Any], ...]]:
    """The words of the classes, what is said of each in the instruction, and the region of each."""
    words, regions = given.get("words"), given.get("regions")
    if not isinstance(words, list) or len(words) < 2 or not all(_line(word) for word in words):
        raise UserError(f"{where}.words: expected a list of at least two words (yes, no in quotes), got {shown(words)}")
    for word in words:
        if len(word.split()) > LONGEST or set(word) & set("{}"):
            raise UserError(f"{where}.words: expected at most {LONGEST} words, no braces, got {shown(word)}")
    if len({" ".join(word.casefold().split()) for word in words}) < len(words):
        raise UserError(f"{where}.words: expected different words, got {shown(words)}")
    meanings = given.get("meanings", [])
    if not isinstance(meanings, list) or not all(_line(text) for text in meanings):
        raise UserError(f"{where}.meanings: expected a list of texts, got {shown(meanings)}")
    for key, value in (("regions", regions), ("meanings", meanings)):
        if key in given and (not isinstance(value, list) or len(value) != len(words)):
            raise UserError(f"{where}.{key}: expected one for each of the {len(words)} words, got {shown(value)}")
    if not isinstance(regions, list):
        raise UserError(f"{where}.regions: expected one region for each of the {len(words)} words")
    return tuple(words), tuple(meanings), tuple(regions)


def _line(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip()) and text == text.strip() and len(text.splitlines()) == 1
