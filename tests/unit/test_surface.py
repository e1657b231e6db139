"""The public names: there, lazy, told to type checkers, and one version everywhere."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import pyp2p
from pyp2p.switch.config import SwitchConfig

ROOT = Path(pyp2p.__file__).parent


def test_every_name_is_there() -> None:
    for name in pyp2p.__all__:
        assert getattr(pyp2p, name) is not None
    assert set(pyp2p.__all__) <= set(dir(pyp2p))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        pyp2p.nonsense  # noqa: B018


def test_the_stub_says_the_same() -> None:
    tree = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {
        alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert imported == pyp2p._PLACES
    listed = next(node for node in tree.body if isinstance(node, ast.Assign))
    assert sorted(ast.literal_eval(listed.value)) == sorted(pyp2p.__all__)


def test_one_version() -> None:
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT.parent / "setup.cfg", encoding="utf-8")
    assert setup["metadata"]["version"] == pyp2p.__version__
    assert SwitchConfig().agent == f"pyp2p/{pyp2p.__version__}"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--version"],
        ["addr", "explain", "/ip4/1.2.3.4/tcp/1"],
        ["key", "show", "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"],
        ["identify", "not a target"],
    ],
    ids=lambda words: "-".join(words[:2]) or "none",
)
@pytest.mark.slow
def test_what_needs_no_network_imports_no_trio(words: list[str]) -> None:
    program = (
        "import sys\nfrom pyp2p.cli.main import main\n"
        f"code = main({words!r})\nassert ('trio' in sys.modules) == {words[:1] == ['identify']}, sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_help_imports_no_trio_and_no_cryptography() -> None:
    program = (
        "import sys\nfrom pyp2p.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    assert done.code == 0\n"
        "assert not {'trio', 'cryptography', 'multiaddr'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout
