"""Laws of the estimates: bounds bound and close in, known densities agree, distances vanish on equal samples; runs compare."""

import io
import json
import math
import re
import time
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest
import torch
import yaml
from matplotlib.image import imsave
from rich.console import Console
from torch import nn
from torch.distributions import (
    Bernoulli,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from emgen.data import Data
from emgen.data.toy import grid_density, ring_density
from emgen.distributions import Dirac
from emgen.estimators.beliefs import Point
from emgen.evaluation import likelihood, samples
from emgen.evaluation.compare import compare, tables
from emgen.evaluation.likelihood import Estimate, elbo, log_likelihood, log_weights, parzen
from emgen.evaluation.page import page
from emgen.evaluation.rows import rows
from emgen.evaluation.runs import find_runs, groups, read_run
from emgen.evaluation.samples import Features, fid, kid, mmd, modes, wasserstein
from emgen.evaluation.scores import scored, scores
from emgen.figures.line_chart import Series, line_chart
from emgen.models import hidden_markov_model, topic_model


class LinearGaussian(nn.Module):
    """z ~ N(0, I), x|z ~ N(Wz + b, s² I): its evidence and posterior are known. `spread` makes q too wide or too narrow."""

    def __init__(self, spread: float = 1.0, shift: float = 0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.w = nn.Parameter(torch.randn(5, 2, generator=generator, dtype=torch.float64))
        self.b, self.s, self.spread, self.shift = torch.arange(5).double() / 5, 0.7, spread, shift

    def prior(self):
        return Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)

    def likelihood(self, z):
        return Independent(Normal(z @ self.w.T + self.b, self.s * torch.ones(5).double()), 1)

    def recognition(self, x):
        precision = torch.eye(2).double() + self.w.T @ self.w / self.s**2
        mean = torch.linalg.solve(precision, ((x - self.b) @ self.w / self.s**2).T).T + self.shift
        return MultivariateNormal(
            mean, covariance_matrix=self.spread**2 * torch.linalg.inv(precision)
        )

    def evidence(self):
        return MultivariateNormal(self.b, self.w @ self.w.T + self.s**2 * torch.eye(5).double())


class Pixels(nn.Module):
    """A Bernoulli decoder of two latents on images (1, 2, 3)."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 6, dtype=torch.float64)
        self.dropout = nn.Dropout(0.5)

    def prior(self):
        return Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)

    def likelihood(self, z):
        return Independent(
            Bernoulli(
                logits=self.dropout(self.decoder(z)).unflatten(-1, (1, 2, 3)), validate_args=False
            ),
            3,
        )

    def recognition(self, x):
        return Independent(Normal(x.flatten(1)[:, :2], torch.ones(2).double()), 1)


@pytest.fixture
def x():
    torch.manual_seed(1)
    return LinearGaussian().evidence().sample((100,)).detach()


# ---- likelihood --------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "chunk"), [(1, 1024), (5, 1024), (5, 2), (7, 20)])
def test_with_the_exact_posterior_every_weight_is_the_evidence(x, k, chunk):
    model = LinearGaussian()
    log_w = log_weights(model, x, k, chunk=chunk)
    exact = model.evidence().log_prob(x)
    assert log_w.shape == (k, 100)
    torch.testing.assert_close(log_w, exact.expand(k, -1).detach(), rtol=1e-10, atol=1e-10)
    estimate = log_likelihood(model, x, k, chunk=chunk)
    assert estimate.value == pytest.approx(exact.mean().item(), abs=1e-10)
    assert estimate.error == pytest.approx(exact.std().item() / math.sqrt(100), abs=1e-10)
    assert estimate.ess == pytest.approx(k, rel=1e-9)
    assert elbo(model, x, k, chunk=chunk).value == pytest.approx(estimate.value, abs=1e-10)


@pytest.mark.parametrize(("spread", "shift"), [(1.7, 0.0), (0.85, 0.3)])
def test_the_bound_rises_with_k_to_the_evidence(x, spread, shift):
    """Paired over the data: each step up is larger than four standard errors of the difference."""
    model = LinearGaussian(spread, shift)
    exact = model.evidence().log_prob(x).detach()
    bounds = [log_weights(model, x, 64, seed=1).mean(0)]
    bounds += [
        log_weights(model, x, 64 * k, seed=2).view(k, 64, 100).logsumexp(0).mean(0) - math.log(k)
        for k in (4, 32)
    ]
    for lower, higher in zip(bounds, [*bounds[1:], exact]):
        difference = higher - lower
        assert difference.mean() > 4 * difference.std() / math.sqrt(100)
    gap = exact - bounds[0]
    kl = torch.distributions.kl_divergence(
        model.recognition(x), LinearGaussian().recognition(x)
    ).detach()
    assert (gap - kl).mean().abs() < 4 * (gap - kl).std() / math.sqrt(
        100
    )  # log p(x) − ELBO = KL(q ‖ posterior)
    closest = log_likelihood(model, x, 5_000)
    assert closest.value == pytest.approx(exact.mean().item(), abs=0.02)
    assert closest.method == "importance-weighted, K=5000" and 1 < closest.ess < 5_000


def test_pixels_in_one_product_equal_the_distribution(x):
    torch.manual_seed(0)
    model, images = Pixels().eval(), (torch.rand(7, 1, 2, 3).double() < 0.5).double()
    p = model.likelihood(torch.randn(11, 7, 2).double())
    torch.testing.assert_close(
        likelihood._log_prob(p, images), p.log_prob(images), rtol=1e-12, atol=1e-12
    )


def test_evaluation_leaves_mode_and_random_state_and_repeats():
    model, images = Pixels().train(), torch.ones(4, 1, 2, 3).double()
    before = torch.get_rng_state()
    first, second, other = (log_likelihood(model, images, 10, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state()) and model.training and model.dropout.training
    assert first == second != other
    assert not log_weights(model, images, 2).requires_grad
    model.dropout.p = 0.0
    assert log_likelihood(model, images, 10) == first  # dropout was off


def test_a_model_that_knows_its_density_is_scored_exactly():
    class Known(nn.Module):
        def log_prob(self, x):
            return -x.sum(1)

    x = torch.arange(6.0).view(3, 2)
    assert log_likelihood(Known(), x) == Estimate(-5.0, 4 / math.sqrt(3), "exact")
    assert scores(Known(), x, 10) == {"log_likelihood": log_likelihood(Known(), x)}


def test_scores_are_one_set_of_draws(x):
    model = LinearGaussian(1.7)
    found = scores(model, x, 50)
    assert found["gap"].value == pytest.approx(
        found["log_likelihood"].value - found["elbo"].value, abs=1e-12
    )
    assert found["log_likelihood"].value == pytest.approx(
        log_likelihood(model, x, 50).value, abs=1e-12
    )
    assert found["elbo"].value == pytest.approx(elbo(model, x, 50).value, abs=1e-12)
    assert found["ess"].value == pytest.approx(log_likelihood(model, x, 50).ess, rel=1e-12)


def test_what_has_no_likelihood_is_refused(x):
    model = Pixels()
    images = torch.ones(3, 1, 2, 3).double()
    with pytest.raises(ValueError, match=r"outside the support .* of Bernoulli: binarise the data"):
        log_likelihood(model, images / 2)
    with pytest.raises(ValueError, match="no data"):
        log_likelihood(model, images[:0])
    with pytest.raises(ValueError, match="samples=0"):
        log_likelihood(model, images, 0)
    model.recognition = lambda x: Dirac(x.flatten(1)[:, :2], 1)
    with pytest.raises(ValueError, match=r"q\(z\|x\) is a point mass"):
        log_likelihood(model, images)
    gaussian = LinearGaussian()
    gaussian.likelihood = lambda z: Dirac(z @ gaussian.w.T, 1)
    with pytest.raises(ValueError, match=r"p\(x\|z\) is a point mass"):
        log_likelihood(gaussian, x)


# ---- Parzen ------------------------------------------------------------------------------------


def test_parzen_is_a_mixture_at_the_samples():
    torch.manual_seed(0)
    s, x = torch.randn(40, 1, 3).double(), torch.randn(9, 1, 3).double()
    mixture = MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(40).double()),
        Independent(Normal(s.flatten(1), 0.4 * torch.ones(3).double()), 1),
    )
    estimate = parzen(s, x, x, [0.4], chunk=4)
    assert estimate.value == pytest.approx(mixture.log_prob(x.flatten(1)).mean().item(), abs=1e-10)
    assert estimate.error == pytest.approx(
        mixture.log_prob(x.flatten(1)).std().item() / 3, abs=1e-10
    )


def test_parzen_chooses_the_bandwidth_on_validation_and_never_beats_the_truth():
    torch.manual_seed(0)
    truth = Normal(torch.zeros(()).double(), 1.0)
    s, validation, x = (truth.sample((n, 1)) for n in (500, 400, 2_000))
    candidates = [0.01, 0.1, 0.3, 1.0, 3.0]
    alone = {h: parzen(s, validation, validation, [h]).value for h in candidates}
    best = max(alone, key=alone.get)
    chosen = parzen(s, x, validation, candidates)
    assert f"bandwidth {best:g} chosen" in chosen.method and best in (0.1, 0.3, 1.0)
    assert chosen.value < truth.log_prob(x).mean()
    with pytest.raises(ValueError, match="all positive"):
        parzen(s, x, validation, [0.0, 1.0])


# ---- samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("density", "total"), [(ring_density(), 8), (grid_density(), 25)])
def test_true_samples_cover_every_mode(density, total):
    torch.manual_seed(0)
    found = modes(density.sample((20_000,)), density)
    rate = 1 - math.exp(-4.5)  # of a plane Gaussian within three standard deviations
    assert found.covered == found.total == total
    assert abs(found.high_quality - rate) < 4 * math.sqrt(rate * (1 - rate) / 20_000)
    assert found.reverse_kl < 5 * total / 20_000


def test_collapse_is_seen():
    density = ring_density()
    centres = density.component_distribution.mean
    one = modes(centres[:1].expand(50, -1), density)
    assert (one.covered, one.high_quality) == (1, 1.0) and one.reverse_kl == pytest.approx(
        math.log(8)
    )
    edge = centres[:2] + torch.tensor(
        [[0.0299, 0.0], [0.0301, 0.0]]
    )  # three standard deviations are .03
    assert modes(edge, density).high_quality == 0.5


def test_mmd_vanishes_on_equal_samples_and_is_unbiased():
    torch.manual_seed(0)
    x, y = torch.randn(300, 1, 2, 2), torch.randn(400, 1, 2, 2)
    assert mmd(x, x) == Estimate(0.0, 0.0, "MMD², Gaussian kernels, 300 samples")
    assert mmd(x, y[:300]).value == pytest.approx(mmd(y[:300], x).value, abs=1e-15)
    pairs = [mmd(torch.randn(60, 2), torch.randn(60, 2)) for _ in range(200)]
    values = torch.tensor([e.value for e in pairs])
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(200)
    shifted = mmd(x, y + 1)
    assert shifted.value > 10 * shifted.error > 0


def test_transport_of_a_shift_is_its_length():
    pytest.importorskip("ot", reason="POT is not installed")
    torch.manual_seed(0)
    x, shift = torch.randn(50, 3).double(), torch.tensor([3.0, 0.0, -4.0]).double()
    for order in (1, 2):
        assert wasserstein(x, x, order=order) == pytest.approx(0, abs=1e-12)
        assert wasserstein(x, x.flip(0) + shift, order=order) == pytest.approx(5, abs=1e-9)
    with pytest.raises(ValueError, match="order=3"):
        wasserstein(x, x, order=3)


@pytest.fixture(scope="module")
def images():
    from emgen.data import digits

    x = digits().split("train")
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def test_feature_distances_order_distortions(images):
    before = torch.get_rng_state()
    features = Features(images, steps=150)
    again = Features(images, steps=150)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(features(images[:5]), again(images[:5]))
    data, intact = images[:650], images[650:]
    noise = torch.randn(intact.shape, generator=torch.Generator().manual_seed(0))
    ladder = [
        intact,
        (intact + 0.1 * noise).clamp(0, 1),
        (intact + 0.3 * noise).clamp(0, 1),
        noise.sigmoid(),
    ]
    fids, kids = [fid(x, data, features) for x in ladder], [kid(x, data, features) for x in ladder]
    assert fids == sorted(fids) and [k.value for k in kids] == sorted(k.value for k in kids)
    assert fid(data, data, features) == pytest.approx(0, abs=1e-3)
    assert abs(kids[0].value) < 4 * kids[0].error
    assert fid(intact[:5].repeat(130, 1, 1, 1), data, features) > 10 * fids[0]  # collapse
    assert torch.equal(before, torch.get_rng_state())


def test_samples_are_scored_by_what_their_shape_allows(images):
    ring = ring_density()
    torch.manual_seed(0)
    points = ring.sample((200,))
    found = samples.sample_scores(points, ring.sample((200,)), points, ring)
    assert set(found) == {"mmd", "modes", "high_quality", "mode_kl"} and found["modes"].value == 8
    assert set(samples.sample_scores(torch.randn(9, 3), torch.randn(9, 3), torch.randn(9, 3))) == {
        "mmd"
    }
    assert set(samples.sample_scores(images[:200], images[200:400], images)) == {
        "mmd",
        "fid",
        "kid",
    }


def test_distortions_touch_seven_rows_of_eight(images):
    torch.manual_seed(0)
    x = images[:16]
    same = (samples._distorted(x) == x).flatten(1).all(1)
    assert same.tolist() == [i % 8 == 0 for i in range(16)]


# ---- comparison --------------------------------------------------------------------------------


def make_run(
    folder,
    trainer,
    value=None,
    status="finished",
    binarise="dynamic",
    seed=0,
    message="",
    pictures=True,
    **data,
):
    folder.mkdir(parents=True)
    options = {
        "_target_": "emgen.data.digits",
        "binarise": binarise,
        "batch_size": 100,
        "seed": 0,
        **data,
    }
    names = {"trainer": trainer, "model": "dense", "data": "digits"}
    (folder / "status.json").write_text(json.dumps({"status": status, "message": message}))
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"seed": seed, "data": options, "choices": names})
    )
    rows = [f"{e},{1300 * e},{0.5 * e},{-30 + e},{'' if e % 2 else -31 + e}" for e in range(1, 6)]
    (folder / "metrics.csv").write_text(
        "\n".join(["epoch,examples,seconds,train/loss,val/log_likelihood", *rows])
    )
    if pictures:
        (folder / "figures").mkdir()
        for name in ("samples", "reconstructions"):
            imsave(folder / "figures" / f"{name}.png", torch.rand(9, 9).numpy())
    if value is not None:
        metrics = {
            "test/log_likelihood": value,
            "test/log_likelihood_error": 0.21,
            "test/ess": 12.34,
        }
        summary = {
            **names,
            "seconds": 2.5,
            "examples_per_second": 5200.0,
            "parameters": 1234567,
            "metrics": metrics,
            "methods": {"test/log_likelihood": "importance-weighted, K=200"},
        }
        (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    make_run(root / "a", "vae", -23.5)
    make_run(root / "b", "vae", -22.25, seed=1)
    make_run(root / "c", "gan", -41.0)
    make_run(root / "d", "wake_sleep", status="running", pictures=False)
    make_run(root / "e", "fgan", status="failed", message="the loss of <critic> became nan")
    make_run(root / "f", "vae", -20.0, binarise="fixed")
    make_run(root / "g & h", "vae", -24.0, test=100)
    make_run(root / "again" / "g & h", "vae", -24.0, test=100)
    (root / "broken").mkdir()
    (root / "broken" / "status.json").write_text('{"status": ')
    (root / "broken" / "metrics.csv").write_bytes(b"\xff\xfe\x00")
    return root


class WellFormed(HTMLParser):
    """Every tag that opens closes, in order; all addresses are remembered."""

    VOID = {"meta", "input", "img", "br", "line", "circle", "polyline"}

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.tags, self.ids = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href")]
        self.ids += [value for key, value in attrs if key == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_stands_alone(runs):
    html = page(groups([read_run(path) for path in find_runs([runs])]))
    parser = WellFormed()
    parser.feed(html)
    assert parser.open == [] and len(parser.ids) == len(set(parser.ids))
    assert parser.tags.count("table") == 4 and parser.tags.count("img") == 14
    assert all(address.startswith("data:image/png;base64,") for address in parser.addresses)
    assert (
        not {"script", "link", "iframe"} & set(parser.tags)
        and "http" not in html
        and "url(" not in html
    )
    for text in (
        "vae seed=0",
        "vae seed=1",
        "gan",
        "wake_sleep",
        "running",
        "fgan",
        "failed",
        "−22.25 ± 0.21",
        "12.3",
        "the loss of &lt;critic&gt; became nan",
        "1,234,567",
        "broken",
        "vae (g &amp; h)",
        "importance-weighted, K=200",
    ):
        assert text in html, text


def test_runs_are_grouped_by_what_was_scored(runs):
    found = groups([read_run(path) for path in find_runs([runs])])
    assert [len(group.runs) for group in found] == [5, 2, 1, 1]
    assert found[0].labels[:3] == ("vae seed=1", "vae seed=0", "gan")  # the best first
    titles = {group.title.split(",")[1].strip() for group in found if "digits" in group.title}
    assert titles == {
        "dynamic binarisation",
        "fixed binarisation",
    }  # two binarisations are never put in one table
    assert len({group.title for group in found}) == 4
    assert [run.status for run in found[0].runs] == ["finished"] * 3 + ["running", "failed"]


def test_batch_size_and_folders_do_not_separate_runs(tmp_path):
    make_run(tmp_path / "a", "vae", -1.0)
    make_run(tmp_path / "b", "gan", -2.0, batch_size=7, root="elsewhere", download=True)
    assert len(groups([read_run(path) for path in find_runs([tmp_path])])) == 1


def test_curves_come_with_both_axes(runs):
    run = read_run(runs / "a")
    assert run.curves["train/loss"][0] == (1300, 0.5, -29) and len(run.curves["train/loss"]) == 5
    assert [x for x, _, _ in run.curves["val/log_likelihood"]] == [2600, 5200]
    assert "epoch" not in run.curves


def test_a_later_evaluation_replaces_the_score(runs):
    found = {
        "test/log_likelihood": {
            "value": -21.0,
            "error": 0.1,
            "method": "importance-weighted, K=1000",
        }
    }
    (runs / "a" / "evaluation.json").write_text(json.dumps({"metrics": found}))
    score = read_run(runs / "a").score
    assert (score.value, score.error, score.method) == (-21.0, 0.1, "importance-weighted, K=1000")


def test_compare_prints_a_table_and_writes_one_page(runs, tmp_path):
    out = io.StringIO()
    where = compare(
        [runs / "a", runs / "c"], tmp_path / "deep" / "page.html", Console(file=out, width=200)
    )
    assert where.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    text = out.getvalue()
    assert re.search(r"vae .*−23.50 ± 0.21 \[1\] .*12.3 .*2.5 .*5,200 .*1,234,567", text)
    assert "[1] importance-weighted, K=200" in text
    assert text.index("vae") < text.index("gan") and "digits, dynamic binarisation" in text
    assert len(tables(groups([]))) == 0


def test_runs_that_differ_in_their_seed_alone_are_one_row(tmp_path):
    """Its mean and sd are those of the seeds; another setting, another method or the same seed again is another row."""
    values = [-23.5, -22.25, -20.0]
    for seed, value in enumerate(values):
        make_run(tmp_path / f"s{seed}", "vae", value, seed=seed)
    make_run(tmp_path / "again", "vae", -30.0, seed=0)
    make_run(tmp_path / "other", "gan", -22.0, seed=1)
    make_run(tmp_path / "going", "gan", status="running", seed=2)
    make_run(tmp_path / "finer", "gan", -21.0, seed=3)
    finer = {"test/log_likelihood": {"value": -21.0, "error": 0.1, "method": "K=1000"}}
    (tmp_path / "finer" / "evaluation.json").write_text(json.dumps({"metrics": finer}))

    (group,) = groups([read_run(path) for path in find_runs([tmp_path])])
    found = [[run.path.name for run in row.runs] for row in rows(group)]
    assert found == [["finer", "going"], ["s2", "s1", "s0"], ["other"], ["again"]]
    spread = rows(group)[1].spread
    assert spread.mean == pytest.approx(sum(values) / 3, abs=1e-12)
    assert spread.sd == pytest.approx(torch.tensor(values).double().std().item(), abs=1e-12)
    assert spread.n == 3 and rows(group)[0].spread.n == 1
    html = page([group])
    assert html.count("<details><summary>3 seeds</summary></details>") == 1
    assert "−21.92 ± 1.77" in html and "sd over 3 seeds" in html and "−20.00 ± 0.21" in html

    out = io.StringIO()
    compare([tmp_path], tmp_path / "page.html", Console(file=out, width=200))
    assert re.search(r"vae.*\(3 seeds\).*−21.92 ± 1.77 \[2\]", out.getvalue())


def test_what_differs_is_told_and_highlighted_where_it_is_unusual(tmp_path):
    for name, trainer, rate in (("a", "vae", 0.1), ("b", "vae", 0.1), ("c", "gan", 0.2)):
        make_run(tmp_path / name, trainer, -1.0)
        path = tmp_path / name / "config.yaml"
        config = yaml.safe_load(path.read_text())
        config["trainer"] = {"_target_": f"emgen.{trainer}", "optimizer": {"lr": rate}}
        if name == "b":
            config["trainer"]["clip"] = "<1>"
        path.write_text(yaml.safe_dump(config))
    (group,) = groups([read_run(path) for path in find_runs([tmp_path])])
    told = {
        row.runs[0].path.name: {s.name: (s.value, s.unusual) for s in row.settings}
        for row in rows(group)
    }
    assert told["a"] == {"trainer.optimizer.lr": ("0.1", False)}
    assert told["b"]["trainer.clip"] == ("<1>", True)
    assert told["c"] == {"trainer.optimizer.lr": ("0.2", True)}
    html = page([group])
    assert "optimizer.lr=<mark>0.2</mark>" in html and "optimizer.lr=0.1</code>" in html
    assert "clip=<mark>&lt;1&gt;</mark>" in html and "<1>" not in html


def test_sample_scores_stand_beside_the_likelihood_and_alone_where_there_is_none(tmp_path):
    make_run(tmp_path / "a", "vae", -1.0)
    make_run(tmp_path / "b", "gan", -2.0)
    for name, fid_of_it in (("a", 40.0), ("b", 12.5)):
        path = tmp_path / name / "summary.json"
        summary = json.loads(path.read_text())
        if name == "b":
            summary["metrics"], summary["methods"] = {}, {}
        summary["metrics"] |= {"test/fid": fid_of_it, "test/fid_error": None}
        summary["methods"] |= {"test/fid": "FID, our features"}
        path.write_text(json.dumps(summary))
    (group,) = groups([read_run(path) for path in find_runs([tmp_path])])
    html = page([group])
    heads = re.findall(r'<th scope="col">(.*?)</th>', html)
    assert heads[:4] == ["run", "log-likelihood, nats", "FID", "ESS"]
    assert "no likelihood" in html and "12.5" in html and "FID, our features." in html
    out = io.StringIO()
    Console(file=out, width=80).print(*tables([group]))
    assert re.search(r"gan .*— .*12.5", out.getvalue()) and "…" not in out.getvalue()


def test_each_run_links_to_its_folder_and_names_are_escaped(tmp_path):
    name = "a run, 100% <i>&'ü"
    make_run(tmp_path / "runs" / name, "vae", -1.0, message="<script>alert(1)</script>")
    make_run(tmp_path / "runs" / "plain", "<img src=x>", status="failed", message="<script>")
    where = compare(
        [tmp_path / "runs"], tmp_path / "deep" / "page.html", Console(file=io.StringIO())
    )
    parser = WellFormed()
    parser.feed(where.read_text(encoding="utf-8"))
    links = [address for address in parser.addresses if not address.startswith("data:image/png")]
    folders = {(where.parent / unquote(link)).resolve() for link in links}
    assert folders == {
        (tmp_path / "runs" / name).resolve(),
        (tmp_path / "runs" / "plain").resolve(),
    }
    assert not {"script", "i"} & set(parser.tags) and "x" not in parser.addresses


def test_fifty_runs_are_compared_in_seconds(tmp_path):
    for i in range(50):
        make_run(tmp_path / str(i), f"t{i % 5}", -20.0 - i / 50, seed=i, pictures=i % 10 == 0)
    start = time.perf_counter()
    where = compare([tmp_path], tmp_path / "page.html", Console(file=io.StringIO()))
    assert time.perf_counter() - start < 20
    assert where.read_text(encoding="utf-8").count("10 seeds</summary>") == 5


def test_no_run_is_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in"):
        find_runs([tmp_path])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_runs([tmp_path / "none"])


def test_a_run_far_from_the_others_is_cut_and_named():
    near = [Series(f"s{i}", i, [(0, -90.0 - i), (10, -80.0 - i)]) for i in range(3)]
    svg = line_chart([*near, Series("far", 3, [(0, -9e4), (10, -5e4)])], "examples", "val/elbo")
    assert "↓ far −50k" in svg and svg.count("polyline") == 8 and svg.count("<circle") == 3
    assert (
        line_chart([], "examples", "val/elbo")
        == line_chart([Series("a", 0, [(0, math.nan)])], "examples", "t")
        == ""
    )
    assert "polyline" in line_chart([Series("a", 0, [(5, 1.0)])], "examples", "one point")


# --- numbers that are none ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_known_error(value):
    assert math.isnan(Estimate(value, 0.0, "exact").error)
    for values in ([value], [value, value], [0.0, value]):
        found = Estimate.over(torch.tensor(values), "exact")
        assert math.isnan(found.error) and not math.isfinite(found.value) and "± ?" in str(found)
    assert math.isnan(Estimate(value, 0.0, "exact").widened(0.5).error)


def test_an_error_is_not_negative():
    with pytest.raises(ValueError, match=r"a standard error is 0 or more.* not -1 \(exact\)"):
        Estimate(0.0, -1.0, "exact")


# ---- what is counted ---------------------------------------------------------------------------


@pytest.mark.parametrize("symbols", [False, True])
@pytest.mark.parametrize("n", [1, 5, None])
def test_the_first_sequences_are_scored_by_the_mean_of_their_own_scores(n, symbols):
    """Padding beyond the true lengths is no frame, whatever it is filled with."""
    torch.manual_seed(0)
    rows, lengths = torch.randint(3, (9, 6)), torch.tensor([6, 1, 3, 4, 2, 5, 6, 1, 3])
    if not symbols:
        rows = rows + torch.randn(9, 6).double()
    model = hidden_markov_model(
        (6,), states=2, symbols=3, emission="categorical" if symbols else "gaussian"
    )
    model.start((rows, lengths), Point())
    own = torch.cat([model.log_prob(row[None, :length]) for row, length in zip(rows, lengths)])[:n]
    chosen = scored(model, Data(rows, length=lengths), "test", n)
    found = scores(model, chosen.x, 1)["log_likelihood"]
    assert (chosen.n, chosen.datum) == (n or 9, "row")
    assert found.value == pytest.approx(own.mean().item(), rel=1e-12)


def test_a_topic_model_scores_documents_though_the_data_were_not_told_of_them():
    entries = torch.tensor([[0, 0, 2], [0, 1, 1], [1, 1, 4], [2, 0, 1], [2, 1, 1]])
    model = topic_model(documents=3, words=2, topics=2)
    model.start(entries, Point())
    chosen = scored(model, Data(entries), "test", 2)
    assert (chosen.n, chosen.datum, len(chosen.x)) == (2, "document", 3)
    assert scored(model, Data(entries), "test", 9).n == 3


def test_rows_of_points_are_data():
    chosen = scored(nn.Identity(), Data(torch.rand(7, 2)), "validation", 4)
    assert (chosen.n, chosen.datum, tuple(chosen.x.shape)) == (4, "row", (4, 2))
