"""Tables: numbers, categories and what is missing, as pandas and scikit-learn have them; later tables the same way."""

import numpy as np
import pandas
import pytest
from sklearn.preprocessing import OneHotEncoder

import tinynet as tn

rng = np.random.default_rng(0)
FRAME = pandas.DataFrame(
    {
        "age": rng.integers(18, 90, 50),
        "income": rng.random(50) * 1e4,
        "colour": rng.choice(["red", "green", "blue"], 50),
        "size": pandas.Categorical(rng.choice(["S", "M", "L"], 50)),
        "member": rng.random(50) < 0.5,
    }
)


def test_it_is_pandas_get_dummies_and_the_one_hot_encoder():
    table = tn.data.Table(FRAME)
    x = table.encode(FRAME)
    expected = pandas.get_dummies(FRAME, prefix_sep="=").astype(np.float32)
    assert sorted(table.names) == sorted(expected.columns)
    np.testing.assert_array_equal(x, expected[table.names])
    hot = OneHotEncoder(sparse_output=False).fit_transform(FRAME[["colour", "size"]])
    np.testing.assert_array_equal(x[:, 2:8], hot)
    assert x.dtype == np.float32


def test_a_later_table_gets_the_same_columns():
    table = tn.data.Table(FRAME)
    later = FRAME[FRAME.colour == "red"][["size", "member", "colour", "income", "age"]].assign(more="unused")
    np.testing.assert_array_equal(table.encode(later), table.encode(FRAME)[(FRAME.colour == "red").to_numpy()])
    columns = {name: FRAME[name].tolist() for name in FRAME}
    np.testing.assert_array_equal(tn.data.Table(columns).encode(columns), table.encode(FRAME))


def test_what_is_missing_has_a_column_and_the_mean():
    frame = pandas.DataFrame(
        {
            "a": [1.0, np.nan, 3.0],
            "b": pandas.array([1, None, 4], dtype="Int64"),
            "c": ["x", None, "y"],
            "d": pandas.Categorical(["u", "v", None]),
        }
    )
    table = tn.data.Table(frame)
    names = ["a", "a is missing", "b", "b is missing", "c=x", "c=y", "c is missing", "d=u", "d=v", "d is missing"]
    assert table.names == names
    expected = [[1, 0, 1, 0, 1, 0, 0, 1, 0, 0], [2, 1, 2.5, 1, 0, 0, 1, 0, 1, 0], [3, 0, 4, 0, 0, 1, 0, 0, 0, 1]]
    np.testing.assert_array_equal(table.encode(frame), expected)


def test_numbers_may_be_categories():
    table = tn.data.Table({"code": [30, 10, 10]}, category="code")
    assert table.names == ["code=10", "code=30"]
    np.testing.assert_array_equal(table.encode({"code": np.array([10, 30])}), np.eye(2))


def test_true_and_1_are_two_categories(tmp_path):
    column = {"a": [True, 1, 2, False, 0, True]}
    table = tn.data.Table(column, category="a")
    assert table.names == ["a=0", "a=1", "a=2", "a=False", "a=True"]
    table.save(tmp_path / "table.json")
    for each in (table, tn.data.Table.load(tmp_path / "table.json")):
        assert each.encode(column).argmax(axis=1).tolist() == [4, 1, 2, 3, 0, 4]
    with pytest.raises(ValueError, match="row 0 of 'a' is True, which did not occur"):
        tn.data.Table({"a": [1, 0]}, category="a").encode({"a": [True]})


def test_it_comes_back_from_its_file(tmp_path):
    for frame in (FRAME, pandas.DataFrame({"a": [1.0, None], "é": ["ü", None]})):
        table = tn.data.Table(frame)
        table.save(tmp_path / "table.json")
        loaded = tn.data.Table.load(tmp_path / "table.json")
        assert loaded.names == table.names
        np.testing.assert_array_equal(loaded.encode(frame), table.encode(frame))
    for text in ("[]", "{}", "no", '{"kind": "BPE"}', '{"kind": "Table", "columns": [{"name": 3, "missing": true}]}'):
        (tmp_path / "other").write_text(text)
        with pytest.raises(ValueError, match=r"Table.load: .*other holds no Table"):
            tn.data.Table.load(tmp_path / "other")


def test_an_unknown_category_is_refused_or_has_no_column():
    table = tn.data.Table(FRAME)
    later = FRAME[:3].assign(colour=["red", "pink", "blue"])
    with pytest.raises(ValueError, match="row 1 of 'colour' is 'pink', which did not occur; unknown=\"zeros\" lets"):
        table.encode(later)
    x = table.encode(later, unknown="zeros")
    assert x[:, 2:5].sum(axis=1).tolist() == [1, 0, 1]


def test_a_network_learns_from_it():
    y = ((FRAME.colour == "red") & FRAME.member).to_numpy().astype(int)
    x = tn.data.Table(FRAME).encode(FRAME)
    model = tn.Sequential([tn.Normalize().fit(x), tn.Dense(8, activation="relu"), tn.Dense(2)], x.shape[1])
    tn.fit(model, x, y, loss="cross_entropy", optimizer=tn.Adam(model, 0.05), epochs=30, progress=False)
    assert tn.evaluate(model, x, y, metrics="accuracy")["accuracy"] == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tn.data.Table(np.ones((2, 2))), TypeError, "expected a DataFrame or a dict of columns, got ndarray"),
        (lambda: tn.data.Table({}), ValueError, "a table must have columns"),
        (lambda: tn.data.Table({"a": [1], "b": [1, 2]}), ValueError, r"one length above 0, got \[1, 2\]"),
        (lambda: tn.data.Table({"a": []}), ValueError, "one length above 0"),
        (lambda: tn.data.Table({1: [2], "1": [3]}), ValueError, "must have columns, with a name each, got .1, '1'."),
        (lambda: tn.data.Table({"a": [None]}), ValueError, "the column 'a' is missing in every row"),
        (lambda: tn.data.Table({"a": [1, np.inf]}), ValueError, "'a' must hold finite numbers, got inf"),
        (lambda: tn.data.Table({"a": [1, "x"]}), TypeError, "'a' must hold .* got both texts and numbers"),
        (lambda: tn.data.Table({"a": [[1]]}), TypeError, "'a' must hold .* got list"),
        (
            lambda: tn.data.Table({"a": pandas.to_datetime(["2020-01-01"])}),
            TypeError,
            "Timestamp; .* such as its .dt.year",
        ),
        (lambda: tn.data.Table({"a": map(str, range(1001))}), ValueError, "1001 categories, more than 1000; leave it"),
        (lambda: tn.data.Table(FRAME, category="town"), ValueError, "there is no column 'town' among 'age'"),
        (lambda: tn.data.Table(FRAME).encode(FRAME[["age"]]), ValueError, "has no column 'income', 'colour'"),
        (lambda: tn.data.Table(FRAME).encode(FRAME, unknown="skip"), ValueError, 'unknown must be "error" or "zeros"'),
        (lambda: tn.data.Table({"a": [1]}).encode({"a": ["1"]}), TypeError, "row 0 of 'a' must be a number, got '1'"),
        (lambda: tn.data.Table({"a": [1]}).encode({"a": [2, None]}), ValueError, "row 1 of 'a' is missing, and none"),
        (lambda: tn.data.Table({"a": [1]}).encode({"a": [np.inf]}), ValueError, "row 0 of 'a' must be finite, got inf"),
    ],
)
def test_what_is_no_table_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
