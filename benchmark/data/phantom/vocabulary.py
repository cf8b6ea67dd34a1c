"""Every word of the shipped made streams: what a word-level tokenizer has to know to read and write all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, product

from benchmark.data import catalog, phantom
from benchmark.data.phantom import asking, captions, notes, questions, reports
from benchmark.data.phantom.synonyms import CLINICAL, PLAIN

_WORD = re.compile(r"[^\W\d_]\w*(?:[-&][^\W\d_]\w*)*|\d+|[^\w\s]")


def split(text: str) -> list[str]:
    """The words and marks of a text in lower case: ``x-ray`` and ``h&e`` are words, ``63-year-old`` begins with two."""
    return _WORD.findall(text.lower())


def words() -> list[str]:
    """Sorted: every word and mark that instructions, answers, reports, captions, notes and classes can contain."""
    told = chain(_phrases(), _instructions(), _forms(), _notes(), _shipped())
    return sorted({word for text in told for word in split(text)})


def _phrases() -> Iterator[str]:
    for name in phantom.GENERATORS:
        for factor in phantom.generator(name).FACTORS:
            yield from (questions.words_of(name, factor, level) for level in questions.LEVELS)
            yield from (*CLINICAL[name][factor], *PLAIN[name][factor])


def _instructions() -> Iterator[str]:
    every: Iterable[asking.Forms] = (asking.CLOSED, asking.OPEN, asking.LIST, asking.CLASSES, asking.REPORT)
    yield from (re.sub(r"{\w+}", " ", form) for forms in every for wordings in forms.values() for form in wordings)
    for factors in asking.ASKED.values():
        yield from (word for asked in factors.values() for word in asked)


def _forms() -> Iterator[str]:
    """What stands around phrases in captions, reports, lists and answers."""
    forms = (*captions.FORMS, *reports.FIRST, *reports.BETWEEN, *reports.LAST)
    yield from (re.sub(r"{\w+}", " ", form) for form in forms)
    yield from (
        phantom.caption(name, dict.fromkeys(phantom.generator(name).FACTORS, 0.5)) for name in phantom.GENERATORS
    )
    yield "a, an and or ( ) yes no"


def _notes() -> Iterator[str]:
    ages = range(*notes.AGES)
    yield from (form.format(age=age, sex=sex) for form, age, sex in product(notes.PATIENTS, ages, notes.SEXES))
    yield from (form.format(bmi=index) for form in notes.DISTRACTORS for index in range(*notes.MASS_INDICES))


def _shipped() -> Iterator[str]:
    """What the files of the shipped made streams add: classes, prompts, instructions, words and sentences."""
    for name in catalog.names("streams"):
        recipe = catalog.load(name, None)
        if recipe.source_kinds != ("phantom",):
            continue
        for task, source in zip(recipe.stream, recipe.sources, strict=True):
            yield from (prompt for label in task.labels for prompt in (label.name, *label.prompts))
            yield task.instruction
            yield from (*source.options.get("words", ()), *source.options.get("meanings", ()))
            yield from chain.from_iterable(source.options.get("notes", ()))
