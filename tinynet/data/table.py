"""Tables: columns of numbers and of categories become numbers that a network takes, the same way for later tables.

    age  colour                 age  colour=green  colour=red
    31   red          ->        31   0             1
    24   green                  24   1             0

A category has no size, so that to number them would say something false: red is not twice green.  Each gets a column of
its own, which is 1 where it occurs (one-hot).  Which columns there are, the table that one learns from says, once: a
later one may lack a category, and must have the same columns all the same.
"""

import datetime
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinynet.checks import NUMBERS
from tinynet.data.writing import write_whole

MOST = 1000  # categories of a column; more are rather names, which say nothing about others


class Table:
    """How the columns of a table become numbers (N, D).

    frame     a DataFrame, or a dict of columns: lists or arrays (N,) of one length
    category  names of columns of numbers that are categories, too, such as postal codes

    A column of texts, or of pandas' dtype category, is one of categories; bools count as 0 and 1.  A number that is
    missing (NaN, None) becomes the mean of its column, and a column of its own says where that was; a category that is
    missing is one of its own.  `.names` has a name for each column of numbers, D = len(names).

    >>> table = tn.data.Table({"age": [31.0, 24.0, None], "colour": ["red", "green", "red"]})
    >>> table.names
    ['age', 'age is missing', 'colour=green', 'colour=red']
    >>> table.encode({"age": [50.0, None], "colour": ["green", "red"]})
    array([[50. ,  0. ,  1. ,  0. ],
           [27.5,  1. ,  0. ,  1. ]], dtype=float32)

    Columns of numbers are left as they are: a layer Normalize().fit(x) brings them to one scale.
    """

    def __init__(self, frame: Any, category: Any = ()) -> None:
        columns = _columns(frame, "Table")
        category = [category] if isinstance(category, str) else list(category)
        for name in category:
            if name not in columns:
                raise ValueError(f"Table: there is no column {name!r} among {', '.join(map(repr, columns))}")
        self._columns = [_learnt(name, column, name in category) for name, column in columns.items()]

    @property
    def names(self) -> list[str]:
        """What each column of the numbers is."""
        return [name for column in self._columns for name in _names(column)]

    def encode(self, frame: Any, unknown: str = "error") -> np.ndarray:
        """The numbers of a table with the same columns, in any order, and perhaps others: (N, D) of float32.

        unknown   what becomes of a category that did not occur: "error" refuses it, "zeros" leaves all its columns 0

        Raises ValueError or TypeError that names the column and the row, for a column that is absent and for what no
        column of its kind holds.
        """
        if unknown not in ("error", "zeros"):
            raise ValueError(f'Table.encode: unknown must be "error" or "zeros", got {unknown!r}')
        columns = _columns(frame, "Table.encode")
        absent = [column["name"] for column in self._columns if column["name"] not in columns]
        if absent:
            raise ValueError(f"Table.encode: the table has no column {', '.join(map(repr, absent))}")
        parts = [_encoded(column, columns[column["name"]], unknown) for column in self._columns]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def save(self, path: Any) -> None:
        """Write it to a file, as JSON; Table.load reads it again."""
        content = {"kind": "Table", "columns": self._columns}
        write_whole(path, json.dumps(content, ensure_ascii=False).encode(), who="Table.save")

    @classmethod
    def load(cls, path: Any) -> "Table":
        """What `save` has written.  Raises ValueError for a file that holds anything else."""
        with open(path, "rb") as file:
            data = file.read()
        try:
            content = json.loads(data)
            if content["kind"] != "Table":
                raise ValueError(f"it is of the kind {content['kind']!r}")
            loaded = cls.__new__(cls)
            loaded._columns = [_checked(column) for column in content["columns"]]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"Table.load: {path} holds no Table: {error!r}") from None
        return loaded

    def __repr__(self):
        return f"Table({len(self._columns)} columns, {len(self.names)} of numbers)"


def _columns(frame, who):
    """The columns as a dict: name -> (values as a list, whether they are categories)."""
    if not hasattr(frame, "columns") and not isinstance(frame, Mapping):
        raise TypeError(f"{who}: expected a DataFrame or a dict of columns, got {type(frame).__name__}")
    names = list(frame.columns if hasattr(frame, "columns") else frame)
    if len(set(map(str, names))) < len(names) or not names:  # 1 and "1" would be one column here
        raise ValueError(f"{who}: a table must have columns, with a name each, got {names}")
    found = {}
    for name in names:
        column = frame[name]
        is_category = str(getattr(column, "dtype", "")) in ("category", "str", "string")
        values = (value.item() if isinstance(value, np.generic) else value for value in column)
        found[str(name)] = [None if _is_missing(value) else value for value in values], is_category
    lengths = {len(values) for values, _ in found.values()}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(f"{who}: columns must have one length above 0, got {sorted(lengths)}")
    return found


def _is_missing(value):
    """None, NaN, and pandas' NA and NaT, which are neither equal nor unequal to themselves."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or (type(value) is float and value != value)


def _learnt(name, column, is_category):
    """What there is to know of a column: a dict of what JSON can hold."""
    values, is_category = column[0], column[1] or is_category
    present = [value for value in values if value is not None]
    if not present:
        raise ValueError(f"Table: the column {name!r} is missing in every row")
    missing = len(present) < len(values)
    if not is_category and all(isinstance(value, NUMBERS) for value in present):
        for value in present:
            if not math.isfinite(value):
                raise ValueError(f"Table: the column {name!r} must hold finite numbers, got {value}")
        return {"name": name, "mean": float(np.mean(present, dtype=np.float64)), "missing": missing}
    kinds = {type(value) for value in present}
    wrong = next((kind for kind in kinds if not issubclass(kind, (str, *NUMBERS))), None)
    if wrong is not None or len({issubclass(kind, str) for kind in kinds}) > 1:
        got = wrong.__name__ if wrong else "both texts and numbers"
        is_date = wrong is not None and issubclass(wrong, (datetime.date, np.datetime64))
        hint = "; give what matters of a date as numbers, such as its .dt.year or .dt.dayofweek" if is_date else ""
        raise TypeError(
            f"Table: the column {name!r} must hold numbers, or texts or numbers as categories, got {got}{hint}"
        )
    values = [value for _, value in sorted(set(map(_told_apart, present)))]
    if len(values) > MOST:
        raise ValueError(f"Table: the column {name!r} has {len(values)} categories, more than {MOST}; leave it out")
    return {"name": name, "values": values, "missing": missing}


def _checked(column):
    """A column from a file."""
    if not isinstance(column["name"], str) or not isinstance(column["missing"], bool):
        raise ValueError(f"a column is {column}")
    if "values" in column:
        return {"name": column["name"], "values": list(column["values"]), "missing": column["missing"]}
    return {"name": column["name"], "mean": float(column["mean"]), "missing": column["missing"]}


def _told_apart(category):
    """A key for it that is that of no other: to Python, True and 1 are equal."""
    return isinstance(category, bool), category


def _names(column):
    name = column["name"]
    first = [f"{name}={value}" for value in column["values"]] if "values" in column else [name]
    return [*first, f"{name} is missing"] if column["missing"] else first


def _encoded(column, given, unknown):
    """The column's numbers (N, its names)."""
    name, values = column["name"], given[0]
    x = np.zeros((len(values), len(_names(column))))
    place = {_told_apart(value): k for k, value in enumerate(column.get("values", ()))}
    for n, value in enumerate(values):
        if value is None:
            if not column["missing"]:
                raise ValueError(f"Table.encode: row {n} of {name!r} is missing, and none was in the first table")
            x[n, -1] = 1
            if "mean" in column:
                x[n, 0] = column["mean"]
        elif "mean" in column:
            if not isinstance(value, NUMBERS):
                raise TypeError(f"Table.encode: row {n} of {name!r} must be a number, got {value!r}")
            if not math.isfinite(value):
                raise ValueError(f"Table.encode: row {n} of {name!r} must be finite, got {value}")
            x[n, 0] = value
        elif _told_apart(value) in place:
            x[n, place[_told_apart(value)]] = 1
        elif unknown == "error":
            raise ValueError(
                f'Table.encode: row {n} of {name!r} is {value!r}, which did not occur; unknown="zeros" lets that pass'
            )
    return x
