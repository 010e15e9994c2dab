"""Run folders: nothing of a user's is deleted or written over, one process at a time, and a record is read, not obeyed."""

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
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

from emgen.cli import entry, training
from emgen.cli.folder import LOCK, OURS, RunFolder, status_of, write_atomically
from emgen.data import Data
from emgen.data.fingerprint import Fingerprint, fingerprint
from emgen.errors import UserError

PAIR = [
    "trainer=vae",
    "model.hidden=[6]",
    "model.latent=2",
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
    "lightning.max_epochs=1",
]
MIXTURE = [
    "trainer=em",
    "model=gaussian_mixture",
    "data=old_faithful",
    "callbacks.progress=null",
    "lightning.accelerator=cpu",
    "lightning.max_epochs=2",
]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(entry.__file__).parents[2]),
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).random((40, 1, 4, 4)).astype("float32"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["emgen"])
    monkeypatch.setattr(entry, "_failures", [])
    handlers = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    yield tmp_path
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of one epoch, to be copied: what is tried on a run is tried on its own copy."""
    home = tmp_path_factory.mktemp("trained")
    np.save(home / "rows.npy", np.random.default_rng(0).random((40, 1, 4, 4)).astype("float32"))
    with contextlib.chdir(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        patch.setattr(sys, "argv", ["emgen"])
        patch.setattr(entry, "_failures", [])
        assert emgen(*PAIR, "paths.run_dir=run") == 0
    return home / "run"


@pytest.fixture
def run(trained, place):
    """The finished run, as `run` in the current folder."""
    return Path(shutil.copytree(trained, place / "run"))


def emgen(*arguments):
    """The exit code of a command run in this process."""
    with pytest.raises(SystemExit) as exit:
        entry.main(arguments)
    return exit.value.code or 0


def everything(folder):
    """Each path below a folder with its content, so that two looks can be compared."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in Path(folder).rglob("*")
    }


def assert_lines(text, *parts):
    said = [line for line in text.splitlines() if line.startswith("emgen: ")]
    assert len(said) == 1 and "Traceback" not in text, text
    for part in parts:
        assert part in said[0], said[0]


# ---- a refusal touches nothing -----------------------------------------------------------------

REFUSED = {
    "a file that is not there": ["trainer=vae", "data=file", "data.path=typo.npy"],
    "data that a model cannot have made": ["trainer=vae", "data=weather"],
    "a trainer that does not fit": ["trainer=em", "data=file", "data.path=rows.npy"],
    "an unknown key": ["trainer=vae", "trainer.lerning_rate=1"],
    "a missing value": ["trainer=vae", "model=custom"],
    "a rate that is no number": [
        "trainer=vae",
        "data=file",
        "data.path=rows.npy",
        "trainer.optimizer.lr=fast",
    ],
    "a callback that cannot be built": [*PAIR, "+callbacks.mine._target_=nowhere.Mine"],
    "a Trainer that refuses": [*PAIR, "lightning.accumulate_grad_batches=many"],
}


@pytest.mark.parametrize("arguments", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("folder", ["thesis", "deep/down/thesis", "."])
def test_a_refused_run_leaves_a_users_folder_as_it_was(place, capsys, arguments, folder):
    home = place / "home"
    (home / folder).mkdir(parents=True)
    (home / folder / "chapter1.tex").write_text("x")
    (home / folder / "notes").mkdir(exist_ok=True)
    os.chdir(home)
    before = everything(place)
    asked = [a.replace("data.path=rows.npy", f"data.path={place / 'rows.npy'}") for a in arguments]
    assert emgen(*asked, f"paths.run_dir={folder}") == 2
    assert everything(place) == before
    assert_lines(capsys.readouterr().err, "emgen: ")


def test_an_empty_folder_of_a_users_stays_and_one_that_was_made_here_goes(place):
    (place / "empty").mkdir()
    for folder in ("empty", "made"):
        assert (
            emgen("trainer=vae", "data=file", "data.path=typo.npy", f"paths.run_dir={folder}") == 2
        )
    assert (place / "empty").is_dir() and not (place / "made").exists()


@pytest.mark.parametrize("name", [name for name in OURS if name != ".hydra"])
def test_a_file_of_a_users_that_a_run_would_write_over_is_kept(place, capsys, name):
    (place / "mine").mkdir()
    (place / "mine" / name).write_text("mine")
    before = everything(place)
    assert emgen(*MIXTURE, "paths.run_dir=mine") == 2
    assert everything(place) == before
    assert_lines(capsys.readouterr().err, "paths.run_dir=mine", "name another folder")


def test_a_run_beside_files_of_a_users_leaves_them(place):
    (place / "mine").mkdir()
    (place / "mine" / "chapter1.tex").write_text("x")
    assert emgen(*MIXTURE, "paths.run_dir=mine") == 0
    assert (place / "mine" / "chapter1.tex").read_text() == "x" and (
        place / "mine" / "summary.json"
    ).exists()
    assert {p.name for p in (place / "mine" / ".hydra").iterdir()} == {
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    }


def test_a_refused_job_of_a_sweep_deletes_nothing(place):
    (place / "runs").mkdir()
    (place / "runs" / "chapter1.tex").write_text("x")
    assert (
        emgen("-m", "trainer=vae,iwae", "data=file", "data.path=typo.npy", "paths.sweep_dir=runs")
        == 2
    )
    assert (place / "runs" / "chapter1.tex").read_text() == "x"
    assert not list(place.glob("runs/**/status.json")) and not list(place.glob(f"runs/**/{LOCK}"))
    assert not list(place.glob("runs/*/*"))  # no folder of a job


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(place, run):
    before = everything(place / "run")
    for wrong in (
        "data.path=typo.npy",
        "trainer.optimizer.lr=nan",
        "+callbacks.mine._target_=nowhere.Mine",
    ):
        assert emgen("resume=run", "lightning.max_epochs=2", wrong) == 2
        assert everything(place / "run") == before


# ---- one process at a time ---------------------------------------------------------------------


def test_a_second_start_is_refused_and_the_first_ends_whole(place, capsys):
    """Two processes: this one comes while the first is in its first epoch, before any checkpoint."""
    asked = [*PAIR, "lightning.max_epochs=1000000", "paths.run_dir=same"]
    running = multiprocessing.get_context("fork").Process(target=entry.main, args=(asked,))
    running.start()
    _wait_for(place / "same" / LOCK, running)
    for extra in ([], ["resume=auto"]):
        capsys.readouterr()
        assert emgen(*asked, *extra) == 2
        said = capsys.readouterr().err
        assert "is being trained by another process" in said or "already holds a run" in said
    _wait_for(place / "same" / "metrics.csv", running)
    os.kill(running.pid, signal.SIGTERM)
    running.join(timeout=300)
    assert running.exitcode == 143
    held = {p.name for p in (place / "same").iterdir()}
    written = {".hydra", "config.yaml", "checkpoints", "metrics.csv", "status.json"}
    assert written <= held and LOCK not in held
    assert status_of(place / "same") == "interrupted"


def _wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)


def _claims(path, start, won):
    folder = RunFolder(path)
    start.wait()
    try:
        folder.claim()
        won.put(os.getpid())
        time.sleep(2)
        folder.release()
    except UserError:
        won.put(None)


def test_of_many_that_claim_at_once_one_wins(place):
    context = multiprocessing.get_context("fork")
    start, won = context.Event(), context.Queue()
    many = [context.Process(target=_claims, args=(place / "one", start, won)) for _ in range(8)]
    for process in many:
        process.start()
    start.set()
    answers = [won.get(timeout=60) for _ in many]
    for process in many:
        process.join()
    assert sum(answer is not None for answer in answers) == 1
    assert not (place / "one").exists()


def _no_locks(handle, operation):
    raise OSError(errno.ENOLCK, "No locks available")


def _finds(path, start, found):
    start.wait()
    folder = RunFolder.new(path)
    found.put(str(folder.path.name))


@pytest.mark.parametrize("locks", [True, False])
def test_runs_that_start_in_one_second_have_a_folder_each(place, monkeypatch, locks):
    """On a disk without locks too, such as one that several machines share: making a folder decides."""
    if not locks:
        monkeypatch.setattr(fcntl, "flock", _no_locks)
    context = multiprocessing.get_context("fork")
    start, found = context.Event(), context.Queue()
    many = [
        context.Process(target=_finds, args=(place / "runs" / "now", start, found))
        for _ in range(6)
    ]
    for process in many:
        process.start()
    start.set()
    names = sorted(found.get(timeout=60) for _ in many)
    for process in many:
        process.join()
    assert names == ["now", *(f"now-{number}" for number in range(2, 7))]


def test_a_run_without_a_named_folder_finds_one_and_all_of_it_is_there(place, monkeypatch):
    """The folder that was found, not the one of the name that came first, which is another run's."""
    new = RunFolder.new
    monkeypatch.setattr(entry.RunFolder, "new", lambda path: new(f"{path}-other"))
    assert emgen(*MIXTURE, "paths.sweep_dir=runs") == 0
    (run,) = place.glob("runs/em-gaussian_mixture-old_faithful/*")
    assert run.name.endswith("-other") and (run / "summary.json").exists()
    assert len(list(run.glob("events.out.*"))) == 1
    assert yaml.safe_load((run / "config.yaml").read_text())["paths"]["run_dir"] == str(
        run.relative_to(place)
    )


def test_sweeps_of_one_name_have_a_folder_for_each_job(place):
    for _ in range(2):
        names = ["paths.run_dir=same", "paths.sweep_dir=runs"]
        assert emgen("-m", *MIXTURE, "callbacks.figures=null", "seed=1,2", *names) == 0
    found = sorted(path.name for path in place.glob("same*"))
    assert found == ["same-0", "same-0-2", "same-1", "same-1-2"]
    for run in found:
        assert len(list((place / run).glob("events.out.*"))) == 1
        hydra = yaml.safe_load((place / run / ".hydra" / "hydra.yaml").read_text())
        assert hydra["hydra"]["runtime"]["output_dir"] == str(place / run)


def test_a_lock_of_a_process_that_was_killed_does_not_hold(place):
    folder = place / "run"
    folder.mkdir()
    (folder / LOCK).touch()
    claimed = RunFolder(folder)
    claimed.claim()
    with pytest.raises(UserError, match="being trained"):
        RunFolder(folder).claim()
    claimed.release()
    RunFolder(folder).claim()
    assert (folder / LOCK).exists()  # which this process did not make


def test_a_run_whose_number_went_to_another_process_is_not_running(place):
    """The process of that number was born after the run last wrote of itself."""
    run = place / "run"
    run.mkdir()
    content = {"status": "running", "message": "", "pid": os.getppid(), "host": os.uname().nodename}
    (run / "status.json").write_text(json.dumps(content))
    assert status_of(run) == "running"
    os.utime(run / "status.json", (1e9, 1e9))
    assert status_of(run) == "interrupted"
    with open(run / LOCK, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert status_of(run) == "running"


def test_what_is_written_replaces_a_link_and_does_not_follow_it(place):
    (place / "secret").write_text("secret")
    (place / "status.json").symlink_to(place / "secret")
    write_atomically(place / "status.json", "{}")
    assert (place / "secret").read_text() == "secret" and (
        place / "status.json"
    ).read_text() == "{}\n"
    assert sorted(p.name for p in place.iterdir()) == ["rows.npy", "secret", "status.json"]


# ---- a record is read, not obeyed --------------------------------------------------------------

PAYLOADS = [
    "+logger.w={_target_:pytorch_lightning.loggers.WandbLogger,offline:false}",
    "+logger.m={_target_:pytorch_lightning.loggers.MLFlowLogger,tracking_uri:'http://127.0.0.1:9'}",
    "+lightning.profiler={_target_:pytorch_lightning.profilers.SimpleProfiler,dirpath:poisoned}",
    "+callbacks.evil={_target_: joblib.load, filename: run/evil.pkl}",
    "+callbacks.evil={_target_: numpy.load, file: run/evil.npy, allow_pickle: true}",
    "+callbacks.evil={_target_: torch.load, f: run/evil.pkl, weights_only: false}",
    "+callbacks.evil={_target_: torch.hub.load, repo_or_dir: run, model: evil, source: local}",
    "+callbacks.evil={_target_: shutil.copy, src: rows.npy, dst: poisoned}",
    "+callbacks.evil={_target_: os.makedirs, name: poisoned}",
    "+callbacks.evil={_target_: io.open, file: poisoned, mode: w}",
    "+callbacks.evil={_target_: evilmod.Evil}",
    "+trainer.optimizer.lr={_target_: os.makedirs, name: poisoned}",
    "+trainer.evil=[[{_target_: os.makedirs, name: poisoned}]]",
    "+lightning.profiler={_target_: os.makedirs, name: poisoned}",
    "logger={_target_: os.makedirs, name: poisoned}",
    "+evil.x={_target_: os.makedirs, name: poisoned}",
    "+callbacks.evil={_target_: emgen.callbacks.metrics.write_csv, path: poisoned, history: []}",
    "+callbacks.evil={_target_: emgen.callbacks.metrics.Path.mkdir, self: poisoned}",
    "hydra.searchpath=[file://run]",
    "hydra.job.env_set={EVIL: '1'}",
    "+hydra.callbacks.evil={_target_: os.makedirs, name: poisoned}",
    "++hydra.callbacks.evil._target_=evilmod.Evil",
    "hydra/launcher=joblib",
    "+callbacks@hydra.callbacks=default",
    "hydra.job_logging.handlers={evil: {(): os.makedirs, name: poisoned}}",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_strangers_record_names_is_not_executed(place, run, capsys, payload):
    (place / "evilmod.py").write_text("import os\nos.makedirs('poisoned')\nclass Evil: pass\n")
    record = place / "run" / ".hydra" / "overrides.yaml"
    record.write_text(
        yaml.safe_dump(
            [*yaml.safe_load(record.read_text()), payload, "trust=[os]", "+trust=[evilmod]"]
        )
    )
    before = everything(place)
    capsys.readouterr()
    for extra in (["resume=run"], ["resume=run/checkpoints/last.ckpt", "lightning.max_epochs=2"]):
        assert emgen(*extra) == 2
        said = capsys.readouterr().err
        refusals = (
            "if you trust it, add trust=[",
            "never reaches into Hydra",
            "unknown key",
            "which is no override",
        )
        assert any(refusal in said for refusal in refusals), said
    assert not (place / "poisoned").exists()
    assert {k: v for k, v in everything(place).items() if "__pycache__" not in k} == before


def test_what_this_command_line_trusts_is_built(place):
    (place / "ownmod.py").write_text(
        "import pytorch_lightning as L\nclass Mine(L.Callback):\n    def on_train_start(self, *a): open('built', 'w')\n"
    )
    assert emgen(*PAIR, "paths.run_dir=run", "+callbacks.mine._target_=ownmod.Mine") == 0
    (place / "built").unlink()
    assert emgen("resume=run", "lightning.max_epochs=2") == 2
    assert not (place / "built").exists()
    assert emgen("resume=run", "lightning.max_epochs=2", "trust=[ownmod]") == 0
    assert (place / "built").exists()
    assert emgen("resume=run", "lightning.max_epochs=3", "callbacks.mine._target_=ownmod.Mine") == 0


# ---- a resumed run goes on with what it was ----------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        "data.seed=1",
        "data.test=0.3",
        "data.validation=0.3",
        "data.binarise=fixed",
        "data.scale=2",
        "data.path=x.npy",
    ],
)
def test_what_chooses_rows_cannot_change(place, run, capsys, asked):
    np.save("x.npy", np.load("rows.npy"))
    before = everything(place / "run")
    capsys.readouterr()
    for resumed in (["resume=run"], [*PAIR, "paths.run_dir=run", "resume=auto"]):
        assert emgen(*resumed, "lightning.max_epochs=2", asked) == 2
        assert_lines(capsys.readouterr().err, asked.partition("=")[0], "run was trained with")
    assert everything(place / "run") == before


def test_what_may_change_is_told(place, run, capsys):
    capsys.readouterr()
    assert (
        emgen("resume=run", "lightning.max_epochs=2", "trainer.free_energy.beta=4", "seed=3") == 0
    )
    (line,) = [
        s
        for s in capsys.readouterr().err.splitlines()
        if s.startswith("emgen: continuing run with ")
    ]
    for change in (
        "lightning.max_epochs=2 (was 1)",
        "trainer.free_energy.beta=4 (was 1.0)",
        "seed=3 (was 0)",
    ):
        assert change in line


@pytest.mark.parametrize("lost", ["seed=", "trainer.free_energy.beta=", "data.batch_size="])
def test_a_record_that_lost_a_line_is_noticed(place, capsys, lost):
    asked = [*PAIR, "seed=3", "trainer.free_energy.beta=4", "paths.run_dir=run"]
    assert emgen(*asked) == 0
    record = place / "run" / ".hydra" / "overrides.yaml"
    record.write_text(
        yaml.safe_dump([a for a in yaml.safe_load(record.read_text()) if not a.startswith(lost)])
    )
    capsys.readouterr()
    assert emgen("resume=run", "lightning.max_epochs=2") == 2
    assert_lines(capsys.readouterr().err, lost, "where config.yaml beside it says")
    given = next(a for a in asked if a.startswith(lost))
    assert emgen("resume=run", "lightning.max_epochs=2", given) == 0


@pytest.mark.parametrize("content", ["", "{}", "- 1", "- [a]", "a: [", "x", "- '&&&'"])
def test_a_record_that_is_none_is_told_in_a_sentence(place, run, capsys, content):
    (place / "run" / ".hydra" / "overrides.yaml").write_text(content)
    capsys.readouterr()
    assert emgen("resume=run", "lightning.max_epochs=2") == 2
    assert_lines(capsys.readouterr().err, "overrides.yaml")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["paths.run_dir=other"], "a run goes on in its own folder, run"),
        (["hydra.run.dir=other"], "a run goes on in its own folder, run"),
        (["-m", "seed=1,2"], "resume=run: the runs of a sweep start in folders of their own"),
    ],
)
def test_a_resume_goes_nowhere_else(place, run, capsys, asked, said):
    before = everything(place)
    assert emgen("resume=run", "lightning.max_epochs=2", *asked) == 2
    assert_lines(capsys.readouterr().err, said)
    assert everything(place) == before


# ---- a run can be moved, and knows its data ----------------------------------------------------

POINTS = [
    "trainer=em",
    "model=gaussian_mixture",
    "data=file",
    "data.path=points.npy",
    "callbacks.progress=null",
    "callbacks.figures=null",
    "lightning.accelerator=cpu",
    "lightning.max_epochs=2",
]


@pytest.fixture
def study(place):
    """A run that was made in the folder `study`, where its data lie: `study/run`."""
    (place / "study").mkdir()
    np.save(place / "study" / "points.npy", np.random.default_rng(0).normal(size=(100, 2)))
    os.chdir(place / "study")
    assert emgen(*POINTS, "paths.run_dir=run") == 0
    os.chdir(place)
    return place / "study"


def made(run):
    return yaml.safe_load((Path(run) / "config.yaml").read_text())["made"]


def test_a_run_is_used_from_anywhere_and_wherever_it_is_moved(place, study):
    (place / "far" / "away").mkdir(parents=True)
    shutil.move(study / "run", place / "far" / "run")
    os.chdir(place / "far" / "away")
    before = everything(place / "far" / "run")
    for command in ("evaluate", "sample", "export"):
        assert emgen(command, "run=../run") == 0
    after = everything(place / "far" / "run")
    assert {name: after[name] for name in before} == before
    assert emgen("resume=../run", "lightning.max_epochs=3") == 0
    assert json.loads((place / "far" / "run" / "summary.json").read_text())["epochs"] == 3
    config = yaml.safe_load((place / "far" / "run" / "config.yaml").read_text())
    assert config["data"]["path"] == "points.npy"  # as it was typed
    assert config["made"]["folder"] == str(study)


@pytest.mark.parametrize("where", ["moved with the run", "in the current folder"])
def test_data_that_were_moved_are_found(place, study, where):
    (place / "new").mkdir()
    if where == "moved with the run":
        study.rename(place / "new" / "study")
        run = "new/study/run"
    else:
        shutil.move(study / "points.npy", place / "new" / "points.npy")
        os.chdir(place / "new")
        run = "../study/run"
    assert emgen("evaluate", f"run={run}") == 0
    assert emgen("resume=" + run, "lightning.max_epochs=3") == 0
    data = Path(made(run)["folder"]) / "points.npy"
    assert data.exists()  # what is written down is what ran


def test_a_model_is_drawn_from_and_exported_without_its_data(place, study, capsys):
    """The same draws, bit for bit."""
    for command in ("sample", "export"):
        assert emgen(command, "run=study/run", f"output=with_{command}") == 0
    (study / "points.npy").unlink()
    for command in ("sample", "export"):
        assert emgen(command, "run=study/run", f"output=without_{command}") == 0
    for file in ("sample/samples.npy", "export/model.safetensors"):
        assert (place / f"with_{file}").read_bytes() == (place / f"without_{file}").read_bytes()
    assert (place / "without_sample" / "samples.png").exists()
    for command in (["evaluate", "run=study/run"], ["resume=study/run", "lightning.max_epochs=3"]):
        capsys.readouterr()
        assert emgen(*command) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"is neither in {study}, where the run was made, nor in the current folder" in said


def test_a_run_from_before_its_making_was_recorded_goes_on_as_it_did(place, study):
    os.chdir(study)
    path = study / "run" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    recorded = config.pop("made")
    path.write_text(yaml.safe_dump(config))
    for command in ("evaluate", "sample", "export"):
        assert emgen(command, "run=run") == 0
    assert emgen("resume=run", "lightning.max_epochs=3") == 0
    assert made("run") == recorded


@pytest.mark.parametrize("content", [1, {}, {"folder": 1}, "folder", []])
def test_a_making_that_cannot_be_read_is_told_in_a_sentence(place, study, capsys, content):
    path = study / "run" / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "made": content}))
    for command in ("evaluate", "sample", "export"):
        capsys.readouterr()
        assert emgen(command, "run=study/run") == 2
        assert_lines(capsys.readouterr().err, "config.yaml is damaged (made")


OTHERS = {
    "more rows": lambda x: np.r_[x, x],
    "one bit of one value": lambda x: np.where(
        np.arange(x.size).reshape(x.shape) == 7, x + 1e-6, x
    ),
    "another order": lambda x: x[::-1],
    "another scale": lambda x: 2 * x,
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_other_data_in_the_same_file_are_refused(place, study, capsys, change):
    rows, was = np.load(study / "points.npy"), made("study/run")["fingerprint"]
    np.save(study / "points.npy", change(rows))
    before = everything(study)
    for command in (["evaluate", "run=study/run"], ["resume=study/run", "lightning.max_epochs=3"]):
        capsys.readouterr()
        assert emgen(*command) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert "the data are not those that study/run was trained on: they are " in said
        assert (
            f"and were 80 train, 10 validation, 10 test rows of float32, checksum {was['checksum']}"
            in said
        )
        assert everything(study) == before
    np.save(study / "points.npy", rows)
    assert emgen("resume=study/run", "lightning.max_epochs=3") == 0


def test_a_fingerprint_tells_data_from_others_and_not_from_their_like_on_another_processor():
    """Values drawn by a formula may differ by round-off; of what is read from a file each bit counts."""
    x = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))

    def of(rows, **columns):
        return fingerprint(Data(rows, rows[:9], **columns))

    whole = of(x)
    assert whole == of(x.clone()) and whole.rows == {"train": 300, "validation": 9}
    assert Fingerprint(**yaml.safe_load(yaml.safe_dump(whole.plain()))) == whole

    rounded = of(x * (1 + 2**-23))
    assert whole.matches(rounded, exact=False) and not whole.matches(rounded, exact=True)
    moved = x.clone()
    moved[17, 3] += 0.1
    for other in (moved, x.flip(0), x.flip(1), -x, x[:-1]):
        assert not whole.matches(of(other), exact=False)
    for columns in ({"weight": torch.ones(300)}, {"length": torch.full((300,), 7)}):
        assert not whole.matches(of(x, **columns), exact=True)
    assert whole.matches(of(x.double()), exact=True)  # converted: the rows are counted alone
    assert not whole.matches(of(x[:-1].double()), exact=True)


def test_of_very_many_rows_blocks_from_the_first_to_the_last_are_looked_at(monkeypatch):
    monkeypatch.setattr("emgen.data.fingerprint.WHOLE", 0)
    monkeypatch.setattr("emgen.data.fingerprint.BLOCK", 64)
    x = torch.zeros(100_000, 4)
    whole = fingerprint(Data(x))
    seen = []
    for row in (0, 49_999, 99_999):
        other = x.clone()
        other[row] = 1
        seen.append(not whole.matches(fingerprint(Data(other)), exact=True))
    assert seen == [True, False, True] and whole == fingerprint(Data(x))
    assert not whole.matches(fingerprint(Data(x[:-1])), exact=True)


# ---- users' modules come last ------------------------------------------------------------------


def test_a_module_beside_the_user_stands_in_for_no_installed_one(place):
    """`random.py`, `types.py`, `sklearn.py`, ... in the current folder are not what emgen and its libraries import."""
    for name in ("random", "types", "sklearn", "safetensors", "yaml", "torchvision", "tempfile"):
        (place / f"{name}.py").write_text("open('poisoned', 'w')\n")
    done = subprocess.run(
        [sys.executable, "-m", "emgen", *MIXTURE, "paths.run_dir=run"],
        env={**ENVIRONMENT, "PYTHONSAFEPATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not (place / "poisoned").exists()


def test_sigterm_before_anything_is_trained_leaves_nothing_and_says_so(place, monkeypatch, capsys):
    def stopped(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(training, "check_support", stopped)
    assert emgen(*PAIR, "paths.run_dir=run") == 143
    assert_lines(
        capsys.readouterr().err, "stopped by SIGTERM before anything was saved; start it again"
    )
    assert not (place / "run").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fingerprint_leaves_the_rows_as_they_are(dtype):
    x = torch.tensor([[-1.0, float("nan")], [2.0, -3.0]], dtype=dtype)
    before = x.clone()
    fingerprint(Data(x))
    torch.testing.assert_close(x, before, rtol=0, atol=0, equal_nan=True)
