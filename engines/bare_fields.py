"""As much of pydantic's interface as the torch engine's options and templates use, for machines without pydantic.

Names are checked, defaults filled in and an engine's own validators run; the types of values are not checked.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self, dataclass_transform, get_origin, get_type_hints

ConfigDict = dict
PositiveInt = int


class ValidationError(ValueError):
    """The first problem, in the form of pydantic's `errors`."""

    def __init__(self, kind: str, name: str, value: object, message: str) -> None:
        super().__init__(message)
        self._problem = {"type": kind, "loc": (name,) if name else (), "input": value, "msg": message}

    def errors(self) -> list[dict[str, Any]]:
        return [self._problem]


def model_validator(*, mode: str) -> Callable[[Any], Any]:
    """Of a method that looks at the whole record once it is made: the only mode is `after`."""
    assert mode == "after"
    return _marked(None)


def field_validator(name: str) -> Callable[[Any], Any]:
    return _marked(name)


def _marked(field: str | None) -> Callable[[Any], Any]:
    def mark(method: Any) -> Any:
        getattr(method, "__func__", method).validates = field
        return method

    return mark


@dataclass_transform(kw_only_default=True, frozen_default=True)
class BaseModel:
    model_config: ClassVar[Mapping[str, Any]] = {}
    model_fields: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        kinds = get_type_hints(cls).items()
        cls.model_fields = {name: kind for name, kind in kinds if get_origin(kind) is not ClassVar}

    def __init__(self, **values: Any) -> None:
        for name in values.keys() - self.model_fields.keys():
            raise ValidationError("extra_forbidden", name, values[name], "extra inputs are not permitted")
        for name, kind in self.model_fields.items():
            if name not in values and not hasattr(type(self), name):
                raise ValidationError("missing", name, values, "field required")
            value = values[name] if name in values else getattr(type(self), name)
            object.__setattr__(self, name, _as(kind, value))
        for field, check in self._validators():
            given = [getattr(self, field)] if field else []
            try:
                check(*given)
            except ValueError as error:
                raise ValidationError("value_error", field or "", values.get(field or ""), str(error)) from None

    def _validators(self) -> Iterable[tuple[str | None, Callable[..., object]]]:
        for base in type(self).__mro__:
            for name, member in vars(base).items():
                if hasattr(getattr(member, "__func__", member), "validates"):
                    method = getattr(self, name)
                    yield method.validates, method

    def __setattr__(self, name: str, value: object) -> None:
        raise ValidationError("frozen_instance", name, value, "instance is frozen")

    @classmethod
    def model_validate(cls, values: Any) -> Self:
        if not isinstance(values, dict):
            raise ValidationError("model_type", "", values, "input should be a valid dictionary")
        return cls(**values)


def _as(kind: Any, value: Any) -> Any:
    """What a YAML file has for a record or a tuple."""
    if isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, dict):
        return kind.model_validate(value)
    return tuple(value) if get_origin(kind) is tuple and isinstance(value, list) else value
