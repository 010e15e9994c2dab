"""Laws of data that stay on disk: nothing but pieces of them is ever in memory, and nothing else
changes.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch

import emgen
from emgen.data import Batch, Data, file
from emgen.data.mapped import Mapped
from emgen.models import BernoulliMixture, GaussianMixture, dense, factor_analysis
from emgen.models.conjugate import seeding
from emgen.models.heads import Gaussian

F64 = torch.float64

# anonymous memory is what a process holds beside the files it maps
GROWTH = """
import sys, threading, time
import emgen, numpy as np, torch
from emgen.models import GaussianMixture, factor_analysis

def held():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

class Peak(threading.Thread):
    most, going = 0.0, True
    def run(self):
        while self.going:
            self.most = max(self.most, held())
            time.sleep(0.002)

torch.set_num_threads(1)
x = np.load(sys.argv[1], mmap_mode="r")
for make, trainer in (
    (lambda: GaussianMixture(16, components=8, start="rows"), "em"),
    (lambda: GaussianMixture(16, components=8, covariance="diagonal"), "vbem"),
    (lambda: factor_analysis(16, latent=2), "em"),
):
    emgen.fit(make(), np.array(x[:2000]), trainer, max_epochs=1)  # what any fit takes
    peak, before = Peak(), held()
    peak.start()
    emgen.fit(make(), x, trainer, max_epochs=1)
    peak.going = False
    peak.join()
    print(peak.most - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a process holds")
def test_a_fit_from_disk_holds_pieces_alone(tmp_path):
    """Half a million rows, 32 MB: copied, in double precision or as tables of components, they
    took 260 to 380 MB; pieces and their sums take some 30, of any number of rows.
    """
    rows = np.lib.format.open_memmap(tmp_path / "rows.npy", "w+", np.float32, (500_000, 16))
    few = np.random.default_rng(0).normal(size=(20_000, 16)).astype(np.float32)
    for start in range(0, len(rows), len(few)):
        rows[start : start + len(few)] = few + np.float32(start * 1e-7)
    rows.flush()
    command = [sys.executable, "-c", GROWTH, str(tmp_path / "rows.npy")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert max(map(float, ran.stdout.split())) < 80
    assert "not writable" not in ran.stderr


def parameters(model):
    return {name: value for name, value in model.state_dict().items() if value.numel()}


MODELS = [
    (lambda: GaussianMixture(3, 4, n_init=2), "em"),
    (lambda: GaussianMixture(3, 4, "diagonal", start="rows"), "vbem"),
    (lambda: GaussianMixture(3, 4, "tied", start="random"), "em"),
    (lambda: GaussianMixture(3, 4, "spherical", reg_covar=1e-6), "hard_em"),
    (lambda: factor_analysis(3, latent=1), "em"),
    (lambda: dense((3,), latent=2, hidden=[4], likelihood=Gaussian), "vae"),
]


@pytest.mark.parametrize(("make", "trainer"), MODELS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fit_from_disk_is_the_fit_from_memory(make, trainer, dtype, tmp_path):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(600, 3)) + 3 * rng.integers(3, size=(600, 1))).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    mapped, fits = np.load(tmp_path / "rows.npy", mmap_mode="r"), []
    for x in (rows, mapped, torch.from_numpy(rows)):
        with emgen.randomness.seeded(0):
            model = make()
        fits.append(parameters(emgen.fit(model, x, trainer, max_epochs=3).model))
    for fit in fits[1:]:
        for name, value in fit.items():
            torch.testing.assert_close(value, fits[0][name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("make", "trainer"), MODELS[:5])
def test_pieces_add_up_to_the_whole(make, trainer, weighted, monkeypatch):
    """However small the pieces are in which rows are looked at."""
    torch.manual_seed(0)
    x = torch.randn(200, 3, dtype=F64) + 3 * torch.randint(3, (200, 1))
    weight = torch.rand(200, dtype=F64) + 0.5 if weighted else None
    fits = []
    for piece in (2**18, 40):
        monkeypatch.setattr("emgen.families.base.PIECE", piece)
        data = Data(x, batch_size=None, shuffle=False, weight=weight)
        fits.append(parameters(emgen.fit(make(), data, trainer, max_epochs=2).model))
    for name, value in fits[0].items():
        torch.testing.assert_close(fits[1][name], value, rtol=1e-9, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("how", ["kmeans++", "rows"])
def test_seeds_among_many_rows_are_rows_that_count(how, weighted, monkeypatch):
    """Where some rows stand for all: every row has its nearest seed, and no seed has no weight."""
    monkeypatch.setattr(seeding, "MANY", (100, 2**26))
    monkeypatch.setattr(seeding, "FEW", 60)
    x = torch.arange(1000, dtype=F64)[:, None]
    weight = (x[:, 0] >= 500).to(F64) if weighted else None
    r = seeding.partition(x, 3, 2, how, None, weight)
    assert r.shape == (1000, 2, 3)
    assert bool((r.sum(-1) == 1).all())
    for restart in r.unbind(1):  # clusters of the nearest on a line are stretches of it
        labels = restart.argmax(-1)
        assert int((labels[1:] != labels[:-1]).sum()) == 2
        if weighted:
            assert int((labels[:501] != labels[0]).sum()) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("binarise", ["none", "dynamic", "fixed"])
def test_a_large_file_is_the_small_one_unread(dtype, binarise, tmp_path, monkeypatch):
    """Mapped or read: the same splits, batches, draws and types, bit for bit."""
    rows = np.random.default_rng(0).integers(0, 256, size=(90, 2, 3)).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    sets = []
    for most in (2**24, 0):
        monkeypatch.setattr(sys.modules["emgen.data.file"], "READ", most)
        sets.append(
            file(tmp_path / "rows.npy", scale=255, binarise=binarise, batch_size=16, seed=3)
        )
    read, mapped = sets
    assert isinstance(mapped.rows["train"], Mapped) and isinstance(read.rows["train"], torch.Tensor)
    for split in ("train", "validation", "test"):
        torch.testing.assert_close(mapped.split(split)[:], read.split(split), rtol=0, atol=0)
        torch.testing.assert_close(mapped.observed(split)[:], read.observed(split), rtol=0, atol=0)
        torch.testing.assert_close(mapped.first(split, 5), read.first(split, 5), rtol=0, atol=0)
        assert mapped.count(split) == read.count(split)
    for a, b in zip(*(data.train_dataloader() for data in sets), strict=True):
        for one, other in zip(a, b, strict=True):
            assert torch.equal(one.index, other.index)
            assert torch.equal(one.x, other.x) and torch.equal(one.grey, other.grey)


@pytest.mark.parametrize("trainer", ["em", "vae"])
def test_a_whole_file_as_one_batch(trainer, tmp_path, monkeypatch):
    """EM sweeps over it in pieces; networks take it as it is."""
    monkeypatch.setattr("emgen.data.base.MANY", 8)
    rows = np.random.default_rng(0).normal(size=(80, 2))
    np.save(tmp_path / "rows.npy", rows)
    fits = []
    for most in (2**24, 0):
        monkeypatch.setattr(sys.modules["emgen.data.file"], "READ", most)
        data = file(tmp_path / "rows.npy", batch_size=None, shuffle=False)
        with emgen.randomness.seeded(0):
            model = (
                GaussianMixture(2)
                if trainer == "em"
                else dense((2,), latent=1, likelihood=Gaussian)
            )
        fits.append(parameters(emgen.fit(model, data, trainer, max_epochs=2).model))
    for name, value in fits[0].items():
        torch.testing.assert_close(fits[1][name], value, rtol=0, atol=0, equal_nan=True)


def test_bad_values_of_a_large_file_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["emgen.data.file"], "READ", 0)
    rows = np.zeros((2**20 + 3, 1), dtype=np.float32)
    rows[-2:] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(ValueError, match=f"in 2 of its {len(rows)} rows, first in row {2**20 + 1}"):
        file(tmp_path / "rows.npy")
    np.save(tmp_path / "more.npy", np.full((10, 2), 2.5, dtype=np.float32))
    with pytest.raises(ValueError, match="row 0 of the train data holds"):
        emgen.fit(BernoulliMixture(2), file(tmp_path / "more.npy"), "em")


def test_a_batch_of_its_own_counts_its_rows():
    x = torch.zeros(5, 2)
    batch = Batch(x, x)
    assert batch.index.tolist() == [0, 1, 2, 3, 4]
    assert [piece.index.tolist() for piece in batch.split(3)] == [[0, 1, 2], [3, 4]]


def test_row_numbers_are_counted_out_when_asked_for():
    """Rows in their order carry no table of numbers, and a stretch of them goes to each process."""
    from emgen.data.base import _Loader

    shares = []
    for rank in range(3):
        loader = _Loader(Data(torch.arange(20.0), batch_size=10, shuffle=False), rank, 3)
        for block in loader:
            for batch in block:
                assert isinstance(vars(batch)["index"], range)
                assert torch.equal(batch.index, batch.x.long())
                assert batch.x.untyped_storage().nbytes() == 80  # a view of all rows
                shares.append(batch.index.tolist())
    assert sorted(row for share in shares for row in share) == list(range(20))
    assert all(share == list(range(share[0], share[-1] + 1)) for share in shares)
