"""Several processes train one network, and get what one process gets.

    mpiexec -n 4 python examples/19_data_parallel.py        (or without mpiexec: then there is one process)

MPI is the old and usual way to let processes work together, on one machine or on thousands.  mpiexec starts the same
program several times; each copy is a "rank", with a number, and learns from a "communicator" how many there are.

Data-parallel training is the simplest use of them.  Every rank has the whole network.  Of each batch of N samples, rank
r takes its share S_r, and computes the gradient over that share alone.  The loss of the batch is a mean, and so is its
gradient:

    dL/dw = 1/N sum_n dl[n]/dw = 1/N ( sum_{n in S_0} dl[n]/dw + sum_{n in S_1} dl[n]/dw + ... )

One call, an "all-reduce", adds the ranks' vectors and gives each rank the sum.  Then every rank takes the same step
from the same weights, so the networks stay equal, and no weights need to be sent.  In a script, the only change is
fit(..., communicator=MPI.COMM_WORLD).

Floating-point sums depend a little on the order of their terms, (a + b) + c against a + (b + c), so the runs are equal
up to rounding.  That is what is checked here: over 100 steps, the loss curves may differ by 1e-5 at most.
"""

import sys

import gallery
import numpy as np

import tinynet as tn


def train(data, epochs, communicator):
    """The losses of this rank's shares, a row (loss, number of samples) for each step."""
    model = tn.Sequential(
        [
            tn.Conv2D(16, 3, padding="same", activation="relu"),
            tn.MaxPool2D(2),
            tn.Flatten(),
            tn.Dropout(0.2),  # each share gets its part of the mask that one process would draw
            tn.Dense(10),
        ],
        input_shape=(8, 8, 1),
    )
    seen = []

    def loss(logits, targets):
        value, gradient = tn.softmax_cross_entropy(logits, targets)
        seen.append((value, len(targets)))
        return value, gradient

    tn.fit(
        model,
        *data,
        loss=loss,
        optimizer=tn.SGD(model, lr=0.05, momentum=0.9),
        epochs=epochs,
        batch_size=72,  # 20 steps an epoch
        progress=False,
        communicator=communicator,
    )
    return np.array(seen)


def main():
    options = gallery.options(__doc__)
    try:
        from mpi4py import MPI
    except ImportError:
        sys.exit('This example needs mpi4py: pip install "tinynet-numba[mpi]"')
    world = MPI.COMM_WORLD
    threads = tn.distributed.share_threads(world)  # else every rank would use all cores, and be in the others' way

    data, _ = tn.data.digits()
    epochs = 1 if options.quick else 5
    shares = world.gather(train(data, epochs, world))
    if world.rank > 0:
        return  # rank 0 has everything now

    shares = np.array(shares)  # (ranks, steps, 2)
    values, counts = shares[:, :, 0], shares[:, :, 1]
    together = (values * counts).sum(axis=0) / counts.sum(axis=0)
    alone = train(data, epochs, None)[:, 0]
    difference = np.abs(together - alone)
    print(f"{world.size} ranks of {threads} threads, {len(alone)} steps")
    print(f"loss of the last batch   {together[-1]:.7f}   with one process {alone[-1]:.7f}")
    print(f"most that they differ    {difference.max():.1e}")
    print(f"shares of the last batch {' '.join(f'{value:.3f}' for value in values[:, -1])}")
    assert difference.max() < 1e-5

    figure = tn.plots.figure(11, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    steps = np.arange(1, len(alone) + 1)
    for rank, value in enumerate(values):
        left.plot(steps, value, ".", ms=4, color=tn.plots.GREY, alpha=0.5, label="" if rank else "the share of a rank")
    left.plot(steps, together, color=tn.plots.BLUE, lw=2.5, label=f"the batch, {world.size} ranks")
    left.plot(steps, alone, "--", color=tn.plots.ORANGE, lw=1.2, label="the batch, one process")
    gallery.plain(
        left, "Cross-entropy of each batch, and of its shares", xlabel="step", ylabel="cross-entropy", ylim=(0, None)
    )
    left.legend(frameon=False)
    right.semilogy(steps, np.maximum(difference, 1e-17), ".", color=tn.plots.BLUE)
    right.axhline(1e-5, color=tn.plots.RED, lw=1)
    right.text(1, 1.2e-5, "allowed here", color=tn.plots.RED, fontsize=9)
    gallery.plain(right, "How far ranks and one process differ", xlabel="step", ylim=(5e-18, 1e-4))
    right.set_ylabel("largest difference")
    gallery.finish(figure, options)


if __name__ == "__main__":
    main()
