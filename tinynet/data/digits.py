"""The handwritten digits that come with the package, so that everything can be tried without a download.

E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
doi 10.24432/C50P49, CC BY 4.0.  DIGITS.txt beside this file says what was changed.
"""

import io
from importlib.resources import files

import numpy as np

from tinynet.data.files import Part


def digits() -> tuple[Part, Part]:
    """1,797 handwritten digits of 8 x 8 pixels, as (x_train, y_train), (x_test, y_test): 1,437 and 360 of them.

    Images are float32 in [0, 1], (N, 8, 8, 1), 0 the paper and 1 the ink; labels are int64, (N,), 0 to 9.  The
    split is always the same, and each digit is as frequent in one part as in the other.

    >>> (x_train, y_train), (x_test, y_test) = tn.data.digits()
    >>> x_train.shape, y_test.shape
    ((1437, 8, 8, 1), (360,))
    """
    content = files("tinynet.data").joinpath("digits.npz").read_bytes()  # which may lie in a zip file
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        parts = [
            (file[f"x_{part}"][..., np.newaxis] / np.float32(16), file[f"y_{part}"].astype(np.int64))
            for part in ("train", "test")
        ]
    return parts[0], parts[1]
