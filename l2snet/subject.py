"""The patient's body, as far as uptake and distances are normalised by it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from l2snet.errors import InputError

# People: the smallest newborn to the largest adult; beyond them the unit is not kg, or not m.
WEIGHT_KG = (0.3, 400.0)
HEIGHT_M = (0.25, 2.8)


class SuvType(StrEnum):
    """What SUV is normalised by: body weight, lean body mass (Janmahasatian), or body surface (Du Bois)."""

    bw = "bw"
    lbm = "lbm"
    bsa = "bsa"


@dataclass(frozen=True)
class Subject:
    """Weight in kg, height in m and sex ("M", "F" or "O"); None is what is not known."""

    weight_kg: float | None = None
    height_m: float | None = None
    sex: str | None = None

    @property
    def surface_m2(self) -> float:
        """Body surface by Du Bois and Du Bois (1916): 0.007184 kg^0.425 cm^0.725.

        Raises
        ------
        InputError : weight or height is not known, or cannot be a person's.
        """
        weight_kg, height_m = self._size()
        return float(0.007184 * weight_kg**0.425 * (100.0 * height_m) ** 0.725)

    @property
    def lean_mass_kg(self) -> float:
        """Lean body mass by Janmahasatian et al. (2005, doi:10.2165/00003088-200544100-00004).

        Raises
        ------
        InputError : weight, height or sex is not known, or cannot be a person's.
        """
        weight_kg, height_m = self._size()
        if self.sex not in ("M", "F"):
            raise InputError(
                f"PatientSex is {self.sex or 'missing'}; lean mass needs M or F: correct it, or use SUV by body weight"
            )
        index = weight_kg / height_m**2
        return 9270.0 * weight_kg / ((6680.0 + 216.0 * index) if self.sex == "M" else (8780.0 + 244.0 * index))

    def suv_scale(self, kind: SuvType) -> float:
        """SUV of a kind over SUV by body weight: 1, kg/kg, or cm2/g.

        Raises
        ------
        InputError : what it needs of the body is not known.
        """
        if kind is SuvType.bw:
            return 1.0
        weight_kg, _ = self._size()
        return self.lean_mass_kg / weight_kg if kind is SuvType.lbm else 10.0 * self.surface_m2 / weight_kg

    @property
    def has_size(self) -> bool:
        """Whether weight and height are known and can be a person's."""
        return _within(self.weight_kg, WEIGHT_KG) and _within(self.height_m, HEIGHT_M)

    def _size(self) -> tuple[float, float]:
        for name, value, limits, unit in (
            ("PatientWeight", self.weight_kg, WEIGHT_KG, "kg"),
            ("PatientSize", self.height_m, HEIGHT_M, "m"),
        ):
            if not _within(value, limits):
                found = "missing" if value is None else f"{value:g}"
                raise InputError(
                    f"{name} is {found}; expected {limits[0]:g} to {limits[1]:g} {unit}: correct the header"
                )
        return float(self.weight_kg or 0.0), float(self.height_m or 0.0)


def _within(value: float | None, limits: tuple[float, float]) -> bool:
    return value is not None and limits[0] <= value <= limits[1]
