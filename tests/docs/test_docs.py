"""The programs in the README and the docs run as they stand, and no link of theirs leads nowhere."""

import re
import subprocess
import sys
import textwrap
from dataclasses import fields
from pathlib import Path

import pytest

from pyp2p.beacon.chain import FORKS, BlobParameters, Chain, Fork, Limits
from pyp2p.beacon.chainfile import load_chain

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

ADMISSION = """
import pyp2p
import trio
STATUS_PROTOCOL = "/status/1.0.0"
async def main():
    async with pyp2p.open_switch(listen=["/ip4/127.0.0.1/tcp/0"]) as a, pyp2p.open_switch() as b:
        for switch in (a, b):
{body}
        await b.connect(a.multiaddrs[0])
        print("admitted", len(b.connections()))
trio.run(main)
"""

FOLLOWING = """
import os, tempfile, time
from pyp2p.beacon.chainfile import chain_text
from pyp2p.beacon.devchain import dev_chain
from pyp2p.beacon.follow import open_follower

async def beside():
    chain = dev_chain(int(time.time()) - 4)
    os.chdir(tempfile.mkdtemp())
    Path("chain.toml").write_text(chain_text(chain))
    shown = []
    globals()["print"] = lambda *words: shown.append(words)
    globals()["verified"] = lambda block: True
    async with BeaconNetwork(BeaconConfig(chain)) as maker, open_follower(maker) as follower:
        await follower.produce_one(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(main, "chain.toml", [maker.enr])
            while not any(words[0] == "fetched" for words in shown):
                await trio.sleep(0.05)
            await maker.pubsub.wait_for_peers(maker.pubsub.topics[-1])
            while not any(words[0] == "block" for words in shown):
                await follower.produce_one(maker.clock.slot)
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        say = __builtins__.print
        say(*shown[0])
        say("block", shown[-1][-1] == maker.peer)

trio.run(beside)
"""


def programs(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_names_its_two_commands_first() -> None:
    commands = [line.strip() for line in PAGES[0].read_text().splitlines() if line.strip().startswith("scripts/")]
    assert commands == ["scripts/demo", "scripts/test"]


def test_the_program_in_the_readme_runs() -> None:
    assert run(programs("README.md")[0]) == "b'hello'\n"


def test_the_protocol_in_the_docs_works_in_the_simulated_network() -> None:
    protocol, _, _, test = programs("docs/add-a-protocol.md")
    assert run(f"import trio\n{protocol}\n{test}\ntest_ask()\nprint('passed')") == "passed\n"


def test_the_admission_in_the_docs_admits() -> None:
    protocol, _, admission, _ = programs("docs/add-a-protocol.md")
    body = textwrap.indent(admission, " " * 12)
    assert run(protocol + ADMISSION.format(body=body)) == "admitted 1\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_node_in_the_docs_follows() -> None:
    (program,) = programs("docs/beacon.md")
    assert program.endswith("trio.run(main)\n")
    assert run("__name__ = 'page'\n" + program + FOLLOWING) == "fetched 0 altair\nblock True\n"


def test_the_chain_in_the_docs_is_one_and_every_key_of_such_a_file_is_told(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "beacon.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "chain.toml").write_text(text)
    chain = load_chain(tmp_path / "chain.toml")
    assert [each.title for each in chain.schedule] == ["electra", "fulu (9 blobs)", "fulu (12 blobs)"]
    assert [each.limits.max_request_blocks for each in chain.schedule] == [64, 64, 64]
    for kind in (Chain, Fork, BlobParameters, Limits):
        for each in fields(kind):
            assert f"`{each.name}`" in page, each.name
    for each in fields(Chain):
        default = each.default if isinstance(each.default, int) else "none" if each.default == () else "must be there"
        assert re.search(rf"^\| `{each.name}` \| .* \| {default} \|$", page, re.MULTILINE), each.name
    assert ", ".join(FORKS) in page
    for each in fields(Limits):
        assert re.search(rf"`{each.name}`[^;:`]*\(({each.default})\b", page), each.name
