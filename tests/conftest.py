"""What the tests share: one thread a worker, run-time shape checks, tiny data, and where real data may be found."""

import os

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before torch is imported: xdist's workers would fight for the cores
)

from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)
# annotated shapes are checked in tests and nowhere else
install_import_hook(
    ["emgen.divergences", "emgen.estimators", "emgen.objectives"], "oracles.checked"
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where MNIST lies: the environment's EMGEN_DATA, else ../shared/data beside the project."""
    folder = Path(os.environ.get("EMGEN_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "MNIST" / "raw").is_dir():
        pytest.skip(f"no MNIST/raw in {folder}: set EMGEN_DATA to the folder that holds it")
    return folder


@pytest.fixture
def tiny_digits():
    """60 binary images (1, 8, 8) in batches of 20, binarised once."""
    from emgen.data import Data

    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(60, 1, 8, 8, generator=generator)
    return Data(rows, rows[:20], rows[20:40], batch_size=20, binarise="fixed", name="tiny")


@pytest.fixture(scope="session", autouse=True)
def no_leaks():
    """A test that changes torch's global settings would change the tests after it."""
    before = (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )
    yield
    assert (
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    ) == before


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` run where a CUDA device is."""
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
