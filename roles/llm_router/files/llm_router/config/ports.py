"""Which engines would meet on one port. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llm_router.config.schema import Config, Model

_EVERYWHERE = ("", "0.0.0.0", "::", "localhost")
_REMEDY = "give one of them another port"


def port_problems(
    models: Mapping[str, Model], config: Config
) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(place, what, remedy) of each model whose engine could not listen, or would be mistaken for
    another.

    Two engines may have one port only if they never run at once: models of one unit, or of one
    group in which both engines stop before the other starts.
    """
    by_port: dict[int, _Port] = {}
    for model in models.values():
        place = ("models", model.name, "port")
        number = model.listens_on
        if number == config.listen.port and _on_loopback(config.listen.host):
            what = f"port {number} is the router's own (listen.port)"
            yield place, what, "give the model another port"
        port = by_port.setdefault(number, _Port())
        conflict = port.problem_with(model)
        if conflict is not None:
            yield place, f"port {number} is already used by model {conflict}", _REMEDY


class _Port:
    """The models whose engines listen on one port."""

    def __init__(self) -> None:
        self._stays: dict[str, tuple[Model, bool]] = {}
        """By name: the model, and whether its engine may stay."""
        self._groups: set[str] = set()
        self._any_stays = False

    def problem_with(self, model: Model) -> str | None:
        """Add a model; why its engine cannot listen here, beginning with the other's name."""
        stays = may_stay(model)
        problem = None
        # nearly always nothing can conflict; a thousand models are not compared with each other
        if stays or self._any_stays or self._groups - {model.group}:
            problem = self._conflict(model, stays)
        self._stays[model.name] = model, stays
        self._groups.add(model.group)
        self._any_stays = self._any_stays or stays
        return problem

    def _conflict(self, model: Model, stays: bool) -> str | None:
        for other, other_stays in self._stays.values():
            if other.unit == model.unit:
                continue
            if other.group != model.group:
                return f"'{other.name}'"
            if other_stays or stays:
                sleeper = other if other_stays else model
                return (
                    f"'{other.name}', and the engine of '{sleeper.name}' keeps it while that "
                    "model sleeps (residency)"
                )
        return None


def may_stay(model: Model) -> bool:
    """Whether the engine may go on running while another model of the group is loaded."""
    # engines read the configuration's schema: imported at the top, this would be a circle
    from llm_router.engines import engine_for
    from llm_router.engines.residency import started_with

    can, wish = engine_for(model).residencies, model.residency
    if wish == "auto":
        return "sleep" in can and started_with(model, can["sleep"].flags)
    if wish == "sleep":
        return "sleep" in can or "discard" in can
    return wish in can


def _on_loopback(host: str) -> bool:
    """Whether a socket on ``host`` takes the port of 127.0.0.1 as well."""
    return host in _EVERYWHERE or host.startswith("127.")
