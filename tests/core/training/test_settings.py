"""Settings of a run in layers: which layer wins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.training.config import TrainConfig
from cifar_cli.core.training.recipe import RECIPES, ZERO_IS_OFF, recipe_of
from cifar_cli.core.training.settings import Settings, assignment, layered, leaves
from cifar_cli.errors import ConfigError
from cifar_cli.render.settings_yaml import settings_yaml

DEFAULTS: dict[str, Any] = {"model.name": "null", "data.dataset": "cifar10", "seed": 42, "img_size": None}

# Ten lists, each of nine references to the one before.
LAUGHS = "[&a0 [x, x], " + ", ".join(f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)) + "]"


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_flags_win_over_the_file_the_file_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, {"seed": 5, "recipe": {"name": "fast", "batch": 64, "warmup": 0.1}})
    settings = layered(
        DEFAULTS | {"recipe.batch": 32, "seed": 42},
        {"recipe.batch": "--batch"},
        recipe="course",
        file=file,
        assignments={"recipe.clip_norm": 2},
    )
    expected = {
        "recipe.batch": (32, "--batch"),
        "recipe.warmup": (0.1, str(file)),
        "recipe.schedule": (RECIPES["fast"].schedule, "recipe fast"),
        "recipe.clip_norm": (2.0, "--set"),
        "seed": (5, str(file)),
        "data.dataset": ("cifar10", "default"),
    }
    for path, value in expected.items():
        assert (settings.values[path], settings.origins[path]) == value
    assert settings.config().recipe.batch == 32


def test_a_recipe_given_as_a_flag_replaces_that_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, {"recipe": {"name": "best", "batch": 64}})
    settings = layered(DEFAULTS, {"recipe.name": "--recipe"}, recipe="fast", file=file)
    assert settings.config().recipe == RECIPES["fast"]


@pytest.mark.parametrize("layer", ["flag", "--set", "file", "default"])
def test_the_recipe_is_that_of_the_model_whichever_layer_names_it(tmp_path: Path, layer: str) -> None:
    airbench = {"model.name": "airbench"}
    settings = layered(
        DEFAULTS | (airbench if layer in ("flag", "default") else {}),
        {"model.name": "--model"} if layer == "flag" else {},
        recipe="best",
        file=written(tmp_path, {"model": {"name": "airbench"}}) if layer == "file" else None,
        assignments=airbench if layer == "--set" else {},
    )
    assert settings.config().recipe == recipe_of("best", model="airbench")


@pytest.mark.parametrize("in_file", [None, {}, {"optimizer": "muon-sgd", "momentum": 0.8, "bias_lr": 2.0}])
def test_another_optimizer_drops_what_only_the_recipe_s_own_has(tmp_path: Path, in_file: dict[str, Any] | None) -> None:
    settings = layered(
        DEFAULTS | {"model.name": "airbench", "recipe.optimizer": "adam"},
        {"model.name": "--model", "recipe.optimizer": "--optimizer"},
        recipe="best",
        file=None if in_file is None else written(tmp_path, {"recipe": {"name": "best"} | in_file}),
    )
    assert settings.config().recipe == recipe_of("best", model="airbench").changed({"optimizer": "adam"})


def test_a_policy_given_as_a_flag_replaces_the_policy_file_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, {"augment_file": "policy.json", "pipeline": "albumentations"})
    settings = layered(DEFAULTS | {"recipe.policy": "none"}, {"recipe.policy": "--policy"}, recipe="fast", file=file)
    assert settings.config().augment_file is None
    assert settings.config().recipe.policy == "none"


def test_every_setting_of_a_config_comes_back_from_what_is_printed(tmp_path: Path) -> None:
    config = TrainConfig(model=ModelConfig(name="hybrid", weights="none", patch_size=4), recipe=RECIPES["best"], seed=7)
    nested = config.to_dict()
    first = layered({"img_size": None}, {}, recipe="course", file=written(tmp_path, nested))
    assert first.config() == config
    again = layered({"img_size": None}, {}, recipe="course", file=written(tmp_path, settings_yaml(first)))
    assert again.config() == config


def test_a_run_that_is_repeated_gets_a_directory_of_its_own(tmp_path: Path) -> None:
    file = written(tmp_path, {"config": {"run_dir": "runs/a", "seed": 3}, "classes": ["a"], "device": "cpu"})
    settings = layered(DEFAULTS | {"run_dir": None}, {}, recipe="course", file=file)
    assert (settings.values["run_dir"], settings.values["seed"]) == (None, 3)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("recipe.weight_decay=1e-3", 1e-3),
        ("recipe.ema_decay=null", None),
        ("recipe.learning_rate=1", 1.0),
        ("precision=32", "32"),
        ("devices=auto", "auto"),
        ("devices=2", 2),
        ("model.name=null", "null"),
        ("model.trim_backbone=true", True),
        ("data.data_dir=/data", Path("/data")),
        ("augment_file=null", None),
    ],
)
def test_a_value_is_read_as_the_type_of_its_setting(text: str, value: object) -> None:
    found = layered(DEFAULTS, {}, recipe="course", assignments=dict([assignment(text)])).values[text.partition("=")[0]]
    assert (type(found), found) == (type(value) if not isinstance(value, Path) else type(found), value)


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("recipe.weigth_decay=1", "there is no setting recipe.weigth_decay", "did you mean recipe.weight_decay"),
        ("weight_decay=1", "there is no setting weight_decay", "did you mean recipe.weight_decay?"),
        ("model.classes=3", "there is no setting model.classes", "model.name"),
        ("recipe.batch=many", "recipe.batch can't be 'many'", "a whole number"),
        ("recipe.batch=1.5", "recipe.batch can't be 1.5", "a whole number"),
        ("seed=true", "seed can't be True", "a whole number"),
        ("compile=1", "compile can't be 1", "true or false"),
        ("recipe.optimizer=adan", "recipe.optimizer can't be 'adan'", "adam or adamw or sgd or muon"),
        ("recipe=fast", "there is no setting recipe", "recipe"),
        ("seed", "--set seed has no =", "recipe.weight_decay=1e-3"),
        ("seed=[1, 2]", "seed can't be '[1, 2]'", "a whole number"),
        ("recipe.learning_rate=1" + "0" * 400, "recipe.learning_rate can't be 1000", "a number"),
        ("recipe.batch=0", "--batch must be at least 1, not 0", "--batch 128"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_may_be(text: str, message: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        layered(DEFAULTS, {}, recipe="course", assignments=dict([assignment(text)])).config()
    assert message in caught.value.what
    assert remedy in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not a YAML file"),
        (b"\xff", "is not a YAML file"),
        (f"seed: {LAUGHS}", "has more than 100,000 values, or refers to itself"),
        (f"recipe: {{learning_rate: {LAUGHS}}}", "has more than 100,000 values"),
        ("seed: &a [*a]", "has more than 100,000 values, or refers to itself"),
        ("seed: &a {b: *a}", "has more than 100,000 values, or refers to itself"),
        ("- 1\n", "holds no settings"),
        ("", "holds no settings"),
        ("sed: 3\n", "there is no setting sed"),
        ("recipe: fast\n", "there is no setting recipe"),
        ("3: 4\n", "there is no setting 3"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=message):
        layered(DEFAULTS, {}, recipe="course", file=path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        layered(DEFAULTS, {}, recipe="course", file=tmp_path / "absent.yaml")


def test_every_setting_has_an_origin_and_plain_values() -> None:
    settings: Settings = layered(DEFAULTS, {"seed": "--seed"}, recipe="course")
    assert settings.to_dict()["seed"] == {"value": 42, "from": "--seed"}
    assert set(settings.values) <= set(leaves())


@pytest.mark.parametrize("origin", ["--warmup", "--set"])
def test_a_warm_up_of_a_constant_rate_is_refused(origin: str) -> None:
    by_flag = origin == "--warmup"
    settings = layered(
        DEFAULTS | ({"recipe.warmup": 0.1} if by_flag else {}),
        {"recipe.warmup": "--warmup"} if by_flag else {},
        recipe="course",
        assignments={} if by_flag else {"recipe.warmup": 0.1},
    )
    with pytest.raises(ConfigError, match=r"--warmup 0\.1 has no effect with a constant learning rate"):
        settings.config()


def test_a_warm_up_of_a_recipe_is_ignored_by_a_constant_rate() -> None:
    settings = layered(DEFAULTS | {"recipe.schedule": "constant"}, {"recipe.schedule": "--schedule"}, recipe="fast")
    assert settings.config().recipe.warmup == RECIPES["fast"].warmup


def test_the_remedy_for_an_optimizer_that_trains_no_head_first_works() -> None:
    flags = {"recipe.optimizer": "--optimizer"}
    with pytest.raises(ConfigError, match="can't be combined with --optimizer muon") as caught:
        layered(DEFAULTS | {"recipe.optimizer": "muon"}, flags, recipe="finetune").config()
    assert "pass --head-first 0" in str(caught.value.remedy)
    defaults = DEFAULTS | {"recipe.optimizer": "muon", "recipe.head_first": 0.0}
    config = layered(defaults, flags | {"recipe.head_first": "--head-first"}, recipe="finetune").config()
    assert (config.recipe.optimizer, config.recipe.head_first) == ("muon", 0.0)


@pytest.mark.parametrize("in_file", [False, True])
def test_a_recipe_that_is_set_by_its_path_is_trained(tmp_path: Path, in_file: bool) -> None:
    file = written(tmp_path, {"recipe": {"name": "best", "batch": 32}}) if in_file else None
    made = layered(DEFAULTS, {}, recipe="course", file=file, assignments={"recipe.name": "fast"})
    assert made.config().recipe == RECIPES["fast"]
    with pytest.raises(ConfigError, match="there is no recipe named 'fastest'"):
        layered(DEFAULTS, {}, recipe="course", assignments={"recipe.name": "fastest"})


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", None), ("sgd", 0.15)])
def test_another_optimizer_drops_the_learning_rate_of_a_file(
    tmp_path: Path, optimizer: str, rate: float | None
) -> None:
    file = written(tmp_path, {"recipe": {"name": "fast", "optimizer": "sgd", "learning_rate": 0.15}})
    made = layered(
        DEFAULTS | {"recipe.optimizer": optimizer}, {"recipe.optimizer": "--optimizer"}, recipe="course", file=file
    )
    assert made.values["recipe.learning_rate"] == rate


def test_a_setting_is_chosen_by_the_user_or_a_file_and_not_by_the_recipe(tmp_path: Path) -> None:
    path, file = "recipe.max_epochs", written(tmp_path, {"recipe": {"name": "fast", "max_epochs": 3}})
    assert not layered(DEFAULTS, {}, recipe="fast").is_chosen(path)
    assert layered(DEFAULTS, {}, recipe="fast", assignments={path: 3}).is_chosen(path)
    assert layered(DEFAULTS | {path: 3}, {path: "--max-epochs"}, recipe="fast").is_chosen(path)
    assert layered(DEFAULTS, {}, recipe="course", file=file).is_chosen(path)
    assert not layered(DEFAULTS, {}, recipe="course").is_chosen("seed")


@pytest.mark.parametrize("name", ["default", "recipe fast"])
def test_a_file_named_as_another_layer_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("recipe: {max_epochs: 5}\n")
    settings = layered(DEFAULTS, {}, recipe="fast", file=Path(name))
    assert settings.is_chosen("recipe.max_epochs")
    assert settings.values["recipe.max_epochs"] == 5


@pytest.mark.parametrize("name", ZERO_IS_OFF)
def test_0_is_off_in_every_layer(tmp_path: Path, name: str) -> None:
    (tmp_path / "c.yaml").write_text(f"recipe: {{{name}: 0}}\n")
    for given in ({"file": tmp_path / "c.yaml"}, {"assignments": {f"recipe.{name}": 0}}):
        assert layered(DEFAULTS, {}, recipe="best", **given).values[f"recipe.{name}"] is None


@pytest.mark.parametrize("beside", ["seed: 7", "recipe: {batch: 64}", "recipe.batch: 64"])
def test_a_setting_beside_the_config_of_a_run_is_named(tmp_path: Path, beside: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(f"config: {{seed: 3}}\ndata: {{source: x}}\ndevice: cpu\n{beside}\n")
    with pytest.raises(ConfigError, match=f"has {beside.split(':')[0]} beside config"):
        layered(DEFAULTS, {}, recipe="course", file=file)
