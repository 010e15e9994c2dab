"""What Lightning's loops for validation, testing and prediction ask of a trainer: the same scores
under every objective, and codes.
"""

__all__ = ["Evaluated"]

import math
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from emgen.evaluation.codes import codes, inference
from emgen.evaluation.scores import scores


class Evaluated(LightningModule):
    """`validate`, `test`, `predict` and a call, for a module that holds a `model`.

    The rows of a loop are gathered and scored together at its end, so that a score does not depend
    on how they were cut into batches:

        val/log_likelihood, val/elbo, val/gap, val/ess        K = 10 draws of z a datum
        test/...                                              K = 200, with test/..._error beside

    A model without a likelihood (the generator of a GAN whose decoder is a point mass) has no
    scores of this kind and logs none.

    Attributes:
        validation_draws, test_draws: K, of the importance-weighted estimates; exact likelihoods
            take none.
    """

    model: Any
    seed: int
    examples: int
    validation_draws: int = 10
    test_draws: int = 200

    def __init__(self) -> None:
        super().__init__()
        self.validated: tuple[int, dict[str, float]] = (-1, {})  # the epoch, and its scores
        self._gathered: list[Tensor] = []

    def forward(self, x: Any) -> Any:
        """q(z|x): what the encoder says, or Bayes' rule where the model has it in closed form.

        Args:
            x: data, (B, *event).

        Raises:
            TypeError: the model has neither.
        """
        return inference(self.model)(x)

    def observe(self, batch: Any) -> Tensor:
        """The rows of a batch, as a likelihood sees them: for a trainer to say."""
        raise NotImplementedError

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self._gathered.append(self.observe(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._gathered.append(self.observe(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """The codes of a batch: means of q(z|x), responsibilities, probabilities of states, shares
        of topics.
        """
        return codes(self.model, self.observe(batch))

    def on_validation_epoch_start(self) -> None:
        self._gathered = []

    def on_test_epoch_start(self) -> None:
        self._gathered = []

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking and not getattr(self.model, "started", True):
            self._gathered = []  # a closed form has no parameters before its first sweep
            return
        found = self._scored(self.validation_draws)
        values = {f"val/{name}": value for name, (value, _) in found.items()}
        if not self.trainer.sanity_checking:
            self.validated = self.current_epoch, values
        self._log_at_examples(values)

    def on_test_epoch_end(self) -> None:
        found = self._scored(self.test_draws)
        values = {f"test/{name}": value for name, (value, _) in found.items()}
        errors = {f"test/{name}_error": error for name, (_, error) in found.items()}
        self._log_at_examples(values | errors)

    def _log_at_examples(self, values: dict[str, float]) -> None:
        """To Lightning's callbacks, which find them in `callback_metrics`, and to every logger at the
        number of examples seen, which Lightning takes from a value called `step`.
        """
        self.log_dict({**values, "step": float(self.examples)})

    def _scored(self, draws: int) -> dict[str, tuple[float, float]]:
        """Each score and its standard error over the rows of every process."""
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return {}
        with torch.inference_mode(False), torch.no_grad():
            # gradients are taken by what anneals, which tensors of inference mode would refuse
            x = torch.cat([rows.clone() for rows in gathered])
            found = scores(self.model, x, draws, self.seed)
        pairs = {name: (found[name].value, found[name].error) for name in found}
        if self.trainer.world_size == 1:
            return pairs
        return self._over_processes(pairs, len(x))

    def _over_processes(
        self, pairs: dict[str, tuple[float, float]], n: int
    ) -> dict[str, tuple[float, float]]:
        """Means over all rows: each process weighs as much as it has of them; errors of
        independent rows add in squares.
        """
        found = {}
        for name, (value, error) in pairs.items():
            mine = torch.tensor([value, error, n], dtype=torch.float64, device=self.device)
            every: Any = self.all_gather(mine)
            values, errors, rows = every.view(-1, 3).unbind(-1)
            share = rows / rows.sum()
            found[name] = (
                float(share @ values),
                math.sqrt(float((share * errors).square().sum())),
            )
        return found
