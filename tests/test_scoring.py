"""Laws of scoring that a person can wait for: the same figures for less work, and what is said meanwhile."""

import io
import json
import math
import os
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from emgen.cli import entry, training
from emgen.estimators import progress
from emgen.estimators.progress import each, shown
from emgen.evaluation import likelihood
from emgen.evaluation.budget import LEAST, Phases, affordable, in_two_phases
from emgen.evaluation.likelihood import log_weights
from emgen.evaluation.runs import read_run
from emgen.evaluation.scores import scores
from emgen.models import convolutional, dense, helmholtz_machine


def model_of(kind):
    torch.manual_seed(0)
    if kind == "layers":
        return helmholtz_machine((6,), layers=(4, 2)).double()
    return dense((6,), latent=2, hidden=(5,)).double()


def rows(n=7):
    return (torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.5).double()


# ---- the same figures for less work ------------------------------------------------------------


@pytest.mark.parametrize("event_shape", [(1, 28, 28), (3, 10, 6), (5, 8, 8)])
def test_a_decoder_that_only_scores_gives_what_it_gives_in_training(event_shape):
    torch.manual_seed(0)
    decoder = convolutional(event_shape, latent=3, channels=(4, 6)).double().decoder
    z = torch.randn(2, 4, 3).double()

    trained = decoder(z).base_dist.logits.detach()
    with torch.no_grad():
        scored = decoder(z).base_dist.logits

    assert scored.shape == (2, 4, *event_shape)
    torch.testing.assert_close(scored, trained, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["one layer", "layers"])
@pytest.mark.parametrize(("n", "samples"), [(7, 5), (40, 60), (2, 1500), (1100, 1)])
def test_weights_do_not_depend_on_how_many_draws_are_decoded_at_once(kind, n, samples):
    model, x = model_of(kind), rows(n)
    whole = log_weights(model, x, samples, chunk=10**9)
    for chunk in (17, 100, None):
        part = log_weights(model, x, samples, chunk=chunk)
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("budget", [None, 900])
def test_each_draw_is_decoded_once_and_no_more_are_made_than_are_told(budget):
    model, x, seen = model_of("one layer"), rows(50), []
    model.decoder.register_forward_hook(lambda _, z, __: seen.append(z[0].shape[:-1].numel()))

    scores(model, x, 40, budget=budget)

    looked = 1  # at what kind of distribution p(x|z) is
    phases = Phases.within(50, 40, budget)
    assert sum(seen) - looked == phases.draws
    assert (phases.fine < 50) == (budget is not None)


def test_no_more_is_decoded_at_once_than_was_asked(monkeypatch):
    model, seen = model_of("one layer"), []
    model.decoder.register_forward_hook(lambda _, z, __: seen.append(z[0].shape[:-1].numel()))
    for chunk in (1, 6, 33):
        log_weights(model, rows(20), 30, chunk=chunk)
        assert max(seen) <= chunk and sum(seen) == 600
        seen.clear()
    monkeypatch.setattr(likelihood, "CACHED", 6 * 64)
    log_weights(model, rows(20), 30)
    assert max(seen) <= 64 * torch.get_num_threads()


# ---- a budget of draws -------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 33, 360, 10_000, 10**6])
@pytest.mark.parametrize("budget", [1, 5_000, 150_000, None])
def test_phases_stay_within_their_budget_but_for_the_least_that_tells_an_error(n, budget):
    phases = Phases.within(n, 200, budget)
    assert 1 <= phases.few <= 200 and 1 <= phases.fine <= n
    chosen = phases.chosen()
    assert len(chosen.unique()) == phases.fine and chosen.max() < n
    if budget is not None:
        assert phases.draws <= max(budget, budget // 2 + n + 200 * LEAST)


def test_a_budget_is_counted_and_below_half_an_epoch_of_training():
    model, x = convolutional((1, 28, 28)), torch.zeros(3, 1, 28, 28)
    draws = affordable(model, x, 55_000)
    assert draws == affordable(
        model, x[:1].expand(1000, -1, -1, -1), 55_000
    )  # not of what is scored

    model.train()
    with FlopCounterMode(display=False) as training_step:
        q = model.recognition(torch.zeros(20, 1, 28, 28))
        model.likelihood(q.rsample((1,))).log_prob(torch.zeros(20, 1, 28, 28)).sum().backward()
    with torch.no_grad(), FlopCounterMode(display=False) as scoring:
        model.likelihood(torch.zeros(20, 50))
    epoch = 55_000 * training_step.get_total_flops() / 20
    assert 0.25 * epoch < draws * scoring.get_total_flops() / 20 < 0.6 * epoch

    assert affordable(dense((64,)), torch.zeros(3, 64), 1_000) > 360 * 200  # nobody waits for these
    assert affordable(torch.nn.Linear(2, 2), torch.zeros(3, 2), 1_000) is None


def test_two_phases_estimate_the_mean_of_all_draws():
    """Over all choices of n evenly spread data the mean is exact; a shift of c changes nothing."""
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(12, generator=generator).double()
    c = f + torch.randn(12, generator=generator).double() / 3
    picks = [torch.arange(start, 12, 3) for start in range(3)]
    found = [in_two_phases(c, c[i], f[i], "").value for i in picks]
    assert np.mean(found) == pytest.approx(f.mean().item(), abs=1e-12)
    for i, value in zip(picks, found):
        shifted = in_two_phases(c - 5, c[i] - 5, f[i], "")
        assert shifted.value == pytest.approx(value, abs=1e-12)
        assert in_two_phases(f, f[i], f[i], "").value == pytest.approx(f.mean().item(), abs=1e-12)
        perfect = in_two_phases(f, f[i], f[i], "").error
        assert perfect == pytest.approx(f[i].std().item() / math.sqrt(12), abs=1e-12)
        assert shifted.error > perfect


def test_scores_within_a_budget_agree_with_those_of_all_draws():
    """Their difference is that of the second phase alone: var(f − c) (1/n − 1/N) is most of its square."""
    model, x = model_of("one layer"), rows(2000)
    full = scores(model, x, 100)
    part = scores(model, x, 100, budget=30_000)
    assert (
        part["log_likelihood"].method == "importance-weighted, K=100 of 172 and K=7 of 2,000 data"
    )
    for name in ("log_likelihood", "elbo", "gap"):
        assert part[name].value == pytest.approx(full[name].value, abs=4 * part[name].error), name
        assert part[name].error >= 0.8 * full[name].error, name
    assert part["gap"].value == pytest.approx(
        part["log_likelihood"].value - part["elbo"].value, abs=1e-12
    )
    assert scores(model, x, 100, budget=200_000) == full
    assert scores(model, x, 100, budget=30_000) == part


# ---- a bar where one is asked for --------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch):
    """A terminal that remembers what was written to it."""
    written = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(file=written, force_terminal=True, width=80)
    )
    return written


def test_a_bar_tells_what_is_done_and_goes_away(terminal):
    with shown():
        list(each(range(3), "tuning"))
        log_weights(model_of("one layer"), rows(), 10)
        with shown():  # one is enough
            list(each(range(2), "annealing"))
    assert all(word in terminal.getvalue() for word in ("tuning", "scoring", "annealing"))
    assert progress._bar is None
    with pytest.raises(KeyboardInterrupt), shown():
        raise KeyboardInterrupt
    assert progress._bar is None


def test_nothing_is_shown_unasked(terminal, capsys, monkeypatch):
    log_weights(model_of("one layer"), rows(), 10)
    with shown(False):
        log_weights(model_of("one layer"), rows(), 10)
    assert terminal.getvalue() == ""
    monkeypatch.undo()
    with shown():  # stderr is no terminal here
        log_weights(model_of("one layer"), rows(), 10)
    assert capsys.readouterr() == ("", "")


# ---- on the command line -----------------------------------------------------------------------

RUN = [
    "trainer=vae",
    "model.hidden=[6]",
    "model.latent=2",
    "data=file",
    "data.path=rows.npy",
    "data.binarise=fixed",
    "data.test=0.5",
    "callbacks.metrics.samples=2",
    "callbacks.figures=null",
    "logger=csv",
    "lightning.accelerator=cpu",
    "lightning.max_epochs=2",
    "paths.run_dir=run",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((80, 6)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["emgen"])
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def emgen(*arguments):
    """The exit code of a command run in this process."""
    with pytest.raises(SystemExit) as exit:
        entry.main(arguments)
    return exit.value.code or 0


def written(name):
    return json.loads(Path("run", name).read_text())


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_scoring_leaves_a_finished_run(place, capsys, monkeypatch, signum):
    def stopped(model, x, samples, *arguments, **options):
        log_weights(model, x, samples)
        os.kill(os.getpid(), signum)
        return scores(model, x, samples, *arguments, **options)

    monkeypatch.setattr(training, "scores", stopped)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it
    try:
        code = emgen(*RUN)
    finally:
        signal.signal(signal.SIGINT, before)
    assert code == 128 + signum
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said == (
        f"emgen: training is finished, and {signum.name} stopped its scoring; score it with: emgen"
        " evaluate run=run"
    )
    status, summary = written("status.json"), written("summary.json")
    assert status["status"] == "finished" and status["message"] == said.removeprefix("emgen: ")
    assert summary["unscored"] == status["message"] and summary["epochs"] == 2
    assert "train/elbo" in summary["metrics"] and summary["rows"] == 0
    assert not any(tag.startswith("test/") for tag in summary["metrics"])
    assert Path("run/checkpoints/last.ckpt").exists() and Path("run/metrics.csv").exists()

    command = shlex.split(said.rpartition(": emgen ")[2])
    assert emgen(*command, "samples=3", "draws=null") == 0  # as it was told
    score = read_run("run").score
    assert score.tag == "test/log_likelihood" and score.method == "importance-weighted, K=3"


def test_rows_and_draws_are_stated_with_the_score(place, monkeypatch):
    assert emgen(*RUN, "evaluation.samples=3") == 0
    summary = written("summary.json")
    assert (summary["rows"], summary["draws"]) == (40, 120)
    assert summary["methods"]["test/log_likelihood"] == "importance-weighted, K=3"

    monkeypatch.setattr(training, "affordable", lambda model, x, rows: 7_000)
    assert emgen(*RUN, "paths.run_dir=run2") == 0
    summary = json.loads(Path("run2/summary.json").read_text())
    phases = Phases.within(40, 200, 7_000)
    assert (summary["rows"], summary["draws"]) == (40, phases.draws)
    assert summary["methods"]["test/elbo"] == f"ELBO, K=200 of {phases.fine} and K=87 of 40 data"


def test_the_bar_of_scoring_goes_with_that_of_the_run(place, terminal):
    assert emgen(*RUN, "evaluation.samples=3", "callbacks.progress=null") == 0
    assert terminal.getvalue() == ""
    assert emgen(*RUN, "evaluation.samples=3", "paths.run_dir=run2") == 0
    assert "scoring" in terminal.getvalue()
    assert emgen("evaluate", "run=run2", "samples=3", "draws=5") == 0
    assert "drawing" in terminal.getvalue()
