"""Models: modules that answer with distributions."""

from emgen.models.belief_net import DeepBeliefNet
from emgen.models.boltzmann import BoltzmannMachine
from emgen.models.bregman import BregmanFamily, BregmanMixture
from emgen.models.critic import Critic, convolutional_critic, dense_critic
from emgen.models.deep_boltzmann import DeepBoltzmannMachine
from emgen.models.factor import FactorAnalysis
from emgen.models.factorial import FactorialHMM, FactorialMixture
from emgen.models.helmholtz import HelmholtzMachine, Marginal, helmholtz_machine
from emgen.models.hmm import HiddenMarkovModel
from emgen.models.implicit import LocationScale
from emgen.models.latent import Conditional, DeepLatentModel, convolutional, dense
from emgen.models.mixture import Mixture
from emgen.models.mixtures import BernoulliMixture, BinomialMixture, CategoricalMixture, GaussianMixture, PoissonMixture
from emgen.models.networks import MLP, ConvolutionalDecoder, ConvolutionalEncoder
from emgen.models.priors import GaussianMixturePrior, StandardNormal
from emgen.models.structures import (
    factor_analysis,
    factorial_hmm,
    factorial_mixture,
    hidden_markov_model,
    topic_model,
)
from emgen.models.topics import TopicModel

__all__ = ["BernoulliMixture", "BinomialMixture", "BoltzmannMachine", "BregmanFamily",
           "BregmanMixture", "CategoricalMixture", "Conditional",
           "ConvolutionalDecoder", "ConvolutionalEncoder", "Critic", "DeepBeliefNet", "DeepBoltzmannMachine",
           "DeepLatentModel", "FactorAnalysis", "FactorialHMM", "FactorialMixture", "GaussianMixture",
           "GaussianMixturePrior", "HelmholtzMachine", "HiddenMarkovModel", "LocationScale", "MLP", "Marginal", "Mixture",
           "PoissonMixture", "StandardNormal", "TopicModel", "convolutional", "convolutional_critic", "dense",
           "dense_critic", "factor_analysis", "factorial_hmm", "factorial_mixture", "helmholtz_machine",
           "hidden_markov_model", "topic_model"]
