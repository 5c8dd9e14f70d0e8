"""Which fonts figures are written in: DejaVu Sans, and for letters that it lacks a font of Chinese, Japanese, Korean, if any."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from pel_core.common.logs import logger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FAMILY = "DejaVu Sans"  # shipped with matplotlib, so that a figure has the same bytes everywhere
# In this order: where Unicode has one letter for several countries, the Chinese form comes first, if a font lets one choose.
CJK = (
    "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP",
    "Noto Sans KR", "Source Han Sans SC", "Source Han Sans CN", "Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "IPAexGothic", "IPAPGothic", "IPAGothic", "TakaoPGothic", "VL PGothic", "NanumGothic",
    "PingFang SC", "Hiragino Sans GB", "Hiragino Sans", "Apple SD Gothic Neo", "Arial Unicode MS",
    "Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "Malgun Gothic",
)  # fmt: skip
# Their files: matplotlib remembers the fonts that there were when it first looked, and hears of no later one.
FILES = re.compile(
    r"noto-?sans(cjk|sc|jp|kr)|sourcehansans|wqy|droidsansfallback|ipa(ex)?p?g|takaop?gothic|vl-p?gothic|nanumgothic", re.I
)
_told: set[str] = set()


@cache
def families() -> list[str]:
    """The fonts of figures: a letter is of the first that has it."""
    from matplotlib import font_manager

    def there() -> list[str]:
        names = {font.name for font in font_manager.fontManager.ttflist}
        return [name for name in CJK if name in names]

    if not there():
        for path in sorted(font_manager.findSystemFonts()):
            if FILES.search(os.path.basename(path)):
                with suppress(OSError, RuntimeError):  # damaged, or of a kind that matplotlib cannot read
                    font_manager.fontManager.addfont(path)
    return [FAMILY, *there()]


def no_word_of_weights(record: logging.LogRecord) -> bool:
    """A filter of matplotlib's log: that one of these fonts has no bold letters is nothing to be told of."""
    said = record.getMessage()
    return "Failed to find font weight" not in said or not any(name in said for name in CJK)


def lacking(texts: Iterable[str]) -> str:
    """The letters of texts that no font of `families` has, in order; they are drawn as boxes."""
    return "".join(sorted(_taken(texts)[""]))


def _taken(texts: Iterable[str]) -> dict[str, set[str]]:
    """The letters of texts beside ASCII by the family that they are taken of; "" for none."""
    letters = {letter for text in texts for letter in text if not letter.isascii() and not letter.isspace()}
    found = {}
    for name in families() if letters else ():
        found[name] = letters & _letters_of(name)
        letters -= found[name]
    return found | {"": letters}


def prepare_letters(figure: Figure) -> dict[str, object]:
    """Say once which letters of figures are boxes, and what to install; matplotlib's settings that a figure's letters ask for.

    matplotlib embeds a font with outlines of PostScript (CFF, as Noto's) into a PDF as if it were TrueType, which not every
    reader takes: their letters are drawn as shapes (Type 3).
    """
    from matplotlib.text import Text

    taken = _taken(text.get_text() for text in figure.findobj(Text))
    if new := "".join(sorted(taken.pop("") - _told)):
        install = "install one and draw again, for Chinese, Japanese and Korean Noto Sans CJK (apt-get install fonts-noto-cjk)"
        if not _told:
            logger.info("note: no font that is installed has %s, which are boxes in figures; %s", new[:20], install)
        _told.update(new)
    return {"pdf.fonttype": 3} if any(letters and _is_postscript(name) for name, letters in taken.items()) else {}


def _is_postscript(name: str) -> bool:
    from fontTools.ttLib import TTFont
    from matplotlib import font_manager

    path = font_manager.findfont(font_manager.FontProperties(family=name))
    with TTFont(str(path), fontNumber=getattr(path, "face_index", 0) or 0, lazy=True) as font:
        return "CFF " in font or "CFF2" in font


@cache
def _letters_of(name: str) -> frozenset[str]:
    from matplotlib import font_manager

    path = font_manager.findfont(font_manager.FontProperties(family=name))
    return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
