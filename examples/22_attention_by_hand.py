"""Attention with nothing but arrays, forward and backward; and what a small transformer learns to look at.

    python examples/22_attention_by_hand.py

A network is to write names backwards: emma, amme.  The one of example 21 would have to keep all the letters in its
state.  Attention (Vaswani et al. 2017) goes another way: each position looks at all the others, and takes from them
what it needs.  A position t of a sequence is a row x[t] of C numbers; x (T, C) has them all.  Of every row, three are
made: what it looks for (its query), what it can be found by (its key), and what it has to give (its value):

    q = x wq     k = x wk     v = x wv       wq, wk, wv (C, C)   q, k, v (T, C)
    score = q k.T / sqrt(C)                  score[t,j] (T, T): how well what t looks for fits what j can be found by
    p = exp(score) / its row sums            a softmax of each row: the shares in which t takes from every j, 1 in total
    o = p v                                  o[t] = sum_j p[t,j] v[j], a weighted mean of the values
    y = o wo                                 wo (C, C)   y (T, C)

That is one head.  (The division by sqrt(C) keeps the scores about as large as the numbers in q and k, whatever C is: a
sum of C products of independent numbers that vary by about 1 varies by about sqrt(C).  More heads are more of the same,
each with its own part of the columns.)  If it is causal, as in a network that writes on, a position sees only itself
and what is before: score[t,j] = -inf for j > t, so that p[t,j] = 0.

Backward, from dy = dL/dy.  Which numbers did each touch, and times what?

    wo      touched y[t] of every t, times o[t]:                 dwo = o.T dy
    o[t]    touched y[t], times wo:                              do = dy wo.T
    v[j]    touched o[t] of every t, times p[t,j]:               dv = p.T do
    p[t,j]  touched o[t], times v[j]:                            dp = do v.T
    score[t,j]  touched all of row t of p: p[t,i], times p[t,i] ([i = j] - p[t,j]), where [i = j] is 1 for i = j and
            else 0 (its own exp touched p[t,j] alone, times p[t,j]; the row's sum touched each, times -p[t,i] p[t,j]):
            sum_i dp[t,i] p[t,i] ([i = j] - p[t,j]) in all:      dscore = p (dp - row sums of dp p), number by number
    q[t]    touched score[t,j] of every j, times k[j] / sqrt(C): dq = dscore k / sqrt(C)
    k[j]    touched score[t,j] of every t, times q[t] / sqrt(C): dk = dscore.T q / sqrt(C)
    wq, x   as a weighted sum's, and x touched all three:        dwq = x.T dq, ...    dx = dq wq.T + dk wk.T + dv wv.T

A row j that nobody looks at, p[t,j] = 0 for all t, gets no gradient through its key and value: only what it looks at
itself, its query, still reaches y.  The program confirms these lines by central differences, and by the class
MultiHeadAttention, which has the same numbers.

Then the names.  To attention a sequence is a heap: if its rows are put into another order, so is y, and nothing else
changes.  So whatever depends on order must stand in the rows.  Here two things do.  Each letter comes with the number
of letters that follow it: emma is e3 m2 m1 a0, each of which has a vector (Embedding).  And to each position t = 0, 1,
... a vector of its own is added (PositionEmbedding).  The letter that belongs at position t of the name written
backwards is the one that t letters follow.  So t can ask for just that, and the letters answer: a query made of the
position, and keys made of the numbers that follow.  That is what the model has to find out.  It is a TransformerBlock:
one head of attention, added to x, and two Denses for each position.  The picture shows who looks at whom before
training and after.  (What stands behind the end of a name looks somewhere, too; nothing is asked there.)
"""

import gallery
import numpy as np

import tinynet as tn

LETTERS = ".abcdefghijklmnopqrstuvwxyz"
T = 12  # letters, filled up with full stops


def forward(x, wq, wk, wv, wo, causal):
    """x (N, T, C) of N sequences at once; the products are of the last two axes."""
    q, k, v = x @ wq, x @ wk, x @ wv
    score = q @ k.swapaxes(1, 2) / np.sqrt(x.shape[-1])
    if causal:
        score = np.where(np.tri(x.shape[1], dtype=bool), score, -np.inf)
    p = np.exp(score - score.max(axis=-1, keepdims=True))  # a row's largest score taken away: changes no share
    p /= p.sum(axis=-1, keepdims=True)
    o = p @ v
    return o @ wo, (q, k, v, p, o)


def backward(dy, x, wq, wk, wv, wo, kept):
    """The gradients of x, wq, wk, wv and wo."""
    q, k, v, p, o = kept
    scale = 1 / np.sqrt(x.shape[-1])

    def of_weights(a, da):
        return (a.swapaxes(1, 2) @ da).sum(axis=0)  # over positions and sequences

    do = dy @ wo.T
    dv = p.swapaxes(1, 2) @ do
    dp = do @ v.swapaxes(1, 2)
    dscore = p * (dp - (dp * p).sum(axis=-1, keepdims=True))
    dq, dk = dscore @ k * scale, dscore.swapaxes(1, 2) @ q * scale
    dx = dq @ wq.T + dk @ wk.T + dv @ wv.T
    return dx, of_weights(x, dq), of_weights(x, dk), of_weights(x, dv), of_weights(o, dy)


def differences(causal):
    """By how much the gradients by hand differ at most from central differences, and all numbers from the class's."""
    rng = np.random.default_rng(0)
    (N, T, C), step = (3, 7, 6), 1e-5
    x, dy = rng.normal(size=(2, N, T, C))
    weights = [rng.normal(size=(C, C)) * 0.5 for _ in range(4)]
    y, kept = forward(x, *weights, causal)
    gradients = backward(dy, x, *weights, kept)
    from_differences = 0.0
    for array, gradient in zip((x, *weights), gradients, strict=True):
        for index in np.ndindex(array.shape):
            at, value = [], array[index]
            for moved in (value + step, value - step):
                array[index] = moved
                at.append((forward(x, *weights, causal)[0] * dy).sum())  # L = sum of y dy, so that dL/dy = dy
            array[index] = value
            from_differences = max(from_differences, abs((at[0] - at[1]) / (2 * step) - gradient[index]))

    model = tn.Sequential([tn.MultiHeadAttention(1, causal, bias=False)], input_shape=(T, C), dtype="float64")
    of_qkv, of_out = model.parameters()
    of_qkv.value, of_out.value = np.hstack(weights[:3]), weights[3]
    pairs = [(model.forward(x, training=True), y), (model.backward(dy, input_grad=True), gradients[0])]
    pairs += [(of_qkv.grad, np.hstack(gradients[1:4])), (of_out.grad, gradients[4])]
    pairs += [(model.layers[0].weights(x)[:, 0], kept[3])]
    return from_differences, max(np.abs(one - other).max() for one, other in pairs)


def who_looks_at_whom(model, x):
    """The shares p (N, T, T) of the block's only head, for inputs x (N, T)."""
    embedding, position, block, *_ = model.layers
    norm, attention = block.layers[0].layers  # the block is x + attention(norm(x)), and then the Denses
    return attention.weights(norm.forward(position.forward(embedding.forward(x))))[:, 0]


def main():
    options = gallery.options(__doc__)
    for causal in (False, True):
        from_differences, from_class = differences(causal)
        print("causal:" if causal else "all see all:", end=" ")
        print(f"by hand and by central differences {from_differences:.1e} apart, and by the class {from_class:.1e}")
        assert from_differences < 1e-7
        assert from_class < 1e-12

    names = np.random.default_rng(0).permutation(sorted({name for name in tn.data.names() if len(name) <= T}))
    x, y = np.zeros((len(names), T), np.int64), np.full((len(names), T), -100)  # -100 in y: nothing is asked there
    for name, row, backwards in zip(names, x, y, strict=True):
        letters, follow = np.array([LETTERS.index(letter) for letter in name]), np.arange(len(name))[::-1]
        row[: len(name)], backwards[: len(name)] = letters * T + follow, letters[::-1]
    cut = len(names) * 9 // 10
    x_test, y_test, names_test = x[cut:], y[cut:], names[cut:]
    asked = y_test >= 0
    length = asked.sum(axis=1)[:, None]
    mirror = np.maximum(length - 1 - np.arange(T), 0)  # where the letter stands that belongs at t

    layers = [tn.Embedding(27 * T, 32), tn.PositionEmbedding(T), tn.TransformerBlock(heads=1, mlp_ratio=2)]
    model = tn.Sequential([*layers, tn.LayerNorm(), tn.Dense(27)], input_shape=T, seed=0)
    before = who_looks_at_whom(model, x_test)
    epochs = 1 if options.quick else 3
    tn.fit(
        model,
        x[:cut],
        y[:cut],
        loss="softmax_cross_entropy",
        optimizer=tn.Adam(model),
        schedule=tn.cosine(5e-3, steps=epochs * -(-cut // 128), warmup=50),
        epochs=epochs,
        batch_size=128,
        progress=False,
    )
    after = who_looks_at_whom(model, x_test)
    said = model.predict(x_test).argmax(axis=-1)
    right = ((said == y_test) | ~asked).all(axis=1)
    print(f"of {len(right):,} names that it never saw, it writes {right.mean():.1%} backwards without a mistake")
    for k in range(3):
        print(f"  {names_test[k]}: {''.join(LETTERS[letter] for letter in said[k][asked[k]])}")
    shares = [np.take_along_axis(p, mirror[..., None], 2)[..., 0][asked].mean() for p in (before, after)]
    print(f"a position takes {shares[1]:.1%} from the letter that belongs there (before training {shares[0]:.1%})")
    assert right.mean() > (0.95 if options.quick else 0.99)
    assert shares[1] > 0.9

    figure = tn.plots.figure(14, 4.6)
    few, many = (next(k for k in range(len(right)) if length[k] == letters) for letters in (5, 9))
    cases = [(before, many, "before training"), (after, many, "after"), (after, few, "after")]
    for panel, (p, k, when) in zip(figure.subfigures(1, 3), cases, strict=True):
        name = names_test[k]
        tn.plots.attention(p[k], [*name, *"." * (T - len(name))], on=panel, titles=[f"{name}, {when}"])
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
