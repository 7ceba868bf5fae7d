"""From a mask to a patient's tumour burden: its lesions, and what they come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from l2snet.measure.lesions import Lesion, Rules, label_lesions, measure_lesions
from l2snet.pipeline import Segmentation
from l2snet.subject import Subject
from l2snet.volume import Volume


@dataclass(frozen=True)
class Burden:
    """A patient's numbers; None is what does not exist.

    Attributes
    ----------
    lesions : how many there are.
    tmtv_ml : total metabolic tumour volume.
    tlg : sum of the lesions' total lesion glycolysis.
    suv_max : the highest of any lesion; None without one.
    dmax_mm : largest distance between the centroids of two lesions (Cottereau et al. 2020,
        doi:10.2967/jnumed.119.229450); 0 with one lesion, None without.
    sdmax_per_m : standardised Dmax, in m over the body surface in m2; None where height or weight is not known.
    """

    lesions: int
    tmtv_ml: float
    tlg: float
    suv_max: float | None
    dmax_mm: float | None
    sdmax_per_m: float | None


@dataclass(frozen=True)
class Measurement:
    """What is measured of one case.

    Attributes
    ----------
    labels : (z, y, x) unsigned; the lesions by number, 0 outside.
    lesions : one a label, in order.
    burden : of them all.
    suv_type : "bw", "lbm" or "bsa": what SUV is normalised by.
    """

    labels: Volume
    lesions: tuple[Lesion, ...]
    burden: Burden
    suv_type: str = "bw"

    @property
    def mask(self) -> Volume:
        """(z, y, x) uint8: the lesions that the table lists."""
        return self.labels.with_array((self.labels.array > 0).astype(np.uint8))


def measure(
    result: Segmentation,
    suv: Volume,
    rules: Rules | None = None,
    subject: Subject | None = None,
    suv_type: str = "bw",
) -> Measurement:
    """Measure a result.

    Parameters
    ----------
    suv : the PET in SUV of `suv_type`, on the result's grid; the rules' floor is in it, too.
    subject : gives the body surface for the standardised Dmax.

    Raises
    ------
    MissingPackageError : connected-components-3d is not installed.
    """
    labels = suv.with_array(label_lesions(result.mask.array, suv.array, suv.geometry.voxel_ml, rules))
    lesions = tuple(measure_lesions(labels, suv.array, result.probability.array))
    return Measurement(labels, lesions, burden(lesions, subject), suv_type)


def burden(lesions: Sequence[Lesion], subject: Subject | None = None) -> Burden:
    """What lesions come to."""
    dmax_mm = None
    if lesions:
        from scipy.spatial.distance import pdist  # a slow import, which no case without a table needs

        dmax_mm = float(pdist([lesion.centroid_mm for lesion in lesions]).max(initial=0.0))
    known = dmax_mm is not None and subject is not None and subject.has_size
    return Burden(
        lesions=len(lesions),
        tmtv_ml=sum(lesion.volume_ml for lesion in lesions),
        tlg=sum(lesion.tlg for lesion in lesions),
        suv_max=max((lesion.suv_max for lesion in lesions), default=None),
        dmax_mm=dmax_mm,
        sdmax_per_m=dmax_mm / 1000.0 / subject.surface_m2 if known and dmax_mm is not None and subject else None,
    )
