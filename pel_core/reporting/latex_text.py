"""Any text as LaTeX: what has a command becomes it, which pdfLaTeX sets; the rest is named with the engine it needs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pylatexenc.latexencode import UnicodeToLatexEncoder

# What pylatexenc leaves as it is, spells with a command that not every font has, or spells otherwise than the tables always did.
OURS = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}",
    "|": r"\textbar{}", "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "–": "--", "—": "---", "‑": r"\mbox{-}",
    "\u200b": "", "×": r"$\times$", "✓": r"\ensuremath{\checkmark}",
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
}  # fmt: skip
# Commands of pylatexenc that no package loaded here defines, and accents without a letter: such letters stay as they are.
UNSET = re.compile(
    "[\u0300-\u036f\u0400-\u04ff\u200c\U0001d400-\U0001d7ff"  # combining accents, Cyrillic, mathematical alphanumerics
    "ŉƕƞəɛɸʔʞ˛ΐϒȨȩ◯ℋℐℒℛℬℰℱℳ⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↜↝⇅⇵∟∬∭∯∰∱∻∾≆≋≌≙≛≸≹⊧⊨⊫⊶⊷⊹⊾⋘⋙⋨⋰⌆⌕♩♭♮♯⨏⨖]"
)
# Letters whose command is in amssymb, and in the font encoding T1. tests/reporting compiles the whole of pylatexenc's table.
AMS = re.compile(
    "[✓ϰ϶‵ℂℌℍℑℕℙℚℜℝℤℨℭℶℷℸ↚↛↞↠↢↣↫↬↭↮↰↱↶↷↺↻↾↿⇂⇃⇄⇆⇇⇈⇉⇊⇋⇍⇎⇏⇚⇛⇝∁∄∅∎∔∖∡∢∤∦∴∵∽≊≎≏≑≒≓≖≗≜≦≧≨≩≬≮≯≰≱≲≳≴≵≶≷≾≿⊀⊁⊈⊉⊊⊋⊏⊐⊚⊛⊝⊞⊟⊠⊡"
    "⊩⊪⊬⊭⊮⊯⊲⊳⊴⊵⊸⊺⊻⋇⋉⋊⋋⋌⋍⋎⋏⋐⋑⋒⋓⋔⋖⋗⋚⋛⋞⋟⋦⋧⋩⋪⋫⋬⋭⌅⌜⌝⌞⌟■□▪▴▵▸▾▿◂◊⟿⧫⩽⩾⪅⪆⪇⪈⪉⪊⪋⪌⪕⪖⪵⪶⪷⪸⪹⪺⫅⫆⫋⫌]"
)
T1 = re.compile("[«»ÐÞðþĄąĐđĘęĮįŊŋŲų‚„‹›]")
LIGATURES = re.compile(r"([-',])(?=\1)")  # two of them are set as one other sign


@cache
def _encoder() -> UnicodeToLatexEncoder:
    from pylatexenc import latexencode as library

    own = [
        library.UnicodeToLatexConversionRule(kind, rule, replacement_latex_protection="none")
        for kind, rule in (
            (library.RULE_DICT, {ord(letter): command for letter, command in OURS.items()}),
            (library.RULE_REGEX, [(LIGATURES, r"\1{}"), (UNSET, lambda found: found[0])]),
        )
    ]
    return library.UnicodeToLatexEncoder(
        conversion_rules=[*own, "defaults"],
        replacement_latex_protection="braces-after-macro",
        unknown_char_policy="keep",
        unknown_char_warning=False,
    )


def _clean(text: str) -> str:
    """Accents composed with their letters; line ends and other control characters as spaces."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ud800-\udfff]", " ", unicodedata.normalize("NFC", text))


def tex_text(text: str) -> str:
    """Any text, escaped for LaTeX: ASCII, but for letters that no command stands for (CJK, Cyrillic, emoji), which stay."""
    return _encoder().unicode_to_latex(_clean(text))


def tex_row(cells: Iterable[str]) -> str:
    r"""A row of a ``tabular`` of cells in LaTeX. What begins it is kept apart from the ``\\`` or the rule before it, which would
    take a bracket as their option and a star as their form."""
    text = " & ".join(cells)
    return (f"{{{text[0]}}}{text[1:]}" if text.startswith(("[", "*")) else text) + r" \\"


def tex_needs(texts: Iterable[str], packages: Iterable[str]) -> tuple[list[str], list[str]]:
    r"""What LaTeX that was made of ``texts`` needs: comments for its first lines, and checks to put into its group.

    The comments name the packages, ``packages`` first, and the engine where a letter has no command. There the checks make LaTeX
    stop with an error that says so: pdfLaTeX, and XeLaTeX and LuaLaTeX with a font that lacks the letter, which they would else
    leave out with a line in the log.
    """
    whole = "".join(map(_clean, texts))
    missing = "".join(dict.fromkeys(re.findall(r"[^\x00-\x7f]", tex_text(whole))))
    needed = [*packages, *(["{amssymb}"] if AMS.search(whole) else [])]
    if not missing and T1.search(whole):
        needed.append("[T1]{fontenc}")  # the other engines have these letters without
    comments = [rf"% needs \usepackage{package}" for package in needed]
    if not missing:
        return comments, []
    return [f"% needs XeLaTeX or LuaLaTeX, and a font that has: {' '.join(missing)}", *comments], [
        r"\ifdefined\Umathcode\tracinglostchars=3 \else",
        r"\errmessage{This table has letters that pdfLaTeX has not: use XeLaTeX or LuaLaTeX}\fi",
    ]
