"""Stands in for ``python -m pel_core`` where inputs are to be real and runs made up: data are prepared, weights and sentences
hashed, and every run says what it was made from, as the program does; nothing is trained."""

import sys
from pathlib import Path

from pel_core.common.files import read_json, sha256, write_bytes, write_json
from pel_core.common.versions import versions
from pel_core.data.datasets import open_prepared, split_name
from pel_core.spec.results import OUTPUTS, inputs_of, metrics_file, run_folder
from pel_core.spec.run_spec import RunSpec
from pel_core.spec.stored_predictions import PARQUET


def value(words: list[str], option: str) -> str | None:
    """What ``--option=value`` or ``--option value`` says."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == f"--{option}":
            return after
        if word.startswith(f"--{option}="):
            return word.split("=", 1)[1]
    return None


def record_of(spec: RunSpec, results: Path) -> dict:
    """A made-up record of a run on what is prepared now."""
    from fake_results import fake_record

    base = split_name(spec.dataset)[0]
    record = fake_record(spec)
    record["data"]["sha256"] = open_prepared(results / "data" / base, spec.dataset, ("train", "test")).sha256
    record["backbone"]["sha256"] = read_json(results / "backbones" / spec.backbone / "backbone.json")["sha256"]
    return {"slug": spec.slug, "versions": record["versions"], "scored": record["scored"], "inputs": inputs_of(record), **record}


def main(words: list[str]) -> int:
    """The files of a command."""
    command, name = words[:2]
    if command == "data":
        from pel_core.cli.main import main as real

        return real(words)
    if command == "backbone":
        from pel_core.studies.inputs import write_weights_source
        from pel_core.studies.provenance import backbone_params

        weights, out = value(words, "weights"), value(words, "out")
        digest = sha256(weights) if weights else "0" * 64
        write_bytes(f"{out}/vit.safetensors", b"")
        source = {"file": Path(weights or "").name, "sha256": digest, "tag": "toy"}
        write_json(f"{out}/backbone.json", {"name": name, "sha256": digest, "source": source})
        write_weights_source(out, backbone_params(name, weights))
    elif command in ("train", "evaluate"):
        spec, results = RunSpec.parse(name), Path(value(words, "results"))
        folder, record = run_folder(results, name), record_of(spec, results)
        if command == "train":
            write_bytes(folder / "delta.safetensors", b"x")
            write_json(folder / "train.json", record | {"versions": versions("prepare", "train")})
        else:
            write_json(metrics_file(results, name), record)
            for file in ("logits.safetensors", *OUTPUTS):
                write_bytes(folder / file, PARQUET)
    elif command == "table":
        from pel_core.cli.main import main as real

        return real(words)
    else:
        import fake_results

        fake_results.main(words)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main(sys.argv[1:]))
