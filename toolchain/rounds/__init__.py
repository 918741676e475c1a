"""From what people think of answers to the next release: harvest, label, choose."""
