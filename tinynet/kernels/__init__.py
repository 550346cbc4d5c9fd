"""What makes the layers and losses fast.  How they work is told in layers/ and losses/; nothing here adds to that."""
