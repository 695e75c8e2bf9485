"""A rule such as `verdict != "wrong pair" and reference_score > 0.2`, as a filter of Arrow tables.

Only names of columns, constants, comparisons, `in`, `and`, `or`, `not` and arithmetic are known:
a rule is data and never runs as Python.
"""

import ast
import difflib
import operator
from collections.abc import Sequence

import pyarrow.compute as pc

from jest_tf.errors import UserError

OPERATORS = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Add: operator.add, ast.Sub: operator.sub,
    ast.Mult: operator.mul, ast.Div: operator.truediv, ast.And: operator.and_,
    ast.Or: operator.or_, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.In: lambda column, values: column.isin(values),
    ast.NotIn: lambda column, values: ~column.isin(values),
}  # fmt: skip


def parse(text: str, columns: Sequence[str]) -> pc.Expression:
    """The filter that a rule describes; UserError: it is none, or names no such column."""
    try:
        return _expression(ast.parse(text.strip(), mode="eval").body, columns)
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"--keep={text!r} is no rule ({error}). Write comparisons of columns joined by and, "
            "or, not, such as: verdict != 'wrong pair' and reference_score > 0.2"
        ) from error


def require_column(name: str, columns: Sequence[str]) -> None:
    """Raises UserError unless there is a column of that name."""
    if name not in columns:
        close = difflib.get_close_matches(name, columns, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        raise UserError(f"the audit has no column {name!r}. {hint}It has: {', '.join(columns)}.")


def _expression(node: ast.expr, columns: Sequence[str]) -> pc.Expression:
    def inner(child: ast.expr) -> pc.Expression:
        return _expression(child, columns)

    match node:
        case ast.Name(id=name):
            require_column(name, columns)
            return pc.field(name)
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return pc.scalar(value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~inner(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return pc.scalar(0) - inner(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](inner(left), inner(right))
        case ast.BoolOp(op=op, values=[first, *others]):
            result = inner(first)
            for other in others:
                result = OPERATORS[type(op)](result, inner(other))
            return result
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            result, left = None, inner(left)
            for op, right in zip(ops, comparators, strict=True):
                is_list = isinstance(op, ast.In | ast.NotIn)
                right = ast.literal_eval(right) if is_list else inner(right)
                one = OPERATORS[type(op)](left, list(right) if is_list else right)
                result, left = one if result is None else result & one, right
            return result
    raise ValueError(f"{ast.unparse(node)} is not allowed")
