"""Networks as estimators of scikit-learn: for pipelines, cross-validation and searches over their options.

    from tinynet.interop.sklearn import Classifier

    model = make_pipeline(StandardScaler(), Classifier(hidden=(64, 32), early_stopping=True))
    GridSearchCV(model, {"classifier__lr": [1e-3, 1e-2]}, n_jobs=2).fit(X, y)

X (N, features) is a table of numbers, an array or a DataFrame.  Networks learn best where each feature has mean 0 and
deviation 1: put a StandardScaler before them.  What is trained, by tinynet.fit, is a tinynet.Sequential: `model_`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state, compute_sample_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data
except ModuleNotFoundError as error:
    if error.name and error.name.partition(".")[0] != "sklearn":
        raise
    raise ImportError("tinynet.interop.sklearn needs scikit-learn: pip install 'tinynet-numba[sklearn]'") from None

from tinynet.checks import float_dtype
from tinynet.checks.other_names import run_together
from tinynet.layers.dense import Dense
from tinynet.losses.by_name import LOSSES, OTHER_NAMES, loss_function, without_options
from tinynet.losses.huber import huber
from tinynet.losses.mean_absolute_error import mean_absolute_error
from tinynet.losses.mean_squared_error import mean_squared_error
from tinynet.model import Sequential
from tinynet.probabilities import softmax
from tinynet.training import optim
from tinynet.training.callbacks import EarlyStopping
from tinynet.training.loop import fit

Hidden = Sequence[int] | Callable[[], list]


class _Network(BaseEstimator):
    """What both share.  A subclass says how targets become what the loss takes, and scores predictions."""

    def __init__(
        self,
        hidden: Hidden = (64, 32),
        *,
        activation: str = "relu",
        loss: Any = None,
        optimizer: Any = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        epochs: int = 100,
        batch_size: int = 64,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        warm_start: bool = False,
        dtype: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden, self.activation, self.loss = hidden, activation, loss
        self.optimizer, self.lr, self.weight_decay = optimizer, lr, weight_decay
        self.epochs, self.batch_size = epochs, batch_size
        self.early_stopping, self.validation_fraction, self.patience = early_stopping, validation_fraction, patience
        self.warm_start, self.dtype, self.random_state, self.verbose = warm_start, dtype, random_state, verbose

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Train on X (N, features) with targets y; `sample_weight` (N,) counts a sample so many times.  Returns self.

        With `warm_start`, and trained before, it goes on from there: y must be of the same kind then.
        """
        goes_on = self.warm_start and hasattr(self, "model_")
        with self._all_or_nothing(goes_on):
            X, targets, weight = self._begin(X, y, sample_weight, None, goes_on)
            options: dict[str, Any] = {}
            if self.early_stopping:
                arrays = [X, targets] if weight is None else [X, targets, weight]
                split = train_test_split(
                    *arrays, test_size=self.validation_fraction, random_state=self._seed, stratify=self._strata(targets)
                )
                X, targets, *rest = split[::2]
                weight = rest[0] if rest else None
                options = {"validation": tuple(split[1::2]), "callbacks": EarlyStopping(patience=self.patience)}
            return self._train(X, targets, weight, self.epochs, **options)

    def _partial_fit(self, X, y, classes, sample_weight):
        goes_on = hasattr(self, "model_")
        with self._all_or_nothing(goes_on):
            return self._train(*self._begin(X, y, sample_weight, classes, goes_on), 1)

    def _begin(self, X, y, sample_weight, classes, goes_on):
        """X, the targets and their weights as fit takes them, and a new network for them unless one goes on."""
        X, y, weight = self._checked(X, y, sample_weight, reset=not goes_on)
        targets, outputs = self._targets(y, classes, goes_on)
        weight = self._weighted(weight, y)
        if not goes_on:
            self._start(X, outputs)
            self._set_first_bias(targets, weight)
        return X, targets, weight

    @contextlib.contextmanager
    def _all_or_nothing(self, goes_on):
        """After an error, such as a loss that is NaN, it is what it was before: no network of NaN stays to predict."""
        before = dict(vars(self))
        if goes_on:  # the network itself is trained on
            before["model_"], before["_optimizer"] = copy.deepcopy((self.model_, self._optimizer))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _checked(self, X, y, sample_weight, reset):
        options = {"order": "C", "reset": reset, "dtype": [np.float64, np.float32]}
        if not reset or self.dtype is not None:
            options["dtype"] = float_dtype(self.dtype) if reset else self.model_.dtype
        if isinstance(self, RegressorMixin):
            options |= {"y_numeric": True, "multi_output": True}
        X, y = validate_data(self, X, y, **options)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        return X, y, sample_weight

    def _start(self, X, outputs):
        """A new network for these features, and its optimizer."""
        self._seed = int(check_random_state(self.random_state).randint(2**31))
        if callable(self.hidden):
            layers = list(self.hidden())
        elif isinstance(self.hidden, (list, tuple)):
            layers = [Dense(units, activation=self.activation) for units in self.hidden]
        else:
            raise TypeError(f"hidden must be a tuple of widths, (64, 32), or a function, got {self.hidden!r}")
        model = Sequential([*layers, Dense(outputs)], X.shape[1], self._seed, X.dtype)
        kinds = {"adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop, "sgd": optim.SGD}
        make = self.optimizer if callable(self.optimizer) else kinds.get(self.optimizer)
        if make is None:
            names = ", ".join(map(repr, kinds))
            raise ValueError(f"optimizer must be one of {names}, or a function; got {self.optimizer!r}")
        self.model_, self._optimizer = model, make(model, lr=self.lr, weight_decay=self.weight_decay)
        self.loss_curve_, self.validation_loss_curve_ = [], []

    def _train(self, X, targets, weight, epochs, **options):
        seed = self._seed + len(self.loss_curve_)  # another order of the samples, where training goes on
        history = fit(
            self.model_, X, targets, loss=self.loss or self._loss, optimizer=self._optimizer, epochs=epochs,
            batch_size=self.batch_size, sample_weight=weight, seed=seed, progress=self.verbose, **options,
        )  # fmt: skip
        self.loss_curve_ += history["loss"]
        self.validation_loss_curve_ += history["val_loss"] if "validation" in options else []
        self.n_iter_ = len(self.loss_curve_)
        return self

    def _scores(self, X):
        """What the network makes of X (N, features)."""
        check_is_fitted(self, "model_")
        return self.model_.predict(validate_data(self, X, dtype=self.model_.dtype, order="C", reset=False))


class Classifier(ClassifierMixin, _Network):
    """A network that classifies, as scikit-learn has estimators: labels are numbers or texts.

    hidden          the widths of the hidden layers; or a function without arguments that returns them, new ones each
                    time, a list of any layers: lambda: [tn.Dense(64), tn.BatchNorm(), tn.ReLU(), tn.Dropout(0.2)]
    activation      that of hidden layers given by their widths
    loss            a loss of logits (N, classes) and labels, or its name: None is "softmax_cross_entropy"
    optimizer       "adam", "adamw", "rmsprop", "sgd", or a function (model, lr, weight_decay), as tn.Adam is one
    lr, weight_decay  the optimizer's
    epochs          how often all samples are seen, at most
    batch_size      how many at a time
    early_stopping  keeps back the share `validation_fraction` of the samples, of each class alike, and stops when the
                    loss on them has not been lower for `patience` epochs; the weights are those of the best epoch
    class_weight    None, {label: weight}, or "balanced", as everywhere in scikit-learn
    warm_start      whether fit goes on from where the last one ended
    dtype           "float32", which is faster, or "float64"; None: as X is, and float64 where X is neither
    random_state    of the first weights and of the order of the samples: with the same number, the same model
    verbose         whether fit shows its progress

    Fitted: `model_` (the tinynet.Sequential), `classes_`, `loss_curve_` and `validation_loss_curve_` (a number an
    epoch), `n_iter_` (how many epochs that were), `n_features_in_`.

    >>> from tinynet.interop.sklearn import Classifier
    >>> (x, y), (x_test, y_test) = tn.data.digits()
    >>> model = Classifier(hidden=(32,), lr=0.01, epochs=5, random_state=0).fit(x.reshape(-1, 64), y)
    >>> model.score(x_test.reshape(-1, 64), y_test) > 0.8
    True
    """

    _loss = "softmax_cross_entropy"

    def __init__(
        self,
        hidden: Hidden = (64, 32),
        *,
        activation: str = "relu",
        loss: Any = None,
        optimizer: Any = "adam",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        epochs: int = 100,
        batch_size: int = 64,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 10,
        class_weight: Any = None,
        warm_start: bool = False,
        dtype: str | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            hidden, activation=activation, loss=loss, optimizer=optimizer, lr=lr, weight_decay=weight_decay,
            epochs=epochs, batch_size=batch_size, early_stopping=early_stopping,
            validation_fraction=validation_fraction, patience=patience, warm_start=warm_start, dtype=dtype,
            random_state=random_state, verbose=verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Any:
        """One epoch on these samples, from where it is.  The first call says what all `classes` are.  Returns self."""
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all samples at once: give partial_fit a dict of weights")
        if not hasattr(self, "model_") and classes is None:
            raise ValueError("the first call of partial_fit must be given all classes: partial_fit(X, y, classes=...)")
        return self._partial_fit(X, y, classes, sample_weight)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The label of the largest score, (N,)."""
        scores = self._scores(X)
        return self.classes_[scores.argmax(axis=1)]

    def _has_probabilities(self):
        loss, _ = without_options(self.loss or self._loss)
        loss = LOSSES.get(OTHER_NAMES.get(run_together(loss), loss)) if isinstance(loss, str) else loss
        if hasattr(loss, "declaration") and loss.declaration.expects != "logits":
            raise AttributeError(f"the scores of loss={loss.__name__!r} are no logits: no probabilities follow")
        return True

    @available_if(_has_probabilities)
    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """The probability of each class, (N, classes), in the order of `classes_`."""
        return softmax(self._scores(X))

    def _targets(self, y, classes, goes_on):
        """The number of each label, and how many classes there are."""
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        given = np.unique(y if classes is None else classes)
        if not goes_on:
            self.classes_ = given
        elif classes is not None and not np.array_equal(given, self.classes_):
            raise ValueError(f"classes were {self.classes_} when training began, and are {given} here")
        unknown = np.setdiff1d(y, self.classes_)
        if unknown.size:
            raise ValueError(f"y has labels {unknown} that were none of the classes {self.classes_} at first")
        return np.searchsorted(self.classes_, y), len(self.classes_)

    def _weighted(self, weight, y):
        if self.class_weight is None:
            return weight
        of_class = compute_sample_weight(self.class_weight, y)
        return of_class if weight is None else weight * of_class

    def _strata(self, targets):
        return targets

    def _set_first_bias(self, targets, weight):
        pass


class Regressor(RegressorMixin, _Network):
    """A network that predicts numbers, as scikit-learn has estimators: y (N,), or (N, outputs).

    loss     a loss of predictions and targets (N, outputs), or its name: None is "mean_squared_error"; "huber" and
             "mean_absolute_error" mind outliers less

    All else is as in Classifier.  With these losses, training begins at the mean of y, which the last bias then is.
    Targets are learnt best where they spread by about 1: sklearn.compose has a TransformedTargetRegressor, which scales
    them.

    >>> from tinynet.interop.sklearn import Regressor
    >>> X = np.random.default_rng(0).uniform(-1, 1, (200, 2))
    >>> model = Regressor(hidden=(16,), lr=0.01, random_state=0).fit(X, X[:, 0] * X[:, 1])
    >>> model.score(X, X[:, 0] * X[:, 1]) > 0.9
    True
    """

    _loss = "mean_squared_error"

    def partial_fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """One epoch on these samples, from where it is.  Returns self."""
        return self._partial_fit(X, y, None, sample_weight)

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The predictions, of y's shape."""
        scores = self._scores(X)
        return scores[:, 0] if self._is_vector else scores

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _targets(self, y, classes, goes_on):
        """y (N, outputs), and how many outputs there are."""
        y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
        targets = y.reshape(len(y), -1)
        outputs = targets.shape[1]
        if goes_on and outputs != self.model_.output_shape[0]:
            raise ValueError(f"y had {self.model_.output_shape[0]} outputs when training began, and has {outputs} here")
        self._is_vector = y.ndim == 1
        return targets, outputs

    def _weighted(self, weight, y):
        return weight

    def _set_first_bias(self, targets, weight):
        """The mean of the targets, from which losses in their unit would else have to go a long way, step by step."""
        loss = self.loss or self._loss
        function, _ = without_options(loss_function(loss, "fit") if isinstance(loss, str) else loss)
        if function in (mean_squared_error, mean_absolute_error, huber) and (weight is None or weight.any()):
            self.model_.layers[-1].parameters[1].value = np.average(targets, axis=0, weights=weight)

    def _strata(self, targets):
        return None
