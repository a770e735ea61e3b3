"""Who has which model, as the gateway is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.roundhouse.llm.plugins.filter.fleet_routes import fleet_routes


def host(name: str, **models: Any) -> dict[str, Any]:
    return {"name": name, "models": models}


SHOWN = {"context_length": 8192, "description": "For 100 % of all", "tags": ["chat"]}
A = {
    "backend": "vllm",
    "aliases": ["gpt-4"],
    "variants": {"a:hot": {}},
    "display_name": "The A",
    **SHOWN,
}


def test_names_that_the_same_hosts_know_are_one_route() -> None:
    (route,) = fleet_routes([host("h1", a=A), host("h2", a=A)])
    assert route["names"] == ["a", "a:hot", "gpt-4"]
    assert sorted(route["hosts"]) == ["h1", "h2"]
    info = {"meta": {"description": SHOWN["description"]}}
    said = {"object": "model", "created": 0, "owned_by": "vllm", "info": info, **SHOWN}
    assert route["listed"] == [
        {"id": "a", **said, "name": "The A", "aliases": ["gpt-4"]},
        {"id": "a:hot", **said, "parent": "a"},
    ]


def test_a_name_goes_only_where_it_is_known() -> None:
    routes = fleet_routes([host("h1", a=A), host("h2", a={"backend": "vllm"})])
    known = {name: sorted(route["hosts"]) for route in routes for name in route["names"]}
    assert known == {"a": ["h1", "h2"], "a:hot": ["h1"], "gpt-4": ["h1"]}
    assert len({route["id"] for route in routes}) == 2
    assert {route["model"] for route in routes} == {"a"}


def test_models_have_their_first_hosts_on_different_ones() -> None:
    b, c = {"backend": "tabby"}, {"backend": "sglang"}
    hosts = [host("h1", a={}, b=b, c=c), host("h2", a={}, b=b, c=c), host("h3", a={}, b=b, c=c)]
    routes = fleet_routes(hosts)
    assert {route["hosts"][0] for route in routes} == {"h1", "h2", "h3"}
    assert all(len(route["hosts"]) == 3 for route in routes)
    # the order of the inventory says nothing
    assert fleet_routes(hosts[::-1]) == routes


@pytest.mark.parametrize(
    "other", [host("h2", b={"aliases": ["gpt-4"]}), host("h2", **{"gpt-4": {"backend": "vllm"}})]
)
def test_a_name_means_one_model(other: dict[str, Any]) -> None:
    with pytest.raises(AnsibleFilterError, match=r"The name 'gpt-4' must mean one model"):
        fleet_routes([host("h1", a=A), other])


def test_ids_are_names_that_haproxy_takes() -> None:
    (route,) = fleet_routes([host("h1", **{"org/model+x@1:2": {"backend": "vllm"}})])
    assert route["id"].startswith("org_model_x_1_2_")
    assert route["id"].replace("_", "").isalnum()
