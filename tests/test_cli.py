"""The command line: what each command leaves, what each refusal says, and that a run goes on where it was cut."""

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from emgen.callbacks.checkpoint import AtomicCheckpointIO, Checkpoint
from emgen.cli import entry
from emgen.data import text
from emgen.data.base import _Loader
from emgen.evaluation.runs import read_run

# the smallest run of a pair of networks on images: 24 rows in four batches an epoch
SMALL = [
    "model.hidden=[6]",
    "model.latent=2",
    "critic.hidden=[6]",
    "data=file",
    "data.path=rows.npy",
    "data.batch_size=6",
    "data.validation=0.2",
    "data.test=0.2",
    "data.binarise=dynamic",
    "evaluation.samples=3",
    "callbacks.metrics.samples=2",
    "callbacks.figures=null",
    "callbacks.progress=null",
    "lightning.accelerator=cpu",
]
DISCRETE = [argument for argument in SMALL if not argument.startswith(("model.", "critic."))]
POINTS = [
    "model=gaussian_mixture",
    "data=file",
    "data.path=points.npy",
    "data.batch_size=6",
    "data.validation=0.2",
    "data.test=0.2",
    "callbacks.figures=null",
    "callbacks.progress=null",
    "lightning.accelerator=cpu",
]
TRAINERS = {
    "vae": SMALL,
    "iwae": SMALL,
    "wake_sleep": SMALL,
    "gan": SMALL,
    "fgan": SMALL,
    "rws": [*DISCRETE, "model=sigmoid_belief_net"],
    "pcd": [*DISCRETE, "model=boltzmann_machine", "model.hidden=6", "model.sweeps=3"],
    "em": POINTS,
    "me": POINTS,
}
# with a layer, or two, of binary units: chains, and layers that are learnt one after the other, are in the checkpoint too
BINARY = [
    "model.hidden=[6,6]",
    *SMALL[3:7],
    "data.binarise=fixed",
    "model.sweeps=10",
    "callbacks.figures=null",
    "callbacks.progress=null",
    "lightning.accelerator=cpu",
]
TRAINERS |= {
    "parallel_tempering": [
        "model=boltzmann_machine",
        "model.hidden=6",
        *BINARY[1:],
        "trainer.rungs=3",
    ],
    "dbm": ["model=deep_boltzmann_machine", *BINARY],
    "up_down": ["model=deep_belief_net", *BINARY, "trainer.greedy=1", "evaluation.samples=3"],
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder with some rows in it; a command run in-process leaves the interpreter as it was."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "rows.npy", rng.random((40, 1, 4, 4)).astype("float32"))
    points = np.concatenate([rng.normal(0, 1, (20, 2)), rng.normal(4, 1, (20, 2))]).astype(
        "float32"
    )
    np.save(tmp_path / "points.npy", rng.permutation(points))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["emgen"])
    monkeypatch.setattr(entry, "_failures", [])
    monkeypatch.setattr(_Loader, "__init__", one_batch_at_a_time)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def one_batch_at_a_time(self, data, rank, world, original=_Loader.__init__):
    """Blocks of one batch, so that a run of four batches can be cut after any of them."""
    original(self, data, rank, world)
    self.block = 1


def emgen(*arguments):
    """The exit code of a command run in this process."""
    with pytest.raises(SystemExit) as exit:
        entry.main(arguments)
    return exit.value.code or 0


def train(trainer, folder, *arguments):
    return emgen(f"trainer={trainer}", *TRAINERS[trainer], f"paths.run_dir={folder}", *arguments)


def status(folder):
    return json.loads((Path(folder) / "status.json").read_text())


def one_sentence(text):
    """What is printed of an error: one line, no traceback."""
    lines = [
        line
        for line in text.strip().splitlines()
        if line.startswith("emgen: ") and "emgen: continuing" not in line
    ]
    assert len(lines) == 1 and "Traceback" not in text, text
    return lines[0]


# ---- a whole run -------------------------------------------------------------------------------


def test_a_run_its_folder_and_what_is_asked_of_it(place, capsys):
    """One run of each kind: the folder holds what it should, and evaluate, sample, export and compare read it."""
    full = [a for a in SMALL if a not in ("callbacks.figures=null", "callbacks.progress=null")]
    assert emgen("trainer=vae", *full, "paths.run_dir=vae", "lightning.max_epochs=2") == 0
    assert train("em", "em", "lightning.max_epochs=3") == 0

    held = {p.name for p in (place / "vae").iterdir()}
    events = {name for name in held if name.startswith("events.out.tfevents")}
    files = {
        "config.yaml",
        "metrics.csv",
        "summary.json",
        "status.json",
        "hparams.yaml",
    }  # the last is TensorBoard's own
    assert held - events == {".hydra", "checkpoints", "figures"} | files and len(events) == 1
    assert {p.name for p in (place / "vae" / "checkpoints").iterdir()} >= {"last.ckpt", "best.ckpt"}
    assert {p.name for p in (place / "vae" / "figures").iterdir()} == {
        "samples.png",
        "reconstructions.png",
    }

    summary = json.loads((place / "vae" / "summary.json").read_text())
    assert summary["trainer"] == "vae" and summary["model"] == "dense" and summary["data"] == "file"
    assert (
        summary["epochs"] == 2
        and summary["seed"] == 0
        and summary["seconds"] > 0
        and summary["examples_per_second"] > 0
    )
    assert summary["parameters"] == sum(v.numel() for v in state("vae")["state_dict"].values())
    tags = {
        "test/log_likelihood",
        "test/elbo",
        "val/log_likelihood",
        "val/gap",
        "train/loss",
        "train/elbo",
    }
    assert tags <= set(summary["metrics"])
    assert "importance-weighted, K=3" in summary["methods"]["test/log_likelihood"]
    assert (
        json.loads((place / "em" / "summary.json").read_text())["methods"]["test/log_likelihood"]
        == "exact"
    )
    with open(place / "vae" / "metrics.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["examples"] for row in rows] == ["24", "48"] and {
        "train/loss",
        "val/elbo",
        "seconds",
    } <= set(rows[0])
    assert status("vae")["status"] == "finished"

    capsys.readouterr()
    assert emgen("evaluate", "run=vae", "samples=5", "split=validation") == 0
    assert "log_likelihood" in capsys.readouterr().out
    scored = json.loads((place / "vae" / "evaluation.json").read_text())
    assert (
        scored["rows"] == 8
        and scored["binarise"] == "dynamic"
        and scored["metrics"]["validation/log_likelihood"]["error"] > 0
    )
    for run, shape in (("vae", (7, 1, 4, 4)), ("em", (7, 2))):
        assert emgen("sample", f"run={run}", "n=7") == 0
        assert np.load(place / run / "samples" / "samples.npy").shape == shape
    assert (place / "vae" / "samples" / "samples.png").exists()
    assert emgen("export", "run=vae") == 0
    from safetensors.torch import load_file

    weights, trained = (
        load_file(place / "vae" / "export" / "model.safetensors"),
        state("vae", "best")["state_dict"],
    )
    assert all(torch.equal(value, trained[f"model.{name}"]) for name, value in weights.items())
    assert emgen("compare", "vae", "em") == 0
    printed, page = capsys.readouterr().out, (place / "compare.html").read_text(encoding="utf-8")
    assert "vae" in printed and "em" in printed and "nats" in printed
    assert "data:image/png;base64" in page and "http://" not in page.replace(
        "http://www.w3.org", ""
    )

    assert train("vae", "vae", "lightning.max_epochs=1") == 2
    assert "already holds a run: add resume=auto" in one_sentence(capsys.readouterr().err)
    assert status("vae")["status"] == "finished"


def state(folder, which="last"):
    return torch.load(Path(folder) / "checkpoints" / f"{which}.ckpt", weights_only=True)


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trainer=va"], "there is no trainer=va; nearest: vae"),
        (["trainer=vae", "model=dence"], "there is no model=dence; nearest: dense"),
        (["trainer=fgan", "divergence=klx"], "there is no divergence=klx; nearest: kl"),
        (
            ["trainer.optimiser.lr=1"],
            "unknown key trainer.optimiser.lr; nearest: trainer.optimizer.lr",
        ),
        (
            ["trainer.free_energy.sample=2"],
            "unknown key trainer.free_energy.sample; nearest: trainer.free_energy.samples",
        ),
        (["lightning.epochs=3"], "unknown key lightning.epochs; nearest: lightning.max_epochs"),
        (["divergence=kl"], "divergence=... belongs to trainer=fgan"),
        (["vae"], "'vae' is neither a command"),
        (
            ["evalute", "run=here"],
            "'evalute' is neither a command nor of the form key=value; nearest: evaluate",
        ),
        (["trainer=?"], "trainer=NAME takes one of aae, aavae, ali"),
        (["model"], "model is an option group: say model=NAME, one of bernoulli_mixture"),
        (["trainer=vae,gan"], "trainer=vae,gan names several values: add -m"),
        (
            ["data.binarise=none"],
            "of the train data holds 0.636962, but Bernoulli takes 0 and 1 alone: binarise them",
        ),
        (["data.binarise=none", "trainer=gan"], "but Bernoulli takes 0 and 1 alone"),
        (
            ["model=poisson_mixture", "trainer=em", "data.binarise=none"],
            "but Poisson takes whole numbers from 0 on alone",
        ),
        (
            ["trainer.optimizer.lr=-1"],
            "trainer.optimizer.lr=-1: a learning rate is a positive, finite number",
        ),
        (["trainer.optimizer.lr=nan"], "trainer.optimizer.lr=nan is not a number"),
        (["trainer.optimizer.lr=fast"], "trainer.optimizer.lr=fast: a learning rate"),
        (["trainer.optimizer.lr=true"], "trainer.optimizer.lr=true: a learning rate"),
        (["trainer.optimizer.lr=null"], "trainer.optimizer.lr=null: a learning rate"),
        (
            ["+trainer.optimizer.betas=[1.5,0.9]"],
            "trainer.optimizer.betas=[1.5, 0.9]: the shares of the past",
        ),
        (
            ["+trainer.optimizer.betas=[a,b]"],
            "trainer.optimizer.betas=[a, b]: the shares of the past",
        ),
        (
            ["+trainer.optimizer.betas=[0.9]"],
            "trainer.optimizer.betas=[0.9]: the shares of the past",
        ),
        (["+trainer.optimizer.eps=-1"], "trainer.optimizer.eps=-1: expected a finite number >= 0"),
        (
            ["trainer=gan", "+trainer.recognition_optimizer.weight_decay=-1"],
            "trainer.recognition_optimizer.weight_decay=-1: expected",
        ),
        (
            ["lightning.precision=bf16-true"],
            "lightning.precision=bf16-true: expected 32-true, 64-true or bf16-mixed",
        ),
        (
            ["lightning.precision=16-true"],
            "lightning.precision=16-true: expected 32-true, 64-true or bf16-mixed",
        ),
        (
            ["lightning.precision=16-mixed"],
            "lightning.precision=16-mixed: expected 32-true, 64-true or bf16-mixed",
        ),
        (
            ["lightning.accelerator=cpu", "lightning.devices=1000000"],
            "lightning.devices=1000000: expected an integer from 1 to ",
        ),
        (
            ["lightning.accelerator=cpu", "lightning.devices=0"],
            "lightning.devices=0: expected an integer from 1 to ",
        ),
        (
            ["lightning.accelerator=cpu", "lightning.devices=-1"],
            "lightning.devices=-1: expected an integer from 1 to ",
        ),
        (
            ["lightning.accelerator=cpu", "lightning.devices=many"],
            "lightning.devices=many: expected an integer from 1 to ",
        ),
        (
            ["lightning.accelerator=cpu", "lightning.devices=[0]"],
            "lightning.devices=[0]: expected an integer from 1 to ",
        ),
        (
            ["callbacks.progress={_target_:emgen.callbacks.Progress,lines:-1}"],
            "lines=-1: a run prints at least one line",
        ),
        (
            ["callbacks.progress={_target_:emgen.callbacks.Progress,lines:0}"],
            "lines=0: a run prints at least one line",
        ),
        (["trainer.free_energy.samples=1.5"], "trainer.free_energy.samples=1.5: expected int"),
        (["trainer.free_energy=null"], "trainer.free_energy=null: expected FreeEnergy"),
        (["model.hidden=[2.5]"], "model.hidden=[2.5]: expected Sequence[int]"),
        (["model.hidden=6"], "model.hidden=6: expected Sequence[int]"),
        (["data.batch_size=abc"], "data.batch_size=abc: expected int | null"),
        (
            ["+model.foo=3"],
            "model.foo: emgen.models.dense takes no argument 'foo'; it takes event_shape, ",
        ),
        (
            ["+trainer.optimizer.weight_deca=.1"],
            "trainer.optimizer.weight_deca: torch.optim.Adam takes no argument 'weight_deca'; it takes",
        ),
        (["~model"], "model was left out or set to null"),
        (["trainer=gan", "~critic"], "critic was left out or set to null"),
        (["seed=null"], "seed=null: a seed is an integer >= 0"),
        (["seed=1.5"], "seed=1.5: a seed is an integer >= 0"),
        (["-m", "trainer.optimizer.lr=1,-1"], "trainer.optimizer.lr=-1: a learning rate"),
        (["--cofig-dir", "here"], "there is no flag --cofig-dir; nearest: --config-dir"),
        (["trainer=VAEE"], "there is no trainer=VAEE; nearest: vae"),
        (["trainer=vaee", "--cfg", "job"], "there is no trainer=vaee; nearest: vae"),
        (["logger=null"], "~logger or ~callbacks leaves that group out"),
        (
            ["lightning.max_time=5"],
            "lightning.max_time=5: expected days, hours, minutes and seconds",
        ),
        (
            ["trainer.optimizer._target_=torch.optim.LBFGS"],
            "trainer.optimizer._target_=torch.optim.LBFGS: it asks for several losses",
        ),
        (
            ["lightning.max_time=soon"],
            "lightning: MisconfigurationException: `Timer(duration='soon')` is not a valid duration",
        ),
        (
            ["trainer=custom", "trainer._target_=nomod.X"],
            "trainer: nomod.X cannot be imported (No module named 'nomod')",
        ),
        (
            ["trainer=custom", "trainer._target_=os.system"],
            "trainer: _target_=os.system calls Python's own os",
        ),
        (["paths.run_dir=rows.npy"], "paths.run_dir=rows.npy cannot be written (it is a file)"),
        (["paths.run_dir=rows.npy/run"], "paths.run_dir=rows.npy/run cannot be written"),
        (["paths.run_dir=null"], "name a folder"),
        (["trainer.free_energy.beta=nan"], "trainer.free_energy.beta=nan is not a number"),
        (["trainer.free_energy.samples=0"], "samples=0: the bound needs at least one draw"),
        (["trainer.free_energy.beta=-1"], "beta=-1"),
        (["trainer.clip=0"], "clip=0: the largest gradient norm must be positive"),
        (["data.batch_size=0"], "batch_size=0: a batch has at least one row"),
        (["data.binarise=sometimes"], "binarise='sometimes' is not one of none, fixed, dynamic"),
        (["lightning.max_epochs=0"], "lightning.max_epochs=0: training takes at least one epoch"),
        (["evaluation.samples=0"], "evaluation.samples=0: the likelihood needs at least one draw"),
        (
            ["evaluation.samples=true"],
            "evaluation.samples=true: the likelihood needs at least one draw",
        ),
        (["evaluation.rows=true"], "evaluation.rows=true: score at least one row"),
        (["model.latent=0"], "latent=0: z has at least one dimension"),
        (["model.activation=rulu"], "activation='rulu' is not one of relu"),
        (["trainer=em"], "EM needs a model that serves Conjugate"),
        (["model._target_=mymod.Net"], "mymod.Net cannot be imported"),
        (["resume=nowhere"], "resume=nowhere: there is no checkpoints/last.ckpt in that folder"),
        (["data=mnist", "paths.data_dir=nowhere"], "nowhere"),
        (["model=custom"], "model._target_ has no value"),
        (["--config-dir", "nowhere"], "--config-dir nowhere is not a folder"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_sentence_before_anything_starts(
    place, capsys, arguments, said
):
    base = (
        []
        if any(a.startswith("data=") for a in arguments)
        else ["data=file", "data.path=rows.npy", "data.binarise=dynamic"]
    )
    assert emgen(*base, "paths.run_dir=run", "callbacks.progress=null", *arguments) == 2
    assert said in one_sentence(capsys.readouterr().err)
    assert not (place / "run").exists()


def test_a_single_test_row_has_no_error_and_its_json_is_valid(place, capsys):
    np.savez("one.npz", train=np.eye(4, dtype="float32"), test=np.ones((1, 4), dtype="float32"))
    assert (
        train("vae", "run", "data.path=one.npz", "data.binarise=none", "lightning.max_epochs=1")
        == 0
    )
    assert re.search(r"test log-likelihood -\d+\.\d\d ± \? nats", capsys.readouterr().out)
    assert emgen("evaluate", "run=run", "samples=3", "draws=5") == 0
    assert "fewer than two rows" in " ".join(capsys.readouterr().out.split())
    for name in ("summary", "evaluation", "status"):
        json.loads((place / "run" / f"{name}.json").read_text(), parse_constant=pytest.fail)
    assert (
        json.loads((place / "run" / "summary.json").read_text())["metrics"][
            "test/log_likelihood_error"
        ]
        is None
    )
    assert emgen("compare", "run") == 0
    assert "± ?" in capsys.readouterr().out


def test_a_run_whose_score_is_a_bound_says_so(capsys):
    assert train("dbm", "run", "lightning.max_epochs=1") == 0
    assert re.search(
        r"test lower bound on the log-likelihood -\d+\.\d\d ± \d", capsys.readouterr().out
    )


def test_a_score_of_a_run_that_has_gone_on_is_not_shown(place):
    assert train("vae", "run", "lightning.max_epochs=1") == 0
    assert emgen("evaluate", "run=run", "samples=7", "draws=null") == 0
    assert read_run("run").score.method == "importance-weighted, K=7"
    assert emgen("resume=run", "lightning.max_epochs=2") == 0
    assert read_run("run").score.method == "importance-weighted, K=3"


def test_a_run_that_was_tampered_with_says_so(place, capsys):
    assert train("vae", "run", "lightning.max_epochs=1") == 0
    config, rows = place / "run" / "config.yaml", (place / "rows.npy").read_bytes()
    whole = config.read_text()
    for content, said in (
        (
            whole.replace("latent: 2", "latent: 3"),
            "holds another model than config.yaml beside it describes",
        ),
        ("a: [", "config.yaml is damaged"),
        ("seed: 0", "names no data or no model"),
    ):
        config.write_text(content)
        capsys.readouterr()
        assert emgen("evaluate", "run=run") == 2
        assert said in one_sentence(capsys.readouterr().err)
    config.write_text(whole)
    np.save("rows.npy", np.zeros((40, 2), dtype="float32"))
    assert emgen("sample", "run=run") == 2
    assert "or the data it names, changed since training?" in one_sentence(capsys.readouterr().err)
    (place / "rows.npy").write_bytes(rows)
    assert emgen("sample", "run=run", "n=2") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate"], "emgen evaluate needs run=..."),
        (["evaluate", "run=nowhere"], "run=nowhere is not a run folder"),
        (["evaluate", "runs=x"], "unknown key runs; nearest: run"),
        (["evaluate", "somewhere"], "'somewhere' is not of the form key=value"),
        (["sample", "run=nowhere", "n=0"], "n=0: give an integer >= 1"),
        (["evaluate", "run=null"], "emgen evaluate needs run=..."),
        (["evaluate", "run=nowhere", "samples=many"], "samples=many: give an integer >= 1"),
        (["evaluate", "run=nowhere", "rows=-1"], "rows=-1: give an integer >= 1"),
        (["evaluate", "--best", "run=nowhere"], "emgen evaluate takes no flag --best"),
    ],
)
def test_other_commands_refuse_in_one_sentence_too(capsys, arguments, said):
    assert emgen(*arguments) == 2
    assert said in one_sentence(capsys.readouterr().err)


def test_rows_that_cannot_be_read_are_refused(place, capsys):
    np.save(place / "empty.npy", np.zeros((0, 3), "float32"))
    (place / "broken.npy").write_bytes(b"not an array")
    np.savetxt(place / "rows.csv", np.ones((3, 2)), delimiter=",", header="a,b")
    torch.save(torch.ones(3, 2), place / "rows.pt")
    for file, said in (
        ("missing.npy", "missing.npy"),
        ("empty.npy", "empty"),
        ("broken.npy", "broken.npy"),
        ("rows.csv", "rows.csv is neither a .npy nor an .npz file"),
        ("rows.pt", "rows.pt is neither"),
    ):
        assert emgen("data=file", f"data.path={file}", "paths.run_dir=run") == 2
        assert said in one_sentence(capsys.readouterr().err)


def test_paths_are_taken_as_they_are_typed(place, monkeypatch, capsys):
    """Blanks, commas, brackets, quotes, = and letters beyond ASCII, which Hydra's grammar knows for something else."""
    odd = place / "it's a=b (1), ü"
    odd.mkdir()
    shutil.copy(place / "rows.npy", odd / "rows, ü.npy")
    monkeypatch.chdir(odd)
    assert train("vae", "a run", "data.path=rows, ü.npy", "lightning.max_epochs=1") == 0
    assert emgen(f"resume={odd / 'a run'}", "lightning.max_epochs=2") == 0
    assert len(table("a run")) == 2
    assert emgen("evaluate", f"run={odd / 'a run'}", "samples=3", "draws=null") == 0
    assert (
        emgen("compare", str(odd), f"output={odd / 'page, ü.html'}") == 0
        and (odd / "page, ü.html").exists()
    )
    capsys.readouterr()
    assert emgen("model.activation=relü") == 2
    said = "an override cannot be read (model.activation=relü): put a value with such characters in quotes of its own"
    assert said in one_sentence(capsys.readouterr().err)


def test_a_question_about_the_command_line_costs_no_framework():
    ask = "import sys, emgen.__main__ as m; sys.argv = ['emgen', '--help']; m.main(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True)
    assert done.returncode == 0 and "wake_sleep" in done.stdout, done.stderr


def test_help_lists_every_option(capsys):
    assert emgen("--help") == 0
    printed = capsys.readouterr().out
    assert all(
        word in printed
        for word in (
            "wake_sleep",
            "gaussian_mixture",
            "old_faithful",
            "resume=auto",
            "emgen compare",
        )
    )


# ---- what goes wrong on the way ----------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_with_its_term_and_step_and_keeps_the_last_good_checkpoint(
    place, capsys
):
    assert train("vae", "run", "lightning.max_epochs=1") == 0
    good = state("run")
    capsys.readouterr()
    code = train("vae", "run", "lightning.max_epochs=9", "resume=auto", "trainer.optimizer.lr=1e30")
    assert code == 1
    said = one_sentence(capsys.readouterr().err)
    assert (
        "the loss of model and recognition became" in said and "at step" in said and "elbo" in said
    )
    assert status("run")["status"] == "failed" and status("run")["message"] in said
    assert state("run")["epoch"] == good["epoch"] and equal(
        state("run")["state_dict"], good["state_dict"]
    )


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(place, monkeypatch, capsys):
    assert train("vae", "run", "lightning.max_epochs=1") == 0
    with monkeypatch.context() as patch:
        patch.setattr(
            os,
            "fsync",
            lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        )
        capsys.readouterr()
        assert train("vae", "run", "lightning.max_epochs=3", "resume=auto") == 1
    said = one_sentence(capsys.readouterr().err)
    assert (
        "run cannot be written (No space left on device): make room, and go on with: emgen resume="
        in said
    )
    assert status("run") == status("run") | {
        "status": "failed",
        "message": said.removeprefix("emgen: "),
    }
    assert emgen(said.rpartition(": emgen ")[2], "lightning.max_epochs=3") == 0
    assert train("vae", "whole", "lightning.max_epochs=3") == 0
    assert equal(state("whole")["state_dict"], state("run")["state_dict"])


@pytest.fixture
def cut(monkeypatch):
    """Have the next runs receive a signal after so many steps; None lets them be."""
    asked = {"after": None}

    def on_train_batch_end(self, trainer, pl_module, *args, original=Checkpoint.on_train_batch_end):
        if pl_module.iteration == asked["after"]:
            os.kill(os.getpid(), asked["signum"])
        original(self, trainer, pl_module, *args)

    monkeypatch.setattr(Checkpoint, "on_train_batch_end", on_train_batch_end)
    return lambda after, signum=signal.SIGTERM: asked.update(after=after, signum=signum)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_run_that_was_cut_in_an_epoch_and_resumed_is_the_whole_run_bit_for_bit(
    place, capsys, cut, trainer
):
    """Three epochs of four batches, cut by SIGTERM after the sixth, in the middle of the second epoch."""
    options = ["lightning.max_epochs=3", "seed=5"]
    assert train(trainer, "whole", *options) == 0
    cut(6)
    assert train(trainer, "parts", *options) == 128 + signal.SIGTERM
    said = one_sentence(capsys.readouterr().err)
    assert "SIGTERM" in said and "continue with: emgen resume=" in said
    assert status("parts")["status"] == "interrupted" and state("parts")["emgen"]["iteration"] == 6
    cut(None)
    assert emgen(said.rpartition(": emgen ")[2]) == 0  # as it was told
    assert status("parts")["status"] == "finished"
    whole, parts = state("whole"), state("parts")
    for key in ("state_dict", "optimizer_states", "emgen", "lr_schedulers", "epoch", "global_step"):
        assert equal(whole[key], parts[key]), f"{key} differs after a resumed run"
    tell = ["train/", "val/", "examples", "epoch"]
    a, b = (
        [{k: v for k, v in row.items() if k.startswith(tuple(tell))} for row in table(run)]
        for run in ("whole", "parts")
    )
    assert a == b


def table(run):
    with open(Path(run) / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("after", [4, 8], ids=["at the end of an epoch", "twice at an end"])
def test_a_cut_between_epochs_is_no_different(cut, after):
    options = ["lightning.max_epochs=3"]
    assert train("vae", "whole", *options) == 0
    cut(after, signal.SIGINT)
    assert train("vae", "parts", *options) == 128 + signal.SIGINT
    assert status("parts")["status"] == "interrupted"
    cut(None)
    assert train("vae", "parts", *options, "resume=auto") == 0
    for key in ("state_dict", "optimizer_states", "emgen"):
        assert equal(state("whole")[key], state("parts")[key])


def test_more_epochs_are_a_longer_run(place):
    assert train("vae", "whole", "lightning.max_epochs=3") == 0
    assert train("vae", "parts", "lightning.max_epochs=1") == 0
    assert train("vae", "parts", "lightning.max_epochs=3", "resume=auto") == 0
    assert equal(state("whole")["state_dict"], state("parts")["state_dict"])
    assert [row["epoch"] for row in table("parts")] == ["1", "2", "3"]


def test_a_run_that_is_being_trained_is_left_alone(place, capsys):
    """Another process is at it, by its own account; the account of one that was killed is not believed."""
    assert train("vae", "run", "lightning.max_epochs=1") == 0
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    account = {**status("run"), "status": "running", "pid": other.pid}
    (place / "run" / "status.json").write_text(json.dumps(account))
    capsys.readouterr()
    assert train("vae", "run", "lightning.max_epochs=2", "resume=auto") == 2
    assert "run is being trained by another process" in one_sentence(capsys.readouterr().err)
    other.kill()
    other.wait()
    assert train("vae", "run", "lightning.max_epochs=2", "resume=run/checkpoints/last.ckpt") == 0
    assert [row["epoch"] for row in table("run")] == ["1", "2"]


@pytest.mark.parametrize("option", ["lightning.precision=64-true", "data.dtype=float64"])
def test_rows_take_the_precision_of_the_networks(option):
    assert train("vae", "run", "lightning.max_epochs=1", option) == 0
    kept = state("run")["state_dict"]["model.decoder.network.layers.0.weight"].dtype
    assert kept == (torch.float64 if "precision" in option else torch.float32)


def test_a_run_without_a_logger_leaves_its_table(place):
    assert train("vae", "run", "lightning.max_epochs=1", "~logger") == 0
    assert len(table("run")) == 1 and not list(place.glob("run/events*"))


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_goes_on(place, capsys):
    assert train("vae", "whole", "lightning.max_epochs=3") == 0
    assert train("vae", "run", "lightning.max_epochs=2") == 0
    path = place / "run" / "checkpoints" / "last.ckpt"
    good, run = path.read_bytes(), place / "copy"
    for damage in (good[: len(good) // 2], good[:-300] + bytes(300), _flipped(good), b""):
        path.write_bytes(damage)
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(place / "run", run)
        capsys.readouterr()
        assert train("vae", "copy", "lightning.max_epochs=3", "resume=auto") == 0
        said = one_sentence(capsys.readouterr().err)
        assert (
            "last.ckpt is damaged" in said
            and "going on from the one before it, last.ckpt.previous" in said
        ), said
        assert equal(state("whole")["state_dict"], state("copy")["state_dict"])
    path.with_name("last.ckpt.previous").write_bytes(b"")
    assert train("vae", "run", "lightning.max_epochs=3", "resume=auto") == 2
    assert "no whole one before it" in one_sentence(capsys.readouterr().err)
    with pytest.raises(ValueError, match="damaged"):
        AtomicCheckpointIO().load_checkpoint(path)


def _flipped(content):
    """One bit of a tensor turned over: the archive's directory is whole, its sums are not."""
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_a_checkpoint_is_replaced_whole_and_unpickles_no_code(place, monkeypatch):
    io, path = AtomicCheckpointIO(), place / "a.ckpt"
    io.save_checkpoint({"x": torch.ones(3)}, path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            io.save_checkpoint({"x": torch.zeros(3)}, path)
    assert torch.equal(io.load_checkpoint(path)["x"], torch.ones(3)) and {
        p.name for p in place.glob("*a.ckpt*")
    } == {"a.ckpt"}
    io.save_checkpoint({"x": torch.zeros(3)}, path)
    assert torch.equal(io.load_checkpoint(f"{path}.previous")["x"], torch.ones(3))
    torch.save({"x": subprocess.Popen}, path)
    with pytest.raises(ValueError, match="weights_only=True"):
        io.load_checkpoint(path)


@pytest.mark.parametrize(
    "poison",
    [
        {"_target_": "os.system", "_args_": ["touch poisoned"]},
        [[{"_target_": "subprocess.check_output", "_args_": [["touch", "poisoned"]]}]],
        {
            "_target_": "emgen.models.deep.latent_variable.torch.os.system",
            "_args_": ["touch poisoned"],
        },
        {
            "_target_": "emgen.models.deep.latent_variable.torch.load",
            "_args_": ["poisoned"],
            "weights_only": False,
        },
        {
            "_target_": "emgen.cli.folder.write_atomically",
            "path": {"_target_": "pathlib.Path", "_args_": ["poisoned"]},
            "text": "",
        },
        {"_target_": "ossified.system"},
    ],
    ids=[
        "a call",
        "in lists",
        "through our module",
        "through a trusted module",
        "a private part",
        "a name that begins like one",
    ],
)
def test_a_configuration_that_is_read_back_builds_nothing_but_models_and_data(
    place, capsys, poison
):
    assert train("vae", "run", "lightning.max_epochs=1") == 0
    path = place / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for part, key in (("model", "prior"), ("data", "dtype")):
        path.write_text(yaml.safe_dump({**config, part: {**config[part], key: poison}}))
        for command in ("evaluate", "sample", "export"):
            capsys.readouterr()
            assert emgen(command, "run=run", "trust=oss") == 2
            assert f"{part}.{key}" in capsys.readouterr().err
    assert not (place / "poisoned").exists()


def test_remembered_batches_that_would_be_shuffled_are_refused_without_a_trace(place, capsys):
    arguments = [
        "trainer=incremental_em",
        *POINTS,
        "lightning.max_epochs=2",
        f"paths.run_dir={place / 'run'}",
    ]
    assert emgen(*arguments) == 2
    assert "trainer: every=memo remembers batches" in one_sentence(capsys.readouterr().err)
    assert not (place / "run").exists()
    assert emgen(*arguments, "data.shuffle=false") == 0


def test_other_networks_and_fewer_epochs_are_refused_before_the_run_is_touched(place, capsys):
    assert train("vae", "run", "lightning.max_epochs=2") == 0
    before = {p: p.read_bytes() for p in (place / "run").rglob("*") if p.is_file()}
    for option, said in (
        ("model.hidden=[7]", "model.hidden=[7]: run was trained with [6]"),
        ("trainer=gan", "trainer._target_="),
        (
            "data._target_=emgen.data.digits",
            "data._target_=emgen.data.digits: run was trained with emgen.data.file",
        ),
        ("trainer.optimizer._target_=torch.optim.SGD", "was trained with torch.optim.Adam"),
        ("lightning.max_epochs=1", "lightning.max_epochs=1: "),
    ):
        capsys.readouterr()
        assert emgen("resume=run", option) == 2
        assert said in one_sentence(capsys.readouterr().err)
    assert all(p.read_bytes() == content for p, content in before.items())
    summary = json.loads((place / "run" / "summary.json").read_text())
    assert emgen("resume=run") == 0  # nothing is left to do, and all that was known stays known
    assert json.loads((place / "run" / "summary.json").read_text()) == summary


def test_what_is_asked_of_a_resumed_run_is_asked_of_its_own_trainer(place, capsys):
    """`trainer.steps` is no key of the default trainer; chains on three temperatures cannot go on on four."""
    tempered = [
        "trainer=parallel_tempering",
        "trainer.rungs=3",
        "model=boltzmann_machine",
        "model.hidden=4",
    ]
    rest = [a for a in SMALL if not a.startswith("model.")]
    assert emgen(*tempered, *rest, "paths.run_dir=run", "lightning.max_epochs=1") == 0
    assert emgen("resume=run", "trainer.steps=2", "lightning.max_epochs=2") == 0
    config = yaml.safe_load((place / "run" / "config.yaml").read_text())
    assert (config["trainer"]["steps"], config["trainer"]["rungs"]) == (2, 3)
    capsys.readouterr()
    assert emgen("resume=run", "trainer.rungs=4", "lightning.max_epochs=3") == 2
    assert "trainer.rungs=4: run was trained with 3" in one_sentence(capsys.readouterr().err)
    assert yaml.safe_load((place / "run" / "config.yaml").read_text()) == config


def test_the_bound_of_a_deep_belief_net_is_reported_before_and_after_fine_tuning_however_seldom_else(
    place,
):
    options = [
        *TRAINERS["up_down"],
        "model.hidden=[4,3]",
        "callbacks.metrics.every_n_epochs=50",
        "lightning.max_epochs=4",
    ]
    assert emgen("trainer=up_down", *options, "paths.run_dir=run") == 0
    with open(place / "run" / "metrics.csv", encoding="utf-8") as file:
        scored = [int(row["epoch"]) for row in csv.DictReader(file) if row["val/elbo"]]
    assert scored == [2, 4]  # one greedy epoch for each of two layers, then two of fine-tuning


# ---- parts of one's own ------------------------------------------------------------------------


MYMOD = """
import torch
from torch import nn
from emgen.models import Conditional, DeepLatentModel, MLP, StandardNormal
from emgen.models import heads

def net(event_shape, width=5):
    decoder, encoder = MLP((2,), (width,)), MLP(event_shape, (width,))
    return DeepLatentModel(StandardNormal(2), Conditional(decoder, heads.Bernoulli(width, event_shape)),
                           Conditional(encoder, heads.Gaussian(width, (2,))))
"""


def test_a_model_from_the_current_folder_an_option_of_ones_own_and_a_sweep(place, capsys):
    (place / "mymod.py").write_text(MYMOD)
    (place / "mine" / "model").mkdir(parents=True)
    (place / "mine" / "model" / "own.yaml").write_text("_target_: mymod.net\nwidth: 7\n")
    (place / "mine" / "model" / "dense.yaml").write_text("_target_: mymod.net\n")
    small = [a for a in SMALL if not a.startswith("model.")]
    small += ["lightning.max_epochs=1"]
    assert (
        emgen(
            "--config-dir",
            "mine",
            "-m",
            "trainer=vae,gan",
            "model=own",
            *small,
            "paths.sweep_dir=runs",
        )
        == 0
    )
    assert (
        "dense.yaml is not read, for emgen has a model=dense of its own" in capsys.readouterr().err
    )
    runs = sorted(p.parent for p in place.glob("runs/**/summary.json"))
    assert [json.loads((run / "summary.json").read_text())["trainer"] for run in runs] == [
        "gan",
        "vae",
    ]
    assert state(runs[0])["state_dict"]["model.decoder.network.layers.0.weight"].shape == (7, 2)
    assert (
        emgen(
            "model=custom",
            "model._target_=mymod.net",
            "+model.width=3",
            *small,
            "paths.run_dir=own",
        )
        == 0
    )
    assert emgen("evaluate", "run=own") == 2
    assert "outside emgen.models, emgen.data" in one_sentence(capsys.readouterr().err)
    assert emgen("evaluate", "run=own", "trust=[mymod]", "samples=2") == 0


def test_a_module_that_is_there_and_broken_is_not_called_missing(place, capsys):
    """Each under a name of its own, as Python remembers what it has imported."""
    for name, source, said in (
        (
            "wrongly_written",
            "def f(:",
            "ends in SyntaxError: invalid syntax (wrongly_written.py, line 1)",
        ),
        (
            "wants_more",
            "import nothere_",
            "ModuleNotFoundError: No module named 'nothere_' (wants_more.py, line 1)",
        ),
        ("divides", "\n1 / 0", "ends in ZeroDivisionError: division by zero (divides.py, line 2)"),
        ("empty_one", "", "empty_one.net cannot be imported (No module named 'empty_one.net'"),
    ):
        (place / f"{name}.py").write_text(source)
        assert emgen("model=custom", f"model._target_={name}.net", "paths.run_dir=run") == 2
        assert said in one_sentence(capsys.readouterr().err)


def test_a_sweep_goes_on_after_a_failure_and_says_so(place, capsys):
    arguments = ["-m", "trainer=em,vae", *SMALL, "lightning.max_epochs=1", "paths.sweep_dir=runs"]
    assert emgen(*arguments) != 0
    assert "EM needs a model that serves Conjugate" in capsys.readouterr().err
    assert [json.loads(p.read_text())["trainer"] for p in place.glob("runs/**/summary.json")] == [
        "vae"
    ]


# ---- in a process of its own -------------------------------------------------------------------


def test_signals_and_exit_codes_of_the_real_process(place):
    """`python -m emgen` in the middle of a long run: SIGTERM gives 143, Ctrl-C 130, both with a checkpoint to go on from."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(entry.__file__).parents[2]),
    }
    long = [sys.executable, "-m", "emgen", "trainer=vae", *SMALL, "lightning.max_epochs=1000000"]
    started = {
        s: subprocess.Popen(
            [*long, f"paths.run_dir={s.name}"], env=environment, stderr=subprocess.PIPE, text=True
        )
        for s in (signal.SIGTERM, signal.SIGINT)
    }
    for signum, process in started.items():
        metrics, deadline = place / signum.name / "metrics.csv", time.monotonic() + 200
        while not metrics.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signum)
    for signum, process in started.items():
        _, said = process.communicate(timeout=200)
        assert process.returncode == 128 + signum, said
        assert (
            f"continue with: emgen resume={place / signum.name}" in one_sentence(said)
            or f"resume={signum.name}" in said
        )
        assert (
            status(signum.name)["status"] == "interrupted"
            and state(signum.name)["emgen"]["iteration"] > 0
        )


def test_a_corpus_is_validated_scored_and_evaluated_document_by_document(place, capsys):
    """log p of each document is Σ_w n_dw log Σ_k θ_dk φ_kw; the rows that are asked for are documents."""
    corpus = [
        "trainer=vbem",
        "model=topic_model",
        "model.documents=30",
        "model.words=300",
        "model.topics=3",
        "model.alpha=.5",
        "model.beta=.1",
        "data=corpus",
        "data.documents=30",
        "data.words=300",
        "lightning.max_epochs=2",
    ]
    quiet = [
        "callbacks.figures=null",
        "callbacks.progress=null",
        "lightning.accelerator=cpu",
        "paths.run_dir=run",
    ]
    assert emgen(*corpus, *quiet, "evaluation.rows=20", "callbacks.metrics.rows=5") == 0
    weights = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    words = (weights["model.proportions.mean"] @ weights["model.topics.mean"]).double().log()
    document, word, count = text.corpus(documents=30, words=300).split("test").T
    own = torch.zeros(30).double().index_add(0, document, count * words[document, word])
    metrics = json.loads(Path("run/summary.json").read_text())
    assert metrics["rows"] == 20
    assert metrics["metrics"]["val/log_likelihood"] == pytest.approx(
        own[:5].mean().item(), rel=1e-6
    )
    assert metrics["metrics"]["test/log_likelihood"] == pytest.approx(
        own[:20].mean().item(), rel=1e-6
    )
    for rows, n in (("1", 1), ("7", 7), ("null", 30)):
        capsys.readouterr()
        assert (
            emgen(
                "evaluate", "run=run", f"rows={rows}", "checkpoint=last", "draws=9", "split=train"
            )
            == 0
        )
        found = json.loads(Path("run/evaluation.json").read_text())
        assert found["rows"] == n and f"{n} train documents" in capsys.readouterr().out
        score = found["metrics"]["train/log_likelihood"]
        assert score["value"] == pytest.approx(own[:n].mean().item(), rel=1e-6)
        assert score["error"] == (
            None if n == 1 else pytest.approx((own[:n].std() / n**0.5).item(), rel=1e-6)
        )
        assert list(found["metrics"]) == [
            "train/log_likelihood"
        ]  # entries are no points, so no samples are compared
