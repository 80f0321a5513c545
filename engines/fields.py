"""What options are declared with: pydantic, or where it is not installed a record that checks names and no values.

A bare GPU image has torch and transformers and nothing to install from; the torch engine runs there with options that
a program gives. Files of users are read where pydantic is.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, field_validator, model_validator
else:
    try:
        from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError, field_validator, model_validator
    except ImportError:
        from engines.bare_fields import (
            BaseModel,
            ConfigDict,
            PositiveInt,
            ValidationError,
            field_validator,
            model_validator,
        )

__all__ = ["BaseModel", "ConfigDict", "PositiveInt", "ValidationError", "field_validator", "model_validator"]
