"""Models: modules that answer with distributions."""

from emgen.models import heads as heads
from emgen.models.conjugate.bregman_mixture import BregmanFamily, BregmanMixture
from emgen.models.conjugate.factor_analysis import FactorAnalysis, factor_analysis
from emgen.models.conjugate.factorial import (
    FactorialHMM,
    FactorialMixture,
    factorial_hmm,
    factorial_mixture,
)
from emgen.models.conjugate.hidden_markov import HiddenMarkovModel, hidden_markov_model
from emgen.models.conjugate.mixture import Mixture
from emgen.models.conjugate.mixtures_by_family import (
    BernoulliMixture,
    BinomialMixture,
    CategoricalMixture,
    GaussianMixture,
    PoissonMixture,
)
from emgen.models.conjugate.topic_model import TopicModel, topic_model
from emgen.models.deep.critics import Critic, convolutional_critic, dense_critic
from emgen.models.deep.helmholtz_machine import HelmholtzMachine, Marginal, helmholtz_machine
from emgen.models.deep.implicit import LocationScale
from emgen.models.deep.latent_variable import Conditional, DeepLatentModel, convolutional, dense
from emgen.models.deep.networks import MLP, ConvolutionalDecoder, ConvolutionalEncoder
from emgen.models.deep.priors import GaussianMixturePrior, StandardNormal
from emgen.models.energy import units as units
from emgen.models.energy.boltzmann_machine import BoltzmannMachine
from emgen.models.energy.deep_belief_net import DeepBeliefNet
from emgen.models.energy.deep_boltzmann_machine import DeepBoltzmannMachine

__all__ = [
    "BernoulliMixture",
    "BinomialMixture",
    "BoltzmannMachine",
    "BregmanFamily",
    "BregmanMixture",
    "CategoricalMixture",
    "Conditional",
    "ConvolutionalDecoder",
    "ConvolutionalEncoder",
    "Critic",
    "DeepBeliefNet",
    "DeepBoltzmannMachine",
    "DeepLatentModel",
    "FactorAnalysis",
    "FactorialHMM",
    "FactorialMixture",
    "GaussianMixture",
    "GaussianMixturePrior",
    "HelmholtzMachine",
    "HiddenMarkovModel",
    "LocationScale",
    "MLP",
    "Marginal",
    "Mixture",
    "PoissonMixture",
    "StandardNormal",
    "TopicModel",
    "convolutional",
    "convolutional_critic",
    "dense",
    "dense_critic",
    "factor_analysis",
    "factorial_hmm",
    "factorial_mixture",
    "helmholtz_machine",
    "hidden_markov_model",
    "topic_model",
]
