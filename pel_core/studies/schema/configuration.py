"""A configuration file: data sets, backbone, seeds, where things lie, and what jobs may take."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from pel_core.studies.schema.selections import Fields
from pel_core.studies.schema.types import DataName, Declaration, Expected, Natural, Role, Seeds, Switch, Text, Texts


class BoundRole(Declaration):
    """The data set of a role, with a title of its own."""

    dataset: Text = Field(description="The data set, without -irN.")
    title: Text = Field(
        default="", description="How titles call it, in place of the study's word, which stands where this is left out."
    )


class Naming(Declaration):
    """How the classes of a data set are called."""

    file: Text = Field(default="", description="A file of class names: text, line i for label i, or JSON, {name: other name}.")
    clean: Text = Field(default="", description="Characters that become spaces in class names, such as _-.")
    distinct: Switch = Field(default=False, description="Whether ImageNet's two pairs of equal names are told apart.")
    by_folder: Switch = Field(default=False, description="Whether class i is called as the folder that its images lie in.")


Templates = Annotated[
    Annotated[list[Text], Expected("a list of sentences with {} in the place of the class name, or a file of them"), Tag("list")]
    | Annotated[Text, Tag("file")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "file"),
]


class TextSet(Declaration):
    """Texts of a data set's classes, as `prompt: texts:NAME` takes them: templates, descriptions, other names."""

    templates: Templates = Field(
        default=[], description="Sentences with {} in the place of the class name, or a text file of them, one a line."
    )
    prompt: Text = Field(default="", description="In their place: the templates of this prompt (default, ensemble, ...).")
    descriptions: Text = Field(default="", description="In their place: a JSON file of sentences, {class name: [sentence, ...]}.")
    names: Text = Field(
        default="", description="How each class is spoken: a JSON file, {class name: spoken name}, or CSV lines class,name."
    )
    source: Text = Field(default="", description="Where the texts are from; it is kept with what is made of them.")


TextSetName = Annotated[str, Field(pattern="^[a-z][a-z0-9-]*$"), Expected("a name of lower-case letters, digits and -")]


LeftOut = Annotated[
    Annotated[Literal["others"], Expected("a list of its classes, or others"), Tag("word")] | Annotated[list[Text], Tag("list")],
    Discriminator(lambda given: "list" if isinstance(given, list) else "word"),
]


class TestSet(Declaration):
    """How a data set fits the one that runs train on, where they are evaluated on it (`evaluate_on`)."""

    images: Literal["test", "all"] = Field(default="test", description="Its test split, or all of its images.")
    classes: Text = Field(
        default="names",
        description="How its classes are recognised: names, folders (WordNet ids, say), sorted-folders (a folder is called by "
        "the number of the class in the order of the training's folders), or a JSON file: {its class: one, several or null}.",
    )
    leave_out: LeftOut = Field(default=[], description="Its classes that are not evaluated on; others: all that fit none.")
    count: Natural = Field(default=0, description="How many of its classes are to fit, as published; 0: not said.")


Count = Annotated[int, Field(ge=1), Expected("a whole number of 1 or more")]


# YAML reads a bare off as false.
Compile = Annotated[Literal["off", "auto"], BeforeValidator(lambda given: "off" if given is False else given)]


class Resources(Declaration):
    """Threads, memory, time and GPUs of one training or evaluation."""

    threads: Count = Field(default=1, description="CPU threads.")
    mem_mb: Annotated[int, Field(ge=100), Expected("a whole number of 100 or more")] = Field(
        default=4000, description="Memory in MB."
    )
    runtime: Annotated[int, Field(ge=1), Expected("a whole number of minutes, 1 or more")] = Field(
        default=60, description="Whole minutes that a job may take."
    )
    gpus: Count = Field(default=1, description="GPUs of one training run: with more than one it trains data-parallel.")
    compile: Compile = Field(
        default="off", description="auto: trainings on a CUDA device go through torch.compile; elsewhere nothing changes."
    )
    gpu_share: Annotated[float, Field(gt=0, le=1), Expected("a number above 0 and at most 1")] = Field(
        default=1.0, description="The part of a GPU's memory that one job needs: 0.25 lets four run on one GPU."
    )


Data = Annotated[
    Annotated[Text, Tag("name")] | Annotated[BoundRole, Tag("mapping")],
    Discriminator(lambda entry: "mapping" if isinstance(entry, dict) else "name"),
]
DATA = "a mapping of role to data set (or {dataset, title}), at least one"


class Configuration(Declaration):
    """A configuration: which data sets and backbone it binds to a study's roles, with which seeds and budget."""

    title: Text = Field(description="The configuration's title.")
    mark: Annotated[str, Field(min_length=1, max_length=12), Expected("a word of at most 12 letters")] = Field(
        default="", description="A word printed on every table and figure."
    )
    notice: Text = Field(default="", description="What readers of every table and figure have to know.")
    comparable: Switch = Field(
        default=True, description="False where the numbers cannot be compared with the reported ones; `notice` says why."
    )
    size: Literal["full", "small"] = Field(
        default="full", description="Which of a study's {full: ..., small: ...} values are meant."
    )
    each: Literal["all", "first"] = Field(default="all", description="How many of the data sets that a study's `each` names.")
    backbone: Text = Field(description="The backbone of every run that names none.")
    seeds: Seeds = Field(description="The seeds of every run.")
    data: Annotated[dict[Role, Data], Field(min_length=1), Expected(DATA)] = Field(
        description="The study's role: the data set that is bound to it, or {dataset, title}."
    )
    recipe: Fields = Field(
        default_factory=Fields, description="Fields of RunSpec, and knobs, for every run; what a method's own recipe needs stays."
    )
    datasets: dict[DataName, dict[str, Any]] = Field(
        default={}, description="Data sets of your own by name: kind, root and more (docs/own-data.md)."
    )
    weights: dict[str, Text] = Field(
        default={}, description="A backbone: its weights, a local file or model folder, or hf-hub:owner/name."
    )
    cache_dir: Text = Field(default="", description="The folder where downloaded weights are kept.")
    descriptions: dict[str, Text] = Field(
        default={}, description="A data set (without -irN): a JSON file of sentences, {class name: [sentence, ...]}."
    )
    texts: dict[str, dict[TextSetName, TextSet]] = Field(
        default={}, description="A data set (without -irN): its text sets by name, for `prompt: texts:NAME` (docs/prompts.md)."
    )
    roots: dict[str, Text] = Field(default={}, description="A built-in data set: its image folder.")
    lists: dict[str, Text] = Field(
        default={}, description="A built-in data set: the folder of its list files, where that is not the image folder."
    )
    user_lists: Texts = Field(
        default=[], description="Built-in data sets whose lists are your own, and are not compared with the published ones."
    )
    naming: dict[str, Naming] = Field(default={}, description="A data set: options for its class names.")
    test_sets: dict[DataName, TestSet] = Field(
        default={}, description="A data set that runs are evaluated on beside their own (`evaluate_on`): how its classes fit."
    )
    check_images: Literal["none", "sample", "all"] = Field(
        default="sample", description="How many image files of each list are decoded when a data set is prepared."
    )
    results: Text = Field(default="results", description="The folder of the results.")
    figures: Text = Field(default="figures", description="The folder of the figures.")
    strict: Switch = Field(
        default=False, description="Whether a run that failed or diverged leaves every table and figure it is part of unmade."
    )
    accept: Texts = Field(default=[], description="Runs whose results of an older version are accepted as they are.")
    tensorboard: Switch = Field(default=True, description="Whether runs write TensorBoard events.")
    wandb: Switch = Field(default=False, description="Whether runs report to Weights & Biases, which must be installed.")
    logits: Literal["compact", "full"] = Field(
        default="compact", description="How precisely the logits of evaluations are stored: compact, or full (fp32)."
    )
    prefix_cache_gb: Annotated[float, Field(ge=0), Expected("GB, a number of 0 or more")] = Field(
        default=4.0, description="GB that evaluations may keep for each other under the results folder; 0: nothing."
    )
    resources: Resources = Field(default_factory=Resources, description="What a training or evaluation job may take.")
