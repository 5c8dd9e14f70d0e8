r"""LaTeX: any label is in the PDF as it was written, or the file says what it needs; every table is compiled where a LaTeX is.

``.ci/run`` installs one where it can (tests/reporting/install-latex.sh); elsewhere these tests skip, and the parser's stand in.
"""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from fake_results import write_results
from hypothesis import given, settings
from hypothesis import strategies as st
from TexSoup import TexSoup

from pel_core.reporting.latex_text import UNSET, tex_needs, tex_row, tex_text
from pel_core.reporting.tables import table_files, table_grid, table_tex
from pel_core.studies.study import load

TABLES = ("table1", "table2", "table3", "table4")
# Labels that an unprotected row would lose, break at, or print as another sign.
HOSTILE = [
    "[x] with brackets",
    "* starred", "*", "[2pt]", r"\hline", r"\\", "a & b", "50 % of", "#1", "{x", "x}", "$5", "a_b^c~d", "a|b <c> d",
    "--flag", "a --- b", "`x`", "line\nbreak", "\\end{tabular}", "%", "", "tab\there", "-",
]  # fmt: skip
SYMBOLS = [
    "≥ 20", "± 1", "2 × 3", "α, β and Ω", "→ ← ↔", "en – em — dash", "“quoted” ‘x’", "Müller, Łódź, Çelik, Ångström, naïve",
    "µm 5 °C", "a\u2011b",
]  # fmt: skip
PACKAGED = ["✓ ⩾ ≲", "Đặng? no: Đ, ą, ę", "« þorn »"]
ENGINE = ["猫 and 犬", "Привет", "smile 😀", "ʔ", "x\u0301\u0302"]


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program} here; the parser's checks stand in for it")


def document(body: str, preamble: str = "") -> str:
    """A document whose preamble is what the comments of ``body`` ask for."""
    packages = dict.fromkeys(re.findall(r"^% needs (\\usepackage.*)$", body, re.M))
    return "\n".join([r"\documentclass{article}", *packages, preamble, r"\begin{document}", body, r"\end{document}", ""])


def compiled(text: str, folder, engine: str = "pdflatex") -> subprocess.CompletedProcess:
    (folder / "all.tex").write_text(text, encoding="utf-8")
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=120)


def pdf_text(folder) -> str:
    command = ["pdftotext", "-layout", "all.pdf", "-"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60).stdout


def study_of(labels, folder):
    """A study with one table, a row for each label, which is also its column's."""
    table = {
        "title": "T", "note": " ".join(labels), "corner": labels[0],
        "rows": [{"label": label, "method": "ssf-ln"} for label in labels],
        "columns": [{"label": labels[0], "dataset": "small-ir20", "value": "overall"}],
    }  # fmt: skip
    (folder / "study.yaml").write_text(
        json.dumps({"title": "T", "roles": {"small": "Toy"}, "tables": {"t": table}}, ensure_ascii=False), "utf-8"
    )
    (folder / "config.yaml").write_text("{title: T, backbone: toy, seeds: [0], data: {small: toy}}")
    study = load(folder / "study.yaml", folder / "config.yaml", results=folder)
    write_results(folder, study.specs)
    return study


def check_latex(text: str) -> None:
    """Braces balance, and every line of the one tabular has as many cells as it has columns."""
    soup = TexSoup(text, tolerance=0)
    tabulars = list(soup.find_all("tabular"))
    assert len(tabulars) == 1
    body = [line for line in text.split("\\begin{tabular}")[1].split("\\end{tabular}")[0].splitlines()[1:] if line]
    columns = len(str(tabulars[0].args[0]).replace("@{}", "").strip("{}"))
    for line in body:
        if line in ("\\toprule", "\\midrule", "\\bottomrule"):
            continue
        assert line.endswith(r" \\"), line
        cells = line.replace(r"\&", "").count("&") + 1
        assert cells == columns or line.startswith(rf"\multicolumn{{{columns}}}"), line
    bare = text.replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")
    assert text.count("$") % 2 == 0
    assert text.isascii()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    """The report's tables at full size and in the demo, on made-up results."""
    studies = []
    for config in ("paper", "demo"):
        folder = tmp_path_factory.mktemp(config)
        studies.append(load("report", config, seeds="0,1,2", results=folder))
        write_results(folder, studies[-1].specs)
    return {(study.config_path.stem, name): table_files(study, name)["tex"] for study in studies for name in TABLES}


def test_latex_is_well_formed(shipped):
    for text in shipped.values():
        check_latex(text)


@needs("pdflatex")
def test_shipped_tables_compile(shipped, tmp_path):
    done = compiled(document("\n\\clearpage\n".join(shipped.values())), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 10_000
    assert "Overfull" not in done.stdout  # as wide as an article's page, or less
    wide = [text.replace("{table}", "{table*}") for text in shipped.values()]
    done = compiled(document("\n\\clearpage\n".join(wide)).replace("{article}", "[twocolumn]{article}", 1), tmp_path)
    assert done.returncode == 0 and "Overfull" not in done.stdout, done.stdout[-2000:]


@needs("pdflatex")
def test_the_bare_tabular_stands_in_a_table_of_ones_own(tmp_path):
    texts = table_files(study_of(["plain", "50 % & more"], tmp_path), "t")
    (tmp_path / "t.tabular.tex").write_text(texts["tabular.tex"])
    own = "\n".join([r"\begin{table}", r"\input{t.tabular}", r"\caption{Mine}", r"\end{table}"])
    assert compiled(document(own, r"\usepackage{booktabs}"), tmp_path).returncode == 0
    assert "Recipe" not in texts["tabular.tex"] and texts["tabular.tex"].count("tabular}") == 2


def test_any_label_survives_latex_markdown_and_csv(tmp_path):
    label = '50% & more_of $this$ #1 {x} ~^\\ | a,b "c"'
    texts = table_files(study_of([label], tmp_path), "t")
    check_latex(texts["tex"])
    rows = list(csv.reader(io.StringIO(texts["csv"])))
    assert rows[0][4] == rows[1][0] == label
    table = [line for line in texts["md"].splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


@needs("pdflatex")
@needs("pdftotext")
def test_hostile_labels_are_in_the_pdf_as_they_were_written(tmp_path):
    body = [tex_row([tex_text(label), f"row{i}"]) for i, label in enumerate(HOSTILE)]
    table = "\n".join([r"\begin{tabular}{ll}\toprule", tex_row(["[", "head"]), r"\midrule", *body, r"\end{tabular}"])
    needed = tex_needs(HOSTILE, ["{booktabs}", "[T1]{fontenc}"])
    assert not needed[1]
    done = compiled(document("\n".join([*needed[0], table]), r"\usepackage{lmodern}"), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:]
    # Spaces are pdftotext's guess.
    lines = {words[-1]: "".join(words[:-1]) for line in pdf_text(tmp_path).splitlines() if (words := line.split())}
    said = {label: lines.get(f"row{i}") for i, label in enumerate(HOSTILE)}
    assert said == {label: "".join(label.split()) for label in HOSTILE}
    assert lines["head"] == "["


@needs("pdflatex")
@pytest.mark.parametrize("labels", [SYMBOLS, [*SYMBOLS, *PACKAGED[::2]], HOSTILE], ids=["symbols", "packages", "hostile"])
def test_a_table_of_symbols_compiles_with_pdflatex(labels, tmp_path):
    text = table_tex(table_grid(study_of(labels, tmp_path), "t"))
    assert "XeLaTeX" not in text and text.split("\\begingroup")[1].isascii()
    assert ("amssymb" in text, "[T1]{fontenc}" in text) == ("✓ ⩾ ≲" in labels, "« þorn »" in labels)
    done = compiled(document(text), tmp_path)
    assert done.returncode == 0, done.stdout[-2000:]


@pytest.mark.parametrize("label", ENGINE)
def test_a_letter_without_a_command_names_the_engine_at_the_head(label, tmp_path):
    text = table_tex(table_grid(study_of([f"{label} ≥ 2"], tmp_path), "t"))
    line = next(line for line in text.splitlines() if "XeLaTeX" in line)
    assert text.splitlines().index(line) == 1
    assert line.startswith("% needs XeLaTeX or LuaLaTeX, and a font that has: ") and "≥" not in line
    assert set(line.split(": ")[1].split(" ")) == {letter for letter in tex_text(label) if not letter.isascii()}


@needs("pdflatex")
def test_pdflatex_stops_at_a_table_that_it_cannot_set_and_says_so(tmp_path):
    done = compiled(document(table_tex(table_grid(study_of(["猫"], tmp_path), "t"))), tmp_path)
    assert done.returncode != 0
    assert "This table has letters that pdfLaTeX has not: use XeLaTeX or LuaLaTeX" in done.stdout.replace("\n", "")


@needs("xelatex")
def test_xelatex_sets_it_with_a_font_that_has_the_letters_and_stops_without(tmp_path):
    from matplotlib import get_data_path

    text = table_tex(table_grid(study_of(["Привет ≥ → é 😀", *SYMBOLS, *PACKAGED], tmp_path), "t"))
    fonts = f"{get_data_path()}/fonts/ttf/"
    font = rf"\usepackage{{fontspec}}\setmainfont{{DejaVuSans.ttf}}[Path={fonts},BoldFont=DejaVuSans-Bold.ttf]"
    done = compiled(document(text, font), tmp_path, "xelatex")
    assert done.returncode == 0, done.stdout[-2000:]
    without = compiled(document(text), tmp_path, "xelatex")
    assert without.returncode != 0 and "Missing character" in without.stdout


@needs("pdflatex")
def test_every_command_of_the_library_compiles_with_the_packages_that_are_named(tmp_path):
    from pylatexenc.latexencode import get_builtin_uni2latex_dict

    letters = [chr(code) for code in sorted(get_builtin_uni2latex_dict()) if not UNSET.match(chr(code))]
    groups: dict[tuple[str, ...], list[str]] = {}
    for letter in letters:
        comments, checks = tex_needs([letter], ["{booktabs}"])
        assert not checks, letter
        groups.setdefault(tuple(comments), []).append(letter)
    assert len(groups) == 3 and len(letters) > 750
    for comments, group in groups.items():
        done = compiled(document("\n".join([*comments, *(f"x{tex_text(letter)}y\\par" for letter in group)])), tmp_path)
        assert done.returncode == 0, (comments, done.stdout[-600:])


@given(st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_text_has_balanced_braces_and_no_bare_special(text):
    made = tex_text(text)
    bare = re.sub(r"\\[\\{}&%$#_]", "", made.replace(r"\textbackslash{}", ""))
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"(?<!\\)[&%#_^]|[\n\r]", re.sub(r"\\[\^'\"`~=.uvHtcdbrk]", "", made))
    row = tex_row([made, "x"])
    assert not row.startswith(("[", "*")) and row.endswith(r" & x \\")


def test_latex_escapes():
    assert (
        tex_text("50% ± 1_000 & ~x^2 {a} \\")
        == r"50\% $\pm$ 1\_000 \& \textasciitilde{}x\textasciicircum{}2 \{a\} \textbackslash{}"
    )
    assert tex_text("≥ α é — a|b") == r"\ensuremath{\geq} \ensuremath{\alpha} \'e --- a\textbar{}b"
    assert tex_row(["[x]", "1"]) == r"{[}x] & 1 \\"
    assert tex_row(["*", "1"]) == r"{*} & 1 \\"
