"""What a checkpoint is: weights, architecture, tokenizer, template, adapter; how it is found."""
