"""What a checkpoint is: weights, architecture, tokenizer, template, adapter; where it is found by name."""
