"""The configuration tree: every option composes, says what its constructor says, and takes a step with parts that serve it."""

import dataclasses
import functools
import inspect
import re
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from emgen import cli
from emgen.options import names as options

ROOT = Path(__file__).resolve().parent.parent

OPTIONS = options()
GIVEN = {
    "model",
    "critic",
    "event_shape",
}  # who meets whom is decided by the command line, not in YAML
CHOICES = [(group, name) for group, names in OPTIONS.items() for name in names]

# every trainer, model and data set at least once, each in a pair that serves it
STEPS = [
    "trainer=vae model=dense data=digits",
    "trainer=iwae model=convolutional data=digits",
    "trainer=beta_vae model=dense_gaussian data=grid",
    "trainer=wake_sleep model=dense_gaussian data=ring",
    "trainer=gan model=dense data=digits critic=dense",
    "trainer=gan model=convolutional data=digits critic=convolutional",
    "trainer=fgan model=dense data=mnist",
    "trainer=fgan model=location_scale data=line",
    "trainer=fgan divergence@trainer.divergence=pearson +divergence@trainer.surrogate=jensen_shannon model=dense data=digits",
    "trainer=fgan penalty@trainer.penalty=roth critic.spectral_norm=true model=dense_gaussian data=ring",
    "trainer=gan penalty@trainer.adversarial.penalty=roth critic=convolutional critic.spectral_norm=true data=digits",
    "trainer=wgan_gp model=dense data=digits critic.pack=2",
    "trainer=hinge_gan model=dense data=digits critic=dense critic.spectral_norm=true",
    "trainer=least_squares_gan model=convolutional data=digits critic=convolutional critic.pack=2",
    "trainer=iwgan model=dense data=digits",
    "trainer=aavae model=dense data=digits",
    "trainer=f_gm model=dense_gaussian data=ring",
    "trainer=line model=dense data=digits critic=dense",
    "trainer=line model=convolutional data=digits critic=convolutional trainer.balance=.1",
    "trainer=aae model=dense data=digits",
    "trainer=avb model=dense_implicit data=digits",
    "trainer=ali model=convolutional data=digits critic=convolutional",
    "trainer=vae_gan model=dense data=digits",
    "trainer=alpha_gan model=convolutional data=digits critic=convolutional",
    "trainer=mode_regularised model=dense data=digits",
    "trainer=mdgan model=dense data=digits",
    "trainer=vae model=dense data=fashion_mnist",
    "trainer=vae model=dense_gaussian data=file",
    "trainer=rws model=sigmoid_belief_net data=bars",
    "trainer=vimco model=helmholtz_categorical data=bars",
    "trainer=score_function model=helmholtz_machine data=bars",
    "trainer=relaxed model=helmholtz_machine data=bars",
    "trainer=cd model=boltzmann_machine data=bars",
    "trainer=pcd model=boltzmann_machine data=bars",
    "trainer=parallel_tempering model=boltzmann_machine data=bars",
    "trainer=dbm model=deep_boltzmann_machine data=bars",
    "trainer=up_down model=deep_belief_net data=bars",
    "trainer=em model=gaussian_mixture data=old_faithful",
    "trainer=hard_em model=bregman_mixture data=old_faithful",
    "trainer=hard_em model=bernoulli_mixture data=digits",
    "trainer=tempered_em model=binomial_mixture data=digits",
    "trainer=gem model=poisson_mixture data=digits",
    "trainer=online_em model=categorical_mixture data=digits",
    "trainer=incremental_em model=gaussian_mixture data=old_faithful",
    "trainer=vbem model=gaussian_mixture data=old_faithful",
    "trainer=me model=gaussian_mixture data=old_faithful",
    "trainer=gibbs model=gaussian_mixture data=old_faithful",
    "trainer=stochastic_em model=gaussian_mixture data=old_faithful",
    "trainer=em model=factor_analysis data=old_faithful",
    "trainer=em model=factorial_mixture data=old_faithful",
    "trainer=em model=hidden_markov_model data=sequences",
    "trainer=em model=hidden_markov_model model.emission=categorical model.symbols=27 data=letters",
    "trainer=em model=hidden_markov_model model.emission=categorical model.symbols=3 data=weather",
    "trainer=em model=factorial_hmm data=sequences",
    "trainer=em model=topic_model model.documents=212 model.words=1000 data=corpus",
]


@pytest.fixture(scope="module")
def compose():
    with cli.composer() as composer:
        yield composer


def asked(group, name):
    """The override that chooses an option."""
    if group in ("divergence", "penalty"):
        return ["trainer=fgan", f"{group}@trainer.{group}={name}"]
    return [f"{group}={name}"]


def nodes(cfg, path=""):
    """Every node that builds something, with where it stands."""
    if OmegaConf.is_dict(cfg):
        if "_target_" in cfg and not OmegaConf.is_missing(cfg, "_target_"):
            yield path, cfg
        for key in cfg:
            if not OmegaConf.is_missing(cfg, key):
                yield from nodes(cfg[key], f"{path}.{key}".strip("."))
    elif OmegaConf.is_list(cfg):
        for i, one in enumerate(cfg):
            yield from nodes(one, f"{path}[{i}]")


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_option_composes(compose, group, name):
    if group == "hparams_search":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    cfg = compose("train", asked(group, name))
    assert set(cfg) >= {"trainer", "model", "data", "seed", "resume"}
    for where, node in nodes(cfg):
        assert callable(hydra.utils.get_object(node._target_)), (
            f"{where}: {node._target_} cannot be called"
        )


@pytest.mark.parametrize("command", ["train", "evaluate", "sample", "compare", "export"])
def test_every_command_composes(compose, command):
    assert compose(command, [])


# ---- YAML and Python say the same --------------------------------------------------------------


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def is_canonical(name, target):
    """Whether a file is its constructor's own, and not a variant: vae.yaml of VAE, cd.yaml of CD, dense.yaml of dense."""
    return name.replace("_", "") == snake(target.rpartition(".")[2]).replace("_", "")


def plain(value):
    """A comparable form: a class is a partial without arguments; arguments at their default say nothing."""
    if isinstance(value, functools.partial):
        own = {k: p.default for k, p in inspect.signature(value.func).parameters.items()}
        return value.func, {
            k: plain(v) for k, v in value.keywords.items() if plain(own.get(k)) != plain(v)
        }
    if inspect.isclass(value):
        return value, {}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    says_equal = type(value).__eq__ is not object.__eq__ or not hasattr(value, "__dict__")
    return value if says_equal else (type(value), vars(value))


def default_of(target, key, parameter):
    """The default of an argument, made by its factory where a dataclass has one."""
    factories = (
        {f.name: f.default_factory for f in dataclasses.fields(target)}
        if dataclasses.is_dataclass(target)
        else {}
    )
    made = factories.get(key, dataclasses.MISSING)
    return parameter.default if made is dataclasses.MISSING else made()


@pytest.mark.parametrize(
    ("group", "name"), [c for c in CHOICES if c[0] not in ("hparams_search", "experiment", "paths")]
)
def test_yaml_says_what_python_says(compose, group, name):
    """Each node lists every argument of its constructor; in the constructor's own file with the constructor's defaults."""
    places = {
        "divergence": "trainer.divergence",
        "penalty": "trainer.penalty",
        "scheduler": "trainer.scheduler",
    }
    where = places.get(group, group)
    given = GIVEN | {"optimizer"} if group == "scheduler" else GIVEN
    top = OmegaConf.select(compose("train", asked(group, name)), where)
    for path, node in nodes(top):
        if not node._target_.startswith("emgen."):
            continue
        target = hydra.utils.get_object(node._target_)
        parameters = inspect.signature(target).parameters
        written = {key for key in node if not str(key).startswith("_")}
        positional = {
            p for i, p in enumerate(parameters) if node.get("_partial_") and i < 2
        }  # a head's features and shape
        missing = (
            set(parameters)
            - written
            - given
            - (positional if written.isdisjoint(positional) else set())
        )
        assert not missing, (
            f"{group}/{name}.yaml {path}: {sorted(missing)} of {node._target_} cannot be set without +"
        )
        assert written <= set(parameters), (
            f"{group}/{name}.yaml {path}: {sorted(written - set(parameters))} is no argument"
        )
        if path or not is_canonical(name, node._target_):
            continue  # a part is compared as its owner's default; a variant is told by its values
        built = hydra.utils.instantiate(node, _partial_=True, _convert_="all").keywords
        for key in written:
            value = OmegaConf.to_container(node, resolve=False)[key]
            default = default_of(target, key, parameters[key])
            if default is inspect.Parameter.empty or value == "???" or str(value).startswith("${"):
                continue
            assert plain(built[key]) == plain(default), (
                f"{group}/{name}.yaml says {key}: {value}, Python {default}"
            )


# ---- every option takes a step -----------------------------------------------------------------


def shrink(cfg):
    """Networks and data of the smallest size."""
    for key in ("hidden", "layers"):
        if key in cfg.model and OmegaConf.is_list(cfg.model[key]):
            cfg.model[key] = [4 if isinstance(width, int) else width for width in cfg.model[key]]
        elif key in cfg.model:
            cfg.model[key] = 4
    if "channels" in cfg.model:
        cfg.model.channels = [4, 4]
    if "train" in cfg.data:
        cfg.data.train, cfg.data.validation, cfg.data.test = 300, 20, 20
    if "temperatures" in cfg.trainer:
        cfg.trainer.temperatures = 10
    return cfg


def one_step(compose, *overrides):
    """Build the data and the trainer as the command line does, and step on the first batch of the first block."""
    data, trainer = cli.build_parts(shrink(compose("train", list(overrides))))
    batch = next(iter(next(iter(data.train_dataloader()))))
    before = {name: value.clone() for name, value in trainer.state_dict().items()}
    trainer.training_step(batch, 0)
    assert trainer.iteration == 1
    after = trainer.state_dict()
    moved = [
        name for name in after if name not in before or not torch.equal(after[name], before[name])
    ]
    assert moved or trainer._statistics, f"{overrides}: nothing moved, nothing was counted"


@pytest.mark.parametrize("group", ["trainer", "model", "data", "critic"])
def test_every_option_is_tried_below(group):
    tried = {
        part.partition("=")[2]
        for step in STEPS
        for part in step.split()
        if part.startswith(f"{group}=")
    }
    for file in (ROOT / "configs" / "experiment").glob("*.yaml"):
        tried |= set(re.findall(rf"override /{group}: (\w+)", file.read_text(encoding="utf-8")))
    untried = (
        set(OPTIONS[group]) - tried - {"custom"}
    )  # a user's own classes are tried in test_cli.py
    assert not untried, f"add {sorted(untried)} of {group}/ to STEPS"


def usable(name, request):
    """Overrides that an option of `data` needs, or a skip where its files are not at hand."""
    if name in ("mnist", "fashion_mnist"):
        folder = request.getfixturevalue("data_dir")
        if name == "fashion_mnist" and not (folder / "FashionMNIST" / "raw").is_dir():
            pytest.skip(f"no FashionMNIST/raw in {folder}")
        return [f"paths.data_dir={folder}"]
    if name == "file":
        path = request.getfixturevalue("tmp_path") / "rows.npy"
        import numpy

        numpy.save(path, numpy.random.default_rng(0).normal(size=(50, 3)).astype("float32"))
        return [f"data.path={path}"]
    return []


@pytest.mark.parametrize("step", STEPS)
def test_every_trainer_model_and_data_set_takes_a_step(compose, step, request):
    overrides = step.split()
    one_step(compose, *overrides, *usable(overrides[-1].partition("=")[2], request))


@pytest.mark.parametrize("name", OPTIONS["divergence"])
def test_every_divergence_takes_a_step(compose, name):
    one_step(compose, *asked("divergence", name))


@pytest.mark.parametrize("name", OPTIONS["experiment"])
def test_every_experiment_takes_a_step(compose, name, request):
    overrides = [f"experiment={name}"]
    data = compose("train", overrides).data
    source = data._target_.rpartition(".")[2]
    overrides += usable(source, request) if source in ("mnist", "fashion_mnist") else []
    one_step(compose, *overrides)
