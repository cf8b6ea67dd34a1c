"""What of an answer is compared: the normaliser of the VQA evaluation (Antol et al., "VQA: Visual Question Answering",
ICCV 2015) as the MSLoRA-CR release has it, whose scores nobody could compare with ours otherwise."""

from __future__ import annotations

import re
from functools import lru_cache

_MARKS = ';/[]"{}()=+\\_-><@`,?!'  # the full stop has a rule of its own; the apostrophe, : % # * & stay
_THOUSANDS = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_STOPS = 32  # only so many are deleted: the release passes re.UNICODE, which is 32, where the count belongs
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
# Of the release's 120 the six are left out that change nothing: two are themselves, and four begin with a capital I.
_PAIRS = """
'ow'sat='ow's'at 'ows'at='ow's'at aint=ain't arent=aren't cant=can't couldn'tve=couldn't've couldnt=couldn't
couldnt've=couldn't've couldve=could've didnt=didn't doesnt=doesn't dont=don't hadn'tve=hadn't've hadnt=hadn't
hadnt've=hadn't've hasnt=hasn't havent=haven't he'dve=he'd've hed=he'd hed've=he'd've hes=he's howd=how'd
howll=how'll hows=how's isnt=isn't it'dve=it'd've itd=it'd itd've=it'd've itll=it'll maam=ma'am
mightn'tve=mightn't've mightnt=mightn't mightnt've=mightn't've mightve=might've mustnt=mustn't mustve=must've
neednt=needn't notve=not've oclock=o'clock oughtnt=oughtn't ow's'at='ow's'at shant=shan't she'dve=she'd've
shed've=she'd've shouldn'tve=shouldn't've shouldnt=shouldn't shouldnt've=shouldn't've shouldve=should've
somebody'd=somebodyd somebody'dve=somebody'd've somebodyd've=somebody'd've somebodyll=somebody'll
somebodys=somebody's someone'dve=someone'd've someoned=someone'd someoned've=someone'd've someonell=someone'll
someones=someone's something'dve=something'd've somethingd=something'd somethingd've=something'd've
somethingll=something'll thats=that's there'dve=there'd've thered=there'd thered've=there'd've therere=there're
theres=there's they'dve=they'd've theyd=they'd theyd've=they'd've theyll=they'll theyre=they're theyve=they've
twas='twas wasnt=wasn't we'dve=we'd've wed've=we'd've werent=weren't weve=we've whatll=what'll whatre=what're
whats=what's whatve=what've whens=when's whered=where'd wheres=where's whereve=where've who'dve=who'd've
whod=who'd whod've=who'd've wholl=who'll whos=who's whove=who've whyll=why'll whyre=why're whys=why's wont=won't
wouldn'tve=wouldn't've wouldnt=wouldn't wouldnt've=wouldn't've wouldve=would've y'all'dve=y'all'd've
y'alld've=y'all'd've y'allll=y'all'll yall=y'all yall'd've=y'all'd've yall'll=y'all'll you'dve=you'd've youd=you'd
youd've=you'd've youll=you'll youre=you're youve=you've
"""
_CONTRACTIONS = {short: full for short, full in (pair.split("=") for pair in _PAIRS.split())}


def normalise(s: str) -> str:
    """The words that are compared, joined by one space: lower case, no articles, digits for number words.

    A mark that has a space beside it anywhere in ``s`` is deleted everywhere, and so are all marks where a comma stands
    between digits; otherwise a mark becomes a space. Of full stops not followed by a digit the first 32 are deleted.
    Not idempotent for this reason. A text with ``assistant:`` is an answer: it loses all of them, and its outer spaces.
    """
    return answer_words(s) if "assistant:" in s.lower() else reference_words(s)


def reference_words(s: str) -> str:
    """What a reference is compared by."""
    return _words(s.lower())


def answer_words(s: str) -> str:
    """What a model's answer is compared by: it loses every ``assistant:`` first, and its outer spaces."""
    return _words(s.lower().replace("assistant:", "").strip())


@lru_cache(2**13)
def _words(s: str) -> str:
    """Normalised, of a text in lower case."""
    thousands = _THOUSANDS.search(s)
    there = (mark for mark in _MARKS if mark in s)
    marks = {ord(mark): "" if thousands or f"{mark} " in s or f" {mark}" in s else " " for mark in there}
    bare = _STOP.sub("", s.translate(marks), count=_STOPS)
    words = [_NUMBERS.get(word, word) for word in bare.split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)
