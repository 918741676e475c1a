"""What the training stages share: model folders, examples, losses, the loop, and the score of answers."""
