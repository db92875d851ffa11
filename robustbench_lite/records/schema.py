"""What everything in a record is made of."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Strict(BaseModel):
    """Base of everything in a record: no unknown field, no change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class Sparse(Strict):
    """Fields that default to ``None`` are left out while they are.

    So what a record does not have is in no key and no digest.
    """

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {k: v for k, v in values.items() if v is not None or fields[k].is_required()}
