"""The experiments of the levels: each leaves its picture and finds the numbers that are known to digits."""

import json
import math

import pytest
import torch
from matplotlib.image import imread

from emgen import callbacks, cli
from emgen.data.text import ALPHABET
from emgen.estimators.enumeration import log_evidence

PICTURES = {
    "level1_two_coins": "parameter_path",
    "level1_three_coins": "parameter_path",
    "level1_gmm": "clusters",
    "level2_lower_bound": "lower_bounds",
    "level3_kmeans": "clusters",
    "level3_tempering": "tempering",
    "level4_generalised_em": "half_steps",
    "level5_variational_gmm": "clusters",
    "level7_gibbs": "co_clustering",
    "level7_bayesian_kmeans": "clusters",
    "level1_hmm": "emissions",
    "level5_lda": "topic_words",
    "level5_mean_field": "restricted_beliefs",
    "level7_factorial": "causes",
}


def composed(name, *overrides):
    with cli.composer() as compose:
        cfg = compose("train", [f"experiment={name}", "callbacks.progress=null", *overrides])
    cfg.logger = None
    return cfg


def climb(name, folder, *overrides):
    """Train as the command line does; the metrics of its summary."""
    metrics = cli.train(composed(name, *overrides), folder)
    assert json.loads((folder / "summary.json").read_text())["metrics"] == metrics
    return metrics


def reported(metrics, picture):
    return {
        tag.removeprefix(f"{picture}/"): value
        for tag, value in metrics.items()
        if tag.startswith(f"{picture}/")
    }


@pytest.mark.parametrize("name", PICTURES)
def test_every_level_leaves_its_picture_after_a_few_epochs(name, tmp_path):
    short = ["callbacks.gibbs.burn_in=1"] if name == "level7_gibbs" else []
    metrics = climb(name, tmp_path, "lightning.max_epochs=3", *short)
    pixels = imread(tmp_path / "figures" / f"{PICTURES[name]}.png")
    assert pixels.ndim == 3 and pixels[..., :3].std() > 0.05
    assert reported(metrics, PICTURES[name])


# ---- the published and the exact numbers -------------------------------------------------------


def test_two_coins(tmp_path):
    found = reported(climb("level1_two_coins", tmp_path), "parameter_path")
    assert found["θ_A"] == pytest.approx(0.79678907, abs=5e-9) and found["θ_B"] == pytest.approx(
        0.51958312, abs=5e-9
    )


@pytest.mark.parametrize(
    ("epochs", "pi", "p", "q", "expected"),
    [
        (1, 0.5, 0.5, 0.5, (0.5, 0.6, 0.6)),
        (1, 0.4, 0.6, 0.7, (0.40641711, 0.53684211, 0.64324324)),
        (5, 0.46, 0.55, 0.67, (0.46186284, 0.534595, 0.65613464)),
    ],
)
def test_three_coins_are_done_in_one_step(epochs, pi, p, q, expected, tmp_path):
    start = [
        f"model.start.weights=[{pi},{1 - pi}]",
        f"model.start.mean=[[{p}],[{q}]]",
        "trainer.tol=null",
    ]
    found = reported(
        climb("level1_three_coins", tmp_path, f"lightning.max_epochs={epochs}", *start),
        "parameter_path",
    )
    assert (found["weight"], found["p"], found["q"]) == pytest.approx(expected, abs=5e-9)
    assert found["log_likelihood"] == pytest.approx(-6.730116670093, abs=1e-11)


def test_old_faithful(tmp_path):
    assert reported(climb("level1_gmm", tmp_path), "clusters")["log_likelihood"] == pytest.approx(
        -1130.263960, abs=1e-6
    )


def test_kmeans(tmp_path):
    found = reported(climb("level3_kmeans", tmp_path), "clusters")
    assert found["inertia"] == pytest.approx(8901.768721, abs=1e-6) and {
        found["size_0"],
        found["size_1"],
    } == {172, 100}


def test_responsibilities_harden_as_the_variance_falls(tmp_path):
    found = reported(climb("level3_tempering", tmp_path), "tempering")
    digits = {
        "entropy_100": (76.2333, 5e-5),
        "entropy_36": (11.9911, 5e-5),
        "entropy_10": (1.485182, 5e-7),
        "entropy_1": (4.777e-5, 5e-9),
    }
    assert all(
        found[name] == pytest.approx(value, abs=error) for name, (value, error) in digits.items()
    )


def test_bounds_touch_the_evidence_where_they_were_built(tmp_path):
    found = reported(climb("level2_lower_bound", tmp_path), "lower_bounds")
    assert abs(found["slack_at_touch"]) < 1e-12


def test_generalised_em_climbs_in_half_steps_to_the_maximum(tmp_path):
    found = reported(climb("level4_generalised_em", tmp_path), "half_steps")
    assert found["lowest_rise"] >= -1e-11
    assert (
        found["log_p"] == pytest.approx(-4.15538221, abs=5e-8)
        and 0 <= found["log_p"] - found["elbo"] < 1e-8
    )


def test_variational_bayes_keeps_the_components_that_the_data_pay_for(tmp_path):
    found = reported(climb("level5_variational_gmm", tmp_path), "clusters")
    assert sorted(round(value) for name, value in found.items() if name.startswith("size_")) == [
        0
    ] * 6 + [97, 175]


def test_gibbs_agrees_with_enumeration(tmp_path):
    """The pair (1, 2) to three standard errors, which autocorrelated sweeps put near .0005."""
    data, trainer = cli.build_parts(composed("level7_gibbs"))
    exact = log_evidence(trainer.model, data.split("train"), "distribution")
    assert exact.log_prob.item() == pytest.approx(-20.9403902329, abs=1e-9)
    found = reported(climb("level7_gibbs", tmp_path, "lightning.max_epochs=600"), "co_clustering")
    assert (
        found["pair_first_second"] == pytest.approx(0.999381, abs=0.0015)
        and found["largest_error"] < 0.005
    )


def learnt(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_vowels_gather_in_one_state(tmp_path):
    climb("level1_hmm", tmp_path)
    lean = dict(zip(ALPHABET, learnt(tmp_path)["model.emission.mean"][:, 0].argmax(0).tolist()))
    assert len({lean[c] for c in "aeiou"}) == 1 and all(
        lean[c] != lean["a"] for c in "bcdfhjklmnpqrstvwxz "
    )


def test_the_weather_has_its_textbook_probability_before_the_first_step(tmp_path):
    start = "model.start={initial:[.6,.4],transition:[[.7,.3],[.4,.6]],mean:[[[.1,.4,.5]],[[.6,.3,.1]]]}"
    found = reported(
        cli.train(composed("level1_hmm", "data=weather", "model.symbols=3", start), tmp_path),
        "emissions",
    )
    assert math.exp(found["first_log_likelihood"]) == pytest.approx(0.033612, rel=1e-12)
    assert found["log_likelihood"] == pytest.approx(
        -2 * math.log(2), abs=1e-6
    )  # one state for walk, one for shop or clean


def test_topics_tell_more_of_a_word_than_its_frequency(tmp_path):
    """The bound, priors paid for, beats the best that one distribution over words can say of the corpus."""
    found = reported(climb("level5_lda", tmp_path), "topic_words")
    entries = cli.build_parts(composed("level5_lda"))[0].split("train")
    counts = torch.zeros(1000).double().index_add(0, entries[:, 1], entries[:, 2].double())
    frequency = torch.xlogy(counts, counts / counts.sum()).sum() / counts.sum()
    topics, proportions = (
        learnt(tmp_path)["model.topics.mean"],
        learnt(tmp_path)["model.proportions.mean"],
    )
    told = (
        (proportions @ topics).log()[entries[:, 0], entries[:, 1]] @ entries[:, 2].double()
    ) / counts.sum()
    assert told > frequency + 0.3 and found["first_bound"] < found["bound"] < told


def test_bounds_of_beliefs_are_ordered(tmp_path):
    """At every epoch, and exact EM ends where the two switches that are seen as a sum tie the causes together."""
    found = reported(climb("level5_mean_field", tmp_path), "restricted_beliefs")
    assert found["smallest_step"] >= -1e-12 and found["exact"] == pytest.approx(
        found["log_p"], abs=1e-12
    )
    assert found["factorised"] < found["structured"] - 0.05 < found["exact"] - 0.2


def test_gibbs_in_a_factorial_mixture_agrees_with_enumeration(tmp_path):
    """Each cause holds the lines of one direction. After 1,000 sweeps every marginal is within eight standard errors of as many
    tosses of a fair coin, for successive draws are correlated, and the mean error is five times below that after 10."""
    found = reported(climb("level7_factorial", tmp_path), "causes")
    assert (
        found["largest_error"] < 8 * math.sqrt(0.25 / 1000)
        and found["error"] < found["error_10"] / 5
    )
    w = learnt(tmp_path)["model.loadings.mean"].view(3, 3, 2, 3)  # row, column, cause, state
    w = w - w.mean(3, keepdim=True)
    across, down = w.mean(1).square().sum((0, 2)), w.mean(0).square().sum((0, 2))
    share = sorted((across / (across + down)).tolist())
    assert share[0] < 0.03 and share[1] > 0.97


# ---- what all pictures share -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["level4_generalised_em", "level7_gibbs"])
def test_a_resumed_run_draws_the_same_picture(name, tmp_path, monkeypatch):
    monkeypatch.setattr("emgen.figures.co_clustering.MOST", 0)  # the exact matrix takes its time
    fixed = [
        "trainer.tol=null",
        "callbacks.checkpoint.every_n_epochs=1",
        *(["callbacks.gibbs.burn_in=2"] if "gibbs" in name else []),
    ]
    whole = climb(name, tmp_path / "whole", "lightning.max_epochs=6", *fixed)
    climb(name, tmp_path / "parts", "lightning.max_epochs=3", *fixed)
    parts = climb(name, tmp_path / "parts", "lightning.max_epochs=6", "resume=auto", *fixed)
    assert reported(whole, PICTURES[name]) == reported(parts, PICTURES[name])
    pictures = [
        imread(tmp_path / run / "figures" / f"{PICTURES[name]}.png") for run in ("whole", "parts")
    ]
    assert (pictures[0] == pictures[1]).all()


def test_a_run_is_the_same_bit_for_bit_with_and_without_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("emgen.figures.co_clustering.MOST", 0)

    def weights(folder, *overrides):
        climb("level7_gibbs", folder, "lightning.max_epochs=4", *overrides)
        return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]

    often = "callbacks.checkpoint.every_n_epochs=1"
    drawn, plain = (
        weights(tmp_path / "a", often, "callbacks.gibbs.burn_in=1"),
        weights(tmp_path / "b", often, "callbacks.gibbs=null"),
    )
    assert all(torch.equal(drawn[key], plain[key]) for key in plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: callbacks.ParameterPath(["a"]), "two names"),
        (lambda: callbacks.LowerBounds(1, 0), "low < high"),
        (lambda: callbacks.Tempering([0.0]), "positive variances"),
        (lambda: callbacks.Clusters("n"), "expected 'bound' or 'weights'"),
        (lambda: callbacks.Clusters(axes=["a"]), "two features"),
        (lambda: callbacks.CoClustering(-1), "0 or more"),
        (lambda: callbacks.Tempering(axes=["a"]), "two features"),
        (lambda: callbacks.Emissions(0), "one frame or more"),
        (lambda: callbacks.TopicWords(0), "one or more of each"),
        (lambda: callbacks.RestrictedBeliefs(0), "one or more of each"),
        (lambda: callbacks.Causes(sweeps=1), "ten or more"),
    ],
)
def test_impossible_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
