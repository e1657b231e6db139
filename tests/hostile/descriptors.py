"""Case 92 in a process of its own: 64 descriptors, 200 clients, and service again when they leave."""

import resource
import socket
import sys

import trio
import trio.testing

from pyp2p import Limits, SwitchConfig, open_switch


async def main() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    config = SwitchConfig(limits=Limits(pending_inbound=1000))
    async with open_switch(listen=["/ip4/127.0.0.1/tcp/0"], config=config) as victim:
        text = str(victim.multiaddrs[0])
        port = int(text.split("/")[4])
        clients = []
        with trio.move_on_after(30):
            while not clients or clients[-1].fileno() < 52:
                client = socket.socket()
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
                clients.append(client)
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.2)
            held = victim.counters["pending_inbound"]
            if held >= len(clients):
                sys.exit(f"all of {held} connections were taken")
            socket.socket().close()  # the reserve: a descriptor is left for others
            for client in clients:
                client.close()
            while victim.counters["pending_inbound"]:
                await trio.lowlevel.checkpoint()
            async with open_switch() as guest:
                await guest.connect(text)
                print("served again")
                return
    sys.exit("the listener did not recover")


trio.run(main)
