"""Speed against peers: both sides in turn in one process, the same work on each, ratios and never
absolute times.

    python scripts/bench.py            every benchmark whose peer is installed (pip install
    emgen[bench]) python scripts/bench.py vae gmm    these alone;  --rounds 5  --threads 2  --scale
    0.1 for a tenth of the rows

Beside the ratio of times stands that of processor times, which other work on the machine moves
less.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from datetime import date

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("names", nargs="*", help="which benchmarks; none runs all")
parser.add_argument("--rounds", type=int, default=5, help="how often each side runs")
parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a quick look")
parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads for both sides")
ARGUMENTS = parser.parse_args()
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = str(ARGUMENTS.threads)

import numpy as np  # noqa: E402 - the number of threads is read when these are imported
import torch  # noqa: E402

Side = Callable[[], np.ndarray]


def alternate(name: str, ours: Side, theirs: Side, aim: float) -> None:
    """Run both sides in turn; each returns what it took.

    Prints the median of theirs/ours and the spread of the rounds.
    """

    def rested(side: Side) -> np.ndarray:
        time.sleep(
            0.3
        )  # idle threads of the other side's BLAS spin for a while, on the cores that this one needs
        return side()

    ours(), theirs()  # warm up
    rounds = []
    for _ in range(ARGUMENTS.rounds):
        mine = rested(ours)
        rounds.append(rested(theirs) / mine)
    ratios, processor = np.sort(rounds, 0).T
    verdict = "met" if statistics.median(ratios) >= aim else "missed"
    print(
        f"{name:<66} {statistics.median(ratios):6.2f}x [{ratios[0]:.2f}, {ratios[-1]:.2f}]  "
        f" processor {statistics.median(processor):6.2f}x [{processor[0]:.2f}, {processor[-1]:.2f}]"
        f"   aim {aim:g}x: {verdict}",
        flush=True,
    )


def now() -> np.ndarray:
    """Seconds on the clock and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(work: Callable[[], object]) -> np.ndarray:
    start = now()
    work()
    return now() - start


def vae() -> None:
    """VAE 784-200-200-50, batch 128: the package with logging and progress bar on, against a bare
    loop of the same network.
    """
    import pytorch_lightning as lightning
    from torch.nn.functional import binary_cross_entropy_with_logits, softplus

    from emgen.callbacks import Metrics, Progress
    from emgen.data import Data
    from emgen.models import dense
    from emgen.runtime import quiet
    from emgen.trainers import VAE

    quiet()
    x, size, epochs = torch.rand(12_800, 1, 28, 28), 128, 5

    class Clock(lightning.Callback):
        def on_train_start(self, *_: object) -> None:
            self.spent = -now()

        def on_train_end(self, *_: object) -> None:
            self.spent += now()

    def ours() -> np.ndarray:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            clock, metrics = Clock(), Metrics(every_n_epochs=1_000_000, samples=1, rows=1)
            runner = lightning.Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                devices=1,
                callbacks=[clock, metrics, Progress()],
                default_root_dir=folder,
                logger=lightning.loggers.TensorBoardLogger(folder),
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                limit_val_batches=0,
                num_sanity_val_steps=0,
            )
            runner.fit(
                VAE(dense((1, 28, 28))), datamodule=Data(x, batch_size=size, binarise="dynamic")
            )
        return clock.spent

    def bare(fused: bool) -> np.ndarray:
        torch.manual_seed(0)
        model = dense((1, 28, 28))
        encoder, decoder = model.recognition, model.decoder
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)

        def work() -> None:
            for _ in range(epochs):
                order = torch.randperm(len(x))
                for i in range(0, len(x), size):
                    grey = x[order[i : i + size]]
                    batch = (torch.rand_like(grey) < grey).float()
                    h = encoder.network(batch)
                    mean, scale = encoder.head.mean(h), softplus(encoder.head.raw_scale(h)) + 1e-3
                    z = mean + scale * torch.randn_like(scale)
                    logits = decoder.head.logits(decoder.network(z))
                    nll = binary_cross_entropy_with_logits(
                        logits, batch.flatten(1), reduction="sum"
                    )
                    kl = 0.5 * (mean**2 + scale**2 - 1 - 2 * scale.log()).sum()
                    loss = (nll + kl) / len(batch)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()

        return timed(work)

    alternate("VAE step / bare loop, Adam as torch sets it", ours, lambda: bare(False), 0.95)
    alternate("VAE step / bare loop, fused Adam as ours is", ours, lambda: bare(True), 0.95)


def estimators(
    name: str,
    aim: float,
    make: Callable[[object], object],
    x: object,
    same: Callable[[object, object], float],
) -> None:
    """The same scikit-learn estimator of both packages on the same rows from the same start;
    results are compared first.
    """
    import warnings

    import sklearn.cluster
    import sklearn.decomposition
    import sklearn.mixture
    import sklearn.neural_network

    import emgen.sklearn

    warnings.filterwarnings("ignore")
    peers = types.SimpleNamespace(
        __name__="sklearn",
        **{
            n: getattr(m, n)
            for m in (
                sklearn.mixture,
                sklearn.cluster,
                sklearn.decomposition,
                sklearn.neural_network,
            )
            for n in dir(m)
            if n[0].isupper()
        },
    )
    difference = same(make(emgen.sklearn).fit(x), make(peers).fit(x))
    alternate(
        f"{name} (results differ by {difference:.0e})",
        lambda: timed(lambda: make(emgen.sklearn).fit(x)),
        lambda: timed(lambda: make(peers).fit(x)),
        aim,
    )


def blobs(n: int, d: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """n rows around k centres in d dimensions, and the centres."""
    rng, n = np.random.default_rng(0), int(ARGUMENTS.scale * n)
    centres = 4 * rng.standard_normal((k, d))
    return centres[rng.integers(k, size=n)] + rng.standard_normal((n, d)), centres


def gmm() -> None:
    """Gaussian mixture, full covariances, N=200,000 D=16 K=32, float64, 5 iterations from the same
    means.
    """
    x, centres = blobs(200_000, 16, 32)
    arguments = {
        "n_components": 32,
        "max_iter": 5,
        "tol": 0.0,
        "reg_covar": 1e-6,
        "init_params": "random_from_data",
        "means_init": centres + 0.5,
        "weights_init": np.full(32, 1 / 32),
        "precisions_init": np.stack([np.eye(16)] * 32),
    }
    estimators(
        "Gaussian mixture / scikit-learn",
        8,
        lambda m: m.GaussianMixture(**arguments),
        x,
        lambda a, b: np.abs(a.means_ - b.means_).max(),
    )


def vbgmm() -> None:
    """Variational Gaussian mixture, full covariances, N=200,000 D=16 K=32, float64, 5 iterations
    from the same start.
    """
    x, _ = blobs(200_000, 16, 32)
    arguments = {
        "n_components": 32,
        "max_iter": 5,
        "tol": 0.0,
        "reg_covar": 1e-6,
        "init_params": "random_from_data",
        "random_state": 0,
        "weight_concentration_prior_type": "dirichlet_distribution",
    }
    estimators(
        "variational mixture / scikit-learn",
        8,
        lambda m: m.BayesianGaussianMixture(**arguments),
        x,
        lambda a, b: np.abs(a.means_ - b.means_).max(),
    )


def kmeans() -> None:
    """k-means, N=200,000 D=16 K=32, float64, 10 Lloyd iterations from the same rows, far from where
    they converge.
    """
    x, _ = blobs(200_000, 16, 32)
    arguments = {"n_clusters": 32, "init": x[:32], "n_init": 1, "max_iter": 10, "tol": 0.0}
    estimators(
        "k-means / scikit-learn",
        1,
        lambda m: m.KMeans(**arguments),
        x,
        lambda a, b: np.abs(a.cluster_centers_ - b.cluster_centers_).max(),
    )


def rbm() -> None:
    """Boltzmann machine 784-256, persistent chains, 300 steps on binary rows: scikit-learn's
    default batches of 10, and batches of 100.
    """
    for batch, precision in ((10, "32-true"), (100, "32-true"), (100, "bf16-mixed")):
        x = (np.random.default_rng(0).random((60 * batch, 784)) < 0.2).astype(np.float32)
        arguments = {
            "n_components": 256,
            "batch_size": batch,
            "n_iter": 5,
            "learning_rate": 0.05,
            "random_state": 0,
        }

        def make(
            module: types.ModuleType, precision: str = precision, arguments: dict = arguments
        ) -> object:
            ours = {"precision": precision} if module.__name__ == "emgen.sklearn" else {}
            return module.BernoulliRBM(**arguments, **ours)

        estimators(
            f"Boltzmann machine, batches of {batch}, {precision} / scikit-learn",
            3,
            make,
            x,
            lambda a, b: abs(a.components_.mean() - b.components_.mean()),
        )


def single() -> None:
    """Gaussian mixture in single precision, full covariances, N=200,000 D=16 K=32, 5 iterations
    from the same start.
    """
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    import emgen.sklearn

    x, centres = blobs(200_000, 16, 32)
    x, centres, eye = (
        x.astype(np.float32),
        (centres + 0.5).astype(np.float32),
        np.eye(16, dtype=np.float32),
    )

    def ours() -> np.ndarray:
        return (
            emgen.sklearn.GaussianMixture(
                32,
                max_iter=5,
                tol=0.0,
                reg_covar=0.0,
                weights_init=np.full(32, 1 / 32),
                means_init=centres,
                precisions_init=np.stack([eye] * 32),
            )
            .fit(x)
            .means_
        )

    def theirs() -> np.ndarray:
        start = [
            Normal(torch.tensor(mean), torch.tensor(eye), covariance_type="full")
            for mean in centres
        ]
        model = GeneralMixtureModel(start, max_iter=5, tol=-np.inf).fit(x)
        return np.stack([component.means.numpy() for component in model.distributions])

    alternate(
        "Gaussian mixture, float32 / pomegranate (means differ by"
        f" {np.abs(ours() - theirs()).max():.0e})",
        lambda: timed(ours),
        lambda: timed(theirs),
        3,
    )


def hmm() -> None:
    """Gaussian HMM, 16 states, 100 sequences of 1,000, D=8, float64, 5 iterations from the same
    start.
    """
    import logging

    import hmmlearn.hmm

    import emgen.sklearn

    logging.disable(logging.ERROR)
    x, centres = blobs(100_000, 8, 16)
    lengths = [len(x) // 100] * 100

    def fitted(module: object, kind: str) -> np.ndarray:
        model = module.GaussianHMM(
            16,
            kind,
            n_iter=5,
            tol=-np.inf,
            init_params="",
            covars_prior=0.0,
            implementation="scaling",
        )
        model.n_features, model.startprob_, model.transmat_ = (
            8,
            np.full(16, 1 / 16),
            np.full((16, 16), 1 / 16),
        )
        model.means_, model.covars_ = (
            centres + 0.5,
            np.ones((16, 8)) if kind == "diag" else np.stack([np.eye(8)] * 16),
        )
        return model.fit(x, lengths).means_

    for kind in ("diag", "full"):
        difference = np.abs(fitted(emgen.sklearn, kind) - fitted(hmmlearn.hmm, kind)).max()
        alternate(
            f"Gaussian HMM, {kind} / hmmlearn, scaling (means differ by {difference:.0e})",
            lambda kind=kind: timed(lambda: fitted(emgen.sklearn, kind)),
            lambda kind=kind: timed(lambda: fitted(hmmlearn.hmm, kind)),
            5,
        )


def lda() -> None:
    """Latent Dirichlet allocation, 5,000 documents of 100 words, 2,000 words, 50 topics, 5 passes
    from the same start.
    """
    from scipy.sparse import csr_matrix

    rng, documents = np.random.default_rng(0), int(ARGUMENTS.scale * 5_000)
    topics = rng.dirichlet(np.full(2_000, 0.02), 50)
    x = csr_matrix(
        np.stack(
            [
                rng.multinomial(100, rng.dirichlet(np.full(50, 0.1)) @ topics)
                for _ in range(documents)
            ]
        )
    )
    estimators(
        "latent Dirichlet allocation / scikit-learn",
        3,
        lambda m: m.LatentDirichletAllocation(50, max_iter=5, evaluate_every=-1, random_state=0),
        x,
        lambda a, b: a.bound_ / b.bound_ - 1,
    )


BENCHMARKS: dict[str, Callable[[], None]] = {
    "vae": vae,
    "gmm": gmm,
    "single": single,
    "vbgmm": vbgmm,
    "kmeans": kmeans,
    "hmm": hmm,
    "lda": lda,
    "rbm": rbm,
}


def main() -> None:
    unknown = [name for name in ARGUMENTS.names if name not in BENCHMARKS]
    if unknown:
        sys.exit(
            f"bench.py: there is no benchmark {unknown[0]!r}; choose of {', '.join(BENCHMARKS)}."
        )
    print(
        f"{date.today()}  {platform.processor() or platform.machine()}, {ARGUMENTS.threads}"
        f" threads, torch {torch.__version__}; median of {ARGUMENTS.rounds} rounds, peer's time /"
        f" ours{'' if ARGUMENTS.scale == 1 else f', {ARGUMENTS.scale:g} of the rows'}"
    )
    for name in ARGUMENTS.names or BENCHMARKS:
        try:
            BENCHMARKS[name]()
        except ModuleNotFoundError as missing:
            print(f"{name}: left out, {missing.name} is not installed", flush=True)


if __name__ == "__main__":
    main()
