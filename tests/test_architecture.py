"""The shape of the package, read from its source: who may import whom, what a public name owes."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "emgen"
FILES = sorted(PACKAGE.rglob("*.py"))

# what each part may import; `models` and `data` are leaves that only those who run things combine
BELOW = {
    "roles": (),
    "randomness": (),
    "distributions": (),
    "families": ("distributions",),
    "divergences": ("distributions", "families"),
    "estimators": ("roles", "distributions", "families", "divergences"),
    "objectives": ("roles", "distributions", "families", "divergences", "estimators"),
    "optim": ("roles",),
    "schedules": (),
    "models": ("roles", "distributions", "families", "divergences.bregman"),
    "data": ("randomness", "distributions"),
    "figures": (
        "roles",
        "randomness",
        "distributions",
        "families",
        "divergences",
        "estimators",
        "models",
    ),
    "trainers": (
        "roles",
        "randomness",
        "optim",
        "distributions",
        "families",
        "divergences",
        "estimators",
        "objectives",
        "data.base",
        "evaluation.codes",
        "evaluation.scores",
    ),
}
# the top floor: evaluation, callbacks, sklearn and the command line may import everything below and one another
TOP = {
    "evaluation",
    "callbacks",
    "sklearn",
    "cli",
    "errors",
    "options",
    "runtime",
    "fitting",
    "testing",
    "__main__",
    "__init__",
}
MAY_IMPORT = {
    "pytorch_lightning": ("trainers/", "callbacks/", "data/", "cli/", "fitting.py"),
    "lightning_fabric": ("trainers/", "callbacks/", "data/", "cli/", "fitting.py"),
    "hydra": ("cli/",),
    "omegaconf": ("cli/",),
    "sklearn": ("sklearn/", "data/", "evaluation/"),
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(path: Path) -> str:
    """The folder or module directly below emgen/ that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every dotted module that a file imports, those inside functions too; `from emgen.models import heads` gives both."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} imports relatively: write the whole name"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def bases(node: ast.ClassDef) -> list[str]:
    return [ast.unparse(b).split("[")[0].rpartition(".")[2] for b in node.bases]


def methods(node: ast.ClassDef) -> dict[str, ast.FunctionDef]:
    return {f.name: f for f in node.body if isinstance(f, ast.FunctionDef)}


def leaves_to_others(function: ast.FunctionDef) -> bool:
    """Whether a method raises NotImplementedError, which says that a class derived from its own must write it."""
    raised = [
        ast.unparse(n.exc)
        for n in ast.walk(function)
        if isinstance(n, ast.Raise) and n.exc is not None
    ]
    return any(r.startswith("NotImplementedError") for r in raised)


def owner_has_heirs(module: ast.Module, method: ast.FunctionDef) -> bool:
    owners = {c.name for c in ast.walk(module) if isinstance(c, ast.ClassDef) and method in c.body}
    return any(
        owners & set(bases(c))
        for f in FILES
        for c in ast.walk(tree(f))
        if isinstance(c, ast.ClassDef)
    )


def literal_all(module: ast.Module) -> list[str] | None:
    for node in module.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets
        ):
            return ast.literal_eval(node.value)
    return None


parametrised = pytest.mark.parametrize("path", FILES, ids=name)


@parametrised
def test_imports_run_one_way(path):
    here = part(path)
    assert here in BELOW or here in TOP, (
        f"emgen/{here} is not placed in the order of imports: add it to BELOW or TOP"
    )
    ours = {m.removeprefix("emgen.") for m in imports(path) if m.startswith("emgen.")}
    ours = {
        m
        for m in ours
        if (PACKAGE / m.split(".")[0]).is_dir() or (PACKAGE / f"{m.split('.')[0]}.py").exists()
    }
    if here in BELOW:
        allowed = (here, *BELOW[here])
        wrong = {
            m
            for m in ours
            if not any(m == a or m.startswith(f"{a}.") or a.startswith(f"{m}.") for a in allowed)
        }
        assert not wrong, (
            f"{name(path)} imports {sorted(wrong)}; {here} may import {', '.join(BELOW[here]) or 'nothing of ours'}"
        )
    else:
        wrong = {m for m in ours if m.split(".")[0] in ("cli", "__main__")}
        wrong = set() if here in ("cli", "__main__") else wrong
        assert not wrong, (
            f"{name(path)} imports {sorted(wrong)}: nothing but the command line stands above it"
        )


def modules_of(path: Path) -> set[Path]:
    """The files of ours that a file imports, inside functions too, but for what only a type checker reads."""
    nodes = [tree(path)]
    found = set()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for each in names:
            words = each.split(".")
            candidates = [ROOT.joinpath(*words[:n]) for n in (len(words), len(words) - 1) if n]
            files = [file for c in candidates for file in (c.with_suffix(".py"), c / "__init__.py")]
            found |= set([file for file in files if file in FILES][:1])
        nodes += ast.iter_child_nodes(node)
    return found - {path}


def test_imports_have_no_circle():
    """Taken file by file; a package's own __init__, which gathers its public names, is not followed from inside it."""
    graph = {
        path: {
            m
            for m in modules_of(path)
            if not (m.name == "__init__.py" and m.parent in path.parents)
        }
        for path in FILES
        if path.name != "__init__.py" or path.parent != PACKAGE
    }
    while graph:
        free = [path for path, needed in graph.items() if not needed & graph.keys()]
        assert free, f"a circle of imports among {sorted(name(p) for p in graph)}"
        graph = {path: needed for path, needed in graph.items() if path not in free}


@parametrised
def test_frameworks_stay_in_their_places(path):
    inside = path.relative_to(PACKAGE).as_posix()
    for framework, places in MAY_IMPORT.items():
        if any(m.split(".")[0] == framework for m in imports(path)):
            assert inside.startswith(places), (
                f"{name(path)} imports {framework}, which belongs to {', '.join(places)}"
            )


@parametrised
def test_nothing_is_left_undone(path):
    text = path.read_text(encoding="utf-8")
    for word in ("TO" + "DO", "FIX" + "ME", "XXX"):
        assert word not in text, f"{name(path)} says {word}"
    module = tree(path)
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and leaves_to_others(node):
            assert owner_has_heirs(module, node), (
                f"{name(path)}:{node.lineno} raises NotImplementedError for nobody"
            )


@parametrised
def test_a_file_is_docstring_all_imports_then_code(path):
    module = tree(path)
    assert ast.get_docstring(module), f"{name(path)} has no docstring"
    if path.name in ("__init__.py", "__main__.py"):
        return
    kinds = []
    for node in module.body[1:]:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            kinds += [] if future else ["imports"]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            kinds.append("__all__")
        else:
            kinds.append("code")
    order = ["__all__", "imports", "code"]
    assert "__all__" in kinds, f"{name(path)} has no __all__"
    assert kinds == sorted(kinds, key=order.index), (
        f"{name(path)}: the order is docstring, __all__, imports, code"
    )


@parametrised
def test_public_names_exist_and_say_what_they_are(path):
    module, public = tree(path), literal_all(tree(path))
    if public is None:
        return
    defined = {n.name: n for n in module.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    assigned = {
        t.id
        for n in module.body
        if isinstance(n, (ast.Assign, ast.AnnAssign))
        for t in (n.targets if isinstance(n, ast.Assign) else [n.target])
        if isinstance(t, ast.Name)
    }
    imported = {
        a.asname or a.name
        for n in ast.walk(module)
        if isinstance(n, (ast.Import, ast.ImportFrom))
        for a in n.names
    }
    assert len(public) == len(set(public)), f"{name(path)}: a name stands twice in __all__"
    for each in public:
        assert each in defined or each in assigned or each in imported, (
            f"{name(path)}: __all__ names {each}, which is not there"
        )
        if each in defined:
            assert ast.get_docstring(defined[each]), (
                f"{name(path)}: {each} is public and has no docstring"
            )


@parametrised
def test_importing_changes_no_global_state_of_torch(path):
    for node in tree(path).body:
        for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                continue
            called = ast.unparse(call.func)
            assert not called.startswith(
                ("torch.set_", "torch.manual_seed", "torch.backends", "torch.use_deterministic")
            ), f"{name(path)}:{call.lineno} calls {called} when it is imported"
        if isinstance(node, ast.Assign):
            assert not ast.unparse(node.targets[0]).startswith("torch."), (
                f"{name(path)}:{node.lineno} assigns into torch"
            )


def test_compose_do_not_inherit():
    """No concrete class of the package has a concrete class of the package as its base.

    Abstract are Protocols, ABCs, classes with a method that is left to others, and `Trainer`, which has no schedule.
    """
    for path in FILES:
        module = tree(path)
        here = {n.name: (n, path) for n in module.body if isinstance(n, ast.ClassDef)}
        for node in ast.walk(module):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("emgen"):
                here |= {
                    a.asname or a.name: found
                    for a in node.names
                    if (found := definition(node.module, a.name))
                }
        for node in (n for n in ast.walk(module) if isinstance(n, ast.ClassDef)):
            for base in bases(node):
                if base in here:
                    assert is_abstract(here[base][0]), (
                        f"{name(path)}: {node.name} inherits from concrete {base}: compose"
                    )


def definition(module: str, wanted: str) -> tuple[ast.ClassDef, Path] | None:
    """The class of that name in a module of ours, followed through the folder's __init__."""
    place = ROOT / module.replace(".", "/")
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    for node in tree(path).body if path.exists() else ():
        if isinstance(node, ast.ClassDef) and node.name == wanted:
            return node, path
        if isinstance(node, ast.ImportFrom) and node.module != module:
            for alias in node.names:
                if (alias.asname or alias.name) == wanted:
                    return definition(node.module, alias.name)
    return None


def is_abstract(node: ast.ClassDef) -> bool:
    left = any(
        leaves_to_others(m) or "abstractmethod" in map(ast.unparse, m.decorator_list)
        for m in methods(node).values()
    )
    return left or node.name == "Trainer" or bool({"Protocol", "ABC"} & set(bases(node)))


def test_every_package_is_shipped(root):
    import tomllib

    shipped = set(
        tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    ours = {
        ".".join(p.parent.relative_to(root).parts) for p in FILES if p.name == "__init__.py"
    } | {"emgen.configs"}
    assert ours <= shipped, f"pyproject.toml does not ship {sorted(ours - shipped)}"
    missing = {
        p
        for p in shipped - {"emgen.configs"}
        if not (root / p.replace(".", "/") / "__init__.py").exists()
    }
    assert not missing, f"pyproject.toml ships {sorted(missing)}, which are not there"


def test_importing_the_package_leaves_torch_as_it_was(root):
    """In a process of its own: nothing is seeded, no default is changed, and a user's `import emgen` costs no framework."""
    import subprocess
    import sys

    code = (
        "import torch, sys;"
        "state = lambda: (torch.random.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads());"
        "before = state();"
        "import emgen.models, emgen.divergences, emgen.objectives, emgen.estimators, emgen.families;"
        "assert state() == before;"
        "loaded = {m for m in ('hydra', 'sklearn', 'matplotlib') if m in sys.modules}; assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
