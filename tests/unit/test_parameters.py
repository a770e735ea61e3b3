"""What models.yml makes of a request's parameters, and what its names stand for."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_router.api.parameters import keep_alive, shaped
from llm_router.config.names import find, names_of
from llm_router.config.schema import Model, Parameters

KEYS = st.sampled_from(["temperature", "top_p", "seed", "n", "stop"])
VALUES = st.dictionaries(KEYS, st.integers() | st.none() | st.text(max_size=3))
LAYERS = st.builds(
    Parameters, defaults=VALUES, force=VALUES, strip=st.lists(KEYS, max_size=3, unique=True)
)


def test_client_before_default_and_force_before_client() -> None:
    layer = Parameters(defaults={"a": 1, "b": 1}, force={"c": 1}, strip=["d"])
    body = {"a": 2, "c": 2, "d": 2, "e": 2}
    assert shaped(body, layer) == {"a": 2, "b": 1, "c": 1, "e": 2}
    assert body == {"a": 2, "c": 2, "d": 2, "e": 2}


def test_what_is_stripped_may_have_a_default() -> None:
    assert shaped({"a": 2}, Parameters(strip=["a"], defaults={"a": 1})) == {"a": 1}


@given(VALUES, LAYERS, LAYERS)
def test_a_variant_comes_before_its_model(
    body: dict[str, Any], variant: Parameters, model: Parameters
) -> None:
    made = shaped(body, variant, model)
    for key in (*body, *made):
        stripped = key in variant.strip or key in model.strip
        sources = [variant.force, model.force]
        sources += [] if stripped else [body]
        sources += [variant.defaults, model.defaults]
        holder = next((source for source in sources if key in source), None)
        assert (key in made) == (holder is not None)
        if holder is not None:
            assert made[key] == holder[key]


@given(VALUES, LAYERS)
def test_twice_is_as_good_as_once(body: dict[str, Any], layer: Parameters) -> None:
    once = shaped(body, layer)
    assert shaped(once, layer) == once


@given(VALUES)
def test_no_layer_changes_nothing(body: dict[str, Any]) -> None:
    assert shaped(body) == shaped(body, Parameters()) == body


def test_every_name_leads_to_its_model() -> None:
    a = Model(name="a", backend="vllm", aliases=["b"], variants={"c": Parameters(strip=["x"])})
    models = {"a": a, "d": Model(name="d", backend="vllm")}
    assert [known.name for known in names_of(models)] == ["a", "d", "b", "c"]
    for name in ("a", "b", "c"):
        found = find(models, name)
        assert found is not None
        assert (found.name, found.entry) == (name, a)
        assert (found.variant is not None) == (name == "c")
    assert find(models, "e") is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5), ("5m", 300), (0, 0), (-1, math.inf), ("-1", math.inf), (None, None)],
)
def test_how_long_a_model_stays(value: Any, seconds: float | None) -> None:
    assert keep_alive(value) == seconds


@pytest.mark.parametrize(
    "text", ["1e400", "-1e400", "Infinity", "NaN", "1" + "0" * 400, f'"{"9" * 400}"', "true", "[]"]
)
def test_a_time_that_is_not_a_finite_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        keep_alive(json.loads(text))
