"""Entropy, cross-entropy and divergence are prices in bits: what a real code pays for real pixels.

    python examples/06_bits.py

A pixel of the handwritten digits has one of 17 values, 0 (paper) to 16 (ink).  To store it, give each value a word of
0s and 1s: short words for frequent values, so that the whole is short.  (No word may be the beginning of another one,
or nobody could tell where a word ends.)  What is the shortest that the whole can be?

P(x) is the share of the pixels with value x.  Short words are scarce: of k bits there are 2^k words, and who takes the
word 0 can have no other one that begins with 0, half of all there are.  So a word of k bits uses up 1/2^k of what is
there.  The best one can do, as is shown below, is to give each value as much of that as its share of the pixels: 1/2^k
= P(x), so that its word has k = log2 1/P(x) = -log2 P(x) bits, its surprise.  (log2 is the logarithm to base 2.)  Two
values that come equally often get 1 bit each, eight of them 3 bits.  The mean over all pixels is

    H(P) = -sum_x P(x) log2 P(x)              the entropy.  No code with a word for each value takes fewer bits a value
                                              (Shannon 1948).  A value that never comes, P(x) = 0, adds 0

If somebody believes that the values come with probabilities Q(x), and makes the words for that, the words are
-log2 Q(x) bits long; but the values still come as P says, so the mean length is

    H(P, Q)    = -sum_x P(x) log2 Q(x)        the cross-entropy
    KL(P || Q) = H(P, Q) - H(P)               the Kullback-Leibler divergence: what the wrong belief costs
               = sum_x P(x) log2(P(x) / Q(x))

It is never below 0, and 0 only where Q = P: log u <= u - 1, its tangent at u = 1, with equality only there, so in
natural logarithms -KL(P || Q) = sum_x P(x) log(Q(x) / P(x)) <= sum_x P(x) (Q(x) / P(x) - 1) = sum_x Q(x) - sum_x P(x)
= 0.  That is why no words do better than H(P): what they use up, 1/2^k, is a Q(x), with a sum of at most 1.

Words have whole numbers of bits, so a real code can only come near to that.  Huffman's (1952) comes nearest to H(P):
put the two rarest values together, which lengthens their words by one bit, count them as one value, and repeat.
Here it is made for P and for three beliefs Q: the shares in other images, all values alike, and each value half as
frequent as the one before (ink is rare).  In the middle panel its price is above H(P, Q) where Q asks for words of
log2 17 = 4.09 bits, and the same where Q asks for whole bits.

With natural logarithms the unit is called nat instead of bit; 1 nat is 1 / log 2 = 1.44 bits.

And training?  Let P be what is true, and Q what a model says (capitals, as in books on information; in a loss it is the
other way round: p is what the model says, and q what is true), here the softmax of 17 logits z (1, 17) and nothing
else: Q(x) = exp(z[x]) / sum exp(z) (example 02).  H(P) doesn't depend on the model, so minimising the cross-entropy is
minimising the divergence: the gradients are the same, and the model ends at Q = P.  A classifier does this for each
image, where P is 1 for the true class, so that H(P) = 0 and H(P, Q) is -log Q(true class), the loss of the other
examples.
"""

import heapq

import gallery
import numpy as np

import tinynet as tn
from tinynet.information import cross_entropy, entropy, kl_divergence

VALUES = 17


def huffman(q):
    """The word of each value, as text of 0s and 1s: the best code for values that come as q says."""
    heap = [(probability, x, {x: ""}) for x, probability in enumerate(q)]  # x is there to decide between equals
    heapq.heapify(heap)
    while len(heap) > 1:
        rarest, tie, zeros = heapq.heappop(heap)
        second, _, ones = heapq.heappop(heap)
        words = {x: "0" + word for x, word in zeros.items()} | {x: "1" + word for x, word in ones.items()}
        heapq.heappush(heap, (rarest + second, tie, words))
    return heap[0][2]


def decoded(bits, words):
    """The values again: bits are read until they are a word."""
    values, value_of, word = [], {word: x for x, word in words.items()}, ""
    for bit in bits:
        word += bit
        if word in value_of:
            values.append(value_of[word])
            word = ""
    return values


def frequencies(pixels):
    """The share of each value.  Each is counted once more than it is, so that none is held to be impossible."""
    return (np.bincount(pixels, minlength=VALUES) + 1) / (len(pixels) + VALUES)


def main():
    options = gallery.options(__doc__)
    (x_train, _), (x_test, _) = tn.data.digits()
    train, test = (np.rint(x * 16).astype(int).ravel() for x in (x_train, x_test))
    P = np.bincount(test, minlength=VALUES) / len(test)
    beliefs = {
        "other digits": frequencies(train),  # the values of the 1,437 training images: nearly right
        # No belief at all.  There are no 17 words of 4 bits: two have 5, and the paper happens to get one of those.
        "all values alike": np.full(VALUES, 1 / VALUES),
        "ink is rare": 2.0 ** -np.array([*range(1, VALUES), VALUES - 1]),  # each half as frequent as the last: wrong
    }
    H = entropy(P, base=2)
    print(f"P: the {len(test):,} pixels of {len(x_test)} test images;  H(P) = {H:.4f} bits = {entropy(P):.4f} nats")
    print(f"{'':21}H(P, Q) nats     bits   KL(P || Q) nats     bits   Huffman, bits a pixel")
    paid = {}
    for name, Q in ({"P itself": P} | beliefs).items():
        words = huffman(Q)
        bits = "".join(words[x] for x in test)
        assert decoded(bits, words) == test.tolist(), "the code must give the pixels back"
        paid[name] = len(bits) / len(test)  # what it really takes
        nats, divergence = cross_entropy(P, Q), kl_divergence(P, Q)
        numbers = nats, nats / np.log(2), divergence, divergence / np.log(2), paid[name]
        print(f"Q: {name:18}" + "".join(f"{n:{w}.4f}" for n, w in zip(numbers, (12, 9, 18, 9, 24), strict=True)))
        assert abs(nats - divergence - entropy(P)) < 1e-12, "H(P, Q) = H(P) + KL(P || Q)"
        assert paid[name] >= H, "nothing is cheaper than the entropy"
    assert paid["P itself"] == min(paid.values()), "the right belief is the cheapest"
    assert paid["P itself"] < H + 1, "whole bits cost less than one more"
    exact = cross_entropy(P, beliefs["ink is rare"], base=2)
    assert abs(paid["ink is rare"] - exact) < 1e-12, "where Q asks for whole bits, the code pays H(P, Q)"
    right, _, wrong = (kl_divergence(P, Q) for Q in beliefs.values())
    assert right < 0.01 < 1 < wrong

    z, curve = np.zeros((1, VALUES)), []  # logits; Q = softmax(z) is uniform at first
    for _ in range(1500):
        value, gradient = tn.softmax_cross_entropy(z, P[None])  # probabilities in place of a true class
        divergence, same = tn.kl_divergence(z, P[None])
        assert np.abs(gradient - same).max() < 1e-15, "one gradient for both"
        curve.append((value, divergence))
        z -= gradient  # gradient descent, with steps of 1 times the gradient
    curve = np.array(curve) / np.log(2)
    Q = np.exp(z[0]) / np.exp(z[0]).sum()
    print(f"a softmax trained on cross-entropy:  H(P, Q) {curve[0, 0]:.4f} -> {curve[-1, 0]:.4f} bits", end="")
    print(f"  KL {curve[0, 1]:.4f} -> {curve[-1, 1]:.1e}  largest |Q - P| {np.abs(Q - P).max():.1e}")
    assert np.abs(curve[:, 0] - curve[:, 1] - H).max() < 1e-9, "what lies between them is H(P), all the way"
    assert np.abs(Q - P).max() < 1e-6

    figure = tn.plots.figure(13, 4.2)
    left, middle, right = figure.subplots(1, 3)
    colours = dict(zip(beliefs, (tn.plots.GREEN, tn.plots.PURPLE, tn.plots.RED), strict=True))
    left.plot(P, "s-", color=tn.plots.GREY, ms=8, lw=4, alpha=0.6, label="P: test images")
    for name, Q in beliefs.items():
        left.plot(Q, "o-", color=colours[name], ms=3, lw=1.2, label=f"Q: {name}")
    left.legend(frameon=False, fontsize=9, loc="lower left")
    gallery.plain(left, "How often each value comes, or is believed to", ylabel="probability", ylim=(5e-6, 1))
    left.set(xlabel="value (0 paper, 16 ink)", yscale="log", xticks=range(0, VALUES, 4))

    names = ["P itself", *beliefs]
    divergences = [kl_divergence(P, Q, base=2) for Q in (P, *beliefs.values())]
    middle.bar(range(4), 4 * [H], color=tn.plots.PALE, edgecolor=tn.plots.GREY, label="H(P): needed")
    middle.bar(range(4), divergences, bottom=H, color=tn.plots.ORANGE, label="KL(P || Q): the price of Q")
    middle.plot(range(4), list(paid.values()), "D", color="black", ms=6, label="Huffman's code, measured")
    middle.set_xticks(range(4), [name.replace(" ", "\n", 1) for name in names], fontsize=9)
    middle.legend(frameon=False, loc="upper left", fontsize=9)
    gallery.plain(middle, "H(P, Q) = H(P) + KL(P || Q)", xlabel="Q", ylabel="bits a pixel")

    right.plot(curve[:41, 0], color=tn.plots.BLUE, lw=2, label="H(P, Q)")
    right.plot(curve[:41, 1], color=tn.plots.ORANGE, lw=2, label="KL(P || Q)")
    right.axhline(H, color=tn.plots.GREY, ls="--", label="H(P)")
    right.legend(frameon=False, loc="center right")
    gallery.plain(right, "Minimising one is minimising the other", xlabel="step of training Q", ylabel="bits", ylim=0)
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
