"""What makes the layers and losses fast.  How they work stands in layers/ and losses/; nothing here adds to that."""
