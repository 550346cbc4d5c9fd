"""Exercises after example 06, bits: five gaps.  Fill them, and run this file; it says which are right.

    python examples/exercises/bits.py

P and Q (X,) are probabilities of X values: P is how often they come, Q what somebody believes.  A word is a text of 0s
and 1s.  The answers, with their derivations, are in bits_answers.py.
"""

import numpy as np
from tasks import call, derivatives, gap, run, same


def lengths(P):
    """1.  Words have whole numbers of bits.  Return lengths k (X,) of words that don't use up more than there is, that
    is, whose sum of 1/2^k is at most 1, and that take less than H(P) + 1 bits in the mean.  No P(x) is 0.
    """
    gap()


def words(k):
    """2.  Whatever such lengths are, there are words for them.  Return a list of X words, with k[x] bits for x, none of
    which is the beginning of another one.  (Who takes a word takes an interval of the numbers from 0 to 1: 01 takes
    those that begin with 0.01 in binary, from 1/4 to 1/2.  Lay the intervals side by side, the widest first.)
    """
    gap()


def bytes_of(loss, letters):
    """3.  A model guesses the next letter of a text, and its cross-entropy is `loss` nats a letter.  In a code for what
    it believes, how many bytes, of 8 bits each, does a text of so many letters take?
    """
    gap()


def price(P, Q):
    """4.  How many bits more than H(P) does a code for Q pay for a value, in the mean?  A value that never comes pays
    nothing, whatever Q is; one that comes though Q held it for impossible costs infinity.  Mend all that is wrong.
    """
    return (Q * np.log(Q / P)).sum()


def gradient_of_the_other(z, P):
    """5.  The divergence the other way round, in nats: L = KL(Q || P) = sum_x Q(x) log(Q(x) / P(x)) of Q = softmax(z).
    Every z touched every Q: dQ(y)/dz[x] = Q(y) ([y = x] - Q(x)), where [y = x] is 1 for y = x and else 0.  Return
    dz (X,).  (It is not Q - P.)
    """
    gap()


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def tasks(written):
    """What is asserted of the functions of these names."""
    rng = np.random.default_rng(0)
    cases = [np.array([0.5, 0.25, 0.125, 0.125]), np.array([0.9, 0.06, 0.04]), rng.dirichlet(np.ones(17))]

    def whole():
        for P in cases:
            k = call(written["lengths"], P)
            assert k.shape == P.shape, f"expected {len(P)} lengths, got {k}"
            assert (k == np.rint(k)).all(), f"{k} are not all whole numbers"
            used, mean, H = (0.5**k).sum(), P @ k, -P @ np.log2(P)
            which = f"for P = {P}" if len(P) < 5 else f"for {len(P)} random P"
            assert used <= 1, f"{which} the words use up {used:.4f} of what is there"
            assert mean < H + 1, f"{which} they take {mean:.4f} bits in the mean, and H(P) + 1 is {H + 1:.4f}"

    def prefixes():
        for k in ([1, 2, 3, 3], [3, 1, 3, 3, 3], [2, 2, 2, 2], [4, 2, 6, 1, 5]):
            found = written["words"](np.array(k))
            assert isinstance(found, list), f"expected a list of words, got {found!r}"
            assert [len(word) for word in found] == k, f"{found} don't have the lengths {k}"
            assert set("".join(found)) <= {"0", "1"}, f"{found}: only 0 and 1 are bits"
            for x, word in enumerate(found):
                for other in found[:x] + found[x + 1 :]:
                    assert not other.startswith(word), f"of {found}, for lengths {k}, {word} begins {other}"

    def size():
        right = 1.5 * 8000 / np.log(2) / 8
        mistakes = [
            (8 * right, "those are bits"),
            (1.5 * 8000, "those are nats: how many bits is one?"),
            (1.5 * 1000, "a nat is not a bit"),
            (1.5 * 1000 * np.log(2), "a nat is more than a bit, not less"),
        ]
        same("the number of bytes", call(written["bytes_of"], 1.5, 8000), right, mistakes)

    def mended():
        P, Q = cases[0], np.array([0.2, 0.2, 0.5, 0.1])
        right, turned = P @ np.log2(P / Q), Q @ np.log2(Q / P)
        mistakes = [
            (right * np.log(2), "it is in nats"),
            (turned * np.log(2), "Q is what is believed; but how often does each value come?  And it is in nats"),
            (turned, "Q is what is believed; but how often does each value come?"),
            (-right, "what is paid too much is above 0"),
            (-P @ np.log2(Q), "that is all that the code pays, H(P) and the price"),
        ]
        same("the price", call(written["price"], P, Q), right, mistakes)
        with np.errstate(all="ignore"):
            for name, P, Q, right in (
                ("a value that never comes", [0.5, 0.5, 0], [0.25, 0.5, 0.25], 0.5),
                ("one that nobody expects, either", [0.5, 0.5, 0], [0.25, 0.75, 0], 0.5 + 0.5 * np.log2(0.5 / 0.75)),
                ("one that comes, and was not expected", [0.5, 0.25, 0.25], [0.5, 0.5, 0], np.inf),
            ):
                found = call(written["price"], np.array(P), np.array(Q))
                why = "a word for it would be infinitely long: leave it so, without a small number in place of 0"
                if right < np.inf:
                    why = "0 times an infinite logarithm is NaN: leave out what never comes"
                same(f"with {name}, the price", found, right, why=why)

    def other():
        z, P = rng.standard_normal(5), rng.dirichlet(np.ones(5))
        Q = softmax(z)
        mistakes = [
            (Q - P, "that is the gradient of KL(P || Q)"),
            (np.log(Q / P) + 1, "that is dL/dQ; z touched all Q"),
            (Q * (1 - Q) * (np.log(Q / P) + 1), "z[x] touched the other Q, too"),
            (Q * (np.log(Q / P) + 1), "z[x] touched the other Q, too"),
            (Q * np.log(Q / P), "z[x] touched the other Q, too"),
            (Q * (np.log(Q / P) - np.log(Q / P).sum()), "z[x] touched each Q(y) times -Q(y) Q(x), too: mind the Q(y)"),
        ]
        loss = lambda: softmax(z) @ np.log(softmax(z) / P)  # noqa: E731
        derivatives("dz", call(written["gradient_of_the_other"], z, P), z, loss, mistakes=mistakes)

    return {"1, lengths": whole, "2, words": prefixes, "3, bytes": size, "4, price": mended, "5, the other": other}


if __name__ == "__main__":
    run(tasks(globals()))
