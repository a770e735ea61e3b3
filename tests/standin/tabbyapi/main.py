"""What a checkout of TabbyAPI runs as main.py: the stand-in, configured as TabbyAPI is.

It reads its config as TabbyAPI e632af4 and 79126f9 do, traps included: ./config.yml first, then
TABBY_… variables, then the file that --config names; a file that cannot be parsed counts for
nothing; keys of older versions are moved, and the file with them; api_tokens.yml lies in the
working directory, is made where it is missing, and its keys go into the log. FLAVOR beside it says
which commit it stands for. What it then answers is the contract `tabby`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import secrets
import sys
import textwrap
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
    "model": (
        *("model_dir", "model_name", "max_seq_len", "cache_size", "cache_mode"),
        *("inline_model_loading", "use_as_default"),
    ),
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
    logger.info(
        f"Your API key is: {', '.join(keys)}\nYour admin key is: {found['admin_key']}\n"
        "If these keys get compromised, make sure to delete api_tokens.yml and restart the "
        "server. Have fun!"
    )
    return frozenset(keys), str(found["admin_key"])


SETTINGS = ("max_seq_len", "cache_size", "cache_mode")
"""Of a model; what the stand-in shows of them in /v1/model."""


class Checkout(Tabby):
    """With the models of a directory, loaded by the rules of the flavor."""

    model_dir: Path
    defaults: Mapping[str, Any]
    """What `use_as_default` names, by the config of the start."""
    flavor: str

    def settings_of(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """`common/model.py`: with ExLlamaV3 alone the model's own file wins, and before it the
        config (at a start) or the request (over the API), its nulls left out."""
        own = loaded_from(self.model_dir / name, self.flavor)
        asked = {key: value for key, value in asked.items() if value is not None}
        merged = (
            {**own, **self.defaults, **asked}
            if self.flavor == "exl2"
            else {**self.defaults, **asked, **own}
        )
        return {key: merged[key] for key in SETTINGS if key in merged}


def loaded_from(directory: Path, flavor: str) -> dict[str, Any]:
    """What the model's own folder says. Raises `ValueError` for one that this flavor cannot run."""
    details = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    method = details.get("quantization_config", {}).get("quant_method")
    if method in {"exl2", "gptq"} and flavor != "exl2":
        raise ValueError(
            f"Models quantized with '{method}' require the exllamav2 backend, which is no longer "
            "supported. Please use an exl3 or unquantized model."
        )
    own = directory / "tabby_config.yml"
    if not own.exists():
        return {}
    return dict((YAML(typ="safe").load(own) or {}).get("model") or {})


def log_line(message: Any) -> None:
    """To stdout, each line of a record by itself, broken at 80 columns unless TABBY_… says more."""
    named = os.environ.get("TABBY_LOG_CONSOLE_WIDTH", "")
    width = int(named) if named.isnumeric() else 80
    record = message.record
    begin = f"{record['time']:YYYY-MM-DD HH:mm:ss.SSS} {record['level'].name + ':':<10}"
    for text in record["message"].splitlines():
        for line in textwrap.wrap(f"{begin}{text}", width, break_on_hyphens=False):
            print(line, flush=True)
    if record["exception"] is not None:
        print(record["exception"].value, flush=True)


def main() -> None:
    logger.remove()
    logger.add(log_line)
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
    flavor = (HERE / "FLAVOR").read_text(encoding="utf-8").strip()
    name = model.get("model_name")
    argv = ["--engine=tabby", f"--port={config['network'].get('port', 5000)}", f"--name={name}"]
    flags = [*(["exl2"] if flavor == "exl2" else []), *([] if name else ["empty"])]
    engine = Checkout(parse([*argv, f"--flags={','.join(flags)}"]))
    engine.flavor, engine.model_dir = flavor, Path(model.get("model_dir", "models"))
    engine.defaults = {key: model[key] for key in model.get("use_as_default") or () if key in model}
    if name:
        # the program's own defaults are the config's, too, and 79126f9 puts it above all
        engine.parameters = engine.settings_of(name, {"cache_mode": "FP16", **model})
        logger.info(f"Loading model: {engine.model_dir / name}")
    engine.api_keys, engine.admin_key = tokens(bool(config["network"].get("disable_auth")))
    engine.run()


if __name__ == "__main__":
    main()
