"""`emgen.fit` says in one sentence what is wrong with what it was given, and takes what can be understood."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from emgen import fit
from emgen.data import Data
from emgen.data.rows import rows_of
from emgen.evaluation.support import check_support
from emgen.models import (
    BernoulliMixture,
    BinomialMixture,
    BoltzmannMachine,
    CategoricalMixture,
    DeepBeliefNet,
    DeepBoltzmannMachine,
    GaussianMixture,
    PoissonMixture,
    convolutional,
    dense,
    dense_critic,
    factor_analysis,
    heads,
    helmholtz_machine,
    hidden_markov_model,
)
from emgen.models.energy.units import Multinomial

X = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def with_value(value):
    x = X.clone()
    x[3, 1] = value
    return x


def same_as_tensor(data):
    got, want = (fit(GaussianMixture(2), x, max_epochs=3).history[-1]["bound"] for x in (data, X))
    return got == pytest.approx(want, abs=1e-12)


def test_lists_arrays_and_views_are_rows():
    assert same_as_tensor(X.tolist())
    assert same_as_tensor(tuple(map(tuple, X.tolist())))
    assert same_as_tensor(X.numpy().astype(">f8"))
    assert same_as_tensor(X.numpy()[::-1][::-1])
    assert same_as_tensor(X.clone().requires_grad_())
    assert rows_of(X.numpy()[::-1]).tolist() == X.flip(0).tolist()
    assert rows_of(X.numpy()).data_ptr() == X.data_ptr()  # no copy where none is needed


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("rows.npy", r"'rows.npy', a path: read the file first"),
        (Path("rows.npy"), r"'rows.npy', a path"),
        (None, "of type NoneType: give a tensor"),
        ({"x": [1.0]}, "of type dict"),
        (3.0, r"empty \(shape \(\)\)"),
        ([], r"empty \(shape \(0,\)\)"),
        (torch.zeros(0, 2), r"empty \(shape \(0, 2\)\)"),
        (torch.zeros(4, 0), r"empty \(shape \(4, 0\)\)"),
        ([[1.0, 2.0], [3.0]], "rows of different lengths"),
        (np.array([[1.0, "a"]], dtype=object), "an array of object"),
        (np.array([["a", "b"]]), "an array of <U1"),
        (X + 1j, "complex128"),
        (X.to_sparse(), "sparse matrix"),
        (torch.zeros(5, 3), "rows have 3 features and the model 2"),
        (with_value(torch.inf), "row 3 of the train data holds inf"),
        (with_value(-torch.inf), "row 3 of the train data holds -inf"),
        (X[:1], "2 components cannot start from 1 rows"),
    ],
)
def test_bad_rows_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        fit(GaussianMixture(2), data, max_epochs=2)


@pytest.mark.parametrize(
    ("model", "value", "message"),
    [
        (
            BernoulliMixture(2),
            2.5,
            "row 3 of the train data holds 2.5, but Bernoulli takes values from 0 to 1",
        ),
        (PoissonMixture(2), -1.0, "holds -1, but Poisson takes whole numbers from 0 on"),
        (PoissonMixture(2), 0.5, "holds 0.5, but Poisson takes whole numbers from 0 on"),
        (
            BinomialMixture(2, trials=4),
            5.0,
            "holds 5, but Binomial takes whole numbers from 0 to 4",
        ),
        (
            CategoricalMixture(2, symbols=3),
            3.0,
            "holds 3, but Categorical takes whole numbers from 0 to 2",
        ),
        (
            hidden_markov_model((), emission="categorical", symbols=3),
            7.0,
            "holds 7, but Categorical",
        ),
    ],
)
def test_values_that_a_family_cannot_have_are_named(model, value, message):
    x = torch.zeros(6, 2)
    x[3, 1] = value
    with pytest.raises(ValueError, match=message):
        fit(model, x, max_epochs=2)
    x[3, 1] = torch.nan
    check_support(model, x)  # missing


@pytest.mark.parametrize(
    ("model", "trainer", "x", "message"),
    [
        (
            dense((2,)),
            "vae",
            with_value(0).float(),
            "but Bernoulli takes values from 0 to 1 alone: rescale or binarise",
        ),
        (
            dense((2,)),
            "vae",
            torch.full((4, 2), torch.nan),
            "holds nan, but a model needs finite values",
        ),
        (
            dense((3,)),
            "vae",
            torch.zeros(4, 2),
            r"shape \(2,\), but the model is built for floats of shape \(3,\)",
        ),
        (
            dense((2,)),
            "vae",
            torch.zeros(4, 2, dtype=torch.int64),
            r"torch.int64 .* convert them by x.float\(\)",
        ),
        (
            convolutional((1, 8, 8)),
            "vae",
            torch.zeros(4, 8, 8),
            r"built for floats of shape \(1, 8, 8\)",
        ),
        (
            BoltzmannMachine((2,), hidden=3),
            "cd",
            torch.full((4, 2), 1.5),
            "holds 1.5, but a binary unit takes values from 0 to 1",
        ),
        (
            BoltzmannMachine((3,), hidden=3),
            "cd",
            torch.zeros(4, 2),
            r"built for floats of shape \(3,\)",
        ),
        (factor_analysis(3, latent=1), "em", X, "rows have 2 features and the model 3"),
    ],
)
def test_rows_that_a_network_cannot_have_made_are_refused(model, trainer, x, message):
    with pytest.raises(ValueError, match=message):
        fit(model, x, trainer, max_epochs=1)


@pytest.mark.parametrize(
    "make",
    [
        lambda units: BoltzmannMachine((2, 3), 4, units),
        lambda units: DeepBeliefNet((2, 3), (4, 3), units),
        lambda units: DeepBoltzmannMachine((2, 3), (4, 3), units),
    ],
)
def test_multinomial_units_take_counts_of_their_total(make):
    x = torch.tensor([[[1.0, 2, 0], [0, 0, 3]]]).repeat(4, 1, 1)
    check_support(make(Multinomial(3, 3)), x, scored=True)
    with pytest.raises(
        ValueError,
        match="row 0 of the data holds 3, but multinomial units have 1 as the total of a group",
    ):
        check_support(make(Multinomial(3)), x)
    x[2, 1] = torch.tensor([2.5, 0.5, 0])
    check_support(make(Multinomial(3, 3)), x)
    with pytest.raises(
        ValueError, match=r"row 2 of the data holds 2\.5, but multinomial units take counts"
    ):
        check_support(make(Multinomial(3, 3)), x, scored=True)


def test_one_hot_events_are_one_hot():
    model = helmholtz_machine((2, 3), layers=(4,), likelihood=heads.OneHot)
    check_support(model, torch.eye(3)[torch.tensor([[0, 1], [2, 2]])], scored=True)
    with pytest.raises(
        ValueError,
        match="row 1 of the data holds 2, but multinomial units have 1 as the total of a group",
    ):
        check_support(model, torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[1, 0, 1], [0, 0, 1]]]))


@pytest.mark.parametrize(
    "make", [lambda: BoltzmannMachine((2,), 3), lambda: DeepBoltzmannMachine((2,), (3, 2))]
)
def test_grey_rows_train_a_boltzmann_machine_but_have_no_likelihood_under_it(make):
    x = torch.full((3, 2), 0.25)
    check_support(make(), x)
    with pytest.raises(
        ValueError,
        match=r"row 0 of the data holds 0\.25, but a binary unit takes 0 and 1 alone: binarise",
    ):
        check_support(make(), x, scored=True)


def test_a_score_needs_binary_rows_and_training_takes_their_expectation():
    x = torch.full((3, 2), 0.25)
    check_support(dense((2,)), x)
    with pytest.raises(
        ValueError,
        match=r"row 0 of the data holds 0.25, but Bernoulli takes 0 and 1 alone: binarise",
    ):
        check_support(dense((2,)), x, scored=True)
    result = fit(
        dense((2,)), x, "gan", critic=dense_critic((2,)), max_epochs=1
    )  # grey rows are what a critic compares
    assert len(result.history) == 1
    with pytest.raises(
        ValueError, match=r"a network for events of shape \(3,\) was given \(3, 2\)"
    ):
        fit(dense((2,)), x, "gan", critic=dense_critic((3,)), max_epochs=1)


class Counts(torch.nn.Module):
    """A user's head: independent Poisson counts."""

    def __init__(self, features, event_shape):
        super().__init__()
        self.linear, self.event_shape = (
            torch.nn.Linear(features, math.prod(event_shape)),
            event_shape,
        )

    def forward(self, features):
        rate = self.linear(features).exp().unflatten(-1, self.event_shape)
        return torch.distributions.Independent(
            torch.distributions.Poisson(rate), len(self.event_shape)
        )


@pytest.mark.parametrize("trainer", ["gan", "fgan"])
@pytest.mark.parametrize(
    ("likelihood", "value", "message"),
    [
        (
            heads.Bernoulli,
            math.nan,
            "row 3 of the train data holds nan, but a model needs finite values",
        ),
        (
            heads.Bernoulli,
            math.inf,
            "row 3 of the train data holds inf, but a model needs finite values",
        ),
        (
            heads.Bernoulli,
            -0.5,
            "row 3 of the train data holds -0.5, but Bernoulli takes values from 0 to 1 alone: rescale",
        ),
        (
            heads.Bernoulli,
            1e30,
            "row 3 of the train data holds 1e[+]30, but Bernoulli takes values from 0 to 1 alone",
        ),
        (
            heads.Dirac,
            math.inf,
            "row 3 of the train data holds inf, but a model needs finite values",
        ),
        (
            heads.Gaussian,
            math.nan,
            "row 3 of the train data holds nan, but a model needs finite values",
        ),
        (Counts, -1.0, "row 3 of the train data holds -1, but Poisson takes values from 0 on"),
    ],
)
def test_rows_that_no_mean_can_equal_are_not_shown_to_a_critic(trainer, likelihood, value, message):
    model, x = dense((2,), likelihood=likelihood), torch.full((6, 2), 0.25)
    assert fit(
        model, x, trainer, critic=dense_critic((2,)), max_epochs=1, device="cpu"
    ).history  # between 0 and 1
    x[3, 1] = value
    with pytest.raises(ValueError, match=message):
        fit(model, x, trainer, critic=dense_critic((2,)), max_epochs=1, device="cpu")


def test_a_critic_sees_grey_rows_though_they_will_be_binarised():
    data = Data(torch.full((6, 2), 0.25), binarise="dynamic")
    assert fit(
        dense((2,)), data, "gan", critic=dense_critic((2,)), max_epochs=1, device="cpu"
    ).history


def test_checking_disturbs_neither_the_model_nor_the_random_state():
    model = dense((2,)).train()
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    check_support(model, torch.zeros(3, 2))
    assert model.training and torch.equal(torch.rand(3), want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_epochs": 0}, "max_epochs=0: training takes at least one epoch"),
        ({"max_epochs": 1.5}, "max_epochs=1.5"),
        ({"max_epochs": "10"}, "max_epochs='10'"),
        ({"seed": -1}, "seed=-1: a seed is an integer >= 0"),
        ({"seed": 0.5}, "seed=0.5"),
        ({"device": "gpuu"}, "device='gpuu' is none of auto, cpu"),
        ({"device": "cuda:x"}, "device='cuda:x' is none of"),
        ({"tol": "a"}, "trainer.tol=a: expected float"),
        ({"tolerance": 1}, "takes no argument 'tolerance'"),
        ({"trainer": "vbme"}, "nearest: vbem"),
        ({"trainer": "vae"}, r"lacks; trainers that fit it: EM\.$"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit(GaussianMixture(2), X, **arguments)


def test_a_model_that_is_none_is_refused():
    for model in (GaussianMixture, "gaussian_mixture", X):
        with pytest.raises(TypeError, match="give a torch module that is built"):
            fit(model, X)


@pytest.mark.parametrize(
    ("length", "message"),
    [
        ([1, 2, 6, 1], "length of row 2 is 6: expected a whole number from 1 to 5"),
        ([1, 0, 5, 1], "length of row 1 is 0"),
        ([1.5, 1, 1, 1], "length of row 0 is 1.5"),
        ([1, 2], "there are 4 training rows"),
    ],
)
def test_lengths_fit_the_padding(length, message):
    with pytest.raises(ValueError, match=message):
        Data(torch.zeros(4, 5, 2), length=length)
