"""What all formats share: codes learned from the model they replace, types chosen for a budget, column importance."""
