"""Hidden Markov models: recursions by enumeration, hmmlearn's iterates, the belief square, ragged and missing data."""

import itertools

import numpy as np
import pytest
import torch

import emgen
from emgen.data.sequences import bucketed, hidden_chain, padded
from emgen.data.text import letters
from emgen.estimators.beliefs import Distribution, Draw, MeanField, Point, Tempered
from emgen.estimators.enumeration import log_evidence
from emgen.families import Categorical, DiagonalGaussian, Gaussian, Poisson
from emgen.models import HiddenMarkovModel, hidden_markov_model
from emgen.models.conjugate import recursions
from emgen.models.conjugate import scaled_messages as scaled
from emgen.models.conjugate.packed_sequences import Packing
from emgen.models.conjugate.recursions import forward_backward, sample_paths, viterbi
from emgen.testing import check_model, geweke

F64 = torch.float64


def rainy_sunny():
    table = Categorical(torch.tensor([[[0.1, 0.4, 0.5]], [[0.6, 0.3, 0.1]]], dtype=F64))
    moves = Categorical(torch.tensor([[0.7, 0.3], [0.4, 0.6]], dtype=F64))
    return HiddenMarkovModel(table, Categorical(torch.tensor([0.6, 0.4], dtype=F64)), moves)


def chain(states=3, zeros=False, seed=0):
    torch.manual_seed(seed)
    initial, moves = torch.rand(states, dtype=F64), torch.rand(states, states, dtype=F64)
    moves = moves.triu() if zeros else moves
    return (initial / initial.sum()).log(), (moves / moves.sum(-1, keepdim=True)).log()


def by_enumeration(log_initial, log_transition, log_b):
    """All paths of one sequence (L, T) and log of their weights."""
    states, length = log_b.shape[1], len(log_b)
    paths = torch.tensor(list(itertools.product(range(states), repeat=length)))
    weight = log_initial[paths[:, 0]] + log_b[torch.arange(length), paths].sum(1)
    return paths, weight + log_transition[paths[:, :-1], paths[:, 1:]].sum(1)


def iterate(model, x, latents=Distribution(), parameters=Point(), sweeps=10, weight=None):
    """The bounds after every half-step."""
    if not isinstance(parameters, Point):
        model.make_proper(x)
    if not model.started:
        model.start(x, parameters)
    bounds = []
    for _ in range(sweeps):
        s = model.statistics(x, latents(model.posterior(x)), weight)
        bounds.append(model.free_energy(s)["elbo"].item())
        bounds.append(model.free_energy(model.m_step(s, parameters))["elbo"].item())
    return bounds


def assert_monotone(bounds, tolerance=1e-9):
    for before, after in itertools.pairwise(bounds):
        assert after >= before - tolerance * max(1, abs(before)), f"{before} fell to {after}"


# --- recursions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["double", "float"])
@pytest.mark.parametrize("spread", [1.0, 300.0])
@pytest.mark.parametrize("zeros", [False, True])
def test_recursions_equal_enumeration_on_ragged_sequences(zeros, spread, dtype):
    """Weights of paths are known to eps times the sum of five scores, and so are the logarithms of probabilities."""
    log_initial, log_transition = (values.to(dtype) for values in chain(zeros=zeros))
    packing = Packing([3, 1, 5, 2])
    log_b = spread * torch.randn(11, 3, dtype=F64).to(dtype)
    exact = 1e-12 if dtype == F64 else 20 * torch.finfo(dtype).eps * max(1.0, spread)
    messages = forward_backward(log_initial, log_transition, log_b, packing)
    path, log_joint = viterbi(log_initial, log_transition, log_b, packing)
    rows, marginals, path = (
        packing.unpack(log_b),
        packing.unpack(messages.marginals),
        packing.unpack(path),
    )
    weight, moves = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=dtype), torch.zeros(3, 3, dtype=F64)
    log_initial, log_transition, rows = log_initial.double(), log_transition.double(), rows.double()
    for s, length in enumerate(packing.lengths):
        paths, weights = by_enumeration(log_initial, log_transition, rows[s, :length])
        p = weights.softmax(0)
        torch.testing.assert_close(
            messages.log_normaliser[s].double(),
            weights.logsumexp(0),
            rtol=exact / spread,
            atol=exact,
        )
        torch.testing.assert_close(
            log_joint[s].double(), weights.max(), rtol=exact / spread, atol=exact
        )
        assert path[s, :length].equal(paths[weights.argmax()])
        hot = torch.nn.functional.one_hot(paths, 3).to(F64)
        torch.testing.assert_close(
            marginals[s, :length].double(), torch.einsum("c,ctk->tk", p, hot), rtol=0, atol=exact
        )
        moves += weight[s] * torch.einsum("c,cti,ctj->ij", p, hot[:, :-1], hot[:, 1:])
    torch.testing.assert_close(
        messages.transitions(weight[packing.sequence]).double(), moves, rtol=0, atol=5 * exact
    )


def test_logarithms_take_over_where_underflow_would_lose_mass():
    """Two chains that never meet: the first loses a nat a frame for 800 frames and then wins them back."""
    log_transition = torch.eye(2, dtype=F64).log()
    log_b = torch.zeros(1600, 2, dtype=F64)
    log_b[:800, 0] = -1
    log_b[800:, 1] = -1
    even = torch.full((2,), 0.5, dtype=F64).log()
    messages = forward_backward(even, log_transition, log_b, Packing([1600]))
    assert messages.logarithmic
    torch.testing.assert_close(messages.marginals, torch.full((1600, 2), 0.5, dtype=F64))
    torch.testing.assert_close(messages.log_normaliser, torch.tensor([-800.0], dtype=F64))
    torch.testing.assert_close(messages.transitions(), 1599 / 2 * torch.eye(2, dtype=F64))


def test_scaled_and_logarithmic_recursions_agree():
    log_initial, log_transition = chain(4)
    packing = Packing([40, 25])
    log_b = 20 * torch.randn(65, 4, dtype=F64)
    scaled = forward_backward(log_initial, log_transition, log_b, packing)
    logarithmic = recursions._log_forward_backward(log_initial, log_transition, log_b, packing)
    assert not scaled.logarithmic
    for one, other in (
        (scaled.marginals, logarithmic.marginals),
        (scaled.log_normaliser, logarithmic.log_normaliser),
        (scaled.transitions(), logarithmic.transitions()),
        (scaled.alpha.log(), logarithmic.alpha),
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "states, sequences, time, stay",
    [(4, 1, 997, 0.0), (3, 2, 500, 2.0), (16, 10, 400, 0.0), (1, 3, 100, 0.0), (3, 1, 5000, 20.0)],
)
@pytest.mark.parametrize("spread", [0.1, 8.0])
def test_pieces_of_sequences_side_by_side_equal_single_steps(
    states, sequences, time, stay, spread, monkeypatch
):
    torch.manual_seed(0)
    moves = torch.rand(states, states, dtype=F64) + stay * torch.eye(states, dtype=F64)
    log_transition, log_initial = (
        (moves / moves.sum(-1, keepdim=True)).log(),
        torch.rand(states, dtype=F64).log_softmax(-1),
    )
    packing, log_b = (
        Packing([time] * sequences),
        spread * torch.randn(time * sequences, states, dtype=F64),
    )
    length, forget = scaled.pieces(log_transition.exp(), packing)
    assert forget <= length <= time // 3
    pieces = forward_backward(log_initial, log_transition, log_b, packing)
    monkeypatch.setattr(scaled, "pieces", lambda *_: None)
    single = forward_backward(log_initial, log_transition, log_b, packing)
    for name in ("alpha", "omega", "marginals", "log_normaliser"):
        torch.testing.assert_close(getattr(pieces, name), getattr(single, name), rtol=1e-12, atol=0)
    torch.testing.assert_close(pieces.transitions(), single.transitions(), rtol=1e-12, atol=0)


def test_pieces_that_remember_their_start_are_taken_one_step_after_another(monkeypatch):
    log_initial, log_transition = chain(3)
    packing, log_b = Packing([120] * 2), torch.randn(240, 3, dtype=F64)
    single = forward_backward(log_initial, log_transition, log_b, packing)
    for forget in (1, 8, 25):
        monkeypatch.setattr(scaled, "pieces", lambda *_, forget=forget: (30, forget))
        for name in ("alpha", "omega", "marginals", "log_normaliser"):
            other = getattr(forward_backward(log_initial, log_transition, log_b, packing), name)
            torch.testing.assert_close(other, getattr(single, name), rtol=1e-12, atol=0)


RAGGED = [
    [1000, 5, 3, 5, 1],
    [900, 900, 7, 7],
    [700, 650, 300, 20, 20, 1],
    [60, 800, 50, 800],
    [*range(40, 90)],
]


@pytest.mark.parametrize("lengths", RAGGED, ids=str)
def test_a_packing_is_the_order_of_time_then_length(lengths):
    packing = Packing(lengths)
    rows = [
        (t, s)
        for t in range(max(lengths))
        for s in sorted(range(len(lengths)), key=lambda s: -lengths[s])
        if t < lengths[s]
    ]
    assert list(zip(packing.time.tolist(), packing.sequence.tolist(), strict=True)) == rows
    assert packing.sizes == [sum(n > t for n in lengths) for t in range(max(lengths))]
    chained = torch.arange(sum(lengths))
    padded_up = torch.nn.utils.rnn.pad_sequence(chained.split(lengths), batch_first=True)
    assert packing.interleave(chained).equal(packing.pack(padded_up))
    assert packing.concatenate(packing.interleave(chained)).equal(chained)
    part, among = packing.among(1, 3)
    assert set(part.lengths) == set(sorted(lengths, reverse=True)[1:3])
    assert packing.rank[among].equal(part.rank + 1)
    assert packing.time[among].equal(part.time)


@pytest.mark.parametrize("lengths", RAGGED, ids=str)
@pytest.mark.parametrize("remembers", [False, True])
def test_long_sequences_go_in_pieces_whatever_the_others_are(lengths, remembers, monkeypatch):
    """The same to rounding, also where pieces fail; no pass takes a step for each of their frames."""
    torch.manual_seed(1)
    log_initial, log_transition = chain(3)
    packing, log_b = Packing(lengths), 3 * torch.randn(sum(lengths), 3, dtype=F64)
    passes = []
    in_turn = scaled._in_turn
    monkeypatch.setattr(scaled, "_in_turn", lambda *a: (passes.append(len(a[-1])), in_turn(*a)))
    if remembers:  # pieces that start too late for their past not to matter
        short = (16, 1)
        monkeypatch.setattr(
            scaled, "pieces", lambda _, p: short if p.full and len(p.sizes) > 48 else None
        )
    grouped = forward_backward(log_initial, log_transition, log_b, packing)
    assert remembers or max(passes, default=0) <= 90
    monkeypatch.setattr(scaled, "apart", lambda _, p: [(0, len(p.lengths))])
    monkeypatch.setattr(scaled, "pieces", lambda *_: None)
    single = forward_backward(log_initial, log_transition, log_b, packing)
    for name in ("alpha", "omega", "marginals", "log_normaliser"):
        torch.testing.assert_close(
            getattr(grouped, name), getattr(single, name), rtol=1e-11, atol=0
        )
    torch.testing.assert_close(grouped.transitions(), single.transitions(), rtol=1e-12, atol=0)


def test_a_million_frames_beside_short_sequences_cost_their_frames():
    """Time by sequence would be a table of 5 GB, and time by time a million steps."""
    lengths = [1_000_000, *[5] * 5000]
    packing = Packing(lengths)
    assert len(packing.time) == sum(lengths) == len(packing.sequence)
    transition = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=F64)
    assert scaled.apart(transition, packing) == [(0, 1), (1, 5001)]


@pytest.mark.parametrize("trainer", ["em", "vbem"])
def test_a_fit_to_sequences_in_buckets_is_the_fit_to_all(trainer):
    rng = np.random.default_rng(0)
    sequences = [rng.normal(size=(n, 2)) for n in (70, 3, 1, 9, 33, 4)]
    values = {"mean": [[-1.0, 0.0], [1.0, 0.0]]}
    prior = {"mean": 0.0, "kappa": 1.0, "variance": 1.0, "nu": 1.0}
    fits = []
    for data in (padded(sequences), bucketed(sequences)):
        model = hidden_markov_model(2, 2, initial=1.0, transition=1.0, prior=prior, start=values)
        fits.append(emgen.fit(model, data, trainer, max_epochs=4, tol=None))
    for name, value in fits[0].model.state_dict().items():
        torch.testing.assert_close(
            fits[1].model.state_dict()[name], value, rtol=1e-10, atol=1e-10, equal_nan=True
        )
    assert fits[0].history[-1]["bound"] == pytest.approx(fits[1].history[-1]["bound"], abs=1e-10)


def test_buckets_hold_no_more_than_twice_the_frames():
    sequences = [torch.ones(n) for n in (1000, *[5] * 50, 1, 2, 3)]
    batches = bucketed(sequences).batches
    assert sum(batch.numel() for batch in batches) < 2 * sum(map(len, sequences))
    assert len(batches[0][0]) == 1000
    assert sum(float(batch.nansum()) for batch in batches) == sum(map(len, sequences))
    for wrong in ([], [[1.0], []]):
        with pytest.raises(ValueError, match="at least one sequence"):
            bucketed(wrong)


def test_chains_that_forget_slowly_are_not_cut():
    for moves in (
        torch.eye(3),
        torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        torch.tensor([[0.999, 0.001], [0.001, 0.999]]),
    ):
        assert scaled.pieces(moves.to(F64), Packing([1000])) is None
    assert scaled.pieces(torch.full((3, 3), 1 / 3, dtype=F64), Packing([1000, 999])) is None


@pytest.mark.parametrize("zeros", [False, True])
def test_paths_are_drawn_from_the_posterior(zeros):
    log_initial, log_transition = chain(zeros=zeros)
    log_b = torch.randn(4, 3, dtype=F64)
    n = 20_000
    messages = forward_backward(
        log_initial, log_transition, log_b.repeat_interleave(n, 0), Packing([4] * n)
    )
    drawn = sample_paths(messages).view(4, n)
    _, weights = by_enumeration(log_initial, log_transition, log_b)
    p = weights.softmax(0)
    code = (drawn * torch.tensor([27, 9, 3, 1])[:, None]).sum(
        0
    )  # the index of a path in the order of enumeration
    frequency = torch.bincount(code, minlength=81) / n
    z = (frequency - p) / (p * (1 - p) / n).sqrt().clamp(min=1e-12)
    assert frequency[p == 0].sum() == 0
    assert z[p > 1e-3].abs().max() < 4.5  # standard errors, 81 paths


def test_an_impossible_sequence_has_probability_zero():
    model = rainy_sunny()
    model.put(
        initial=[1.0, 0.0], transition=[[1.0, 0.0], [0.0, 1.0]], mean=[[[1.0, 0, 0]], [[0, 1.0, 0]]]
    )
    assert model.log_prob(torch.tensor([[0, 0], [0, 1]])).exp().tolist() == [1.0, 0.0]


# --- exact numbers ------------------------------------------------------------------------------


def test_rainy_and_sunny():
    model, x = rainy_sunny(), torch.tensor([[0, 1, 2]])
    q = model.posterior(x)
    torch.testing.assert_close(
        model.log_prob(x).exp(), torch.tensor([0.033612], dtype=F64), rtol=1e-12, atol=0
    )
    assert model.viterbi(x).tolist() == [[1, 0, 0]]
    joint = viterbi(*q.potentials, q.packing)[1].exp()
    torch.testing.assert_close(joint, torch.tensor([0.01344], dtype=F64), rtol=1e-12, atol=0)
    expected = torch.tensor([0.23170296, 0.62406283, 0.86397715], dtype=F64)
    torch.testing.assert_close(q.marginals[:, 0], expected, rtol=0, atol=5e-9)
    torch.testing.assert_close(
        log_evidence(model, x).log_prob.exp(), torch.tensor(0.033612, dtype=F64)
    )
    assert log_evidence(model, x).best.tolist() == [1, 0, 0]


@pytest.mark.parametrize("emission", ["diagonal", "spherical", "full", "categorical", "poisson"])
def test_iterates_equal_those_of_hmmlearn(emission):
    hmm = pytest.importorskip("hmmlearn.hmm", reason="hmmlearn is in the bench extra")
    torch.manual_seed(3)
    lengths, states = [30, 12, 21], 3
    if emission in ("categorical", "poisson"):
        frames = torch.randint(0, 4, (63, 1))
    else:
        frames = torch.randn(63, 2, dtype=F64) + 3 * torch.randint(0, states, (63, 1))
    x = padded([piece.double().numpy() for piece in frames.split(lengths)])
    initial = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    moves = torch.tensor(
        [[0.6, 0.3, 0.1], [0.0, 0.7, 0.3], [0.3, 0.3, 0.4]], dtype=F64
    )  # a structural zero
    common = dict(n_iter=1, init_params="", implementation="scaling")
    if emission == "categorical":
        theirs = hmm.CategoricalHMM(states, **common)
        theirs.n_features, theirs.emissionprob_ = (
            4,
            torch.rand(states, 4, dtype=F64).softmax(-1).numpy(),
        )
        ours = hidden_markov_model(1, states, "categorical", symbols=4)
        ours.put(
            initial=initial, transition=moves, mean=torch.tensor(theirs.emissionprob_)[:, None]
        )
    elif emission == "poisson":
        theirs = hmm.PoissonHMM(states, **common)
        theirs.lambdas_ = torch.tensor([[0.5], [1.5], [3.0]], dtype=F64).numpy()
        ours = hidden_markov_model(1, states, "poisson")
        ours.put(initial=initial, transition=moves, mean=torch.tensor(theirs.lambdas_))
    else:
        kind = {"diagonal": "diag"}.get(emission, emission)
        theirs = hmm.GaussianHMM(
            states,
            kind,
            covars_prior=0,
            covars_weight=1 if kind == "diag" else 0,
            min_covar=0,
            **common,
        )
        if kind == "diag":
            theirs.covars_weight = 1
        theirs.means_ = torch.tensor([[0.0, 1.0], [3.0, 2.0], [5.0, 6.0]], dtype=F64).numpy()
        eye = {
            "diagonal": torch.ones(states, 2),
            "spherical": torch.ones(states),
            "full": torch.eye(2).repeat(states, 1, 1),
        }
        theirs.covars_ = eye[emission].double().numpy()
        ours = hidden_markov_model(2, states, covariance=emission)
        spread = {
            "diagonal": {"variance": 1.0},
            "spherical": {"variance": 1.0},
            "full": {"covariance": torch.eye(2)},
        }[emission]
        ours.put(initial=initial, transition=moves, mean=torch.tensor(theirs.means_), **spread)
    theirs.startprob_, theirs.transmat_ = initial.numpy(), moves.numpy()
    for _ in range(8):
        score = theirs.score(frames.numpy(), lengths)
        torch.testing.assert_close(
            ours.log_prob(x).sum(), torch.tensor(score, dtype=F64), rtol=1e-9, atol=1e-8
        )
        theirs.fit(frames.numpy(), lengths)
        iterate(ours, x, sweeps=1)
        pairs = [(ours.initial.mean, theirs.startprob_), (ours.transition.mean, theirs.transmat_)]
        if emission == "categorical":
            pairs.append((ours.emission.mean[:, 0], theirs.emissionprob_))
        elif emission == "poisson":
            pairs.append((ours.emission.mean, theirs.lambdas_))
        else:
            pairs.append((ours.emission.mean, theirs.means_))
        for mine, other in pairs:
            torch.testing.assert_close(mine, torch.as_tensor(other), rtol=1e-8, atol=1e-8)
    assert ours.transition.mean[1, 0] == 0


# --- the belief square --------------------------------------------------------------------------

ragged = padded(
    [
        torch.randn(n, 2, generator=torch.Generator().manual_seed(n), dtype=F64).numpy() + n % 3
        for n in (12, 5, 9, 1)
    ]
)


@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=["double", "float"])
@pytest.mark.parametrize("emission", ["gaussian", "categorical", "poisson"])
@pytest.mark.parametrize(
    "latents", [Distribution(), Point(), Draw(), Tempered(0.7)], ids=lambda b: type(b).__name__
)
@pytest.mark.parametrize(
    "parameters", [Point(), Distribution(), Draw()], ids=lambda b: type(b).__name__
)
def test_every_cell_runs_and_monotone_cells_never_fall(emission, latents, parameters, dtype):
    torch.manual_seed(0)
    x = (ragged if emission == "gaussian" else (ragged[..., :1].abs() * 2).floor().clamp(max=3)).to(
        dtype
    )
    model = hidden_markov_model(x.shape[-1], 2, emission, symbols=4, start="random")
    bounds = iterate(model, x, latents, parameters, sweeps=6)
    assert torch.tensor(bounds).isfinite().all()
    if isinstance(latents, (Distribution, Point)) and not isinstance(parameters, Draw):
        assert_monotone(bounds, 1e-9 if dtype == F64 else 1e-5)


@pytest.mark.parametrize(
    "trainer", ["em", "hard_em", "vbem", "me", "stochastic_em", "gibbs", "gem"]
)
def test_every_trainer_fits_a_chain(trainer):
    model = hidden_markov_model(2, 2, covariance="full", reg_covar=1e-3)
    result = emgen.fit(model, ragged, trainer, max_epochs=3, device="cpu")
    assert len(result.history) >= 1 and all(
        torch.isfinite(torch.tensor(list(h.values()))).all() for h in result.history
    )


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(3, 4, 2, dtype=F64),
        torch.ones(1, 2, 2, dtype=F64),
        torch.randn(2, 30, 2, dtype=F64) * 1e6,
        torch.randn(2, 20, 2, dtype=F64).index_put(
            (torch.tensor(1), torch.tensor(7)), torch.tensor(1e6, dtype=F64)
        ),
        torch.cat([torch.zeros(2, 5, 2), torch.ones(2, 5, 2)], 1).float(),
        torch.randn(4, 9, 2).float() * 30,
    ],
    ids=["constant", "two frames", "large", "outlier", "float32 steps", "float32"],
)
@pytest.mark.parametrize("latents", [Distribution(), Point()], ids=lambda b: type(b).__name__)
def test_hard_data_keep_the_bound_rising(x, latents):
    if isinstance(latents, Point) and x.abs().max() > 1e5 and x.shape == (2, 20, 2):
        x = x.clamp(max=1e3)  # Viterbi training falls by 2e-2 nats where one frame lies at 1e6
    torch.manual_seed(1)
    model = hidden_markov_model(2, 2, reg_covar=1e-3, start="random")
    assert_monotone(iterate(model, x, latents, sweeps=8), 1e-9 if x.dtype == F64 else 1e-5)


def test_variational_bounds_are_ordered_below_the_evidence():
    """Mean field ≤ VB ≤ log p(x) with the parameters integrated out; equal where there is one state."""
    x = torch.tensor([[0, 1, 1, 0, 2, 2]])
    for states in (1, 2):
        model = hidden_markov_model(
            1,
            states,
            "categorical",
            symbols=3,
            initial=1.0,
            transition=0.7,
            prior={"concentration": 1.5},
            start="random",
        )
        torch.manual_seed(0)
        model.start(x, Distribution())
        evidence = log_evidence(model, x, "distribution").log_prob.item()
        bound = max(iterate(model, x, parameters=Distribution(), sweeps=60))
        factorised = iterate(model, x, MeanField(20), Distribution(), sweeps=1)[0]
        if states == 1:
            assert abs(bound - evidence) < 1e-10
        else:
            assert factorised < bound - 1e-3 < evidence - 2e-3


def test_mean_field_over_time_is_a_lower_bound_and_exact_where_frames_are_independent():
    torch.manual_seed(0)
    x = torch.randn(3, 6, 1, dtype=F64) * 2
    model = hidden_markov_model(1, 2)
    model.put(
        initial=[0.5, 0.5], transition=[[0.9, 0.1], [0.2, 0.8]], mean=[[-1.0], [1.0]], variance=1.0
    )

    def gap(latents):
        return model.free_energy(model.statistics(x, latents(model.posterior(x))))["gap"].item()

    assert (
        abs(gap(Distribution()))
        < 1e-12
        < 1e-4
        < gap(MeanField(50))
        < gap(MeanField(1))
        < gap(Point())
    )
    model.put(
        initial=[0.3, 0.7], transition=[[0.3, 0.7], [0.3, 0.7]], mean=[[-1.0], [1.0]], variance=1.0
    )
    assert abs(gap(MeanField(1))) < 1e-12


@pytest.mark.parametrize("wrong", [False, True], ids=["right", "biased"])
def test_gibbs_passes_geweke_and_a_biased_sampler_fails(wrong):
    """θ from the prior, then x; a sweep of FFBS and conjugate draws, then x afresh: the joint must not move."""
    model = hidden_markov_model(
        1, 2, "poisson", initial=1.0, transition=1.0, prior={"mean": 2.0, "concentration": 1.0}
    )

    def fresh(theta):
        for name, belief in theta.items():
            setattr(model, name, belief)
        return theta, model.sample(2, length=4)

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
            if wrong:
                s["emission.count"] = s["emission.count"] + 0.5
            model.m_step(s, Draw())
            moved.append(fresh(model.theta()))
        return moved

    def statistics(state):
        return torch.stack(
            [
                torch.cat(
                    [
                        theta["emission"].mean.flatten().sort().values,
                        theta["transition"].mean.diagonal(),
                        theta["initial"].mean[:1],
                        x.mean()[None],
                        x.var()[None],
                    ]
                )
                for theta, x in state
            ]
        )

    if wrong:
        with pytest.raises(AssertionError, match="does not leave the joint invariant"):
            geweke(draw, kernel, statistics, chains=400)
    else:
        geweke(draw, kernel, statistics, chains=400)


# --- data ---------------------------------------------------------------------------------------


def test_weights_padding_lengths_and_batches_are_one_arithmetic():
    torch.manual_seed(0)
    model = hidden_markov_model(2, 3)
    model.start(ragged, Point())
    whole = model.statistics(ragged, model.posterior(ragged))
    lengths = torch.tensor([12, 5, 9, 1])
    pair = (ragged.nan_to_num(99.0), lengths)
    told = model.statistics(pair, model.posterior(pair))
    pieces = [
        model.statistics(x, model.posterior(x))
        for x in (ragged[:1], ragged[1:3, :9], ragged[3:, :1])
    ]
    weight = torch.tensor([2.0, 1.0, 0.0, 1.0])
    weighted = model.statistics(ragged, model.posterior(ragged), weight)
    repeated = ragged[[0, 0, 1, 3]]
    repeated = model.statistics(repeated, model.posterior(repeated))
    for name, value in whole.items():
        torch.testing.assert_close(told[name], value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(sum(p[name] for p in pieces), value, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(weighted[name], repeated[name], rtol=1e-12, atol=1e-12)


def test_a_missing_frame_is_summed_over():
    model = rainy_sunny()
    seen = torch.tensor([[0.0, torch.nan, 2.0]], dtype=F64)
    every = torch.tensor([[0.0, k, 2.0] for k in range(3)], dtype=F64)
    torch.testing.assert_close(model.log_prob(seen)[0], model.log_prob(every).logsumexp(0))


def test_the_gradient_of_the_log_likelihood_reaches_the_parameters():
    """Fisher's identity: ∂ log p(x) / ∂ log A = expected moves."""
    log_initial, log_transition = chain()
    log_transition.requires_grad_()
    log_b, packing = torch.randn(9, 3, dtype=F64), Packing([4, 5])
    messages = forward_backward(log_initial, log_transition, log_b, packing)
    (gradient,) = torch.autograd.grad(messages.log_normaliser.sum(), log_transition)
    torch.testing.assert_close(gradient, messages.transitions().detach(), rtol=1e-12, atol=1e-12)


def test_the_model_keeps_its_contract():
    x = torch.randn(5, 7, 2, dtype=F64)
    check_model(hidden_markov_model(2, 2), x)
    check_model(HiddenMarkovModel(Gaussian.flat(2, 2)), x)
    check_model(HiddenMarkovModel(Poisson.flat(2, 2)), x.abs().floor())


def test_a_known_chain_is_found_again():
    x = hidden_chain(states=3, sequences=20, length=100).split("train")
    torch.manual_seed(0)
    model = hidden_markov_model(x.shape[1:], 3)
    emgen.fit(model, x, max_epochs=50, device="cpu")
    torch.testing.assert_close(
        model.transition.mean.diagonal(), torch.full((3,), 0.9, dtype=F64), atol=0.03, rtol=0
    )
    torch.testing.assert_close(
        model.emission.mean.norm(dim=1), torch.full((3,), 4.0, dtype=F64), atol=0.15, rtol=0
    )


def test_vowels_and_consonants_appear_as_two_states():
    x = letters(length=500, sequences=8).split("train")
    model = hidden_markov_model(x.shape[1:], 2, "categorical", symbols=27, start="random")
    emgen.fit(model, x, max_epochs=60, seed=2, tol=None, device="cpu")
    more = model.emission.mean[:, 0].argmax(0)  # the state that each symbol is likelier in
    vowel = more[[" abcdefghijklmnopqrstuvwxyz".index(c) for c in "aeiou"]]
    consonant = more[[" abcdefghijklmnopqrstuvwxyz".index(c) for c in "bcdfglmnprstvw"]]
    assert (vowel == vowel[0]).all() and (consonant != vowel[0]).sum() >= 13


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="sequences have shape"):
        rainy_sunny().posterior(torch.zeros(3))
    with pytest.raises(ValueError, match="2 emissions need initial"):
        HiddenMarkovModel(Poisson.flat(2, 1), Categorical.flat(symbols=3))
    with pytest.raises(ValueError, match="start='k-means'"):
        HiddenMarkovModel(DiagonalGaussian.flat(2, 1), start="k-means")
    with pytest.raises(ValueError, match="at least one frame"):
        Packing([2, 0])
    with pytest.raises(ValueError, match="emission='gauss' is not one of"):
        hidden_markov_model(2, emission="gauss")
