"""Pages that show what studies make: marks name what there is, what stands there fits the studies, and the command renews it."""

import re
from pathlib import Path

import pytest
from fake_results import write_results

from pel_core.bench.pages import BEGIN, END, PAGES, main, read_blocks
from pel_core.studies.kinds import FIGURE
from pel_core.studies.study import load

CONFIGS = Path(__file__).parents[2] / "workflow/config"
BLOCKS = [(page, block) for page in PAGES for block in read_blocks(page)]
NOT_ABLATIONS = {"report", "own-table", "tour"}
TOY = """
title: Toy
mark: TOY
notice: Made images
comparable: false
size: small
backbone: toy
seeds: [0, 1]
data: {cifar100: toy, imagenet-lt: toy}
resources: {threads: 1, mem_mb: 1000, runtime: 5}
"""


@pytest.fixture
def toy(tmp_path):
    """A configuration of toy data for the shipped studies' roles."""
    path = tmp_path / "toy.yaml"
    path.write_text(TOY)
    return str(path)


def page_of(tmp_path, *marks: str) -> Path:
    """A page that shows nothing yet."""
    page = tmp_path / "page.md"
    page.write_text("# Page\n" + "".join(f"Before.\n{BEGIN}{mark} -->\n{END}After.\n" for mark in marks))
    return page


def test_every_ablation_study_that_ships_is_shown():
    shipped = {path.stem for path in CONFIGS.glob("*.yaml") if "\nbackbone: " not in path.read_text(encoding="utf-8")}
    ablations = {block.study for page, block in BLOCKS if page.name == "ablations.md"}
    assert ablations == shipped - NOT_ABLATIONS
    assert {block.study for page, block in BLOCKS if page.name == "studies.md"} == {"tour"}


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=lambda item: getattr(item, "study", ""))
def test_what_a_page_shows_is_what_the_study_declares_now(page, block, tmp_path):
    """Names and labels; the numbers are those of the runs that the block names."""
    study, again = (
        load(block.study, "demo", seeds=block.seeds, results=tmp_path),
        f"run python -m pel_core.bench.pages {block.study}",
    )
    if block.body.startswith("*Not made by"):  # nothing of it may look like this command's
        assert f"`python -m pel_core.bench.pages {block.study}` yet" in block.body and "commit " in block.body
        assert "<sub>" not in block.body and "![" not in block.body
        return
    assert f"`make study STUDY={block.study} SEEDS={block.seeds}`" in block.body, again
    first_cells = re.findall(r"^\| (.*?) \|", block.body, re.MULTILINE)
    for name in block.artefacts:
        artefact = study.artefact(name)
        if artefact.how.form == FIGURE:
            assert f"![{artefact.title}](images/{name}.png)" in block.body, again
            assert (page.parent / f"images/{name}.png").stat().st_size > 5000
        elif artefact.kind == "table":
            assert f"**{artefact.title}**" in block.body, again
            rows = [str(row["label"]) for row in artefact.declaration["rows"]]
            assert [cell for cell in first_cells if cell in rows] == rows or len(block.artefacts) > 1, again
            assert all(f"| {column['label']} " in block.body for column in artefact.declaration["columns"]), again
        else:
            assert all(claim.statement in block.body for claim in artefact.claims), again


def test_numbers_that_a_page_reads_out_of_its_example_stand_there():
    page = PAGES[0].parent / "statistics.md"
    reading = page.read_text("utf-8").split("Read it so.")[1].split(BEGIN)[0]
    quoted = re.findall(r"\d+\.\d", reading)
    assert len(quoted) >= 8 and not [number for number in quoted if number not in read_blocks(page)[0].body]


def test_pictures_that_no_page_shows_are_gone():
    text = "".join(path.read_text("utf-8") for path in [*PAGES[0].parent.glob("*.md"), *PAGES[0].parent.parent.glob("*.md")])
    assert not [path.name for path in (PAGES[0].parent / "images").glob("*") if f"images/{path.name}" not in text]


def test_a_page_is_filled_between_its_marks_alone(toy, tmp_path):
    page = page_of(tmp_path, "tour seeds=0,1 tour-depth tour-claims", "tour seeds=0,1 tour-bars")
    results = tmp_path / "results"
    write_results(results, load("tour", toy, seeds="0,1", results=results).specs)
    words = ["--page", str(page), "--config", toy, "--results", str(results), "--draw"]
    assert main(words) == 0
    text = page.read_text()
    assert text.count("Before.\n") == text.count("After.\n") == 2
    assert "**CIFAR100-LT, imbalance ratio 100: which blocks, accuracy (%)**" in text and "| all blocks |" in text
    assert "**Adapting all blocks beats adapting the last two: " in text and "Made images" not in text and "Recipe:" not in text
    assert "![CIFAR100-LT, imbalance ratio 100](images/tour-bars.png)" in text
    assert (tmp_path / "images/tour-bars.png").read_bytes()[1:4] == b"PNG"
    assert "`make study STUDY=tour SEEDS=0,1`: " in text and "prepare 1, train 1, predict 1, score 1" in text
    assert main(words) == 0 and page.read_text() == text


def test_a_page_with_a_place_for_the_recipe_says_it_once(toy, tmp_path):
    page = page_of(
        tmp_path, "losses seeds=0 losses-imagenet-lt", "tte seeds=0 tte-imagenet-lt", "epochs seeds=0 epochs-imagenet-lt"
    )
    page.write_text("<!-- recipe -->\nof before\n<!-- end of recipe -->\n" + page.read_text())
    results = tmp_path / "results"
    for study in ("losses", "tte", "epochs"):
        write_results(results, load(study, toy, seeds="0", results=results).specs)
    words = ["--page", str(page), "--config", toy, "--results", str(results), "--draw"]
    assert main(words) == 0
    text, (losses, tte, epochs) = page.read_text(), read_blocks(page)
    assert text.startswith("<!-- recipe -->\nThe recipe, where a block says nothing else: ") and "of before" not in text
    assert [text.count(word) for word in ("momentum 0.9; ", "loss logit adjustment (tau 1)", "batch 32")] == [1, 1, 1]
    assert "Other than the recipe above: loss by row" in losses.body and "ten crops" in tte.body
    assert "epochs 1 / " in epochs.body and "loss " not in tte.body.split("Other than")[1]
    assert main(words) == 0 and page.read_text() == text


def test_only_what_is_asked_for_changes(toy, tmp_path):
    page = page_of(tmp_path, "tour seeds=0 tour-depth", "budget seeds=0 budget-cifar")
    results = tmp_path / "results"
    write_results(results, load("tour", toy, seeds="0", results=results).specs)
    assert main(["tour", "--page", str(page), "--config", toy, "--results", str(results), "--draw"]) == 0
    tour, budget = read_blocks(page)
    assert "| all blocks |" in tour.body and budget.body == ""


@pytest.mark.parametrize(
    ("mark", "asked", "words"),
    [
        ("tour seeds=0 tour-depth", ["toor"], ["unknown study 'toor'", "Did you mean 'tour'?"]),
        ("tour seeds=0 tour-dept", [], ["unknown artefact 'tour-dept'", "Did you mean 'tour-depth'?"]),
        ("tour seeds=0 tour-depth", [], ["has no result"]),
        ("tour seeds=zero tour-depth", [], ["page.md: expected <!-- made: STUDY", "found <!-- made: tour seeds=zero"]),
        ("tour tour-depth", [], ["found <!-- made: tour tour-depth"]),
    ],
)
def test_a_wrong_mark_or_missing_result_is_named(mark, asked, words, toy, tmp_path, capsys):
    page = page_of(tmp_path, mark)
    before = page.read_text()
    assert main([*asked, "--page", str(page), "--config", toy, "--results", str(tmp_path / "results"), "--draw"]) == 1
    told = capsys.readouterr().err
    assert [word for word in words if word not in told] == [] and page.read_text() == before


def test_a_mark_without_an_end_is_refused(tmp_path, capsys):
    page = page_of(tmp_path, "tour seeds=0 tour-depth", "tour seeds=0 tour-bars")
    page.write_text(page.read_text().replace(END, "", 1))
    assert main(["--page", str(page), "--draw"]) == 1 and "found <!-- made: tour seeds=0 tour-depth" in capsys.readouterr().err


@pytest.mark.slow
def test_the_tour_is_run_for_real(toy, tmp_path):
    """Trained on toy data through Snakemake; every artefact of it ends in the page."""
    artefacts = load("tour", toy).artefacts
    names, figures = " ".join(artefacts), sum(artefact.how.form == FIGURE for artefact in artefacts.values())
    page = page_of(tmp_path, f"tour seeds=0 {names}")  # but for the claim that has three of its own
    assert main(["--page", str(page), "--config", toy, "--results", str(tmp_path / "results"), "--cores", "2"]) == 0
    text = page.read_text()
    assert len(re.findall(r"!\[", text)) == figures >= 3 and "| loss ce |" in text and "| focal, gamma 1 |" in text
    assert len(re.findall(r": (holds|undecided|refuted)\*\*$", text, re.MULTILINE)) == len(artefacts["tour-claims"].claims)
