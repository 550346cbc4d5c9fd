"""The losses, one file each.  This is what every one of them takes and returns; its own file and help say the rest.

    value, gradient = tn.softmax_cross_entropy(logits, targets)
    model.backward(gradient)

A loss is a function of a prediction and its targets.  It returns its value and its gradient with respect to the
prediction, computed together: whatever the value needed, the gradient needs too.  The prediction is float32 or float64,
in any memory layout; targets are arrays or lists.  A row is what a loss has one number of: the C scores of a sample, of
a pixel, of a word, in a prediction (..., C).

reduction        "mean"; "sum"; or "none", for the losses of all rows, (...), or all elements, as an array.  The
                 gradient is that of the value, or of its sum for "none", and has the prediction's shape and dtype
denominator      what "mean" divides by, instead of what counts here: a whole batch's count for one of its shards, say
sample_weight    (...), one number a row, at least 0: multiplies the row's loss and gradient, and its share of what
                 "mean" divides by, so that the mean is a weighted one.  A row of weight 0 is as if it were not there
grad             False: the gradient is not computed, and None is returned for it
out              the array that receives the gradient and is returned for it; may be the prediction itself
weight           (C,) factors of the classes, at least 0.  For labels, "mean" divides by the sum of weight[t] over the
                 labels that count; for target probabilities, by the rows
ignore_index     a target of this value adds no loss and no gradient, and does not count; predictions there may be NaN
label_smoothing  eps in [0, 1]: targets become (1 - eps) q + eps / K, where q is 1 for the right class and 0 for the
                 others, and K counts the classes that the prediction does not rule out (Szegedy et al. 2015, section 7)

Where nothing counts, "mean" is 0, and so is the gradient.  A NaN in a row makes that row's loss and gradient NaN, and
no other's.  ValueError is raised for wrong values and shapes, TypeError for wrong types, before anything is written.

What the losses share is in elementwise.py and rowwise.py, which check, divide, and put results where they belong.
"""
