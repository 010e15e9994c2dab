"""TensorBoard with one event file a run."""

__all__ = ["TensorBoard"]

from pytorch_lightning.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, kept open after training so that the test scores and hyper-parameters
    join the same file.

    Args:
        save_dir: the run folder, in which the event file lies.
    """

    def __init__(self, save_dir: str):
        super().__init__(save_dir, name="", version="", default_hp_metric=False)

    def finalize(self, status: str) -> None:
        self.experiment.flush()
        self.save()
