"""Two hosts on one machine: network namespaces joined by a cable that can be pulled out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from tests.launching import ROOT, Job

# Of the network that is set aside for documentation.
FIRST_ADDRESS = IPv4Address("192.0.2.1")
LAUNCH_NODE = ROOT / "scripts" / "launch_node.py"


class Host:
    """A network namespace with one address."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"host{number}-{os.getpid()}"
        self.cable = f"cable{number}"
        self.address = str(FIRST_ADDRESS + number)

    def start(self, *arguments: object, log_dir: Path) -> Job:
        """A job's node on this host; the first host is the master."""
        node = (2, self.number, FIRST_ADDRESS, "--log_dir", log_dir)
        return Job(
            LAUNCH_NODE,
            *node,
            *arguments,
            log_dir=log_dir,
            prefix=("ip", "netns", "exec", self.name),
        )

    def unplug(self) -> None:
        _ip("-n", self.name, "link", "set", self.cable, "down")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=20)


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Skips the test where this user can't make network namespaces."""
    hosts = (Host(0), Host(1))
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the program `ip` (package iproute2)")
    try:
        try:
            for host in hosts:
                _ip("netns", "add", host.name)
            _ip(
                *("link", "add", hosts[0].cable, "netns", hosts[0].name, "type", "veth"),
                *("peer", "name", hosts[1].cable, "netns", hosts[1].name),
            )
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this user can't make network namespaces: {error.stderr.strip()}")
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.cable)
            _ip("-n", host.name, "link", "set", host.cable, "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield hosts
    finally:
        for host in hosts:
            _empty(host)
            subprocess.run(["ip", "netns", "delete", host.name], capture_output=True, timeout=20)


def _empty(host: Host) -> None:
    """End what still runs there: ranks are in sessions of their own, beyond their launcher's."""
    pids = subprocess.run(
        ["ip", "netns", "pids", host.name], capture_output=True, text=True, timeout=20
    ).stdout.split()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
