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
    by_port: dict[int, list[Model]] = {}
    for model in models.values():
        place = ("models", model.name, "port")
        port = model.listens_on
        if port == config.listen.port and _on_loopback(config.listen.host):
            what = f"port {port} is the router's own (listen.port)"
            yield place, what, "give the model another port"
        others = by_port.setdefault(port, [])
        for other in others:
            if other.unit == model.unit:
                continue
            if other.group != model.group:
                yield place, f"port {port} is already used by model '{other.name}'", _REMEDY
                break
            sleeper = next((one for one in (other, model) if may_stay(one)), None)
            if sleeper is not None:
                what = (
                    f"port {port} is already used by model '{other.name}', and the engine of "
                    f"'{sleeper.name}' keeps it while that model sleeps (residency)"
                )
                yield place, what, _REMEDY
                break
        others.append(model)


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
