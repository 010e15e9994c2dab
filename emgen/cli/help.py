"""What `emgen --help` prints, without a training framework being loaded."""

__all__ = ["help_text"]

from emgen.options import names


def help_text(program: str = "emgen") -> str:
    """What `emgen --help` prints."""
    groups = "\n".join(
        f"  {name:<16}{', '.join(options)}" for name, options in names().items() if options
    )
    return f"""\
emgen: deep generative modelling as alternating projection

  {program} [train] KEY=VALUE ...          train; --cfg job prints the configuration, -m sweeps over a,b,c
  {program} evaluate run=DIR               score a run: log-likelihood in nats, its error, its method
  {program} sample run=DIR n=64            draw from a run's model
  {program} compare RUN RUN ...            a table, and one HTML page of curves and pictures
  {program} export run=DIR                 weights as safetensors, with the configuration beside them

Options (GROUP=NAME chooses one, GROUP.KEY=VALUE sets a key of it):

{groups}

  seed=0  resume=auto|DIR  paths.run_dir=DIR  lightning.max_epochs=20  evaluation.samples=200
"""
