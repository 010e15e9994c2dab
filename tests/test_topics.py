"""Topic models: pLSA as non-negative matrix factorisation, variational and Gibbs LDA, sparse counts."""

import itertools

import numpy as np
import pytest
import pytorch_lightning as lightning
import torch

import emgen
from emgen.data import Data
from emgen.data.base import _Loader
from emgen.data.text import corpus, entries, word_counts
from emgen.estimators.beliefs import Distribution, Draw, Point, Tempered
from emgen.estimators.enumeration import log_evidence
from emgen.evaluation.scores import scores
from emgen.families import Categorical
from emgen.models import TopicModel, topic_model
from emgen.testing import check_model, geweke

F64 = torch.float64
TINY = word_counts([[0, 0, 1, 0], [2, 2, 1, 2], [0, 1, 2, 1]], {k: k for k in range(3)})


def counts(documents=12, words=9, seed=0):
    return torch.poisson(
        torch.rand(documents, words, generator=torch.Generator().manual_seed(seed), dtype=F64) * 4,
        generator=torch.Generator().manual_seed(seed),
    )


def iterate(model, x, latents=Distribution(), parameters=Point(), sweeps=10):
    """The total bounds after every half-step."""
    if not isinstance(parameters, Point):
        model.make_proper(x)
    if not model.started:
        model.start(x, parameters)
    bounds = []
    for _ in range(sweeps):
        s = model.statistics(x, latents(model.posterior(x)))
        bounds.append((model.free_energy(s)["elbo"] * s["n"]).item())
        bounds.append((model.free_energy(model.m_step(s, parameters))["elbo"] * s["n"]).item())
    return bounds


def assert_monotone(bounds):
    for before, after in itertools.pairwise(bounds):
        assert after >= before - 1e-9 * max(1, abs(before)), f"{before} fell to {after}"


@pytest.mark.parametrize(
    "latents", [Distribution(), Point(), Draw(), Tempered(0.7)], ids=lambda b: type(b).__name__
)
@pytest.mark.parametrize(
    "parameters", [Point(), Distribution(), Draw()], ids=lambda b: type(b).__name__
)
def test_every_cell_runs_and_monotone_cells_never_fall(latents, parameters):
    torch.manual_seed(0)
    bounds = iterate(
        topic_model(documents=12, words=9, topics=3), counts(), latents, parameters, sweeps=8
    )
    assert torch.tensor(bounds).isfinite().all()
    if isinstance(latents, (Distribution, Point)) and not isinstance(parameters, Draw):
        assert_monotone(bounds)


@pytest.mark.parametrize("trainer", ["em", "hard_em", "vbem", "me", "stochastic_em", "gibbs"])
@pytest.mark.parametrize("batch_size", [None, 17])
def test_every_trainer_fits_topics_in_batches_of_entries(trainer, batch_size):
    model = topic_model(documents=12, words=9, topics=3, alpha=0.5, beta=0.5)
    data = emgen.data.Data(entries(counts()), batch_size=batch_size)
    result = emgen.fit(model, data, trainer, max_epochs=3, device="cpu")
    assert all(np.isfinite(list(epoch.values())).all() for epoch in result.history)


def test_the_iterates_of_plsa_are_multiplicative_updates_of_kl_nmf():
    """θ ← θ ∘ ((X / θφ) φᵀ) and φ ← φ ∘ (θᵀ (X / θφ)), each normalised: Lee and Seung's, both from the same ratio."""
    x = counts()
    torch.manual_seed(0)
    theta, phi = torch.rand(12, 3, dtype=F64).softmax(1), torch.rand(3, 9, dtype=F64).softmax(1)
    model = topic_model(
        documents=12, words=9, topics=3, start={"proportions": theta, "topics": phi}
    )
    w, h = theta * x.sum(1, keepdim=True), phi  # the factors of the matrix of counts
    for _ in range(20):
        iterate(model, x, sweeps=1)
        ratio = x / (w @ h)
        w, h = w * (ratio @ h.T), h * (w.T @ ratio)
        h = h / h.sum(1, keepdim=True)
        torch.testing.assert_close(
            model.proportions.mean, w / x.sum(1, keepdim=True), rtol=1e-11, atol=1e-13
        )
        torch.testing.assert_close(model.topics.mean, h, rtol=1e-11, atol=1e-13)


def test_folding_in_is_scikit_learns_nmf_with_known_topics():
    from sklearn.decomposition import non_negative_factorization

    x = counts()
    torch.manual_seed(0)
    model = topic_model(
        documents=12, words=9, topics=3, start={"topics": torch.rand(3, 9, dtype=F64).softmax(1)}
    )
    w, _, _ = non_negative_factorization(
        x.numpy(),
        H=model.topics.mean.numpy().copy(),
        n_components=3,
        init="custom",
        solver="mu",
        beta_loss="kullback-leibler",
        update_H=False,
        max_iter=7,
        tol=0,
    )
    ours = model.fold_in(x, Categorical.flat(12, symbols=3), sweeps=7)
    torch.testing.assert_close(
        ours.mean, torch.as_tensor(w / w.sum(1, keepdims=True)), rtol=1e-9, atol=1e-12
    )


def lda(x, topics, alpha, beta, seed=0):
    torch.manual_seed(seed)
    return topic_model(
        documents=int(x[:, 0].max()) + 1,
        words=int(x[:, 1].max()) + 1,
        topics=topics,
        alpha=alpha,
        beta=beta,
    )


def test_variational_lda_reaches_the_fixed_point_and_bound_of_scikit_learn():
    from sklearn.decomposition import LatentDirichletAllocation

    dense = counts(15, 10)
    x = entries(dense)
    theirs = LatentDirichletAllocation(
        3,
        doc_topic_prior=0.5,
        topic_word_prior=0.3,
        max_iter=200,
        max_doc_update_iter=200,
        mean_change_tol=1e-9,
        evaluate_every=-1,
        learning_method="batch",
        random_state=0,
    )
    gamma = theirs.fit_transform(dense.numpy())
    ours = lda(x, 3, 0.5, 0.3)
    ours.put(
        proportions=gamma, topics=theirs.components_ / theirs.components_.sum(1, keepdims=True)
    )
    bound = iterate(ours, x, parameters=Distribution(), sweeps=300)[-1]
    learnt = ours.topics.mean * ours.topics.concentration[:, None]  # the Dirichlets' parameters
    torch.testing.assert_close(learnt, torch.as_tensor(theirs.components_), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.proportions.mean, torch.as_tensor(gamma), rtol=1e-4, atol=1e-4)
    assert abs(bound - theirs.score(dense.numpy())) < 1e-4 * abs(bound)


def test_the_tiny_lda():
    """Two independent sums over all assignments agree with the known evidence; the variational bound lies below it."""
    exact = -14.442195379984
    model = lda(TINY, 2, 0.5, 0.5)
    assert abs(log_evidence(model, TINY, "distribution").log_prob.item() - exact) < 1e-11

    def polya(n, a):  # log of the Dirichlet-multinomial probability of a sequence with counts n
        total = n.sum(-1)
        a = n.new_tensor(a)
        each = (n + a).lgamma().sum(-1) - n.shape[-1] * a.lgamma()
        return each + (a * n.shape[-1]).lgamma() - (total + a * n.shape[-1]).lgamma()

    every = torch.nn.functional.one_hot(
        torch.tensor(list(itertools.product(range(2), repeat=12))), 2
    ).to(F64)  # (4096, 12, 2)
    entry = torch.arange(len(TINY)).repeat_interleave(TINY[:, 2])
    document, word = (torch.nn.functional.one_hot(TINY[entry, i], 3).to(F64) for i in (0, 1))
    log_joint = polya(torch.einsum("cik,id->cdk", every, document), 0.5).sum(1) + polya(
        torch.einsum("cik,iw->ckw", every, word), 0.5
    ).sum(1)
    assert abs(log_joint.logsumexp(0).item() - exact) < 1e-11
    best = max(
        iterate(lda(TINY, 2, 0.5, 0.5, seed), TINY, parameters=Distribution(), sweeps=200)[-1]
        for seed in range(5)
    )
    assert -17.0 < best <= exact
    hard = max(
        iterate(lda(TINY, 2, 0.5, 0.5, seed), TINY, Point(), Distribution(), sweeps=20)[-1]
        for seed in range(5)
    )
    assert hard <= log_joint.max().item() + 1e-9


def test_one_topic_is_exact():
    model = lda(TINY, 1, 0.5, 0.5)
    bound = iterate(model, TINY, parameters=Distribution(), sweeps=2)[-1]
    assert abs(bound - log_evidence(model, TINY, "distribution").log_prob.item()) < 1e-11


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "biased"])
def test_gibbs_passes_geweke_and_a_biased_sampler_fails(wrong):
    model = topic_model(documents=2, words=3, topics=2, alpha=0.8, beta=0.6)

    def fresh(theta):
        for name, belief in theta.items():
            setattr(model, name, belief)
        return theta, model.sample(4)

    def draw(n):
        return [
            fresh({name: prior.sample() for name, prior in model.priors.items()}) for _ in range(n)
        ]

    def kernel(state):
        moved = []
        for theta, x in state:
            for name, belief in theta.items():
                setattr(model, name, belief)
            s = model.statistics(x, Draw()(model.posterior(x)))
            if wrong:  # forgets the prior of half a word
                s["topics.sum"] = s["topics.sum"] + 0.5
                s["topics.count"] = s["topics.count"] + 1.5
            model.m_step(s, Draw())
            moved.append(fresh(model.theta()))
        return moved

    def statistics(state):
        def one(theta, x):
            seen = torch.bincount(x[:, 1], minlength=3).to(F64)
            return torch.cat(
                [
                    theta["proportions"].mean[:, 0] ** 2,
                    theta["topics"].mean.square().sum(1),
                    seen,
                    seen**2,
                ]
            )

        return torch.stack([one(theta, x) for theta, x in state])

    if wrong:
        with pytest.raises(AssertionError, match="does not leave the joint invariant"):
            geweke(draw, kernel, statistics, chains=600)
    else:
        geweke(draw, kernel, statistics, chains=600)


@pytest.mark.parametrize("words", [1, 7])
def test_drawn_numbers_of_words_are_multinomial(words):
    from emgen.models.conjugate.topic_model import _multinomial

    torch.manual_seed(0)
    r, count = (
        torch.tensor([0.2, 0.0, 0.5, 0.3], dtype=F64),
        torch.full((20_000,), float(words), dtype=F64),
    )
    n = _multinomial(r.expand(20_000, 4), count)
    assert (n.sum(1) == words).all() and (n[:, 1] == 0).all()
    covariance = words * (r.diag() - r[:, None] * r)
    z = (n.mean(0) - words * r) / (covariance.diagonal() / 20_000).sqrt().clamp(min=1e-12)
    assert z.abs().max() < 4.5
    torch.testing.assert_close(
        torch.cov(n.T), covariance, atol=0.08, rtol=0
    )  # about four standard errors


def test_entries_matrices_orders_and_splits_are_one_corpus():
    dense = counts()
    x = entries(dense)
    model = topic_model(documents=12, words=9, topics=3, alpha=0.3)
    torch.manual_seed(0)
    model.start(x, Distribution())
    expected = model.statistics(x, model.posterior(x))
    shuffled = x[torch.randperm(len(x))]
    split = [model.statistics(part, model.posterior(part)) for part in shuffled.split(13)]
    single = torch.cat(
        [torch.cat([x[:, :2], torch.ones_like(x[:, :1])], 1).repeat_interleave(x[:, 2], 0)]
    )
    for name, value in expected.items():
        for other in (dense, dense.to_sparse_coo(), dense.to_sparse_csr(), shuffled, single):
            torch.testing.assert_close(
                model.statistics(other, model.posterior(other))[name], value, rtol=1e-10, atol=1e-10
            )
        torch.testing.assert_close(sum(s[name] for s in split), value, rtol=1e-10, atol=1e-10)


def test_a_corpus_changed_in_place_is_seen():
    x = entries(counts())
    model = topic_model(documents=12, words=9, topics=3)
    model.start(x, Point())
    before = model.posterior(x).log_evidence.sum()
    x[:, 2] *= 2
    torch.testing.assert_close(model.posterior(x).log_evidence.sum(), 2 * before)


def test_folding_in_known_documents_finds_their_proportions():
    x = entries(counts())
    model = lda(x, 3, 0.5, 0.5)
    iterate(model, x, parameters=Distribution(), sweeps=600)
    again = model.fold_in(x, model.priors["proportions"], sweeps=500)
    torch.testing.assert_close(again.mean, model.proportions.mean, atol=1e-4, rtol=0)


def test_blocks_and_dropping_what_stands_still_change_nothing(monkeypatch):
    from emgen.models.conjugate import topic_model as topics

    x = entries(counts(40, 9))
    model = lda(x, 3, 0.5, 0.5)
    model.start(x, Distribution())
    exact = model.fold_in(x, model.priors["proportions"], sweeps=400)
    monkeypatch.setattr(topics, "CELLS", 50)
    dropped = model.fold_in(x, model.priors["proportions"], sweeps=400, tol=1e-9)
    torch.testing.assert_close(dropped.mean, exact.mean, atol=1e-7, rtol=0)
    rough = model.fold_in(x, model.priors["proportions"], sweeps=400, tol=1e-3)
    torch.testing.assert_close(rough.mean, exact.mean, atol=2e-2, rtol=0)
    empty = torch.cat([x, torch.tensor([[39, 0, 0]])])[x.new_tensor(range(3))]
    alone = model.fold_in(empty, model.priors["proportions"], sweeps=3)
    torch.testing.assert_close(
        alone.mean[-1], torch.full((3,), 1 / 3, dtype=F64)
    )  # a document without words keeps its prior


@pytest.mark.parametrize(
    "topics, alpha, beta", [(60, 1 / 60, 0.02), (50, 0.02, 0.5), (100, 0.002, 0.01), (5, 0.3, 0.1)]
)
@pytest.mark.parametrize("sweeps, tol", [(100, 1e-3), (300, 1e-9), (6, 0.0)])
def test_folding_in_takes_the_steps_of_a_plain_loop_over_documents(
    topics, alpha, beta, sweeps, tol
):
    """Each document stops at its own sweep, and topics that it dropped would have had no words."""
    torch.manual_seed(0)
    x = counts(40, 60) * (torch.rand(40, 60) < 0.2)
    x[3], x[4, 0], x[5], x[7] = (
        0,
        1e7,
        x[6],
        x[7] / 100,
    )  # no word, an outlier, duplicates, less than a word
    model = topic_model(documents=40, words=60, topics=topics, alpha=alpha, beta=beta)
    seen = torch.poisson(20 * torch.rand(topics, 60, dtype=F64)) * (torch.rand(topics, 60) < 0.15)
    model.topics = Categorical.dirichlet(beta + seen)
    start = Categorical.dirichlet(0.5 + torch.rand(40, topics, dtype=F64))
    ours = model.fold_in(x, model.priors["proportions"], start, sweeps, tol)
    table = model.topics.expected_natural
    table = (table - table.amax(0)).exp()
    for d in range(40):
        words, gamma = x[d] > 0, start.mean[d] * start.concentration[d]
        for _ in range(sweeps):
            weights, before = gamma.digamma().exp(), gamma
            gamma = alpha + weights * (
                table[:, words] @ (x[d, words] / (weights @ table[:, words]))
            )
            if (gamma - before).abs().mean() < tol:
                break
        torch.testing.assert_close(
            ours.mean[d] * ours.concentration[d],
            gamma,
            rtol=1e-9,
            atol=1e-12 * float(1 + x[d].sum()),
        )


def test_words_of_topics_too_unlikely_for_a_number_do_no_harm():
    model = topic_model(documents=2, words=4, topics=2, alpha=1e-3, beta=1e-4)
    model.topics = Categorical.dirichlet(
        torch.tensor([[9.0, 9.0, 1e-4, 1e-4], [1e-4, 1e-4, 9.0, 9.0]], dtype=F64)
    )
    x = torch.tensor([[5.0, 5.0, 0.0, 1e-6], [0.0, 0.0, 3.0, 4.0]], dtype=F64)  # exp ψ(1e-3) is 0
    start = Categorical.dirichlet(torch.tensor([[9.0, 1e-3], [1e-3, 9.0]], dtype=F64))
    assert (
        model.fold_in(x, model.priors["proportions"], start, sweeps=50, tol=1e-6)
        .mean.isfinite()
        .all()
    )


def test_the_model_keeps_its_contract():
    check_model(topic_model(documents=3, words=3, topics=2), TINY)


def test_topics_of_a_real_corpus_are_about_something():
    """The words of one page of the language reference fall into few topics."""
    data = corpus(words=300, documents=100)  # every version of Python has so many
    x = data.split("train")
    torch.manual_seed(0)
    model = topic_model(documents=int(x[:, 0].max()) + 1, words=300, topics=8, alpha=0.1, beta=0.05)
    result = emgen.fit(model, data, "vbem", max_epochs=60, device="cpu")
    elbo = [epoch["elbo"] for epoch in result.history]
    assert_monotone(elbo)
    uniform = -np.log(300)
    assert (
        elbo[-1] > uniform + 0.3
    )  # a word is told 0.3 nats better than by chance, priors paid for


def test_bad_input_is_named():
    model = topic_model(documents=3, words=3, topics=2, start={})
    with pytest.raises(ValueError, match="up to document 3"):
        model.posterior(torch.tensor([[3, 0, 1]]))
    with pytest.raises(ValueError, match="integer entries"):
        model.posterior(torch.zeros(4, 4))
    with pytest.raises(ValueError, match="0 or more"):
        model.posterior(torch.tensor([[0, 0, -1]]))
    with pytest.raises(ValueError, match="must agree in K"):
        TopicModel(Categorical.flat(3, symbols=2), Categorical.flat(3, symbols=5))
    with pytest.raises(ValueError, match="weighted by their counts"):
        model.statistics(TINY, model.posterior(TINY), torch.ones(len(TINY)))


# ---- what a corpus counts: documents -----------------------------------------------------------


def small_corpus(**options):
    """Thirty documents, one of them without a word, that are not in order; most words occur more than once."""
    x = entries(counts(30, 9))
    x = x[x[:, 0] != 7]
    return Data(
        x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))],
        datum="document",
        **options,
    )


def own_scores(model, data):
    """log p(document) = Σ_w n_dw log Σ_k θ_dk φ_kw, by hand, of every document that has words."""
    n = torch.zeros(30, 9, dtype=F64)
    for document, word, count in data.split("train").tolist():
        n[document, word] += count
    log_p = (n * (model.proportions.mean.to(F64) @ model.topics.mean.to(F64)).log()).sum(1)
    return log_p[n.sum(1) > 0]


@pytest.mark.parametrize("n", [1, 5, 20, None])
def test_the_first_documents_are_scored_by_the_mean_of_their_own_scores(n):
    data = small_corpus()
    model = topic_model(documents=30, words=9, topics=3, alpha=0.5, beta=0.5)
    torch.manual_seed(0)
    model.start(data.split("train"), Distribution())
    x = data.first("train", n)
    found = scores(model, x, 1)["log_likelihood"]
    own = own_scores(model, data)[:n]
    assert data.count("train") == 29 and len(model.log_prob(x)) == len(own) == (n or 29)
    assert found.value == pytest.approx(own.mean().item(), rel=1e-12)
    assert found.error == pytest.approx(own.std().item() / len(own) ** 0.5, rel=1e-12, nan_ok=True)


def test_a_corpus_of_more_entries_than_a_block_is_scored_document_by_document():
    x = entries(counts(1200, 9))
    model = topic_model(documents=1200, words=9, topics=3)
    model.start(x, Point())
    assert len(x) > 2048
    whole = model.log_prob(x)
    for corpus_like in (x, counts(1200, 9)):
        assert scores(model, corpus_like, 1)["log_likelihood"].value == pytest.approx(
            whole.mean().item(), rel=1e-12
        )


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 4, 29])
def test_batches_of_a_corpus_are_whole_documents(batch_size, shuffle):
    data = small_corpus(batch_size=batch_size, shuffle=shuffle)
    batches = [batch for block in data.train_dataloader() for batch in block]
    size = batch_size or 29
    assert [len(batch) for batch in batches] == [size] * (29 // size) + [29 % size] * (
        29 % size > 0
    )
    assert all(len(batch) == batch.total == len(batch.x[:, 0].unique()) for batch in batches)
    together = torch.cat([batch.x for batch in batches])
    assert sorted(together.tolist()) == sorted(data.split("train").tolist())


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_documents(world):
    loaders = [_Loader(small_corpus(batch_size=10), rank, world) for rank in range(world)]
    shares = [[batch for block in loader for batch in block] for loader in loaders]
    for batches in zip(*shares):
        assert sum(len(batch) for batch in batches) == batches[0].total
        documents = [set(batch.x[:, 0].tolist()) for batch in batches]
        assert len(set.union(*documents)) == sum(map(len, documents)) == batches[0].total


def test_a_fit_counts_documents_as_examples():
    from emgen.trainers import EM

    module = EM(topic_model(documents=30, words=9, topics=3, alpha=0.5, beta=0.5), tol=None)
    trainer = lightning.Trainer(
        max_epochs=2,
        logger=False,
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=small_corpus(batch_size=8))
    assert module.examples == 2 * 29


@pytest.mark.parametrize("datum", ["row", "document"])
def test_online_em_of_a_whole_corpus_at_once_is_em(datum):
    """A batch stands for all words, however many an entry counts; a prior tells if it does not."""
    fitted = []
    for every in ("sweep", "batch"):
        model = topic_model(documents=30, words=9, topics=3, alpha=2.5, beta=1.5)
        data = Data(entries(counts(30)), batch_size=None, datum=datum)
        emgen.fit(model, data, "em", max_epochs=3, every=every, tol=None, device="cpu")
        fitted.append(model)
    torch.testing.assert_close(fitted[0].topics.mean, fitted[1].topics.mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        fitted[0].proportions.mean, fitted[1].proportions.mean, rtol=1e-10, atol=1e-12
    )


def test_a_datum_of_no_known_kind_is_refused():
    with pytest.raises(ValueError, match="datum='word' is not one of row, document"):
        Data(entries(counts()), datum="word")
    with pytest.raises(ValueError, match=r"entries \(document, word, count\)"):
        Data(torch.rand(5, 2), datum="document")
