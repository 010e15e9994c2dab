"""No tensor is left on the CPU: told without a GPU, by tensors that have a device and no values.

Fake CUDA tensors refuse to meet one that was left behind, but know no backward pass; `meta` tensors know both. What looks at
values (closed forms, Cholesky factors) runs on the CPU with `meta` as the default device: a tensor that was created without
naming its device is then the odd one out.
"""

import dataclasses
import functools

import pytest
import torch
from parts import MAKE
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import SGD

from emgen import trainers
from emgen.data.base import Batch
from emgen.trainers import CD, UpDown

# these look at values in their step
BY_VALUE = [name for name in MAKE if name.startswith(("EM", "UpDown"))]
BY_SHAPE = [name for name in MAKE if name not in BY_VALUE]


def on(device, x):
    return Batch(x.to(device), x.to(device), torch.arange(len(x), device=device), last=False)


def step(trainer, batch):
    """One step as it is written, without the block around it, which looks at the loss."""
    type(trainer).training_step.__wrapped__(trainer, batch, 0)


def any_device(trainer):
    """The same trainer over an optimiser that asks nothing of its device (Adam's step counter lies on the CPU)."""
    trainer._factories = {player: functools.partial(SGD, lr=0.01) for player in trainer._factories}
    return trainer


def devices(trainer):
    tensors = dict(trainer.named_parameters()) | dict(trainer.named_buffers())
    return {name: value.device.type for name, value in tensors.items()}


def test_every_trainer_is_tried():
    tried = {name.split()[0] for name in (*BY_SHAPE, *BY_VALUE)}
    assert set(trainers.__all__) - {"Trainer"} <= tried


@pytest.mark.parametrize("name", BY_SHAPE)
def test_the_forward_pass_stays_on_a_fake_cuda_device(name):
    with FakeTensorMode():
        with torch.device("cuda"):
            trainer, x = MAKE[name]()
        if hasattr(trainer, "adversarial"):  # a penalty on gradients is a backward pass
            trainer.adversarial = dataclasses.replace(trainer.adversarial, penalty=None)
        losses = []

        def forward(players, terms=None):
            for play in players.values() if isinstance(players, dict) else [terms]:
                losses.append(play.loss)
                assert {part.device.type for part in play.parts.values()} <= {"cuda"}

        trainer.descend = forward
        step(trainer, on("cuda", x))
        assert losses and all(loss.device.type == "cuda" for loss in losses)
        assert set(devices(trainer).values()) == {"cuda"}


@pytest.mark.parametrize("name", BY_SHAPE)
def test_the_whole_step_stays_on_the_meta_device(name):
    trainer, x = MAKE[name]()
    trainer = any_device(trainer).to("meta")
    for _ in range(2):
        step(trainer, on("meta", x))
    assert set(devices(trainer).values()) == {"meta"}
    assert all(terms.loss.device.type == "meta" for _, _, terms in trainer._descents)


@pytest.mark.parametrize("name", BY_VALUE)
def test_every_tensor_of_a_step_is_created_on_its_own_device(name):
    trainer, x = MAKE[name]()
    trainer = any_device(trainer) if isinstance(trainer, UpDown) else trainer
    with torch.device("meta"):
        batch = Batch(x, x, torch.arange(len(x), device="cpu"))
        trainer.training_step(batch, 0)
        trainer.training_step(batch, 1)
    assert set(devices(trainer).values()) == {"cpu"}


def test_these_checks_find_a_tensor_that_is_left_behind():
    """The tests above, tested: a step that adds a tensor of the CPU fails under each of them."""

    class Careless(CD):
        def training_step(self, batch, index):
            x = self.observe(batch)
            self.descend(
                "model", self.contrastive(self.model, x, x.flip(0) + torch.zeros(len(x), 1, 1, 1))
            )

    def careless():
        trainer, x = MAKE["CD"]()
        trainer.__class__ = Careless
        return trainer, x

    with FakeTensorMode(), pytest.raises(RuntimeError):
        with torch.device("cuda"):
            trainer, x = careless()
        step(trainer, on("cuda", x))
    trainer, x = careless()
    with pytest.raises(RuntimeError):
        step(trainer.to("meta"), on("meta", x))
    trainer, x = careless()
    with torch.device("meta"), pytest.raises((RuntimeError, NotImplementedError)):
        trainer.training_step(Batch(x, x, x), 0)


@pytest.mark.gpu
@pytest.mark.parametrize("name", MAKE)
def test_a_run_on_cuda_is_that_of_the_cpu_up_to_round_off_in_its_counts(name):
    trainer, x = MAKE[name]()
    trainer = trainer.to("cuda")
    for _ in range(2):
        trainer.training_step(on("cuda", x), 0)
    assert set(devices(trainer).values()) == {"cuda"} and trainer.iteration == 2
