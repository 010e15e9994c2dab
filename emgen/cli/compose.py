"""Composing a configuration with Hydra: the options that were chosen, and the values that were
given.
"""

__all__ = ["CONFIGS", "checked", "composer", "shipped_targets"]

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emgen.cli import overrides
from emgen.cli.checks import check_ranges, flat
from emgen.errors import UserError
from emgen.options import CONFIGS, names, targets_in

Compose = Callable[[str, Sequence[str]], DictConfig]


@contextlib.contextmanager
def composer(config_dirs: Sequence[str] = ()) -> Iterator[Compose]:
    """A function (config name, overrides) → configuration over our options and the user's folders."""
    GlobalHydra.instance().clear()
    search = (
        [f"hydra.searchpath=[{','.join('file://' + os.path.abspath(d) for d in config_dirs)}]"]
        if config_dirs
        else []
    )

    def compose(name: str, asked: Sequence[str]) -> DictConfig:
        cfg = hydra.compose(name, [*asked, *search], return_hydra_config=True)
        HydraConfig.instance().set_config(
            cfg
        )  # which the names of folders ask for the options that were chosen
        if "paths" in cfg:
            OmegaConf.resolve(cfg.paths)
            if cfg.paths.run_dir:
                cfg.paths.run_dir = str(
                    OmegaConf.select(cfg, "hydra.run.dir")
                )  # the same, unless Hydra's own key was given
        OmegaConf.set_struct(cfg, False)
        del cfg["hydra"]
        return cfg

    try:
        with hydra.initialize_config_module(CONFIGS, version_base="1.3"):
            yield compose
    finally:
        GlobalHydra.instance().clear()


def checked(
    arguments: Sequence[str], compose: Compose, name: str = "train", complete: bool = True
) -> DictConfig:
    """The configuration that is asked for (of a sweep: its first), every choice of it tried and, if
    it is to be run, its numbers.
    """
    cfg = None
    for request in overrides.single_choices(arguments):
        try:
            composed = compose(name, request)
        except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
            known = [key for key, _ in flat(compose(name, []))]
            raise UserError(
                overrides.explain(error, [*known, *names()] if name == "train" else known)
            ) from None
        if name == "train" and complete:
            for missing in sorted(OmegaConf.missing_keys(composed)):
                raise UserError(f"{missing} has no value: give it as {missing}=...")
            check_ranges(composed)
        cfg = composed if cfg is None else cfg
    assert cfg is not None  # there is always one request at least
    return cfg


def shipped_targets() -> set[str]:
    """Every `_target_` of the options that come with the package."""
    return {
        target
        for file in files(CONFIGS).rglob("*.yaml")  # type: ignore[attr-defined]
        for target in targets_in(file.read_text(encoding="utf-8"))
    }
