"""The answers to attention.py.

1.  A score is a sum of C products q[t,c] k[j,c].  Each has mean 0 and, both factors being independent, the variance
    a^2 b^2.  Variances of independent terms add up: C a^2 b^2.  So the factor is 1 / (a b sqrt(C)).

2.  dv, dp and dscore are those of example 22, since all behind the scores is the same.  q[t,c] touched score[t,j] of
    every j, times -(q[t,c] - k[j,c]); and k[j,c] touched score[t,j] of every t, times q[t,c] - k[j,c]:

        dq[t] = sum_j dscore[t,j] (k[j] - q[t])              dk[j] = sum_t dscore[t,j] (q[t] - k[j])

    A row of dscore sums to 0, so what q[t] adds in dq[t] cancels: dq = dscore k, as if the scores were q k.T.
    (|q[t]|^2 is the same in the whole row, and a softmax does not see it.)  The columns of dscore don't sum to 0: in
    dk, k[j] stays.

3.  The sum in the softmax's denominator had the future in it.  So the scores of the future become -inf before the
    softmax: exp makes 0 of them, and they are in no sum and no maximum.

4.  x[i] touched every y[n] with index[n] = i, times 1, so those dy[n] add up.  (dx[index] += dy keeps only one of
    them.  This is the backward pass of an Embedding, too, where index are the words of a text.)

5.  The new row needs a query, and a key and a value of its own, which it sees, too.  The rows before don't see it, so
    nothing of theirs changes, and their queries are not needed any more.
"""

import attention
import numpy as np
from attention import distances, softmax
from tasks import run


def scale(C, a, b):
    return 1 / (a * b * np.sqrt(C))


def backward_of_distances(q, k, v, do):
    p = softmax(distances(q, k))
    dp = do @ v.T
    dscore = p * (dp - (dp * p).sum(axis=1, keepdims=True))
    return dscore @ k, dscore.T @ q - dscore.sum(axis=0)[:, None] * k, p.T @ do


def causal_shares(score):
    return softmax(np.where(np.tri(len(score), dtype=bool), score, -np.inf))


def backward_of_picking(dy, index, T):
    dx = np.zeros((T, dy.shape[1]))
    for n, row in enumerate(index):
        dx[row] += dy[n]
    return dx


def one_more(row, keys, values, wq, wk, wv):
    keys, values = np.vstack([keys, row @ wk]), np.vstack([values, row @ wv])
    score = keys @ (row @ wq) / np.sqrt(len(row))
    return softmax(score) @ values, keys, values


if __name__ == "__main__":
    run(attention.tasks(globals()))
