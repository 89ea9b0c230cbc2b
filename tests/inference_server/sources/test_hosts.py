"""Which hosts may be connected to, at which addresses."""

import socket

import pytest

from inference_server.errors import SourceNotAllowed, SourceUnavailable
from inference_server.sources.hosts import AllowedHosts, HostRule

INSIDE = [
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.5",
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "0.0.0.0",  # noqa: S104 - as an answer of a resolver
    "255.255.255.255",
    "224.0.0.1",
    "240.0.0.1",
    "::1",
    "::",
    "fe80::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
]


def hosts(*rules, answers=("93.184.216.34",)):
    asked = []

    async def resolve(host, port):
        asked.append((host, port))
        return answers

    allowed = AllowedHosts([HostRule.parse(rule) for rule in rules], resolve)
    return allowed, asked


async def test_a_listed_name_is_looked_up_once_and_its_public_addresses_are_taken():
    allowed, asked = hosts("cam.example", answers=("93.184.216.34", "10.0.0.1", "2606:4700::1111"))
    assert await allowed.addresses("cam.example", 554) == ["93.184.216.34", "2606:4700::1111"]
    assert asked == [("cam.example", 554)]


@pytest.mark.parametrize(
    "host", ["other.example", "sub.cam.example", "cam.example.evil", "2130706433", "0x7f.1", "127.1"]
)
async def test_a_name_that_is_not_listed_is_not_even_looked_up(host):
    allowed, asked = hosts("cam.example", "0.0.0.0/0")
    with pytest.raises(SourceNotAllowed, match="--allow-host"):
        await allowed.addresses(host, 80)
    assert asked == []


@pytest.mark.parametrize("address", INSIDE)
async def test_a_name_that_leads_inside_is_refused(address):
    allowed, _ = hosts("cam.example", "0.0.0.0/0", "::/0", answers=(address,))
    with pytest.raises(SourceNotAllowed, match="no public address"):
        await allowed.addresses("cam.example", 80)


@pytest.mark.parametrize("address", INSIDE)
async def test_an_address_inside_is_refused_unless_listed_by_itself(address):
    with pytest.raises(SourceNotAllowed):
        await hosts("0.0.0.0/0", "::/0", "cam.example")[0].addresses(address, 80)
    assert await hosts(address)[0].addresses(address, 80) == [address]


async def test_networks_inside_count_for_addresses_and_for_listed_names():
    allowed, _ = hosts("camera.lan", "192.168.1.0/24", answers=("192.168.1.7", "192.168.2.7"))
    assert await allowed.addresses("camera.lan", 80) == ["192.168.1.7"]
    assert await allowed.addresses("192.168.1.9", 80) == ["192.168.1.9"]
    assert await allowed.addresses("::ffff:192.168.1.9", 80) == ["::ffff:192.168.1.9"]
    with pytest.raises(SourceNotAllowed):
        await allowed.addresses("192.168.2.7", 80)


async def test_ports_are_kept_to():
    allowed, _ = hosts("cam.example:554", "10.0.0.0/8:8554", "[fd00::]/8:554")
    assert await allowed.addresses("cam.example", 554)
    assert await allowed.addresses("10.9.9.9", 8554)
    assert await allowed.addresses("fd12::1", 554)
    for host, port in (("cam.example", 80), ("10.9.9.9", 554), ("fd12::1", 80)):
        with pytest.raises(SourceNotAllowed):
            await allowed.addresses(host, port)


async def test_a_public_address_needs_a_rule_too():
    with pytest.raises(SourceNotAllowed):
        await hosts()[0].addresses("93.184.216.34", 80)
    assert await hosts("0.0.0.0/0")[0].addresses("93.184.216.34", 80) == ["93.184.216.34"]


async def test_a_name_that_does_not_resolve_says_so():
    async def resolve(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(SourceUnavailable, match=r"cam.example does not resolve: Name or service"):
        await AllowedHosts([HostRule.parse("cam.example")], resolve).addresses("cam.example", 80)


@pytest.mark.parametrize(
    "text", ["", "a b", "http://cam", "cam:0", "cam:70000", "cam:x", "10.0.0.1/8", "[::1", "::1/200", "*.lan"]
)
def test_rules_that_nobody_can_mean_are_refused(text):
    with pytest.raises(ValueError, match="expected"):
        HostRule.parse(text)
