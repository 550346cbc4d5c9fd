"""What others ask of a layer: each declares, in its own file, what differs from what stands here.

So nothing else in the package knows a layer by its class, and a new one, yours too, needs no change elsewhere.  The
defaults suit a layer of your own: fit, explain, gradcheck, checkpoints and pictures take it as it is, and interop says
that it has no counterpart in PyTorch.
"""

from types import MappingProxyType


class Declared:
    """The part of Layer that others read.  interop asks for what begins with torch_, and for where arrays lie."""

    takes_integers = False  # whether x is whole numbers, which have no gradient: such a layer can only come first
    of_batch = False  # whether a sample's y depends on the batch's other samples, through moments: see whole_moments
    # What it does along time, the first axis of a sample (T, ...): "apart" (each position for itself), "lengths" (it
    # looks along time), or None: it is given no lengths.  One with "lengths" has forward(x, training=False,
    # lengths=None, state=None).  What lies behind a sequence's length, if there are `lengths` (N,), is padding, which
    # must change nothing.  `state`, if there is one, is a dict of the caller's, {} at the start of the sequences: the
    # layer goes on from what it left there under itself, state[self], and puts new arrays in its place, so that pieces
    # of a sequence give what the whole does; its backward takes the state that it began with for constant.
    of_time: str | None = None
    longest = None  # the number of positions that a sequence can have, given in pieces too; None: any
    any_scale = False  # whether it brings x to a scale of its own, so that bytes from 0 to 255, say, do no harm
    same_numbers = False  # whether predicting only passes the numbers of x on, perhaps under another shape
    state: tuple[int, int] | None = (
        None  # what its random numbers follow from, where it draws some: saved with a run, and set again
    )
    first_row = None  # where x begins in its batch, where random numbers go by rows: set where x is a part of one
    tied = None  # the layer before it whose parameters it uses as well: TiedDense's Embedding
    activation = None  # the activations.Activation that its forward pass ends in
    joined = None  # how y is made of the outputs of its `branches` (lists of layers, each over x, [] for x itself):
    # their "sum", or "beside" each other along the last axis

    in_a_row = False  # whether it is its `layers`, one after another, and nothing else

    def ending(self, before):
        """What a loss may take its output for: ("logits" or "probabilities", the label of whose they are), or None.

        before   the same of its input
        """
        return None

    def output_lengths(self, lengths):
        """How long the sequences of its output are, of inputs so long; None if it has no axis of time any more."""
        return lengths

    def linear(self):
        """(w, b) if y = x w + b, over the last axis, and nothing else; or None.  b is None where there is none."""
        return None

    def linear_gradients(self):
        """(dw, db) of a linear one: the arrays that receive these gradients."""
        raise NotImplementedError(f"{type(self).__name__} has no linear_gradients()")

    def weight_images(self, shape):
        """Its weights as images (K, I, J, C), one for each output, or None.

        shape   (H, W, C) of the images that were flattened before it, or None
        """
        return None

    def as_it_predicts(self):
        """Make forward(x, training=True), of a copy, do what forward(x) does, and backward its gradient."""

    def step_back(self):
        """Draw the random numbers of the last forward(x, training=True) once more in the next one."""

    def whole_moments(self, M, mu, squares):
        """Count, means, sums of squared deviations of the batch, of those of x; replaced where x is a part of it."""
        return M, mu, squares

    def whole_sums(self, *sums):
        """Sums over the batch, of those over x; replaced where x is a part of it."""
        return sums

    # How PyTorch has it.  interop builds the module, and moves arrays to and fro, by these alone.

    torch_names = ()  # the classes of torch.nn that compute the same: ("BatchNorm1d", "BatchNorm2d")
    torch_axes = MappingProxyType({})  # {"weight": (1, 0)}: an array's axes in the order that PyTorch has them
    torch_output = None  # of one whose module returns (y, state): "sequence", or "last" for the last y alone
    torch_channels = None  # "first" or "last": where its module looks for channels, whatever has them
    zero_row = None  # the row of its weight that counts as 0
    zeros_around = None  # ((above, below), (left, right)): the zeros that it puts around an image
    window = None  # its size and its stride, of one that pools images
    # Behind a Flatten, PyTorch has the numbers of an image in another order, (C, H, W).  With x in that order,
    #   "kept"      y is in it too, and its arrays must be: an activation, BatchNorm
    #   "mixed"     each y is made of all x: the rows of its weights (in, out) follow x, the columns can have any order
    #   "reshaped"  y is x under another shape
    #   "own"       it would compute something else
    vector_order = "own"

    def torch_arrays(self):
        """[(name in PyTorch, the array as it is there, what takes one from there, in this order)], or None: torch_axes.

        For one whose arrays are not the same ones there.
        """
        return None

    def torch_module(self, nn):
        """The module of torch.nn; or a dict {what follows the layer's number in the name: module}, in order."""
        raise ValueError(f"to_torch_module: {self.label} has no counterpart in PyTorch that tinynet knows of")

    def torch_options(self, module):
        """[(option, its own, the module's)], which must be the same for both to compute the same."""
        return []

    # How ONNX has it.

    any_length = True  # whether its nodes are right for shorter sequences than it was built for, too

    def onnx(self, graph, x):
        """Add the nodes that make y of x when it predicts, and return y: both are Values (interop/onnx.py)."""
        raise ValueError(f"to_onnx: {self.label} has no form in ONNX: its class needs a method onnx(graph, x)")
