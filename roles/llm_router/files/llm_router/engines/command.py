"""Any program with an OpenAI API: nothing is known of it but ``/v1/models``."""

from __future__ import annotations

from llm_router.config.schema import Config, Model
from llm_router.engines.base import Engine, Probe, serves_model


def child_argv(model: Model, _: Config) -> list[str]:
    """The command as models.yml gives it, then its ``args``."""
    return [*(model.command or []), *model.args]


COMMAND = Engine(
    backend="command",
    label="command",
    probes=(Probe("/v1/models", serves_model),),
    child_argv=child_argv,
)
