"""Backpropagation through time with nothing but arrays: a network that reads letters, and why some forget the first.

    python examples/21_rnn_by_hand.py

32,033 first names, from the folder that TINYNET_DATA names, or downloaded (0.2 MB).  Written one after the other, each
ended by a full stop, they are one long text of 27 kinds of letters.  A recurrent network reads it letter by letter.
What it has read so far it keeps in H numbers, its state h, and from them it guesses the next letter.  For N pieces of
text at once, at each of the times t = 1..T:

    a_t = w[x_t] + h_(t-1) u + b    x_t (N,) the letters   w (27, H): a row for each letter   u (H, H)   b (H,)
    h_t = tanh(a_t)                 h_t (N, H)             the state; h_0 = 0
    z_t = h_t w2 + b2               z_t (N, 27)            w2 (H, 27)   b2 (27,)   the scores of the next letter
    L = mean over n and t of -log softmax(z_t)[n, next letter]                     as in example 02

Backward.  dz_t = (p_t - onehot) / (N T), as there.  And then, from the last letter to the first: which numbers did each
touch, and times what?

    h_t     touched z_t, times w2, and the next a, times u:    dh_t = dz_t w2.T + da_(t+1) u.T
    a_t     touched h_t, times tanh's slope 1 - h_t^2:         da_t = dh_t (1 - h_t^2)
    w, u, b touched every a_t, times onehot(x_t), h_(t-1), 1:  du = sum_t h_(t-1).T da_t,  db = sum_t,n da_t,
                                                               dw[k] = sum of the da_t[n] with x_t[n] = k
    w2, b2  touched every z_t, times h_t, 1:                   dw2 = sum_t h_t.T dz_t,  db2 = sum_t,n dz_t

That is backpropagation through time: the same parameters at every letter, so their gradients add up.  Central
differences confirm it below.

What does a letter long ago have to do with a mistake now?  On its way back from time T to time t, the gradient is
multiplied T - t times by u.T and by slopes of at most 1.  If that shrinks it by a third each time, nothing is left
after 40 letters: it vanishes, and what was long ago can't be learnt.

The LSTM (Hochreiter and Schmidhuber 1997) gives the state a second part, the cell c_t (N, H), that is only ever scaled
and added to.  Three gates i, f, o between 0 and 1 say what enters, what stays and what shows (the forget gate f is of
Gers et al. 2000):

    a_t = w[x_t] + h_(t-1) u + b           w (27, 4 H)   u (H, 4 H)   a_t (N, 4 H)   b (4 H,)
    i, f, g, o are made of the four parts of a_t: i, f and o through the sigmoid, g through tanh
    c_t = f c_(t-1) + i g                  h_t = o tanh(c_t)           number by number

    h_t     as before:                     dh_t = dz_t w2.T + da_(t+1) u.T
    c_t     touched h_t, times o (1 - tanh(c_t)^2), and the next c, times the next f:
                                           dc_t = dh_t o (1 - tanh(c_t)^2) + dc_(t+1) f_(t+1)
    i, f, g, o  touched c_t, times g, c_(t-1), i, and h_t, times tanh(c_t):
                                           di = dc_t g    df = dc_t c_(t-1)    dg = dc_t i    do = dh_t tanh(c_t)
    a_t     touched each of them, times its slope:
                                           da_t = [di i (1 - i),  df f (1 - f),  dg (1 - g^2),  do o (1 - o)]
    w, u, b as before

From c_T back to c_t there is a path with nothing on it but f.  And f is the network's own choice: f = 1 keeps
everything.  At the start it is sigmoid(b_f) or so: with b_f = 1 that is 0.73, and 0.73^39 is 5e-6; with b_f = 3 it is
0.95, and 0.95^39 is 0.14.  (What comes through h and u is added to that.)

The second task needs just that: read 40 letters and say which was the first.  The plain network gets little further
than guessing the most frequent letter.  Nor does the LSTM that forgets a quarter with every letter; the one that starts
by keeping its cell learns it.  (In names it would be no use: what is before a full stop says nothing about what comes
after it.  A network that has learnt to forget there has a gradient that vanishes, and nothing is wrong with that.)
"""

import time

import gallery
import numpy as np

import tinynet as tn

LETTERS = ".abcdefghijklmnopqrstuvwxyz"
H = 64


def sigmoid(a):
    return 0.5 + 0.5 * np.tanh(0.5 * a)  # the same function, in a form where no exp can overflow


def rnn(p, x):
    """The scores z (T, N, 27) of the letter after each of x (N, T), and the states h (T + 1, N, H)."""
    w, u, b, w2, b2 = p
    h = np.zeros((x.shape[1] + 1, len(x), H), w.dtype)
    for t, letters in enumerate(x.T, 1):
        h[t] = np.tanh(w[letters] + h[t - 1] @ u + b)
    return h[1:] @ w2 + b2, h


def rnn_backward(p, x, h, dz):
    """The gradients of the parameters, and dL/dh_t of every time, (T, N, H)."""
    w, u, b, w2, _ = p
    dw, du, db = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b)
    dh, da = dz @ w2.T, np.zeros_like(h[0])
    for t in range(len(dz), 0, -1):
        dh[t - 1] += da @ u.T
        da = dh[t - 1] * (1 - h[t] ** 2)
        np.add.at(dw, x[:, t - 1], da)
        du += h[t - 1].T @ da
        db += da.sum(axis=0)
    return [dw, du, db, np.tensordot(h[1:], dz, ((0, 1), (0, 1))), dz.sum(axis=(0, 1))], dh


def lstm(p, x):
    """As rnn, but what it keeps are the states h and c (T + 1, N, H) and the gates (T + 1, N, 4 H)."""
    w, u, b, w2, b2 = p
    h = np.zeros((x.shape[1] + 1, len(x), H), w.dtype)
    c, gates = np.zeros_like(h), np.zeros((*h.shape[:2], 4 * H), w.dtype)
    for t, letters in enumerate(x.T, 1):
        a = w[letters] + h[t - 1] @ u + b
        gates[t] = sigmoid(a)
        gates[t, :, 2 * H : 3 * H] = np.tanh(a[:, 2 * H : 3 * H])
        i, f, g, o = np.split(gates[t], 4, axis=1)
        c[t] = f * c[t - 1] + i * g
        h[t] = o * np.tanh(c[t])
    return h[1:] @ w2 + b2, (h, c, gates)


def lstm_backward(p, x, kept, dz):
    """The gradients of the parameters, and dL/dc_t of every time, (T, N, H)."""
    (w, u, b, w2, _), (h, c, gates) = p, kept
    dw, du, db = np.zeros_like(w), np.zeros_like(u), np.zeros_like(b)
    dh, dc, da = dz @ w2.T, np.zeros_like(h), np.zeros_like(gates[0])
    for t in range(len(dz), 0, -1):
        i, f, g, o = np.split(gates[t], 4, axis=1)
        tanh_c = np.tanh(c[t])
        dh[t - 1] += da @ u.T  # dh has no t = 0: dh[t - 1] is dL/dh_t
        dc[t] += dh[t - 1] * o * (1 - tanh_c**2)
        dc[t - 1] = dc[t] * f
        di, df, dg, do = dc[t] * g, dc[t] * c[t - 1], dc[t] * i, dh[t - 1] * tanh_c
        da = np.hstack([di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)])
        np.add.at(dw, x[:, t - 1], da)
        du += h[t - 1].T @ da
        db += da.sum(axis=0)
    return [dw, du, db, np.tensordot(h[1:], dz, ((0, 1), (0, 1))), dz.sum(axis=(0, 1))], dc[1:]


NETWORKS = {"plain": (rnn, rnn_backward, 1), "LSTM": (lstm, lstm_backward, 4)}


def start(kind, forget=0.0, dtype=np.float32):
    """Parameters to begin with: uniform up to 1 / sqrt(H), as is usual, and b_f."""
    rng, parts, most = np.random.default_rng(2), NETWORKS[kind][2], 1 / np.sqrt(H)
    w, u, w2 = (rng.uniform(-most, most, shape).astype(dtype) for shape in ((27, parts * H), (H, parts * H), (H, 27)))
    b = np.zeros(parts * H, dtype)
    if kind == "LSTM":
        b[H : 2 * H] = forget
    return [w, u, b, w2, np.zeros(27, dtype)]


def cross_entropy(z, letters):
    """The mean loss of scores z (T, N, 27) for the true letters (N, T), and its gradient."""
    z = z - z.max(axis=-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    true = np.expand_dims(letters.T, -1)
    dz = np.exp(log_p)
    np.put_along_axis(dz, true, np.take_along_axis(dz, true, -1) - 1, -1)
    return -np.take_along_axis(log_p, true, -1).mean(), dz / true.size


def of_the_last(z, letters):
    """The loss of the last time alone, for letters (N, 1); the gradient by the scores before is 0."""
    dz = np.zeros_like(z)
    loss, dz[-1:] = cross_entropy(z[-1:], letters)
    return loss, dz


def trained(kind, p, batch, loss, steps, lr, every, watch):
    """Change p by so many steps of Adam (Kingma and Ba 2015); returns (step, what watch(p) says), of every so many.

    batch() gives letters (N, T) and the targets of the loss.
    """
    forward, backward, _ = NETWORKS[kind]
    mean, square = [np.zeros_like(a) for a in p], [np.zeros_like(a) for a in p]
    watched = []
    for step in range(1, steps + 1):
        x, letters = batch()
        z, kept = forward(p, x)
        gradients, _ = backward(p, x, kept, loss(z, letters)[1])
        norm = np.sqrt(sum((d**2).sum() for d in gradients))
        for a, d, m, s in zip(p, gradients, mean, square, strict=True):
            d = d / max(1, norm)  # no longer than 1: what can vanish can also explode
            m += 0.1 * (d - m)
            s += 0.001 * (d**2 - s)
            a -= lr * (m / (1 - 0.9**step)) / (np.sqrt(s / (1 - 0.999**step)) + 1e-8)
        if step % every == 0:
            watched.append((step, watch(p)))
    return watched


def check(kind, x, letters):
    """The largest difference from central differences, over 60 numbers of each parameter and both losses."""
    forward, backward, _ = NETWORKS[kind]
    p, rng, worst, step = start(kind, 1.0, np.float64), np.random.default_rng(3), 0.0, 1e-5
    for loss, targets in ((cross_entropy, letters), (of_the_last, x[:, :1])):
        z, kept = forward(p, x)
        gradients, _ = backward(p, x, kept, loss(z, targets)[1])
        for a, d in zip(p, gradients, strict=True):
            for k in rng.integers(0, a.size, 60):
                losses = []
                for sign in (1, -1):
                    a.flat[k] += sign * step
                    losses.append(loss(forward(p, x)[0], targets)[0])
                    a.flat[k] -= sign * step
                worst = max(worst, abs((losses[0] - losses[1]) / (2 * step) - d.flat[k]) / np.abs(d).max())
    return worst


def differences_from_the_class(x, letters):
    """The largest difference between the LSTM's gradients by hand and those of the classes LSTM and Dense."""
    p = start("LSTM", 1.0, np.float64)
    z, kept = lstm(p, x)
    gradients, _ = lstm_backward(p, x, kept, cross_entropy(z, letters)[1])
    model = tn.Sequential([tn.LSTM(H), tn.Dense(27)], input_shape=(x.shape[1], 27), dtype="float64")
    for parameter, value in zip(model.parameters(), p, strict=True):
        parameter.value = value
    _, dz = tn.softmax_cross_entropy(model.forward(np.eye(27)[x], training=True), letters)
    model.backward(dz)
    return max(np.abs(theirs.grad - d).max() for theirs, d in zip(model.parameters(), gradients, strict=True))


def lengths_of_gradients(kind, p, x):
    """|dL/dstate_t| for t = T, T - 1, ..., where L looks at the last letter alone: a mean over the pieces of text."""
    forward, backward, _ = NETWORKS[kind]
    z, kept = forward(p, x)
    _, by_state = backward(p, x, kept, of_the_last(z, x[:, :1])[1])
    return np.linalg.norm(by_state, axis=-1).sum(axis=1)[::-1]  # not the mean: L is one already


def written(p, count, seed):
    """Names that the network makes up: each letter drawn from the probabilities that it gives, until all have ended."""
    w, u, b, w2, b2 = p
    rng, h, letters, names = np.random.default_rng(seed), np.zeros((count, H)), np.zeros(count, int), [""] * count
    for _ in range(20):
        h = np.tanh(w[letters] + h @ u + b)
        z = h @ w2 + b2
        letters = np.argmax(z + rng.gumbel(size=z.shape), axis=1)  # a draw from softmax(z)
        names = [name if name.endswith(".") else name + LETTERS[k] for name, k in zip(names, letters, strict=True)]
    return [name.rstrip(".") for name in names]


def pieces(text, T, rng, N):
    """N pieces of T letters from anywhere in the text, (N, T)."""
    return text[rng.integers(0, len(text) - T + 1, N)[:, None] + np.arange(T)]


def learn_the_next_letter(text, steps, T=24):
    """(step, loss on other names) of ten moments, the loss of counting pairs of letters, and names that it makes up."""
    cut = len(text) * 9 // 10
    train, others, rng = text[:cut], text[cut:], np.random.default_rng(4)
    held = pieces(others, T + 1, np.random.default_rng(5), 1000)
    p = start("plain")

    def batch():
        found = pieces(train, T + 1, rng, 64)
        return found[:, :-1], found[:, 1:]

    def loss_on_others(p):
        return cross_entropy(rnn(p, held[:, :-1])[0], held[:, 1:])[0]

    curve = trained("plain", p, batch, cross_entropy, steps, 5e-3, steps // 10, loss_on_others)
    pairs = np.ones((27, 27))  # how often each letter follows each, and 1 more
    np.add.at(pairs, (train[:-1], train[1:]), 1)
    by_pairs = -np.log(pairs / pairs.sum(axis=1, keepdims=True))[held[:, :-1], held[:, 1:]].mean()
    return curve, by_pairs, written(p, 8, seed=6)


def learn_the_first_letter(kind, p, text, steps, T):
    """(step, share right) of ten moments, for the first of T letters."""
    cut, rng = len(text) * 9 // 10, np.random.default_rng(8)
    held = pieces(text[cut:], T, np.random.default_rng(7), 1000)

    def batch():
        x = pieces(text[:cut], T, rng, 32)
        return x, x[:, :1]

    def share_right(p):
        return (NETWORKS[kind][0](p, held)[0][-1].argmax(axis=-1) == held[:, 0]).mean()

    return trained(kind, p, batch, of_the_last, steps, 5e-3, steps // 10, share_right)


def main():
    options = gallery.options(__doc__)
    began = time.perf_counter()
    names = np.random.default_rng(0).permutation(sorted(set(tn.data.names())))
    text = np.array([LETTERS.index(letter) for letter in ".".join(names) + "."])
    few = pieces(text, 10, np.random.default_rng(1), 4)
    for kind in NETWORKS:
        worst = check(kind, few[:, :-1], few[:, 1:])
        print(f"{kind}: by hand and by central differences, gradients differ by {worst:.1e} of their largest")
        assert worst < 1e-7
    worst = differences_from_the_class(few[:, :-1], few[:, 1:])
    print(f"LSTM: by hand and by the class, gradients differ by {worst:.1e}")
    assert worst < 1e-10

    curve, by_pairs, made_up = learn_the_next_letter(text, 100 if options.quick else 1500)
    print(f"next letter: {curve[-1][1]:.3f} nats; from the letter before alone, by counting, {by_pairs:.3f}")
    print("names that it makes up:", *made_up)
    assert curve[-1][1] < by_pairs - (0.0 if options.quick else 0.2)

    text = text[text > 0]  # without full stops
    steps, T = (150, 8) if options.quick else (1000, 40)
    cases = {
        "plain": ("plain", 0.0, tn.plots.ORANGE),
        "LSTM, $b_f = 1$": ("LSTM", 1.0, tn.plots.PURPLE),
        "LSTM, $b_f = 3$": ("LSTM", 3.0, tn.plots.BLUE),
    }
    back, right = {}, {}
    for name, (kind, forget, _) in cases.items():
        p = start(kind, forget)
        back[name] = lengths_of_gradients(kind, p, pieces(text, 40, np.random.default_rng(9), 500))
        right[name] = learn_the_first_letter(kind, p, text, steps, T)
        print(
            f"{name.replace('$', '')}: dL/dstate is {back[name][0]:.1e} at the last of 40 letters and "
            f"{back[name][-1]:.1e} at the first; then it learns the first of {T}: {right[name][-1][1]:.1%} right"
        )
    frequent = np.bincount(text).max() / len(text)
    print(f"always the most frequent letter: {frequent:.1%};  {(time.perf_counter() - began) / 60:.1f} minutes")
    assert back["plain"][-1] < 1e-6 * back["plain"][0]
    assert back["LSTM, $b_f = 3$"][-1] > 0.1 * back["LSTM, $b_f = 3$"][0]
    assert right["LSTM, $b_f = 3$"][-1][1] > (0.5 if options.quick else 0.95)
    assert options.quick or right["plain"][-1][1] < 0.35

    figure = tn.plots.figure(11.5, 3.8)
    left, middle, panel = figure.subplots(1, 3)
    left.plot(*np.transpose(curve), "o-", color=tn.plots.ORANGE)
    left.axhline(by_pairs, color=tn.plots.GREY, ls="--")
    left.text(curve[-1][0], by_pairs, "counting pairs of letters\n", color=tn.plots.GREY, ha="right", va="center")
    gallery.plain(left, "Names it makes up: " + ", ".join(made_up[:3]), xlabel="step", ylabel="loss of the next letter")
    left.margins(y=0.1)
    for name, (_, _, colour) in cases.items():
        middle.semilogy(np.arange(len(back[name])), back[name], color=colour, label=name)
        panel.plot(*np.transpose(right[name]), "o-", color=colour, label=name)
    panel.axhline(frequent, color=tn.plots.GREY, ls="--")
    panel.text(steps, frequent - 0.06, "always the most frequent letter", color=tn.plots.GREY, ha="right", va="top")
    middle.legend(frameon=False)
    gallery.plain(middle, "Before training: what comes back", xlabel="letters before the last", ylabel="|dL/dstate|")
    gallery.plain(panel, f"Which letter was the first of {T}?", xlabel="step", ylabel="share right", ylim=(0, 1.02))
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
