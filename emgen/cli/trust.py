"""What a configuration from somebody's file may build: what is ours, and what the user trusts."""

__all__ = ["KNOWN", "OUTWARD", "check_trust"]

from collections.abc import Collection, Sequence
from typing import Any

from emgen.errors import UserError
from emgen.options import locate

# a configuration that is read back from a file may build what is defined in these and nothing else
TRUSTED = (
    "emgen.models",
    "emgen.data",
    "emgen.divergences",
    "emgen.families",
    "torch.nn",
    "torch.distributions",
)
# and of these the classes
TRUSTED_CLASSES = (
    "emgen.callbacks",
    "emgen.estimators",
    "emgen.objectives",
    "emgen.trainers",
    "torch.optim",
)

# What a resumed run may build beyond our own options: Lightning's callbacks that neither write nor
# execute what they are told.
KNOWN = frozenset(
    f"pytorch_lightning.callbacks.{name}"
    for name in (
        "DeviceStatsMonitor",
        "EarlyStopping",
        "LearningRateMonitor",
        "RichProgressBar",
        "StochasticWeightAveraging",
        "TQDMProgressBar",
        "Timer",
    )
)

# What our own options name and a record from a stranger may not: by what it is told it sends a run to
# another machine, or writes outside its folder.
OUTWARD = frozenset(
    (
        "pytorch_lightning.loggers.MLFlowLogger",
        "pytorch_lightning.loggers.WandbLogger",
        "pytorch_lightning.profilers.SimpleProfiler",
    )
)


def check_trust(node: Any, where: str, trust: Any, known: Collection[str] = ()) -> None:
    """Refuse a configuration from a file that would build or call what is neither ours nor trusted,
    at any depth of it.

    Args:
        node: a part of the configuration, resolved.
        where: what the part is called.
        trust: import prefixes that the user trusts.
        known: whole names that may be built too, such as those that our own options name.

    Raises:
        UserError: names the target and how to trust it.
    """
    if isinstance(node, (list, tuple)):
        for i, one in enumerate(node):
            check_trust(one, f"{where}[{i}]", trust, known)
    elif isinstance(node, dict):
        target = str(node.get("_target_", ""))
        prefixes = [trust] if isinstance(trust, str) else list(trust)
        if (
            "_target_" in node
            and target not in known
            and not _within(target, prefixes)
            and not _is_ours(target)
        ):
            raise UserError(
                f"{where}._target_ is {target}, outside {', '.join(TRUSTED)}: if you trust it, add "
                f"trust=[{target.split('.')[0]}]."
            )
        for key, one in node.items():
            check_trust(one, f"{where}.{key}", trust, known)


def _is_ours(target: str) -> bool:
    """Whether a name is a public one of the packages that are trusted, and what it names is defined
    there.
    """
    packages = TRUSTED if _within(target, TRUSTED) else TRUSTED_CLASSES
    if not _within(target, packages) or any(name.startswith("_") for name in target.split(".")):
        return False
    try:
        found = locate(target)
    except UserError:  # no such name, or a module
        return False
    return _within(str(getattr(found, "__module__", "")), packages) and (
        packages is TRUSTED or isinstance(found, type)
    )


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)
