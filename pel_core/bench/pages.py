"""What studies make, in the pages that tell of them (`PAGES`): tables, figures and verdicts.

    python -m pel_core.bench.pages                  # run every study that the pages show, and renew the pages
    python -m pel_core.bench.pages losses tour      # these alone; what is shown of others stays
    python -m pel_core.bench.pages losses --draw    # from the results that are there; runs nothing

A page says in a mark what it shows, ``<!-- made: STUDY seeds=0,1 ARTEFACT ARTEFACT -->``. What stands below, up to
``<!-- end of made -->``, is replaced, and ends with the commit and the runs it came from. So no number there is typed. Between
``<!-- recipe -->`` and ``<!-- end of recipe -->`` stands once the recipe of most of its blocks; what of it is another in a block
stands under that.
"""

import argparse
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from pel_core.bench.study import ROOT, snakemake_command
from pel_core.common.errors import PelError, unknown
from pel_core.common.files import write_bytes, write_text
from pel_core.common.versions import made_by
from pel_core.hardware.cores import usable_cpus
from pel_core.reporting.recipe_text import planned_parts
from pel_core.spec.results import read_result
from pel_core.studies.kinds import FIGURE
from pel_core.studies.study import Study, load

PAGES = tuple(ROOT / "docs" / f"{name}.md" for name in ("ablations", "studies", "statistics"))
BEGIN, END = "<!-- made: ", "<!-- end of made -->\n"
MARK = re.compile(
    rf"{BEGIN}(?P<study>[\w-]+) seeds=(?P<seeds>\d+(?:,\d+)*)(?P<artefacts>(?: [\w-]+)+) -->\n(?P<body>.*?){END}", re.DOTALL
)
RECIPE = re.compile(r"(?<=<!-- recipe -->\n).*?(?=<!-- end of recipe -->\n)", re.DOTALL)
# Lines of an artefact's Markdown that a page does not repeat: banner, recipe and data.
SIGNS = re.compile(r"[\\*_`|\[]")  # that Markdown takes for its own
REPEATED = ("> ", "Recipe: ", "Data: ")


@dataclass(frozen=True)
class Block:
    """What stands between two marks: the study and seeds it is of, the artefacts it shows, and their Markdown as it stands."""

    study: str
    seeds: str
    artefacts: tuple[str, ...]
    body: str


def read_blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order.

    Raises:
        PelError: the page does not exist, or a mark is no mark or has no end.
    """
    if not page.is_file():
        raise PelError(f"{page} does not exist; expected a page with lines such as {BEGIN}losses seeds=0 losses-imagenet-lt -->")
    blocks = []
    for piece in page.read_text(encoding="utf-8").split(BEGIN)[1:]:  # from one mark to the next
        if not (match := MARK.match(BEGIN + piece)):
            found = BEGIN + piece.split("\n")[0]
            raise PelError(f"{page}: expected {BEGIN}STUDY seeds=0,1 ARTEFACT -->, and {END.strip()} below it; found {found}")
        blocks.append(_block(match))
    return blocks


def _block(match: re.Match[str]) -> Block:
    return Block(match["study"], match["seeds"], tuple(match["artefacts"].split()), match["body"])


def run_study(study: str, seeds: str, config: str, results: Path, cores: int) -> None:
    """Make every run and artefact of a study that is missing in a results folder, through Snakemake.

    Raises:
        PelError: it failed; the last lines of its log are told.
    """
    words = [f"study={study}", f"config={config}", f"seeds={seeds}", f"results={results}", f"figures={results / 'figures'}"]
    results.mkdir(parents=True, exist_ok=True)
    with open(results / f"{Path(study).stem}.log", "w", encoding="utf-8") as log:
        done = subprocess.run([*snakemake_command(cores), "--config", *words], stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise PelError(f"the study {study} failed: {Path(log.name).read_text(encoding='utf-8').strip()[-500:]}")


def shown(study: Study, block: Block, pictures: Path, shared: Sequence[str] | None = None) -> str:
    """A block's artefacts in Markdown, drawn from results; figures go to a folder ``pictures`` beside the page.

    Args:
        shared: the parts of the recipe that the page says once; None where it says none.

    Raises:
        PelError: an artefact that there is not, or a run that has no usable result.
    """
    parts = []
    for name in block.artefacts:
        artefact = study.artefact(name)
        artefact.how.draw(study, name, study.folder(name))
        files = {Path(file).suffix: Path(file) for file in study.files(name)}
        if artefact.how.form == FIGURE:
            write_bytes(pictures / f"{name}.png", files[".png"].read_bytes())
            parts.append(f"![{artefact.title}]({pictures.name}/{name}.png)")
            parts.append(_caption(files[".txt"].read_text(encoding="utf-8"), artefact.banner[1]))
        else:
            parts.append(_words(files[".md"].read_text(encoding="utf-8")))
    own = [] if shared is None else [part for part in _recipe(study, block) if part not in shared]
    besides = [f"<sub>Other than the recipe above: {'; '.join(own)}.</sub>"] if own else []
    return "\n\n".join([*parts, *besides, _origin(study, block)]) + "\n"


def _words(markdown: str) -> str:
    """An artefact's Markdown in a page: its headings bold, what the page says once left out."""
    lines = [line for line in markdown.splitlines() if not line.startswith(REPEATED)]
    lines = [re.sub(r"^#+ (?:\[\w+\] )?(.*)$", lambda match: f"**{match[1].replace('**', '')}**", line) for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _caption(text: str, notice: str) -> str:
    """A figure's caption in a page, small below it: its title is the picture's, the notice the page's."""
    said = escape(" ".join(line for line in text.splitlines()[1:] if line != notice), quote=False)
    said = SIGNS.sub(r"\\\g<0>", said)
    return f"<sub>{said}</sub>"


def _recipe(study: Study, block: Block) -> list[str]:
    """The parts of the recipe of a block's runs; none of what is drawn from models."""
    artefacts = [study.artefact(name) for name in block.artefacts]
    specs = {slug: spec for artefact in artefacts if not artefact.how.from_models for slug, spec in artefact.specs.items()}
    return planned_parts(specs.values()) if specs else []


def page_recipe(page: Path, config: str) -> list[str] | None:
    """The parts of the recipe that most blocks of a page share, by their studies; None where it has no place for it."""
    if not RECIPE.search(page.read_text(encoding="utf-8")):
        return None
    found = [parts for block in read_blocks(page) if (parts := _recipe(load(block.study, config, seeds=block.seeds), block))]
    counts = Counter(part for parts in found for part in parts)
    return [part for part, count in counts.items() if 2 * count > len(found)]


def _origin(study: Study, block: Block) -> str:
    """Where a block's numbers come from, as its runs' records say."""
    specs = {slug: spec for name in block.artefacts for slug, spec in study.artefact(name).specs.items()}
    command = f"`make study STUDY={study.path.stem} SEEDS={block.seeds}`"
    if not specs:
        return f"<sub>{command}: drawn from the models; no run.</sub>"
    records = [read_result(study.results, spec, study.accept) for spec in specs.values()]
    told = [_several(str(record.get("environment", {}).get(key)) for record in records) for key in ("torch", "device")]
    commits = _several(_short(str(record.get("environment", {}).get("commit"))) for record in records)
    stages = _several(
        ", ".join(f"{stage} {number}" for stage, number in made_by(record).items())
        for record in records
        if "train" in made_by(record)
    )
    return f"<sub>{command}: {len(records)} runs, code {commits}, torch {told[0]} on {told[1]}; versions {stages}.</sub>"


def _short(commit: str) -> str:
    """Seven digits of a commit, and ``+`` where files differed from it."""
    return commit[:7] + "+" * commit.endswith("+")


def _several(words: Iterable[str]) -> str:
    return " and ".join(sorted(set(words)))


def renew(page: Path, chosen: Sequence[str], open_study: "Opener") -> Iterator[str]:
    """Put what the chosen studies make (all where none is chosen) into a page. Yields a line for each block."""
    made: dict[Block, str] = {}
    shared = page_recipe(page, open_study.config)
    for block in read_blocks(page):
        if not chosen or block.study in chosen:
            made[block] = shown(open_study(block), block, page.parent / "images", shared)
            yield f"{page.name}: {block.study}, {', '.join(block.artefacts)}"

    def put(match: re.Match[str]) -> str:
        body = made.get(_block(match), match["body"])
        return match[0][: match.start("body") - match.start()] + body + END

    text = MARK.sub(put, page.read_text(encoding="utf-8"))
    recipe = f"The recipe, where a block says nothing else: {'; '.join(shared or [])}.\n"
    write_text(page, RECIPE.sub(lambda match: recipe, text))


@dataclass(frozen=True)
class Opener:
    """The study of a block on a configuration, whose runs are made first unless ``draw`` is asked for."""

    config: str
    results: Path
    cores: int
    draw: bool
    ran: set[tuple[str, str]] = field(default_factory=set)

    def __call__(self, block: Block) -> Study:
        if not self.draw and (block.study, block.seeds) not in self.ran:
            self.ran.add((block.study, block.seeds))
            run_study(block.study, block.seeds, self.config, self.results, self.cores)
        return load(block.study, self.config, seeds=block.seeds, results=self.results, figures=self.results / "figures")


def main(words: Sequence[str] | None = None) -> int:
    """Renew the pages."""
    parser = argparse.ArgumentParser(prog="python -m pel_core.bench.pages", description=__doc__.splitlines()[0])
    parser.add_argument("study", nargs="*", help="of those that the pages show (all of them)")
    parser.add_argument("--page", action="append", type=Path, help="a page with marks (those of docs that have any)")
    parser.add_argument("--config", default="demo", help="the configuration of the runs (demo)")
    parser.add_argument("--results", default=Path("results/pages"), type=Path, help="the results folder (results/pages)")
    parser.add_argument("--cores", type=int, default=usable_cpus(), help="cores to use (all)")
    parser.add_argument("--draw", action="store_true", help="run nothing: from the results that are there")
    asked = parser.parse_args(words)
    pages = asked.page or PAGES
    try:
        known = {block.study for page in pages for block in read_blocks(page)}
        for name in asked.study:
            if name not in known:
                raise unknown("study", name, known, "(of those that the pages show)")
        for page in pages:
            for line in renew(page, asked.study, Opener(asked.config, asked.results, asked.cores, asked.draw)):
                print(line, flush=True)
    except PelError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
