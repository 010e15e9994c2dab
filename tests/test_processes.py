"""Several processes are one: closed forms to round-off, gradients too, and whatever is drawn agrees."""

import functools
import json
import os
import subprocess
import sys
from multiprocessing import set_forkserver_preload

import pytest
import pytorch_lightning as lightning
import torch
from parts import MAKE
from torch import distributed, nn
from torch.optim import SGD, Adam
from torch.utils.data import DataLoader, TensorDataset

from emgen import models
from emgen.data import Data, Stream
from emgen.estimators.beliefs import Distribution, Draw, Point
from emgen.models import GaussianMixture
from emgen.objectives.adversarial import Adversarial
from emgen.runtime import quiet
from emgen.trainers import CD, EM, FGAN, GAN
from emgen.trainers.processes import Processes, gathered, share_out

F64 = torch.float64
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def blobs():
    """23 rows in three clusters; batches of 9, 9 and 5 are shared as 5 + 4 and 3 + 2."""
    x = normal(23, 2)
    x[8:15] += 4
    x[15:] -= 4
    return x


def corpus():
    counts = torch.poisson(normal(11, 6).abs() * 3, generator=torch.Generator().manual_seed(1))
    document, word = (counts > 0).nonzero(as_tuple=True)
    return torch.stack([document, word, counts[document, word].long()], 1)


def mixture(**options):
    return GaussianMixture(2, components=3, **options).double()


def hollow():
    """k-means from a start that leaves two components empty, to be moved to the worst rows."""
    start = {"mean": [[0.0, 0.0], [90.0, 90.0], [-90.0, 90.0]]}
    return mixture(weights="equal", covariance="isotropic", start=start)


# ---- trainers that equal one process ---------------------------------------------------------------


class Spot(nn.Module):
    """A generator that knows one point, so that nothing depends on who drew what."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.zeros(2, dtype=F64))

    def rsample(self, n):
        return self.point.expand(n, 2)


class Bowl(nn.Module):
    """E(x) = ‖x − μ‖²/2 with a kernel that draws nothing: half-way to μ."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2, dtype=F64))

    def energy(self, x):
        return (x - self.mean).square().sum(-1) / 2

    def gibbs(self, state):
        return (state + self.mean.detach()) / 2


class Judge(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, -0.3], dtype=F64))

    def forward(self, x):
        return (x * self.weight).sum(-1) + 0.1 * x.square().sum(-1)


ADAM = functools.partial(Adam, lr=0.05)


def sequences(**options):
    return Data(
        normal(7, 6, 2), batch_size=4, length=torch.tensor([6, 2, 3, 6, 1, 5, 4]), **options
    )


def rows(**options):
    return Data(blobs(), **{"batch_size": 9, "seed": 3, **options})


EQUAL = {
    "em": lambda: (EM(mixture(), tol=None), rows()),
    "em of weighted rows": lambda: (EM(mixture(), tol=None), rows(weight=normal(23).abs())),
    "vbem": lambda: (EM(mixture(), parameters=Distribution(), tol=None), rows()),
    "hard em": lambda: (EM(mixture(), latents=Point(), tol=None), rows()),
    "k-means, components left empty": lambda: (EM(hollow(), latents=Point(), tol=None), rows()),
    "maximisation-expectation": lambda: (
        EM(mixture(), latents=Point(), parameters=Distribution(), tol=None),
        rows(),
    ),
    "several starts": lambda: (EM(mixture(n_init=3), tol=None), rows()),
    "online em": lambda: (
        EM(mixture(), every="batch", decay=0.6, tol=None),
        rows(batch_size=20),  # enough to move by, which a share of them is not
    ),
    "incremental em": lambda: (EM(mixture(), every="memo", tol=None), rows(shuffle=False)),
    "hidden markov model": lambda: (
        EM(models.hidden_markov_model(2, states=2).double(), tol=None),
        sequences(),
    ),
    "latent dirichlet allocation": lambda: (
        EM(
            models.topic_model(documents=11, words=6, topics=2, alpha=0.5, beta=0.5),
            parameters=Distribution(),
            tol=None,
        ),
        Data(corpus(), batch_size=4, datum="document"),
    ),
    "factor analysis": lambda: (EM(models.factor_analysis(2, latent=1).double(), tol=None), rows()),
    "em from a stream": lambda: (
        EM(mixture(), parameters=Distribution(), tol=None),
        Stream(blobs().split(9)),
    ),
    "gan": lambda: (
        GAN(Spot(), Judge(), adversarial=Adversarial(), optimizer=ADAM, clip=0.5),
        rows(),
    ),
    "f-gan": lambda: (FGAN(Spot(), Judge(), penalty=None, optimizer=ADAM), rows()),
    "cd": lambda: (CD(Bowl(), optimizer=functools.partial(SGD, lr=0.1, momentum=0.9)), rows()),
    "persistent cd": lambda: (CD(Bowl(), persistent=True), rows(drop_last=True)),
}
DRAWN = {
    "gibbs": lambda: (EM(mixture(), latents=Draw(), parameters=Draw(), tol=None), rows()),
    "stochastic em": lambda: (EM(mixture(), latents=Draw(), tol=None), rows()),
    "data augmentation": lambda: (EM(mixture(), parameters=Draw(), tol=None), rows()),
    "monte carlo vb": lambda: (
        EM(mixture(), latents=Draw(), parameters=Distribution(), tol=None),
        rows(),
    ),
}


def of_the_package(name):
    module, x = MAKE[name]()
    return module, Data(x, batch_size=len(x) // 2)


AGREE = DRAWN | {name: functools.partial(of_the_package, name) for name in MAKE}


# ---- what each process does ------------------------------------------------------------------------


def fitted(make, epochs=2, checkpoint=None, **settings):
    torch.manual_seed(0)
    module, data = make()
    runner = lightning.Trainer(
        max_epochs=epochs, use_distributed_sampler=False, **QUIET, **settings
    )
    runner.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return runner, module


def found(module):
    return {
        "state": {key: value for key, value in module.state_dict().items() if key != "chain"},
        "chain": gathered(getattr(module, "chain", None), getattr(module, "_along", 0)),
        "history": module.history,
        "examples": module.examples,
    }


class SaveWithin(lightning.Callback):
    """Saves in the middle of the second sweep."""

    def __init__(self, path):
        self.path = path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 0):
            trainer.save_checkpoint(self.path)


def share(rank, folder):
    torch.set_num_threads(1)
    quiet()
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    torch.save(_all(folder), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def _all(folder):
    two = {"devices": 2, "strategy": "ddp"}
    results = {name: found(fitted(make, **two)[1]) for name, make in (EQUAL | AGREE).items()}
    runner, module = fitted(EQUAL["em"], devices=2, strategy=Processes())
    results["strategy"] = type(runner.strategy).__name__

    for name in ("em", "persistent cd"):
        runner, _ = fitted(EQUAL[name], **two)
        runner.save_checkpoint(f"{folder}/two {name}.ckpt")
        _, module = fitted(EQUAL[name], 4, f"{folder}/one {name}.ckpt", **two)
        results[f"one to two: {name}"] = found(module)
    within = SaveWithin(f"{folder}/within.ckpt")
    fitted(EQUAL["em"], 2, callbacks=[within], **two)
    hooked = SaveWithin(f"{folder}/again.ckpt")
    _, module = fitted(EQUAL["em"], 2, f"{folder}/one within.ckpt", callbacks=[hooked], **two)
    results["cut sweep"] = found(module)

    loader = DataLoader(TensorDataset(normal(40, 2).float()), batch_size=10)
    module = EM(GaussianMixture(2, components=2), tol=None)
    lightning.Trainer(max_epochs=2, **QUIET, **two).fit(module, loader)
    results["foreign loader"] = found(module)
    results["seeds"] = module._seed(0)
    return results


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What two processes found, and the folder in which they met."""
    folder = tmp_path_factory.mktemp("processes")
    for name in ("em", "persistent cd"):
        fitted(EQUAL[name])[0].save_checkpoint(f"{folder}/one {name}.ckpt")
    fitted(EQUAL["em"], 2, callbacks=[SaveWithin(folder / "one within.ckpt")])
    set_forkserver_preload(["test_processes"])
    torch.multiprocessing.start_processes(
        share, (str(folder),), nprocs=2, start_method="forkserver"
    )
    return *(torch.load(folder / f"{rank}.pt") for rank in range(2)), folder


def assert_equal(two, one, tolerance):
    assert two["state"].keys() == one["state"].keys()
    for key, value in one["state"].items():
        if value is not None and not key.startswith("model.relocation"):
            torch.testing.assert_close(
                two["state"][key], value, rtol=tolerance, atol=tolerance, equal_nan=True
            )
    assert two["examples"] == one["examples"]
    assert len(two["history"]) == len(one["history"])
    for mine, theirs in zip(two["history"], one["history"]):
        assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-9)
    if one["chain"] is not None:
        torch.testing.assert_close(two["chain"], one["chain"], rtol=tolerance, atol=tolerance)


# ---- laws --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_equal_one(both, name):
    assert_equal(both[0][name], found(fitted(EQUAL[name])[1]), 1e-12)


@pytest.mark.parametrize("name", EQUAL | AGREE)
def test_processes_agree_to_the_bit(both, name):
    first, second = (one[name] for one in both[:2])
    for key, value in first["state"].items():
        if not key.startswith("model.relocation"):  # of a sweep, each its own rows
            assert torch.equal(value.nan_to_num(), second["state"][key].nan_to_num()), key
    assert str(first["history"]) == str(second["history"])
    assert first["examples"] == second["examples"]


def test_rows_are_drawn_for_by_each_process_alone(both):
    assert both[0]["seeds"] != both[1]["seeds"]


def test_a_users_ddp_and_ours_are_one(both):
    assert both[0]["strategy"] == "Processes"
    first, second = (one["foreign loader"] for one in both[:2])
    assert first["examples"] == 80
    for key, value in first["state"].items():
        assert torch.equal(value.nan_to_num(), second["state"][key].nan_to_num()), key


@pytest.mark.parametrize("name", ["em", "persistent cd"])
def test_a_run_goes_on_with_another_number_of_processes(both, name):
    whole = found(fitted(EQUAL[name], 4)[1])
    after = {**whole, "history": whole["history"][2:]}
    assert_equal(both[0][f"one to two: {name}"], after, 1e-12)
    one = fitted(EQUAL[name], 4, both[2] / f"two {name}.ckpt")[1]
    assert_equal(found(one), after, 1e-12)


def test_what_was_seen_of_a_sweep_is_not_lost(both):
    within = torch.load(both[2] / "within.ckpt", weights_only=True)
    assert float(within["emgen"]["statistics"]["model"]["n"]) == 9
    hooked = SaveWithin(both[2] / "again.ckpt")  # so that batches are counted one by one here too
    one = fitted(EQUAL["em"], 2, both[2] / "within.ckpt", callbacks=[hooked])[1]
    whole = fitted(EQUAL["em"], 2)[1]
    for resumed in (one.state_dict(), both[0]["cut sweep"]["state"]):
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(resumed[key], value, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_a_ladder_of_chains_is_put_together_rung_by_rung(both):
    chain = both[0]["CD tempered"]["chain"]
    assert chain.shape[:2] == (3, 6) and torch.equal(chain, both[1]["CD tempered"]["chain"])


@pytest.mark.parametrize("dim", [0, 1])
def test_what_is_shared_out_is_the_share_of_a_loader(dim):
    rows = torch.arange(21).view(7, 3)
    shares = [share_out(rows, rank, 3, dim) for rank in range(3)]
    assert sum(one.shape[dim] for one in shares) == rows.shape[dim]
    assert torch.equal(shares[1].select(dim, 0), rows.select(dim, 1))


# ---- the command line --------------------------------------------------------------------------------

DIES = """
import os, signal
import pytorch_lightning as lightning

class Dies(lightning.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.global_rank == 1 and trainer.current_epoch == 1:
            raise FloatingPointError("the sky of this rank has fallen")
"""

several = pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")


def command(folder, *arguments):
    environment = {
        key: value for key, value in os.environ.items() if key not in ("LOCAL_RANK", "WORLD_SIZE")
    }
    return subprocess.run(
        [
            *(sys.executable, "-m", "emgen", "trainer=vbem", "model=gaussian_mixture"),
            *("data=old_faithful", "data.batch_size=50", "lightning.max_epochs=2", "~logger"),
            *("lightning.strategy=ddp", "lightning.devices=2", "callbacks.figures=null"),
            *("trainer.tol=null", *arguments),
        ],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@several
def test_one_process_prints_and_writes(tmp_path):
    done = command(tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("everything is in") == 1 == len(done.stdout.splitlines())
    assert done.stderr.count("EM epoch 2/2") == 1 and len(done.stderr.splitlines()) == 2
    (run,) = (tmp_path / "runs" / "vbem-gaussian_mixture-old_faithful").iterdir()
    assert json.loads((run / "status.json").read_text())["status"] == "finished"
    assert len((run / "metrics.csv").read_text().splitlines()) == 3


@several
def test_a_process_that_dies_ends_the_run_with_its_message(tmp_path):
    (tmp_path / "dies.py").write_text(DIES)
    done = command(tmp_path, "+callbacks.dies._target_=dies.Dies", "paths.run_dir=run")
    assert done.returncode == 1
    assert "the sky of this rank has fallen" in done.stderr and "Traceback" not in done.stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["status"] == "failed"
    assert status["message"] == "process 1: the sky of this rank has fallen"
