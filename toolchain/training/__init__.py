"""Code that the training stages share: model folders, examples, losses, the loop, answer scores."""
