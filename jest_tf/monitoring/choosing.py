"""Which pairs of an audit to keep: a rule, one of each group of near duplicates, the best share."""

import ast
import difflib
import operator
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from jest_tf.data import near_duplicates, units
from jest_tf.data.reference_cache import ReferenceCache
from jest_tf.errors import UserError, explaining
from jest_tf.files import replacing
from jest_tf.monitoring.audit import row_groups
from jest_tf.monitoring.verdicts import DUPLICATE, VERDICTS, representatives

OPERATORS = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.Add: operator.add, ast.Sub: operator.sub,
    ast.Mult: operator.mul, ast.Div: operator.truediv, ast.And: operator.and_,
    ast.Or: operator.or_, ast.BitAnd: operator.and_, ast.BitOr: operator.or_,
    ast.In: lambda column, values: column.isin(values),
    ast.NotIn: lambda column, values: ~column.isin(values),
}  # fmt: skip

# Columns that are high for bad pairs: `--top` by one of them would keep the worst.
LOW_IS_GOOD = ("wrong_rank", "reference_rank", "reference_loss")


def parse_rule(text: str, columns: Sequence[str]) -> pc.Expression:
    """The filter of Arrow tables that a rule describes; UserError: none, or no such column.

    Only names of columns, constants, comparisons, `in`, `and`, `or`, `not` and arithmetic are
    known: a rule such as `verdict != "learned" and reference_score > 0.2` is data, never run.
    """
    problem = f"--keep={text!r} is no rule ({{error}}). Write comparisons of columns (==, !=, <, "
    problem += "in) joined by and, or, not, such as: verdict != 'wrong pair' and reference_score > "
    problem += "0.2. Texts stand in quotes, numbers do not."
    kinds = (SyntaxError, ValueError, TypeError, KeyError, RecursionError)
    with explaining(kinds, problem, lambda error: getattr(error, "msg", str(error))):
        return _expression(ast.parse(text.strip(), mode="eval").body, columns)


def require_column(name: str, columns: Sequence[str]) -> None:
    """Raises UserError unless there is a column of that name."""
    if name not in columns:
        close = difflib.get_close_matches(name, columns, n=1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        hint += f"It has: {', '.join(columns)}. A text stands in quotes."
        raise UserError(f"the audit has no column {name!r}. {hint}")


def _expression(node: ast.expr, columns: Sequence[str]) -> pc.Expression:
    def inner(child: ast.expr) -> pc.Expression:
        return _expression(child, columns)

    match node:
        case ast.Name(id=name):
            require_column(name, columns)
            field = pc.field(name)
            if name != "verdict":
                return field
            return pc.if_else(pc.starts_with(field, f"{DUPLICATE} of "), DUPLICATE, field)
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
            _check_verdicts(node)
            for op, right in zip(ops, comparators, strict=True):
                is_list = isinstance(op, ast.In | ast.NotIn)
                if is_list and not isinstance(right, ast.Tuple | ast.List | ast.Set):
                    raise ValueError("after `in` comes a list, such as ('useful', 'learned')")
                right = ast.literal_eval(right) if is_list else inner(right)
                one = OPERATORS[type(op)](left, list(right) if is_list else right)
                result, left = one if result is None else result & one, right
            return result
    raise ValueError(f"{ast.unparse(node)} is not allowed")


def _check_verdicts(node: ast.Compare) -> None:
    """Raises ValueError where `verdict` is compared with a text that is none: != would keep all."""
    sides = [node.left, *node.comparators]
    if any(isinstance(side, ast.Name) and side.id == "verdict" for side in sides):
        told = {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
        if unknown := sorted(told - set(VERDICTS), key=str):
            valid = ", ".join(map(repr, VERDICTS))
            raise ValueError(f"no verdict is {unknown[0]!r}; expected one of {valid}")


class Choice:
    """The pairs of an audit's Parquet file; kept, bool [n], marks those that are kept."""

    def __init__(self, path: str):
        self._path = path
        with pq.ParquetFile(path) as file:
            self.columns = [n for n in file.schema_arrow.names if n != "image"]
            self.kept = np.ones(file.metadata.num_rows, bool)

    def keep(self, rule: str) -> None:
        """Keeps what a rule is true of; see `parse_rule`."""
        expression = parse_rule(rule, self.columns)
        # pyarrow raises several types for kinds that do not fit.
        problem = f"--keep={rule!r} cannot be computed: {{error}}. Texts stand in quotes, numbers "
        with explaining(Exception, problem + "do not."):
            parts = [
                ds.dataset(table).to_table(columns={"kept": expression})["kept"]
                for table in row_groups(self._path, self.columns)
            ]
        if parts[0].type != pa.bool_():
            raise UserError(f"--keep={rule!r} gives {parts[0].type}; expected a comparison.")
        self.kept &= np.concatenate([part.fill_null(False).to_numpy() for part in parts])

    def dedup(
        self,
        cosine: float,
        by: str | None = None,
        cache: ReferenceCache | None = None,
        parts: str = "",
        beam: units.Beam | None = None,
    ) -> int:
        """Keeps the best of each group of the same pictures, and of near ones; returns how many go.

        cosine: from which two pictures are near; 1: the same bytes alone. by: the column that says
        which is the best. cache: of embeddings, for a cosine below 1. parts: folder for the work
        of comparing them, done here or by `beam`.
        """
        n = len(self.kept)
        group = representatives(self._column("content_hash"))
        if cosine < 1:
            if cache is None:
                raise UserError(
                    f"--dedup={cosine} compares embeddings: give --embeddings, a folder of "
                    "cache_reference of the same data (AUDIT.reference, if the audit made one)."
                )
            group = near_duplicates.groups(cache, self.kept, group, cosine, parts, beam)
        worst_first = self._kept_best_first(by)[::-1]
        winner = np.full(n, -1)
        winner[group[worst_first]] = worst_first  # numpy keeps what is written last
        kept = np.zeros(n, bool)
        kept[winner[winner >= 0]] = True
        removed = int(self.kept.sum() - kept.sum())
        self.kept = kept
        return removed

    def top(self, share: float, by: str | None, per_source: bool) -> None:
        """Keeps the best: this share of all pairs of the audit, or of each source."""
        source = self._codes("source") if per_source else np.zeros(len(self.kept), np.int32)
        best = self._kept_best_first(by)
        kept = np.zeros(len(self.kept), bool)
        for name in np.unique(source):
            kept[best[source[best] == name][: round(share * np.sum(source == name))]] = True
        self.kept = kept

    def kept_keys(self) -> Iterator[str]:
        """Keys of the kept pairs, in order."""
        first = 0
        for table in row_groups(self._path, ["key"]):
            yield from table["key"].filter(self.kept[first : first + len(table)]).to_pylist()
            first += len(table)

    def write_rows(self, path: str) -> None:
        """The rows of the kept pairs, as a Parquet file of its own."""
        first, schema = 0, pq.read_schema(self._path)
        with replacing(path) as aside, pq.ParquetWriter(aside, schema) as writer:
            for table in row_groups(self._path):
                writer.write_table(table.filter(self.kept[first : first + len(table)]))
                first += len(table)

    def _kept_best_first(self, by: str | None) -> np.ndarray:
        """Kept rows by descending value, of `-NAME` by ascending; equal ones in order, those
        without a value last. None: by what the reference says of the pair.
        """
        has_score = "reference_score" in self.columns  # not in an audit of a run alone
        by = by or ("reference_score" if has_score else "-reference_loss")
        name = by.removeprefix("-")
        require_column(name, self.columns)
        values = self._column(name)
        if values.dtype.kind not in "iuf":
            raise UserError(f"--by={by}: the column holds no numbers.")
        if by == name and name in LOW_IS_GOOD:
            raise UserError(f"--by={by} is high for bad pairs. --by=-{name} prefers the low ones.")
        values = values if values.dtype.kind == "f" else values.astype(np.float64)
        values = np.negative(values, out=values) if by != name else values
        values[np.isnan(values)] = -np.inf
        best = np.argsort(np.negative(values, out=values), kind="stable")
        return best[self.kept[best]]

    def _codes(self, name: str) -> np.ndarray:
        """int32 [n]: a number for each text of a column."""
        column = pq.read_table(self._path, columns=[name], read_dictionary=[name])[name]
        return column.unify_dictionaries().combine_chunks().indices.to_numpy()

    def _column(self, name: str) -> np.ndarray:
        whole, first = None, 0
        for table in row_groups(self._path, [name]):
            part = table[name].to_numpy()
            whole = np.empty(len(self.kept), part.dtype) if whole is None else whole
            whole[first : first + len(part)] = part
            first += len(part)
        return whole
