"""The pure parts of tests/hosts: names, subnets, parsing, the inventory. No root is needed."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.hosts.hostlib import base
from tests.hosts.hostlib.names import (
    Bind,
    HostError,
    Names,
    Running,
    base_key,
    check_name,
    choose_subnet,
    free_index,
    inventory,
    names_for,
    parse_bind,
    split_certificates,
    usable_nameservers,
)
from tests.hosts.hostlib.suites import SUITES, UBUNTU, packages

ALL_OF_THE_POOL = IPv4Network("10.64.0.0/10")


class TestNames:
    def test_differ_between_checkouts_and_not_between_runs(self, tmp_path: Path) -> None:
        one, other = tmp_path / "one", tmp_path / "other"
        assert names_for(one) == names_for(one)
        assert names_for(one) != names_for(other)

    def test_a_link_to_the_checkout_is_the_checkout(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        assert names_for(tmp_path / "link") == names_for(tmp_path / "real")

    def test_interface_names_fit_the_kernels_15_characters(self) -> None:
        names = Names("abcdef")
        assert len(names.bridge) <= 15
        assert len(names.veth(250)) <= 15

    def test_macs_are_local_unicast_and_one_per_index(self) -> None:
        names = Names("abcdef")
        assert names.mac(10) == "02:ab:cd:ef:00:0a"
        assert len({names.mac(index) for index in range(10, 251)}) == 241

    @pytest.mark.parametrize("name", ["demo", "debian-12", "a", "a" * 32])
    def test_good_host_names(self, name: str) -> None:
        assert check_name(name) == name

    @pytest.mark.parametrize(
        "name", ["", "../x", "A", "a/b", "-a", "a-", "1a", "a b", "a\n", "a" * 33]
    )
    def test_bad_host_names(self, name: str) -> None:
        with pytest.raises(HostError, match="host name"):
            check_name(name)


class TestBind:
    @pytest.mark.parametrize(
        ("text", "bind"),
        [
            ("/a:/b", Bind("/a", "/b")),
            ("/a/:/b/:ro", Bind("/a", "/b")),
            ("/a:/b:rw", Bind("/a", "/b", writable=True)),
        ],
    )
    def test_read(self, text: str, bind: Bind) -> None:
        assert parse_bind(text) == bind

    @pytest.mark.parametrize("text", ["", "/a", "a:/b", "/a:b", "/a:/b:no", "/a:/", "/a:/b:ro:ro"])
    def test_refused(self, text: str) -> None:
        with pytest.raises(HostError, match="bind"):
            parse_bind(text)


class TestSubnet:
    def test_is_stable_and_private(self) -> None:
        subnet = choose_subnet("abcdef", [], [])
        assert subnet == choose_subnet("abcdef", [IPv4Network("0.0.0.0/0")], [])
        assert subnet.subnet_of(ALL_OF_THE_POOL)
        assert subnet.prefixlen == 24

    def test_moves_on_from_routes_and_addresses(self) -> None:
        first = choose_subnet("abcdef", [], [])
        second = choose_subnet("abcdef", [first], [])
        third = choose_subnet("abcdef", [first], [IPv4Address(int(second[7]))])
        assert len({first, second, third}) == 3
        wide = IPv4Network("10.64.0.0/11")
        assert not choose_subnet("000000", [wide], []).overlaps(wide)

    def test_says_when_none_is_left(self) -> None:
        with pytest.raises(HostError, match="no free /24"):
            choose_subnet("abcdef", [IPv4Network("10.0.0.0/8")], [])


def test_an_index_is_used_again_when_its_host_is_gone() -> None:
    assert free_index([]) == 10
    assert free_index([10, 12]) == 11
    with pytest.raises(HostError, match="full"):
        free_index(range(10, 251))


def test_resolvers_on_loopback_are_of_no_use_to_a_host() -> None:
    text = (
        "# c\nsearch x\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.1\nnameserver\n"
    )
    assert usable_nameservers(text) == ["192.0.2.1"]


def test_a_bundle_is_split_whatever_stands_between_its_certificates() -> None:
    one = "-----BEGIN CERTIFICATE-----\nAAA\n-----END CERTIFICATE-----\n"
    two = one.replace("AAA", "BBB")
    assert split_certificates(f"# one\n{one}\n# two\n{two}junk") == [one, two]


def test_a_base_is_rebuilt_for_other_packages_or_another_recipe() -> None:
    key = base_key("forky", ["a", "b"], "1")
    assert key == base_key("forky", ["b", "a"], "1")
    assert key.startswith("forky-")
    others = [("trixie", ["a", "b"], "1"), ("forky", ["a"], "1"), ("forky", ["a", "b"], "2")]
    assert key not in {base_key(*other) for other in others}


class TestSuites:
    def test_ubuntu_has_its_updates_and_debian_is_as_ever(self) -> None:
        assert UBUNTU.sources("jammy") == [
            "deb http://archive.ubuntu.com/ubuntu jammy main universe",
            "deb http://archive.ubuntu.com/ubuntu jammy-updates main universe",
        ]
        assert SUITES["forky"].sources("forky") == ["deb http://deb.debian.org/debian forky main"]

    def test_polkit_is_called_otherwise_in_old_suites(self) -> None:
        assert {suite for suite in SUITES if "polkitd" not in packages(suite)} == {
            "bullseye",
            "focal",
        }
        assert all(len(packages(suite)) == len(packages("forky")) for suite in SUITES)

    def test_the_bases_that_there_are_stay_what_they_are(self) -> None:
        keys = [base_key(suite, packages(suite), base.RECIPE) for suite in ("bookworm", "trixie")]
        assert keys == ["bookworm-2b1b4e8f7fae", "trixie-57c5fecc3d04"]

    def test_keys_that_are_not_what_they_should_be_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path / "cache"))
        (tmp_path / "cache").mkdir()
        package = tmp_path / "keys.deb"
        package.write_bytes(b"somebody else's")
        archive = replace(
            UBUNTU,
            mirror=tmp_path.as_uri(),
            keyrings=("/nowhere/keys.gpg",),
            keyring_package="keys.deb",
        )
        with pytest.raises(HostError, match="has the sha256"):
            base._keyring(archive)


class TestSupersededBases:
    @pytest.fixture
    def target(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The base that is wanted, there already, in a cache with others that are old."""
        monkeypatch.setenv("ROUNDHOUSE_CACHE", str(tmp_path))
        bases = tmp_path / "bases"
        key = base_key("forky", packages("forky"), base.RECIPE)
        for name in (key, "forky-1", "forky-2", "forky-3.partial", "trixie-1"):
            (bases / name / "usr").mkdir(parents=True)
            os.utime(bases / name, (0, 0))
        return bases / key

    def left(self, target: Path) -> set[str]:
        return {path.name for path in target.parent.iterdir() if path.is_dir()}

    def test_go_when_nobody_has_used_them_for_a_while(self, target: Path) -> None:
        (target.parent / ".forky-2.used").touch()
        assert base.base_root("forky") == target
        assert self.left(target) == {target.name, "forky-2", "trixie-1"}
        assert (target / "usr").is_dir()

    def test_stay_while_a_host_stands_on_them(
        self, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mounts = f"36 1 0:9 / /x rw - overlay roundhouse rw,lowerdir={target.parent}/forky-1,u=/y"
        monkeypatch.setattr(Path, "read_text", lambda _: mounts)
        assert base.base_root("forky") == target
        assert "forky-1" in self.left(target)
        assert "forky-2" not in self.left(target)


class TestInventory:
    def test_groups_by_suite(self) -> None:
        hosts = [Running("b", "forky", "10.64.0.11"), Running("a", "bookworm", "10.64.0.10")]
        data = yaml.safe_load(inventory(hosts, Path("/k e/y")))["all"]
        assert data["vars"]["ansible_ssh_private_key_file"] == "/k e/y"
        assert data["vars"]["ansible_pipelining"] is True
        groups = data["children"]
        assert groups["llm_servers"]["hosts"]["a"] == {"ansible_host": "10.64.0.10"}
        assert set(groups["bookworm"]["hosts"]) == {"a"}
        assert set(groups["forky"]["hosts"]) == {"b"}
        assert "trixie" not in groups

    def test_of_nothing_is_still_an_inventory(self) -> None:
        data = yaml.safe_load(inventory([], Path("/k")))
        assert data["all"]["children"]["llm_servers"]["hosts"] == {}
