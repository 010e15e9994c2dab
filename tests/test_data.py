"""Data sets: known densities are what they claim, splits follow from the seed alone, bad files are refused in a sentence."""

import math
import os
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from emgen.data import bars, digits, fashion_mnist, file, grid, mnist, old_faithful, ring
from emgen.data.text import corpus, letters
from emgen.data.toy import Bars, grid_density, ring_density

SPLITS = ("train", "validation", "test")


# ---- text --------------------------------------------------------------------------------------


def test_text_is_english_in_whatever_version_of_python():
    """Nothing here leans on a word: e is the commonest letter, a fifth is space, and a corpus counts what its documents hold."""
    counts = torch.bincount(
        letters(length=2000, sequences=8).split("train").flatten(), minlength=27
    )
    assert (
        counts[1:].argmax() == 4
        and 0.12 < float(counts[0] / counts.sum()) < 0.25
        and (counts[1:20] > 0).all()
    )
    data = corpus(words=300, documents=100)
    entries = data.split("train")
    assert (
        len(data.vocabulary) == 300 == len(set(data.vocabulary))
        and entries[:, 0].max() == 99
        and (entries[:, 2] > 0).all()
    )


def test_a_python_without_its_documentation_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ModuleNotFoundError, match="this Python comes without pydoc_data"):
        letters()


# ---- toy densities -----------------------------------------------------------------------------


def test_ring_density_is_the_sum_of_its_gaussians():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    density = ring_density(modes=5, radius=1.5, sd=0.7)
    total = 0.0
    for m in range(5):
        centre = torch.tensor(
            [1.5 * math.cos(2 * math.pi * m / 5), 1.5 * math.sin(2 * math.pi * m / 5)]
        )
        total = total + (-((x - centre) ** 2).sum(1) / (2 * 0.49)).exp() / (5 * 2 * math.pi * 0.49)
    torch.testing.assert_close(density.log_prob(x).exp(), total)


def test_grid_density_has_its_means_on_a_centred_square():
    means = grid_density().component_distribution.mean
    ticks = (-4.0, -2.0, 0.0, 2.0, 4.0)
    assert sorted(map(tuple, means.tolist())) == [(a, b) for a in ticks for b in ticks]
    assert means.sum() == 0


@pytest.mark.parametrize(("make", "modes", "sd"), [(ring, 8, 0.01), (grid, 25, 0.05)])
def test_mixture_rows_follow_the_density(make, modes, sd):
    data = make()
    rows = data.split("train")
    assert rows.shape == (100_000, 2) and data.batch_size == 100  # PacGAN's protocol
    distance = torch.cdist(rows, data.density.component_distribution.mean)
    share = torch.bincount(distance.argmin(1), minlength=modes) / len(rows)
    assert ((share - 1 / modes).abs() < 5 * math.sqrt((1 - 1 / modes) / modes / len(rows))).all()
    squared = distance.min(1).values.square()  # mean 2 sd², variance 4 sd⁴
    assert abs(squared.mean().item() - 2 * sd**2) < 5 * 2 * sd**2 / math.sqrt(len(rows))


def test_bars_know_every_probability():
    density = Bars()
    patterns, probs = density.enumerate_support(), density.probs
    assert len(patterns) == 30 == len(patterns.flatten(1).unique(dim=0))
    assert probs.sum().item() == pytest.approx(1, abs=1e-12)
    assert density.entropy().item() / math.log(2) == pytest.approx(3.4284049666, abs=1e-10)
    torch.testing.assert_close(density.log_prob(patterns).double().exp(), probs, rtol=1e-5, atol=0)
    lone = torch.zeros(1, 4, 4)
    lone[0, 0, 0] = 1
    assert density.log_prob(lone) == -math.inf


def test_bars_by_hand():
    """Two pixels an edge: the left column alone is ⅔·.2·.8, the upper row alone ⅓·.2·.8, empty .64 whatever its direction."""
    p = {
        tuple(x.flatten().tolist()): q
        for x, q in zip(Bars(2).enumerate_support(), Bars(2).probs.tolist())
    }
    assert p[1, 0, 1, 0] == pytest.approx(2 / 3 * 0.16, abs=1e-7)
    assert p[1, 1, 0, 0] == pytest.approx(1 / 3 * 0.16, abs=1e-7)
    assert p[0, 0, 0, 0] == pytest.approx(0.64, abs=1e-7)
    assert len(p) == 6


def test_bars_rows_follow_the_probabilities():
    data = bars(train=20_000)
    rows = data.split("train").flatten(1)
    same = (rows[:, None] == data.density.enumerate_support().flatten(1)).all(-1).double()
    p = data.density.probs
    assert ((same.mean(0) - p).abs() < 5 * (p * (1 - p) / len(rows)).sqrt()).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda: ring(modes=0),
        lambda: ring(sd=0.0),
        lambda: grid(side=0),
        lambda: bars(size=11),
        lambda: bars(vertical=1.5),
        lambda: ring(train=0),
        lambda: digits(validation=1000, test=1000),
        lambda: old_faithful(dtype="int8"),
    ],
)
def test_impossible_sizes_are_refused(call):
    with pytest.raises(ValueError, match=r"expected|lie in|cannot"):
        call()


# ---- real data ---------------------------------------------------------------------------------


def test_digits_are_split_by_the_seed_into_disjoint_parts():
    from sklearn.datasets import load_digits

    data, again, other = digits(), digits(), digits(seed=1)
    assert [len(data.split(s)) for s in SPLITS] == [1300, 200, 297] and tuple(data.event_shape) == (
        1,
        8,
        8,
    )
    together = torch.cat([data.split(s) for s in SPLITS]).flatten(1)
    everything = torch.as_tensor(load_digits().data, dtype=torch.float32) / 16
    order = lambda x: x[np.lexsort(x.numpy().T)]
    assert torch.equal(order(together), order(everything))
    assert 0 <= together.min() and together.max() == 1
    assert all(torch.equal(data.split(s), again.split(s)) for s in SPLITS)
    assert not torch.equal(data.split("test"), other.split("test"))


def test_no_constructor_disturbs_the_global_random_state():
    before = torch.get_rng_state()
    digits(), ring(train=10), bars(train=10), old_faithful()
    assert torch.equal(before, torch.get_rng_state())


def test_old_faithful(root):
    data = old_faithful(dtype="float64")
    rows = data.split("train")
    assert rows.shape == (272, 2) and data.batch_size == 272
    assert rows.mean(0).tolist() == pytest.approx([3.4877830882, 70.8970588235], abs=1e-9)
    original = Path(os.environ.get("EMGEN_DATA", root.parent / "shared" / "data")) / "faithful.csv"
    if original.exists():
        assert torch.equal(rows, torch.as_tensor(np.loadtxt(original, delimiter=",", skiprows=1)))


def test_mnist_from_any_of_three_folders(data_dir):
    data = mnist(str(data_dir))
    assert [len(data.split(s)) for s in SPLITS] == [55_000, 5_000, 10_000]
    assert data.split("test").mean().item() == pytest.approx(
        0.13251, abs=1e-5
    )  # the published files
    assert data.split("train").min() == 0 and data.split("train").max() == 1
    for folder in ("MNIST", "MNIST/raw"):
        assert torch.equal(mnist(str(data_dir / folder)).split("test"), data.split("test"))


@pytest.mark.parametrize(("make", "kind"), [(mnist, "MNIST"), (fashion_mnist, "FashionMNIST")])
def test_missing_images_name_the_folder_and_the_flag(tmp_path, make, kind):
    with pytest.raises(
        FileNotFoundError,
        match=rf"{kind} is not in {tmp_path}/{kind}/raw.*paths.data_dir.*data.download=true",
    ):
        make(str(tmp_path))


def test_download_without_a_network_is_one_sentence(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def offline(self):
        raise URLError("no route to host")

    monkeypatch.setattr(MNIST, "download", offline)
    with pytest.raises(
        FileNotFoundError,
        match=rf"could not be downloaded into {tmp_path}/MNIST/raw .*no route to host",
    ):
        mnist(str(tmp_path), download=True)


# ---- the user's own files ----------------------------------------------------------------------


def test_an_array_is_split_by_the_seed(tmp_path):
    x = np.arange(200.0).reshape(100, 2)
    np.save(tmp_path / "x.npy", x)
    data = file(str(tmp_path / "x.npy"), validation=0.2, test=0.1)
    assert [len(data.split(s)) for s in SPLITS] == [70, 20, 10]
    assert sorted(torch.cat([data.split(s) for s in SPLITS])[:, 0].tolist()) == x[:, 0].tolist()
    assert data.split("train").dtype == torch.float32


def test_splits_of_a_file_stay_as_they_are(tmp_path):
    parts = {s: np.random.default_rng(i).random((5 + i, 3)) for i, s in enumerate(SPLITS)}
    np.savez(tmp_path / "x.npz", **parts)
    data = file(str(tmp_path / "x.npz"), dtype="float64")
    assert all(np.array_equal(data.split(s).numpy(), parts[s]) for s in SPLITS)


def test_bytes_are_scaled_and_one_dimension_becomes_a_column(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.array([0, 51, 255], dtype=np.uint8))
    data = file(str(tmp_path / "x.npz"), validation=0, test=0, scale=255)
    torch.testing.assert_close(data.split("train"), torch.tensor([[0.0], [0.2], [1.0]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((0, 3)), "holds no rows"),
        (np.float64(3), "holds no rows"),
        (
            np.array([[1.0, np.nan], [0.0, 1.0], [np.inf, 0.0]]),
            "in 2 of its 3 rows, first in row 0",
        ),
        (np.array([1e300]), "no finite float32"),
        (np.array(["a", "b"]), "dtype <U1: expected real numbers"),
        (np.array([1j]), "dtype complex128"),
        (np.array([{}, {}], dtype=object), "not a NumPy file of plain numbers"),
    ],
)
def test_bad_arrays_are_refused(tmp_path, content, message):
    np.save(tmp_path / "x.npy", content)
    with pytest.raises(ValueError, match=message):
        file(str(tmp_path / "x.npy"))


def test_fractions_are_not_rounded_to_integers(tmp_path):
    np.save(tmp_path / "x.npy", np.array([1.0, 2.5]))
    with pytest.raises(
        ValueError, match="no finite int64 numbers in 1 of its 2 rows, first in row 1"
    ):
        file(str(tmp_path / "x.npy"), dtype="int64")


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        file(str(tmp_path / "none.npy"))
    (tmp_path / "text.npy").write_text("hello")
    with pytest.raises(ValueError, match="neither a"):
        file(str(tmp_path / "text.npy"))
    np.savez(tmp_path / "y.npz", y=np.zeros(3), z=np.zeros(3))
    with pytest.raises(ValueError, match=r"holds the arrays y, z: expected one alone, or train"):
        file(str(tmp_path / "y.npz"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "y.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match="not a NumPy file"):
        file(str(tmp_path / "cut.npz"))
    np.save(tmp_path / "x.npy", np.zeros(3))
    shares = ({"validation": 0.7, "test": 0.4}, {"validation": -0.1})
    for options in (*shares, {"scale": 0.0}, {"dtype": "bool"}, {"scale": 2.0, "dtype": "int64"}):
        with pytest.raises(ValueError, match="expected"):
            file(str(tmp_path / "x.npy"), **options)
