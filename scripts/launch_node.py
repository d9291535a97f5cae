"""Start one node's processes of a job on several machines.

    python scripts/launch_node.py NODES RANK MASTER [launcher options] run_pretrain.py CONFIG …
    python scripts/launch_node.py NODES RANK MASTER [launch options] CONFIG …

NODES is how many machines there are, RANK is this one's number from 0, and MASTER is the name or
address of machine 0, the same in every call; a port can follow (name:port). The rest goes as it is
to `paddle.distributed.launch`, or without run_pretrain.py to `llm-pretrain launch`, which replaces
processes that die. What those leave to the user is found out here: the address that this machine
has on the network to machine 0, and the interface for Gloo, which would take the address of the
host name, often 127.0.1.1.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import sys
import time

PORT = 8476
PATIENCE_SECONDS = 600
"""A machine that has just been started may have no name yet."""
_SIOCGIFADDR = 0x8915


def address_of(name: str) -> str:
    """The IPv4 address of a machine; the program ends where it has none that others can reach."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            address = socket.gethostbyname(name)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"error: the master {name!r} has no address: {error}")
            time.sleep(1)
    if address.startswith("127.") and name not in (address, "localhost"):
        sys.exit(
            f"error: the master {name!r} is {address} on this machine, where no other machine can "
            "reach it; give its address on the network between the machines"
        )
    return address


def own_address_towards(address: str) -> str:
    """This machine's address on the network that leads to another one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, PORT))  # chooses a route and sends nothing
        own: str = probe.getsockname()[0]
        return own


def interface_of(address: str) -> str | None:
    """The network interface whose first address this is; None for a further address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(query, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def main() -> None:
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    nodes, rank, master, *rest = sys.argv[1:]
    if not (nodes.isdigit() and rank.isdigit() and int(rank) < int(nodes)):
        sys.exit(f"error: RANK is {rank} and NODES is {nodes}; a rank is 0 to NODES - 1")
    name, _, port = master.partition(":")
    first = address_of(name)
    own = own_address_towards(first)
    interface = interface_of(own)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if any(os.path.basename(argument) == "run_pretrain.py" for argument in rest):
        # It would list its options, and warn of a compiler's cache that nothing needs.
        os.environ.setdefault("PYTHONWARNINGS", "ignore:No ccache found")
        command = [sys.executable, "-m", "paddle.distributed.launch", "--log_level", "WARNING"]
        command += ["--rank", rank, "--host", own]
    else:
        command = [sys.executable, "-m", "llm_pretrain", "launch", "--node_rank", rank]
    command += ["--nnodes", nodes, "--master", f"{first}:{port or PORT}"]
    command += ["--log_dir", f"log/node-{rank}", *rest]
    print(f"Node {rank} of {nodes} is {own}; the first one is {first}.", flush=True)
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
