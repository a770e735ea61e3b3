"""What a checkout of TabbyAPI runs as main.py: the stand-in, configured as TabbyAPI is.

It reads its config as TabbyAPI e632af4 does, traps included: ./config.yml first, then TABBY_…
variables, then the file that --config names; a file that cannot be parsed counts for nothing; keys
of older versions are moved, and the file with them; api_tokens.yml lies in the working directory,
is made where it is missing, and its keys go into the log. FLAVOR beside it says which commit it
stands for. What it then answers is the contract `tabby`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loguru import logger
from ruamel.yaml import YAML

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "standin"))

from contracts.tabby import Tabby  # noqa: E402
from options import parse  # noqa: E402

SECTIONS = {
    "network": ("host", "port", "disable_auth"),
    "model": ("model_dir", "model_name", "max_seq_len", "inline_model_loading"),
    "developer": ("unsafe_launch",),
}
"""What of TabbyAPI's settings the stand-in heeds; all others are ignored, as are unknown ones."""

Config = dict[str, dict[str, Any]]


def from_file(path: Path) -> Config:
    """A file's settings. One that cannot be parsed is logged, and has none."""
    yaml = YAML(typ=["rt", "safe"])
    try:
        with path.open(encoding="utf-8") as file:
            config = yaml.load(file)
        model = config.get("model") or {}
        old_logging = [key for key in config.get("logging") or {} if not key.startswith("log_")]
    except FileNotFoundError:
        logger.info(f"The '{path.name}' file cannot be found")
        return {}
    except Exception as error:
        logger.error(f"The YAML config from '{path.name}' couldn't load: {error}")
        return {}
    if model.get("draft") or model.get("lora") or old_logging:
        logger.warning("Legacy config.yml file detected. Attempting auto-migration.")
        path.rename(f"{path}.bak")
        with path.open("w", encoding="utf-8") as file:
            yaml.dump({name: dict(config.get(name) or {}) for name in SECTIONS}, file)
    return dict(config)


def from_environment() -> Config:
    return {
        section: {
            key: os.environ[variable]
            for key in keys
            if (variable := f"TABBY_{section}_{key}".upper()) in os.environ
        }
        for section, keys in SECTIONS.items()
    }


def merged(*configs: Mapping[str, Any]) -> Config:
    """Later ones win; what is blank does not count."""
    result: Config = {name: {} for name in SECTIONS}
    for config in configs:
        for section in SECTIONS:
            settings = config.get(section) or {}
            result[section] |= {key: value for key, value in settings.items() if value is not None}
    return result


def tokens(disabled: bool) -> tuple[frozenset[str], str | None]:
    """The user's keys and the admin's; none at all where authentication is off."""
    if disabled:
        logger.warning("Disabling authentication makes your instance vulnerable.")
        return frozenset(), None
    yaml = YAML(typ=["rt", "safe"])
    path = Path("api_tokens.yml")
    try:
        with path.open(encoding="utf-8") as file:
            found = dict(yaml.load(file))
    except FileNotFoundError:
        found = {"api_key": secrets.token_hex(16), "admin_key": secrets.token_hex(16)}
        with path.open("w", encoding="utf-8") as file:
            yaml.dump(found, file)
    keys = found["api_key"] if isinstance(found["api_key"], list) else [found["api_key"]]
    logger.info(f"Your API key is: {', '.join(keys)}")
    logger.info(f"Your admin key is: {found['admin_key']}")
    return frozenset(keys), str(found["admin_key"])


def loaded_from(directory: Path) -> dict[str, Any]:
    """What the model's own folder says. Raises `ValueError` for one that this flavor cannot run."""
    details = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    method = details.get("quantization_config", {}).get("quant_method")
    flavor = (HERE / "FLAVOR").read_text(encoding="utf-8").strip()
    if method in {"exl2", "gptq"} and flavor != "exl2":
        raise ValueError(
            f"Models quantized with '{method}' require the exllamav2 backend, which is no longer "
            "supported. Please use an exl3 or unquantized model."
        )
    own = directory / "tabby_config.yml"
    if not own.exists():
        return {}
    return dict((YAML(typ="safe").load(own) or {}).get("model") or {})


def main() -> None:
    logger.remove()
    logger.add(sys.stdout, format="{level}: {message}")
    logger.add("logs/{time}.log")
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    given = parser.parse_args()
    config = merged(from_file(Path("config.yml")), from_environment(), from_file(given.config))
    if not config["developer"].get("unsafe_launch"):
        try:
            importlib.import_module("exllamav3")
        except ImportError:
            raise SystemExit(
                "ERROR: Inference dependencies for TabbyAPI are not installed."
            ) from None
    model = config["model"]
    name = model.get("model_name")
    if name:
        directory = Path(model.get("model_dir", "models")) / name
        model = model | loaded_from(directory)
        logger.info(f"Loading {directory}")
    argv = ["--engine=tabby", f"--port={config['network'].get('port', 5000)}", f"--name={name}"]
    argv += [f"--context={model.get('max_seq_len', 4096)}"]
    engine = Tabby(parse([*argv] if name else [*argv, "--flags=empty"]))
    engine.api_keys, engine.admin_key = tokens(bool(config["network"].get("disable_auth")))
    engine.run()


if __name__ == "__main__":
    main()
