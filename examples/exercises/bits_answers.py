"""The answers to bits.py.

1.  -log2 P(x), rounded up.  Then 1/2^k <= P(x), and the P sum to 1; and rounding up adds less than 1 to each length, so
    less than 1 to the mean.

2.  A word of k bits takes an interval of the width 1/2^k.  Widest first, each begins where the last one ends, which
    is a multiple of its own width, since all before were as wide, or wider by a power of 2.  So the interval is that
    of all numbers which begin with the same k bits after the point: these are the word.  No two intervals overlap, so
    no word begins another one.

3.  loss / log 2 bits a letter, and 8 bits a byte.  So who guesses a text well can store it in little: 1.5 nats are 2.16
    bits, where a file spends 8 on a letter.

4.  Values come as P says, so P weighs what is paid: KL(P || Q) = sum_x P(x) log2(P(x) / Q(x)), to base 2 for bits.
    Values with P(x) = 0 are left out: they never come.  Where P(x) > 0 and Q(x) = 0, the quotient is infinite, and its
    logarithm, too.

5.  g(y) = dL/dQ(y) = log(Q(y) / P(y)) + 1, by the product rule.  Then

        dz[x] = sum_y g(y) Q(y) ([y = x] - Q(x)) = Q(x) (g(x) - sum_y Q(y) g(y)) = Q(x) (log(Q(x) / P(x)) - L)

    since the sum is L + 1.  Where Q is nearly 0, this is nearly 0, however large P is: Q may forget a value that comes.
    The gradient of KL(P || Q), which is Q - P, pulls with all of P there.
"""

import bits
import numpy as np
from bits import softmax
from tasks import run


def lengths(P):
    return np.ceil(-np.log2(P)).astype(int)


def words(k):
    found, begin = [""] * len(k), 0.0
    for x in np.argsort(k, kind="stable"):
        found[x] = f"{int(begin * 2 ** k[x]):0{k[x]}b}"
        begin += 0.5 ** k[x]
    return found


def bytes_of(loss, letters):
    return loss / np.log(2) * letters / 8


def price(P, Q):
    comes = P > 0
    return (P[comes] * np.log2(P[comes] / Q[comes])).sum()


def gradient_of_the_other(z, P):
    Q = softmax(z)
    surprise = np.log(Q / P)
    return Q * (surprise - Q @ surprise)


if __name__ == "__main__":
    run(bits.tasks(globals()))
