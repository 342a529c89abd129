"""For the Python reference: what `Setting(...)` says of a field is its documentation."""

from __future__ import annotations

import ast
from typing import Any

from griffe import Attribute, Docstring, ExprCall, ExprSubscript, ExprTuple, Extension


class Settings(Extension):
    """Reads `name: Annotated[kind, Setting("What it is.")]` as `name: kind`, and what it is."""

    def on_attribute_instance(self, *, attr: Attribute, **_: Any) -> None:
        """Take the annotation apart."""
        annotated = attr.annotation
        if not isinstance(annotated, ExprSubscript) or str(annotated.left) != "Annotated":
            return
        assert isinstance(annotated.slice, ExprTuple)
        kind, *said = annotated.slice.elements
        attr.annotation = kind
        for call in said:
            if isinstance(call, ExprCall) and str(call.function).rpartition(".")[2] == "Setting":
                text = call.arguments[0]
                if isinstance(text, str):  # a literal, not an expression
                    attr.docstring = Docstring(ast.literal_eval(text), parent=attr)
