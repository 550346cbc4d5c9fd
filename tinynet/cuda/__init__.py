"""The softmax and the sigmoid cross-entropy once more, for arrays on a GPU.  device.py alone touches numba.cuda."""
