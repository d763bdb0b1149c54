"""Foreign packages as wheels in a clean environment: found, chosen by name and by ``auto``, used, and uninstalled."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from leyden_testing.clean_environment import CleanEnvironment, build_wheels, run

ROOT = Path(__file__).parents[2]
FOREIGN = ROOT / "examples" / "third_party"
# What each brings, and the arguments of a Trainer that has it.
BRINGS = {
    "leyden-gradient-norms": ("callback:GradientNormPercentiles", {"callbacks": ["GradientNormPercentiles"]}),
    "leyden-local-sgd": ("strategy:local_sgd", {"strategy": "local_sgd", "devices": 2}),
    "leyden-sqlite": ("logger:sqlite", {"logger": "sqlite"}),
    "leyden-toy-device": ("accelerator:toy", {"accelerator": "toy"}),
}
CLASSES = {
    "leyden-gradient-norms": "GradientNormPercentiles",
    "leyden-local-sgd": "LocalSGDStrategy",
    "leyden-sqlite": "SQLiteLogger",
    "leyden-toy-device": "ToyAccelerator",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of every distribution of this repository, foreign ones included."""
    folders = [
        path.parent
        for pattern in ("plugins/*", "examples/third_party/*")
        for path in ROOT.glob(f"{pattern}/pyproject.toml")
    ]
    return build_wheels(tmp_path_factory.mktemp("wheels"), ROOT, ROOT / "core", *sorted(folders))


@pytest.fixture(scope="module")
def environment(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> CleanEnvironment:
    environment = CleanEnvironment(tmp_path_factory.mktemp("environment"))
    environment.install(*wheels.values())
    return environment


def ask(environment: CleanEnvironment, cwd: Path, scenario: str, *arguments: Any, **environ: str) -> Any:
    """The answer of a scenario, run where the repository is not on the path."""
    for file in (ROOT / "tests/third_party/scenarios.py", ROOT / "examples/digits.py"):
        shutil.copy(file, cwd)
    command = [environment.python, "scenarios.py", scenario, *map(json.dumps, arguments)]
    answer = json.loads(run(*command, cwd=cwd, **environ).splitlines()[-1])
    assert not Path(answer["leyden"]).is_relative_to(ROOT)
    return answer["answer"]


def plugins(environment: CleanEnvironment, cwd: Path) -> dict[str, dict[str, Any]]:
    """What ``leyden plugins --json`` lists, by distribution."""
    rows = json.loads(run(environment.bin / "leyden", "plugins", "--json", cwd=cwd))
    return {row["distribution"]: row for row in rows}


def test_this_file_knows_every_foreign_package() -> None:
    assert sorted(path.parent.name for path in FOREIGN.glob("*/pyproject.toml")) == sorted(BRINGS)


@pytest.mark.parametrize("name", BRINGS)
def test_a_foreign_package_is_written_against_public_names_alone(name: str) -> None:
    """The windows and ``leyden.utilities``; of a plugin only one that the package depends on."""
    text = (FOREIGN / name / "pyproject.toml").read_text(encoding="utf-8")
    own = name.replace("-", "_")
    for file in (FOREIGN / name / "src").rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        for module in re.findall(r"^\s*(?:from|import) (leyden[\w.]*)", source, re.MULTILINE):
            package = module.partition(".")[0]
            if package == "leyden":
                assert module in ("leyden", "leyden.utilities") or re.fullmatch(
                    r"leyden\.(accelerators|callbacks|loggers|plugins|profilers|strategies)", module
                ), f"{file.name} imports {module}"
            elif package != own:
                assert f'"{package.replace("_", "-")}>=' in text, f"{file.name} imports {module}"


def test_each_is_found_by_its_entry_point(environment: CleanEnvironment, tmp_path: Path) -> None:
    assert "No broken requirements" in environment.pip("check")
    listed = plugins(environment, tmp_path)
    for distribution, (component, _) in BRINGS.items():
        assert listed[distribution]["state"] == "active"
        assert component in listed[distribution]["components"]


def test_each_is_chosen_by_its_name_and_auto_leaves_the_toy_alone(
    environment: CleanEnvironment, tmp_path: Path
) -> None:
    wanted = [*(arguments for _, arguments in BRINGS.values()), {"accelerator": "auto"}]
    *answers, auto = ask(environment, tmp_path, "choose", wanted)
    for distribution, answer in zip(BRINGS, answers, strict=True):
        assert CLASSES[distribution] in answer.split(), answer
    assert "ToyAccelerator" not in auto.split()


def test_auto_takes_the_device_that_claims_to_be_the_best(environment: CleanEnvironment, tmp_path: Path) -> None:
    [answer] = ask(environment, tmp_path, "choose", [{"accelerator": "auto"}], LEYDEN_TOY_FIRST="1")
    assert answer.split()[0] == "ToyAccelerator"


def test_a_device_that_pytorch_does_not_know_trains_to_the_weights_of_the_cpu(
    environment: CleanEnvironment, tmp_path: Path
) -> None:
    answer = ask(environment, tmp_path, "device")
    assert answer["trained on"] == "toy:0"
    assert answer["toy"] == answer["cpu"]
    assert answer["resumed on the toy"] == answer["resumed on the cpu"] == answer["cpu"]
    assert answer["loaded of the toy's first"] == answer["first epoch on the cpu"] != answer["cpu"]
    assert answer["accuracy"] > 0.9


REFUSED = {
    "precision='bf16-mixed' can't be computed by the accelerator 'toy'": {"precision": "bf16-mixed"},
    "torch.distributed has no backend for the device 'toy'": {"strategy": "ddp"},
    "torch.distributed has no backend for the device 'toy'; train in one process": {"strategy": "local_sgd"},
    "devices=2 asks for toy device 1": {"devices": 2},
}


def test_what_the_device_lacks_is_refused_before_anything_starts(environment: CleanEnvironment, tmp_path: Path) -> None:
    wanted = [{"accelerator": "toy", **arguments} for arguments in REFUSED.values()]
    for sentence, answer in zip(REFUSED, ask(environment, tmp_path, "choose", wanted), strict=True):
        assert answer.startswith(f"MisconfigurationException: {sentence}")
        assert "\n" not in answer


def test_strategy_logger_and_callback_work_in_one_run_of_two_processes(
    environment: CleanEnvironment, tmp_path: Path
) -> None:
    answer = ask(environment, tmp_path, "together")
    assert (answer["world size"], answer["steps"]) == (2, 38)  # two epochs of half of 1,197 images in batches of 32
    assert answer["accuracy"] > 0.8
    with closing(sqlite3.connect(tmp_path / answer["database"])) as connection:
        assert connection.execute("SELECT name, version, status FROM run").fetchall() == [
            ("lightning_logs", "0", "success")
        ]
        assert dict(connection.execute("SELECT name, value FROM hyperparameter")) == {"channels": 16, "lr": 0.003}
        query = "SELECT step, value FROM metric WHERE name = ? ORDER BY step"
        series = {
            name: connection.execute(query, (name,)).fetchall()
            for name in ("train_loss_step", "train_loss_epoch", "grad_norm/p50")
        }
    assert [step for step, _ in series["train_loss_step"]] == [4, 9, 14, 19, 24, 29, 34]
    assert [step for step, _ in series["grad_norm/p50"]] == [4, 9, 14, 19, 24, 29, 34]
    assert [step for step, _ in series["train_loss_epoch"]] == [18, 37]
    assert series["train_loss_epoch"][-1][1] == pytest.approx(answer["train_loss"])
    assert all(norm > 0 for _, norm in series["grad_norm/p50"])


@pytest.mark.parametrize("gone", BRINGS)
def test_without_one_the_others_work(
    environment: CleanEnvironment, wheels: dict[str, Path], tmp_path: Path, gone: str
) -> None:
    with environment.without(wheels, gone):
        listed = plugins(environment, tmp_path)
        answers = ask(environment, tmp_path, "choose", [arguments for _, arguments in BRINGS.values()])
    assert gone not in listed
    assert {row["state"] for row in listed.values()} == {"active"}
    for distribution, answer in zip(BRINGS, answers, strict=True):
        if distribution == gone:
            kind, name = BRINGS[gone][0].split(":")
            assert answer.startswith(f"UnknownComponentError: There is no {kind} {name!r}; installed: ")
        else:
            assert CLASSES[distribution] in answer.split(), answer


@pytest.mark.parametrize("name", BRINGS)
def test_its_own_tests_and_the_conformance_kit_pass(environment: CleanEnvironment, tmp_path: Path, name: str) -> None:
    shutil.copytree(FOREIGN / name / "tests", tmp_path / "tests")
    shutil.copy(FOREIGN / name / "pyproject.toml", tmp_path)
    printed = run(environment.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=tmp_path)
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed
    assert "Conformance" in (tmp_path / "tests" / "test_conformance.py").read_text(encoding="utf-8")
