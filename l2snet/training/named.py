"""The recipes by their names, of each network: the paper's, and those for smaller machines."""

from __future__ import annotations

from dataclasses import replace

from l2snet.preprocess import LogScale, Window
from l2snet.training.recipes import LocalizerRecipe, SegmenterRecipe, StepByStepRecipe

# For two CPU cores in bf16, at random start. Flipped left to right only: a body upside down is anatomy that a short
# training can spare. Log SUV: on 0..35 all but the hottest organs look alike. On pixels of 6 x 4.1 mm, of which a slice
# across the body costs a quarter. 58 cm high and 52 wide, as a body with its arms down is. Every third slice is run, as
# far apart as rows are.
SMALL_LOCALIZER = LocalizerRecipe(
    name="small",
    epochs=80,
    steps_per_epoch=50,
    batch=8,
    crop=(192, 256),
    slice_stride=3,
    stride=2,
    pet=LogScale(),
    lesion_share=0.4,
    hot_share=0.3,
    cut_share=0.15,
    bce_weight=5.0,
    organ_weight=1.0,
    lesion_gain=4.0,
    organ_gain=2.0,
    lesion_floor=1.5,
    appearance=True,
    optimizer="adamw",
    learning_rate=5e-4,
    weight_decay=1e-2,
    warmup_steps=100,
    encoder_weights=None,
)
# On voxels of 6 mm: a window holds 38 cm of the body, about as much as a network needs to know where it is.
SMALL_SEGMENTER = SegmenterRecipe(
    name="small",
    epochs=55,
    steps_per_epoch=50,
    crop=(64, 48, 64),
    window=(64, 48, 96),
    stride=(2, 3, 3),
    pet=LogScale(),
    mirror_axes=(2,),
    lesion_share=0.45,
    hot_share=0.35,
    cut_share=0.1,
    ct_dropout=0.1,
    bce_weight=2.0,
    organ_weight=1.0,
    lesion_gain=4.0,
    organ_gain=2.0,
    lesion_floor=1.5,
    norm="batch",
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=1e-2,
    warmup_steps=100,
)
# To go on from weights (`--pretrained`): "more" at length, "brief" on cases that are near to those before, "crops" from
# the weights as of commit c52ea3d (docs/results.md), on volumes cropped around tumours, such as Soft-tissue-Sarcoma's,
# in crops of their size and for their anatomical truth.
MORE_LOCALIZER = replace(SMALL_LOCALIZER, name="more", epochs=55, learning_rate=3e-4)
MORE_SEGMENTER = replace(SMALL_SEGMENTER, name="more", epochs=36, learning_rate=5e-4)
CROPS_LOCALIZER = replace(
    MORE_LOCALIZER,
    name="crops",
    epochs=4,
    crop=(96, 96),
    slice_stride=1,
    stride=1,
    pet=Window(0.0, 35.0, -1.0, 1.0),
    organ_weight=0.0,
    lesion_gain=1.0,
    organ_gain=1.0,
    lesion_floor=0.0,
)
CROPS_SEGMENTER = replace(
    MORE_SEGMENTER,
    name="crops",
    epochs=8,
    crop=(64, 48, 48),
    window=None,
    stride=(1, 2, 2),
    pet=Window(0.0, 15.0),
    lesion_share=0.3,
    hot_share=0.4,
    cut_share=0.15,
    bce_weight=5.0,
    organ_weight=0.0,
    lesion_gain=1.0,
    organ_gain=1.0,
    lesion_floor=0.0,
    norm="channels",
)
LOCALIZERS = {
    "paper": LocalizerRecipe(),
    "small": SMALL_LOCALIZER,
    "more": MORE_LOCALIZER,
    "brief": replace(MORE_LOCALIZER, name="brief", epochs=6, learning_rate=1.5e-4),
    "crops": CROPS_LOCALIZER,
}
SEGMENTERS = {
    "paper": SegmenterRecipe(),
    "small": SMALL_SEGMENTER,
    "more": MORE_SEGMENTER,
    "brief": replace(MORE_SEGMENTER, name="brief", epochs=8, learning_rate=2e-4),
    "crops": CROPS_SEGMENTER,
}
# On voxels of 6 mm, as the segmenter's.
SMALL_STEP_BY_STEP = StepByStepRecipe(
    name="small",
    epochs=64,
    batch=4,
    learning_rate=1e-3,
    epoch_is_all_images=False,
    steps_per_epoch=50,
    lesion_share=0.5,
    hot_share=0.35,
    crop=(64, 48, 64),
    stride=(2, 3, 3),
    mirror_axes=(2,),
    appearance=True,
    lesion_gain=4.0,
    ct_dropout=0.1,
    average_epochs=5,
    patience=10,
    lowest_rate=1e-4,
    cosine_rate=5e-4,
    cosine_epochs=36,
    widths=(16, 32, 64, 128),
    residual_units=2,
)
STEP_BY_STEPS = {
    "paper": StepByStepRecipe(),
    "released": StepByStepRecipe(name="released", widths=(96, 192, 192, 192, 192)),
    "small": SMALL_STEP_BY_STEP,
    # For volumes cropped around tumours, of which nearly all that is hot is lesion.
    "brief": replace(
        SMALL_STEP_BY_STEP,
        name="brief",
        epochs=8,
        lesion_share=0.75,
        hot_share=0.0,
        crop=(32, 64, 64),
        stride=(1, 2, 2),
        mirror_axes=(0, 1, 2),
        appearance=False,
        lesion_gain=1.0,
        cosine_epochs=3,
    ),
}
