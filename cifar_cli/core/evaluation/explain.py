"""Which part of an image a prediction rests on: covers one square after another, and looks how the prediction changes.

Covering works for every model, because it needs the logits only. captum slides the square and adds up the changes.
"""

from __future__ import annotations

import matplotlib
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cifar_cli.core.data.loader import BatchLoader
from cifar_cli.core.progress import OnProgress, Progress, silent
from cifar_cli.errors import ResourceError

SQUARES = 4  # the covered square has this part of the image's side,
STEPS = 8  # and moves by this part
IMAGES_PER_PASS = 256  # forward passes keep no activations
PLACES = (
    ("upper left", "top", "upper right"),
    ("left", "centre", "right"),
    ("lower left", "bottom", "lower right"),
)
NOWHERE = "no single part"
METHOD = (
    "Bright: covering this part with the mean colour lowers the probability of the predicted class most. The covered "
    "square is a quarter of the image wide; brightness is relative to the image's own maximum."
)


def require_captum() -> None:
    """Raise ResourceError where the package is missing."""
    try:
        import captum  # noqa: F401
    except ImportError as error:
        raise ResourceError("--explain needs the package captum", remedy='pip install "cifar-cli[explain]"') from error


def heat_maps(
    model: nn.Module, loader: BatchLoader, targets_N: Tensor, *, device: torch.device, on_progress: OnProgress = silent
) -> Tensor:
    """How much each part of an image supports a class: float32 [N, S, S] on the CPU, 0 to 1.

    The fall of the class's log-probability when a square around the pixel is covered with the mean colour (0 after
    normalisation), averaged over the squares that cover the pixel; rises count as 0. Each map is divided by its
    maximum. Source: Zeiler & Fergus 2014, Visualizing and understanding convolutional networks, section 4.2.
    loader: normalised images in the order of targets_N, int64, which names a class for each of the first ones; images
    beyond are left out. The model is left in evaluation mode. Raises ResourceError without captum.
    """
    require_captum()
    from captum.attr import Occlusion

    model = model.to(device).to(memory_format=torch.channels_last).eval()
    occlusion = Occlusion(lambda images_BCHW: model(images_BCHW).double().log_softmax(dim=1))
    maps: list[Tensor] = []
    for images_BCHW, _ in loader:
        # A few images at a time, so that progress is seen and memory is bounded.
        left = len(targets_N) - sum(map(len, maps))
        if left <= 0:
            break
        for chunk_BCHW in torch.split(images_BCHW[:left], 8):
            first = sum(map(len, maps))
            on_progress(Progress(task="explaining", done=first, total=len(targets_N), unit="images"))
            channels, side = chunk_BCHW.shape[1], chunk_BCHW.shape[2]
            changes_BCHW = occlusion.attribute(
                chunk_BCHW.to(device),
                sliding_window_shapes=(channels, max(1, side // SQUARES), max(1, side // SQUARES)),
                strides=(channels, max(1, side // STEPS), max(1, side // STEPS)),
                target=targets_N[first : first + len(chunk_BCHW)].to(device),
                perturbations_per_eval=max(1, IMAGES_PER_PASS // len(chunk_BCHW)),
            )
            maps.append(changes_BCHW.mean(dim=1).clamp_min(0).float().cpu())
    heat_NHW = torch.cat(maps)
    highest_N11 = heat_NHW.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest_N11 > 0, heat_NHW / highest_N11.clamp_min(torch.finfo(torch.float32).tiny), 0.0)


def place_of(heat_HW: Tensor) -> str:
    """Which ninth of an image is the hottest, in words."""
    if not float(heat_HW.amax()) > 0:
        return NOWHERE
    ninths_33 = F.adaptive_avg_pool2d(heat_HW[None, None], 3)[0, 0]
    row, column = divmod(int(ninths_33.argmax()), 3)
    return PLACES[row][column]


def overlay(image_HWC: Tensor, heat_HW: Tensor) -> Tensor:
    """The image in grey with its heat map over it: uint8 [H, W, 3] at the size of the image.

    image_HWC: uint8 [H, W, 3]; heat_HW: 0 to 1, of any size.
    """
    side = image_HWC.shape[:2]
    heat_HW = F.interpolate(heat_HW[None, None], size=tuple(side), mode="bilinear", align_corners=False)[0, 0]
    grey_HW = image_HWC.float() @ torch.tensor([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
    colours_HWC = torch.from_numpy(matplotlib.colormaps["inferno"](heat_HW.numpy())[..., :3] * 255)
    share_HW1 = 0.75 * heat_HW[..., None]
    mixed_HWC = (1 - share_HW1) * 0.8 * grey_HW[..., None] + share_HW1 * colours_HWC
    return mixed_HWC.round().clamp(0, 255).to(torch.uint8)
