"""What holds for every option of every command."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from cifar_cli.commands.recipe_options import OVERRIDES, RecipeOptions
from cifar_cli.commands.train import TAKEN_BESIDE_RESUME
from cifar_cli.core import choices
from cifar_cli.core.augment.policy import POLICIES
from cifar_cli.core.models.registry import MODELS
from cifar_cli.core.training.recipe import RECIPES, Recipe
from cifar_cli.errors import UsageError
from tests.commands.command_lines import commands, every_option, options_of, parse, required_words, words_of

OPTIONS = [pytest.param(name, option, id=f"{name} {option.opts[-1]}") for name, option in every_option()]
SINGLE = [each for each in OPTIONS if not each.values[1].multiple]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_accepts_a_value_of_its_kind(name: str, option: Any) -> None:
    context = parse(name, [*required_words(commands()[name], beside=option), *words_of(option)])
    assert option.name in context.params


@pytest.mark.parametrize(("name", "option"), SINGLE)
def test_an_option_with_one_value_can_not_be_given_twice(name: str, option: Any) -> None:
    words = words_of(option)
    again = [option.opts[0], *words[1:]]  # in another spelling where there is one
    with pytest.raises(UsageError) as caught:
        parse(name, [*required_words(commands()[name], beside=option), *words, *again])
    assert caught.value.exit_code == 2
    assert caught.value.what == f"{option.opts[0]} is given 2 times"


PAIRS = [each for each in SINGLE if each.values[1].secondary_opts]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "option"), PAIRS)
def test_a_flag_and_its_opposite_contradict_each_other(name: str, option: Any) -> None:
    on, off = option.opts[0], option.secondary_opts[0]
    for words in ([on, off], [off, on], [on, off, on]):
        with pytest.raises(UsageError, match=f"^{on} and {off} contradict each other") as caught:
            parse(name, [*required_words(commands()[name]), *words])
        assert caught.value.remedy == "pass one of them"


def test_there_are_flags_with_an_opposite() -> None:
    assert {each.values[1].opts[0] for each in PAIRS} >= {"--compile", "--trim-backbone", "--channels-last"}  # type: ignore[attr-defined]


def test_options_with_several_values_keep_all_of_them() -> None:
    assert parse("summarize", ["-m", "null", "--model", "cnn"]).params["model"] == ["null", "cnn"]
    assert parse("profile-memory", ["-b", "1", "--batch", "2"]).params["batch"] == [1, 2]


BESIDE_RESUME = [option for option in options_of(commands()["train"]) if option.name != "resume"]


@pytest.mark.parametrize("option", BESIDE_RESUME, ids=lambda option: option.opts[-1])
def test_an_option_beside_resume_is_taken_or_refused(cifar, option: Any, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for spelling in (*option.opts, *option.secondary_opts):
        result = cifar("train", "--resume", tmp_path / "absent", spelling, *words_of(option)[1:])
        if option.name in TAKEN_BESIDE_RESUME:
            assert "contains no run to resume" in f"{result.stderr}{result.exception}"
        else:
            assert result.exit_code == 2, spelling
            assert f"and can't change {spelling}\n" in result.stderr


def test_the_options_taken_beside_resume_exist() -> None:
    assert {option.name for option in options_of(commands()["train"])} >= TAKEN_BESIDE_RESUME


CLOSED_SETS = {
    "optimizer": (choices.OptimizerName,),
    "schedule": (choices.ScheduleName,),
    "pipeline": (choices.PipelineName,),
    "device": (choices.DeviceChoice,),
    "precision": (choices.Precision, choices.PrecisionChoice),
    "memory_format": (choices.MemoryFormat, choices.MemoryFormatChoice),
    "patch_size": (choices.PatchSize,),
}
REGISTRIES = {"recipe": tuple(RECIPES), "policy": tuple(POLICIES)}
WITH_A_SET = [each for each in OPTIONS if each.values[1].name in {*CLOSED_SETS, *REGISTRIES}]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "option"), WITH_A_SET)
def test_every_name_of_a_set_is_accepted_and_an_unknown_one_is_a_usage_error(name: str, option: Any) -> None:
    allowed = REGISTRIES.get(option.name) or max((get_args(kind) for kind in CLOSED_SETS[option.name]), key=len)
    if "auto" not in words_of(option) and name == "profile-memory" and option.name == "memory_format":
        allowed = get_args(CLOSED_SETS[option.name][0])  # the step to profile is a definite one
    needed = required_words(commands()[name])
    for value in allowed:
        assert parse(name, [*needed, option.opts[0], str(value)]).params[option.name] == value
    with pytest.raises(UsageError) as caught:
        parse(name, [*needed, option.opts[0], "unknown"])
    assert caught.value.what == f"{option.opts[0]} unknown is not one of {', '.join(map(str, allowed))}"


def test_every_closed_set_has_an_option() -> None:
    assert {option.name for _, option in every_option()} >= {*CLOSED_SETS, *REGISTRIES}


@pytest.mark.parametrize("model", [*MODELS, "timm:resnet18"])
@pytest.mark.parametrize("name", ["summarize", "profile-memory", "train"])
def test_every_model_is_accepted(name: str, model: str) -> None:
    assert model in parse(name, ["--model", model]).params["model"]


@pytest.mark.parametrize("name", ["summarize", "profile-memory", "train"])
def test_an_unknown_model_exits_1_and_names_the_nearest(cifar, name: str) -> None:  # type: ignore[no-untyped-def]
    result = cifar(name, "--model", "hybird")
    assert result.exit_code == 1
    assert "there is no model named 'hybird'" in result.stderr
    assert "did you mean hybrid?" in result.stderr


def test_every_field_of_a_recipe_has_an_option() -> None:
    from dataclasses import fields

    assert set(OVERRIDES) == {field.name for field in fields(Recipe)} - {"name", "source"}
    assert set(OVERRIDES) <= {option.name for option in options_of(commands()["train"])}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_alone_overrides_nothing(recipe: str) -> None:
    assert RecipeOptions(recipe=recipe).overrides() == {}


def test_overrides_replace_fields_and_zero_switches_off() -> None:
    options = RecipeOptions(recipe="best", ema_decay=0.0, clip_norm=0.0, weight_decay=0.0, batch="auto")
    assert options.overrides() == {"ema_decay": None, "clip_norm": None, "weight_decay": 0.0}


@pytest.mark.parametrize(
    ("words", "device"),
    [
        ([], "auto"),
        (["--device", "mps"], "mps"),
        (["--accelerator", "cpu"], "cpu"),
        (["--accelerator", "cuda"], "cuda"),
        (["--accelerator", "cpu", "--device", "cpu"], "cpu"),
    ],
)
@pytest.mark.parametrize("name", ["train", "evaluate", "profile-memory"])
def test_accelerator_is_another_spelling_of_device(name: str, words: list[str], device: str) -> None:
    from cifar_cli.options import DeviceOptions

    params = parse(name, [*required_words(commands()[name]), *words]).params
    assert DeviceOptions(device=params["device"], accelerator=params["accelerator"]).chosen_device() == device


def test_accelerator_gpu_is_cuda_or_mps_whichever_is_there() -> None:
    import torch

    from cifar_cli.options import DeviceOptions

    only_mps = torch.backends.mps.is_available() and not torch.cuda.is_available()
    assert DeviceOptions(accelerator="gpu").chosen_device() == ("mps" if only_mps else "cuda")


def test_accelerator_that_contradicts_device_is_a_usage_error(cifar, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = cifar("evaluate", tmp_path, "--device", "cpu", "--accelerator", "cuda")
    assert result.exit_code == 2
    assert "--accelerator cuda contradicts --device cpu" in result.stderr


@pytest.mark.parametrize(
    ("words", "memory_format"),
    [
        ([], "contiguous"),
        (["--channels-last"], "channels-last"),
        (["--contiguous"], "contiguous"),
        (["--memory-format", "onednn"], "onednn"),
        (["--channels-last", "--memory-format", "channels-last"], "channels-last"),
    ],
)
def test_channels_last_is_another_spelling_of_memory_format(words: list[str], memory_format: str) -> None:
    from cifar_cli.commands.profile_memory import HardwareOptions

    params = parse("profile-memory", words).params
    hardware = HardwareOptions(memory_format=params["memory_format"], channels_last=params["channels_last"])
    assert hardware.chosen_format() == memory_format


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "profile-memory --channels-last --memory-format contiguous",
            "--channels-last contradicts --memory-format",
        ),
        ("profile-memory --contiguous --memory-format onednn", "--contiguous contradicts --memory-format onednn"),
        ("profile-memory --estimate --measure", "--estimate and --measure contradict each other"),
        ("profile-memory --gpu T4 --memory 8GiB", "--gpu and --memory contradict each other"),
        ("train --seeds 0,1 --seed 42", "--seed and --seeds contradict each other"),
        ("train --policy course --augment p.yaml", "--policy and --augment contradict each other"),
        ("train --pipeline batched --augment p.yaml", "which --pipeline batched can't apply"),
        ("train --workers 2", "--workers applies to image files and to the albumentations pipeline only"),
        (
            "train --pipeline batched --workers 2",
            "--workers applies to image files and to the albumentations pipeline only",
        ),
    ],
)
def test_options_that_contradict_each_other_are_usage_errors(cifar, line: str, message: str) -> None:  # type: ignore[no-untyped-def]
    result = cifar(*line.split())
    assert result.exit_code == 2
    assert message in result.stderr
    assert "try: " in result.stderr
