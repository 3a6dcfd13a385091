"""Rules about the code itself: who may import whom, and what must be complete."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.codec import WIDTHS, decode, encode

ROOT = Path(__file__).resolve().parents[2]
# What each package may see of ours. Benchmarks and tests may see everything.
MAY_IMPORT = {
    "common": {"common"},
    "edge_worker": {"edge_worker", "common"},
    "cloud_worker": {"cloud_worker", "common"},
}
OURS = {*MAY_IMPORT, "benchmarks", "tests"}


def imported(tree):
    """Yield the line and the first name of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, (node.module or "").partition(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down(package):
    """`common` looks at nobody; edge and cloud meet on the wire and nowhere else."""
    files = sorted((ROOT / package).rglob("*.py"))
    assert len(files) > 5, f"{ROOT / package} is not where the package is"

    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imported(ast.parse(path.read_text(encoding="utf-8")))
        if name in OURS - MAY_IMPORT[package]
    ]

    assert not wrong


@pytest.mark.parametrize(
    "text",
    [
        "import cloud_worker",
        "import os, cloud_worker.back as b",
        "from cloud_worker import back",
        "from cloud_worker.back import Back",
        "def f():\n    from cloud_worker.back import Back",
        "if TYPE_CHECKING:\n    import cloud_worker.back",
    ],
)
def test_no_way_to_import_is_overlooked(text):
    assert "cloud_worker" in [name for _, name in imported(ast.parse(text))]


def test_the_edge_starts_without_what_only_the_cloud_needs():
    """A small device leaves the extra packages out, and has no display."""
    program = (
        "import sys\n"
        "for name in ('grpc_health', 'cloud_worker', 'matplotlib', 'tkinter'): sys.modules[name] = None\n"
        "import edge_worker.cli, edge_worker.run, edge_worker.export, edge_worker.models_table\n"
        "edge_worker.cli.main(['--help'])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


def test_help_needs_no_torch():
    """Importing it takes seconds on a small device."""
    program = "import sys\nsys.modules['torch'] = None\nimport {0}.cli\n{0}.cli.main(['{1}', '--help'])\n"

    for package, command in (("edge_worker", "train"), ("cloud_worker", "serve")):
        done = subprocess.run(
            [sys.executable, "-c", program.format(package, command)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("bits", WIDTHS)
def test_every_width_has_an_encoder_and_a_decoder(bits):
    """Values that are levels of every width come back as they were."""
    x_NCHW = torch.tensor([-1.0, 0.0, 1.0, 2.0]).repeat(6).view(2, 3, 2, 2)

    packed = encode(x_NCHW, bits)

    assert packed.bits == bits
    assert torch.allclose(decode(packed, torch.device("cpu")), x_NCHW, atol=1e-6)
