"""YAML files, loaded safely: plain values only, a repeated key refused, with errors that say where."""

import re
from pathlib import Path
from typing import Any

import yaml

from pel_core.common.errors import PelError

QUOTE = 'A text that holds a colon needs quotes: "adaptformer@-6:".'


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # libyaml's where it is there: several times as fast
    """SafeLoader that refuses a repeated key (YAML would keep the last, in silence) and reads 5e-4 as a number."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    own = [key_node for key_node, _ in node.value if key_node.tag != "tag:yaml.org,2002:merge"]
    for key_node in own:  # before `<<` is merged in: a key beside it is meant to win
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if isinstance(key, list | dict):
            raise PelError(f"line {line}: a key must be a word, not a list or a mapping")
        if key in seen:
            raise PelError(f"line {line}: the key '{key}' was given before, on line {seen[key]}; keep one of them")
        seen[key] = line
    loader.flatten_mapping(node)
    return {loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value}


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        PelError: the file is missing, is not YAML, repeats a key, or holds no mapping.
    """
    try:
        # Of the module's own loader class, which is a SafeLoader: it builds plain values and nothing else.
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError:
        raise PelError(f"{path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PelError(f"{path} is not valid YAML: {' '.join(str(error).split())}. {QUOTE}") from None
    except PelError as error:
        raise PelError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise PelError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}")
    return content
