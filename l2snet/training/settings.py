"""Settings of a recipe as the command line gives them."""

from __future__ import annotations

import json
import math
from collections.abc import Set
from dataclasses import fields, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from l2snet.errors import InputError
from l2snet.preprocess import intensity
from l2snet.training.recipes import Recipe

R = TypeVar("R", bound=Recipe)


def changed(recipe: R, change: str, kept: Set[str] = frozenset({"name"})) -> R:
    """The recipe with other settings, such as "norm=window window=null" or "shares=[1,0]": fields, values in JSON.

    Parameters
    ----------
    kept : fields that may not be changed.

    Raises
    ------
    InputError : a field is not one of the recipe or is kept, or the settings make no sense.
    """
    values: dict[str, Any] = {}
    kinds = get_type_hints(type(recipe))
    try:
        for part in change.split():
            name, equals, text = part.partition("=")
            if not equals or name not in {one.name for one in fields(recipe)} - kept:
                raise InputError(f"{part!r} is no setting of a {recipe.network}'s recipe; expected such as epochs=8")
            value = _value(text)
            if name in values or not _fits(value, kinds[name]):
                raise ValueError(f"{part!r} is given twice, or not one {kinds[name]}")
            values[name] = value
        return replace(recipe, **values)
    except (TypeError, ValueError) as error:
        raise InputError(f"a recipe with {change!r} makes no sense: {error}") from error


def _fits(value: object, kind: Any) -> bool:
    """Whether a value is of a field's type: one of the plain types, tuples and unions that recipes have."""
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if not isinstance(value, tuple):
            return False
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(value)
        return len(value) == len(kinds) and all(_fits(one, its) for one, its in zip(value, kinds, strict=True))
    if get_args(kind):
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]  # a number
    return type(value) is kind


def _value(text: str) -> Any:
    """JSON, or else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else intensity(value) if isinstance(value, dict) else value
